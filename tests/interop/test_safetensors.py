"""Weight files: round trips, shards, and every way an index or a file can be wrong."""

import json
import os
import re
import warnings

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dpojax.errors import WeightsError
from dpojax.interop.safetensors import INDEX, SINGLE, open_safetensors, save_safetensors

TENSORS = {
  "a": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b": np.arange(20, dtype=np.float32).reshape(4, 5).T,  # not in C order
  "c": np.asarray([1.5, -2.0], ml_dtypes.bfloat16),
  "d": np.asarray([0.5], np.float16),
}


def assert_same(found, expected):
  assert sorted(found) == sorted(expected)
  for name, value in expected.items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(found[name], value)


def test_one_file(tmp_path):
  save_safetensors(tmp_path, TENSORS, max_shard_bytes=10**6)
  assert [file.name for file in tmp_path.iterdir()] == [SINGLE]
  assert_same(open_safetensors(tmp_path), TENSORS)


def test_shards_stay_below_their_size_and_come_back(tmp_path):
  save_safetensors(tmp_path, TENSORS, max_shard_bytes=100)
  shards = sorted(file.name for file in tmp_path.glob("*.safetensors"))
  assert shards == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
  assert json.loads((tmp_path / INDEX).read_text())["metadata"]["total_size"] == 24 + 80 + 4 + 2
  assert_same(open_safetensors(tmp_path), TENSORS)


def test_a_hub_cache_may_link_to_its_blobs(tmp_path):
  snapshot = tmp_path / "models--x" / "snapshots" / "abc"
  blobs = tmp_path / "models--x" / "blobs"
  snapshot.mkdir(parents=True)
  blobs.mkdir()
  save_safetensors(blobs, TENSORS, max_shard_bytes=100)
  for number, file in enumerate(sorted(blobs.iterdir())):
    hashed = file.rename(blobs / f"{number:064x}")
    (snapshot / file.name).symlink_to(os.path.relpath(hashed, snapshot))
  assert_same(open_safetensors(snapshot), TENSORS)


@pytest.mark.parametrize(
  ("weight_map", "message"),
  [
    ({"a": "../secret.safetensors"}, "'../secret.safetensors'; it must be a file inside the folder"),
    ({"a": "sub/../../secret.safetensors"}, "must be a file inside the folder"),
    ({"a": "..\\secret.safetensors"}, "must be a file inside the folder"),
    ({"a": "/etc/passwd"}, "'/etc/passwd'; it must be a file inside the folder"),
    ({"a": "C:\\weights.safetensors"}, "must be a file inside the folder"),
    ({"a": ""}, "must be a file inside the folder"),
    ({"a": 7}, "names 7; it must be a file inside the folder"),
    ({"a": "link.safetensors"}, "'link.safetensors', a link out of the folder"),
    ({"a": "folder_link/secret.safetensors"}, "a link out of the folder"),
    ({"a": "absent.safetensors"}, "absent.safetensors: no such file"),
    ({"other": "model-1.safetensors"}, "model-1.safetensors: tensor other is missing"),
    (["a"], "has no weight_map, an object of tensor names and files"),
  ],
)
def test_an_index_cannot_lead_out_of_its_folder(tmp_path, weight_map, message):
  folder = tmp_path / "model"
  folder.mkdir()
  save_file({"a": TENSORS["a"]}, tmp_path / "secret.safetensors")
  save_file({"a": TENSORS["a"]}, folder / "model-1.safetensors")
  (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
  (folder / "folder_link").symlink_to(tmp_path)
  (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
  with pytest.raises(WeightsError, match=re.escape(message)):
    open_safetensors(folder)


@pytest.mark.parametrize(
  "text, message",
  [
    ("{", "not JSON"),
    ("[]", "holds a list"),
    ("{}", "has no weight_map"),
    ("\xff", "not JSON"),
    ('{"a":' * 100_000, "nested"),
  ],
)
def test_a_damaged_index_is_named(tmp_path, text, message):
  (tmp_path / INDEX).write_text(text, encoding="latin-1")
  with pytest.raises(WeightsError, match=f"index.json: .*{message}"):
    open_safetensors(tmp_path)


def test_of_a_single_file_beside_an_index_one_is_read_and_named(tmp_path):
  save_safetensors(tmp_path, TENSORS, max_shard_bytes=100)
  other = {"a": TENSORS["a"] + 1}
  save_file(other, tmp_path / SINGLE)
  with pytest.warns(UserWarning, match=f"{SINGLE} is read, as transformers does"):
    assert_same(open_safetensors(tmp_path), other)
  (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": SINGLE}}))  # one and the same
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert_same(open_safetensors(tmp_path), other)


def test_a_shape_is_told_without_reading(tmp_path):
  save_safetensors(tmp_path, TENSORS | {"nan": np.full((2, 3), np.nan, np.float32)}, max_shard_bytes=10**6)
  files = open_safetensors(tmp_path)
  assert files.shape("nan") == (2, 3) and files.shape("b") == (5, 4) and "nan" in files and "no" not in files
  with pytest.raises(WeightsError, match="nan is not finite"):
    files["nan"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "header", "text"])
def test_a_damaged_file_is_named(tmp_path, damage):
  save_safetensors(tmp_path, TENSORS, max_shard_bytes=10**6)
  content = (tmp_path / SINGLE).read_bytes()
  changed = {
    "truncated": content[:-1],
    "empty": b"",
    "header": b"\xff" * 8 + content[8:],
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
  }
  (tmp_path / SINGLE).write_bytes(changed[damage])
  with pytest.raises(WeightsError, match=r"model.safetensors: damaged, truncated or not safetensors"):
    open_safetensors(tmp_path)


def test_a_folder_without_weights_says_what_it_needs(tmp_path):
  with pytest.raises(WeightsError, match=f"holds neither {SINGLE} nor {INDEX}$"):
    open_safetensors(tmp_path)
  (tmp_path / "pytorch_model.bin").write_bytes(b"")
  with pytest.raises(WeightsError, match=r"pytorch_model.bin is a pickle, which is not read"):
    open_safetensors(tmp_path)
