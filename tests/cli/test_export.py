"""`dpojax export`: the folder holds the checkpoint's weights bit for bit, and appears only when complete."""

import json
import shutil
import tempfile

import jax
import ml_dtypes
import numpy as np
import pytest
from tiny_model import TinyModel

from dpojax.cli.main import main
from dpojax.config.record import write_config
from dpojax.config.schema import CheckpointSettings, RunConfig
from dpojax.interop import hub
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.model_files import LoadedModel, load_model, save_description
from tests.hub_server import folder_files, serving


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A workdir with checkpoints of steps 1 and 2, whose parameters are those of a tiny model times the step."""
  workdir = tmp_path_factory.mktemp("export") / "run"
  tiny = TinyModel(workdir.parent / "tiny")
  workdir.mkdir()
  write_config(RunConfig(), workdir)
  save_description(workdir, LoadedModel(tiny.model, tiny.params, tiny.tokenizer))
  with Checkpointer(workdir / "checkpoints", CheckpointSettings()) as checkpointer:
    for step in (1, 2):
      checkpointer.save(step, {"params": jax.tree.map(lambda x, s=step: x * s, tiny.params)})
  return workdir, tiny


def leaves(params):
  return [np.asarray(x) for x in jax.tree.leaves(params)]


@pytest.mark.parametrize("options, step", [([], 2), (["--step", "1"], 1)])
def test_weights_and_tokenizer_come_back_bit_for_bit(run, tmp_path, options, step):
  workdir, tiny = run
  assert main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *options]) == 0
  model, params, tokenizer = load_model(tmp_path / "out")
  for exported, original in zip(leaves(params), leaves(tiny.params), strict=True):
    np.testing.assert_array_equal(exported, original * np.float32(step))
  assert model.config == tiny.model.config
  assert tokenizer.fingerprint() == tiny.tokenizer.fingerprint()
  assert (tmp_path / "out" / "README.md").read_text().count("# run\n") == 1


def test_shards_and_bfloat16(run, tmp_path):
  workdir, tiny = run
  out = tmp_path / "out"
  assert main(["export", f"--workdir={workdir}", f"--out={out}", "--max-shard-size=2KB", "--dtype=bfloat16"]) == 0
  weights = sorted(out.glob("*.safetensors"))
  assert len(weights) > 1 and (out / "model.safetensors.index.json").exists()
  assert {path.stat().st_mode for path in weights} == {(out / "config.json").stat().st_mode}
  assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
  for exported, original in zip(leaves(load_model(out)[1]), leaves(tiny.params), strict=True):
    np.testing.assert_array_equal(exported, (original * np.float32(2)).astype(ml_dtypes.bfloat16).astype(np.float32))


def test_an_export_that_fails_leaves_nothing_behind(run, tmp_path, capsys):
  workdir, _ = run
  assert main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--step=7"]) == 2
  assert "7" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_what_an_interrupted_export_left_is_replaced(run, tmp_path):
  (tmp_path / ".out.part").mkdir()
  (tmp_path / ".out.part" / "old").write_text("")
  assert main(["export", f"--workdir={run[0]}", f"--out={tmp_path / 'out'}"]) == 0
  assert not (tmp_path / "out" / "old").exists() and not (tmp_path / ".out.part").exists()


# --- digests.json


@pytest.fixture(scope="module")
def exported(run):
  out = run[0].parent / "exported"
  assert main(["export", f"--workdir={run[0]}", f"--out={out}", "--max-shard-size=2KB"]) == 0
  (out.parent / "rows.jsonl").write_text('{"prompt": "my parcel", "chosen": "sorry", "rejected": "yes"}\n')
  return out


def score(model, *more):
  return main(["score", f"--data={model.parent / 'rows.jsonl'}", f"--out={model.parent / 'out.jsonl'}", *more])


def test_every_file_but_the_card_is_listed_and_an_export_again_is_the_same(run, exported, tmp_path):
  listed = json.loads((exported / "digests.json").read_text())["files"]
  assert sorted(listed) == sorted({path.name for path in exported.iterdir()} - {"README.md", "digests.json"})
  assert main(["export", f"--workdir={run[0]}", f"--out={tmp_path / 'again'}", "--max-shard-size=2KB"]) == 0
  for path in exported.iterdir():
    assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_whoever_loads_an_exported_folder_is_told_of_a_damaged_file(exported, tmp_path, capsys, how):
  model = tmp_path / "model"
  (tmp_path / "rows.jsonl").write_text((exported.parent / "rows.jsonl").read_text())
  shutil.copytree(exported, model)
  for name in sorted(json.loads((model / "digests.json").read_text())["files"]):
    content = (model / name).read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    (model / name).write_bytes(flipped if how == "flipped" else content[:-1])
    if how == "gone":
      (model / name).unlink()
    for command in (
      lambda: score(model, f"--model={model}"),
      lambda: score(model, f"--rewards=implicit:{model}?reference={exported}&beta=0.1"),
      lambda: score(model, f"--rewards=implicit:{exported}?reference={model}&beta=0.1"),
      lambda: main(["sample", f"--model={model}", "--prompt=my parcel", "--max-tokens=2"]),
      lambda: main(["data", "inspect", f"--data={tmp_path / 'rows.jsonl'}", f"--model={model}"]),
    ):
      if command() == 0:
        assert name.endswith(".safetensors") and how == "flipped"  # `data inspect` reads no weights
        continue
      said = capsys.readouterr().err
      assert f"{model / name}: " in said and f"delete {model / 'digests.json'}" in said and said.count("\n") == 1, said
    (model / name).write_bytes(content)
  assert score(model, f"--model={model}") == 0


@pytest.mark.slow
def test_a_template_changed_on_purpose_is_refused_until_the_list_is_deleted(exported, tmp_path, capsys):
  model = tmp_path / "model"
  shutil.copytree(exported, model)
  (tmp_path / "rows.jsonl").write_text((exported.parent / "rows.jsonl").read_text())
  (model / "notes.txt").write_text("more files are nobody's business")
  (model / "README.md").write_text("nor is the card")
  assert score(model, f"--model={model}") == 0
  template = model / "chat_template.jinja"
  template.write_text(template.read_text() + " ")
  assert score(model, f"--model={model}") == 2
  assert "if it was changed on purpose, delete" in capsys.readouterr().err
  (model / "digests.json").unlink()
  assert score(model, f"--model={model}") == 0


def test_any_model_is_exported(exported, run, tmp_path, capsys):
  """A folder of transformers, a run and one of its checkpoints, each named by --model."""
  workdir, tiny = run
  for number, (model, step) in enumerate([(exported, 2), (workdir, 2), (workdir / "checkpoints" / "1", 1)]):
    out = tmp_path / str(number)
    assert main(["export", f"--model={model}", f"--out={out}"]) == 0
    assert capsys.readouterr().out == f"exported {model} to {out}\n"
    for found, original in zip(leaves(load_model(out)[1]), leaves(tiny.params), strict=True):
      np.testing.assert_array_equal(found, original * np.float32(step))
  assert "no weight was trained" in (tmp_path / "0" / "README.md").read_text()
  assert "Trained with dpojax" in (tmp_path / "1" / "README.md").read_text()


@pytest.mark.parametrize(
  "options, message",
  [
    ([], "give --workdir=DIR of a run, or --model=PATH of any model, and not both"),
    (["--workdir=w", "--model=m"], "give --workdir=DIR of a run, or --model=PATH of any model, and not both"),
    (["--model=m"], "--out is missing: give the folder to write, or --push=NAME to upload it"),
    (["--model=m", "--out=o", "--private"], "--private is of a repository that --push=NAME makes; leave it out"),
    (["--model=nowhere", "--out=o"], "nowhere: no such file or folder"),
    (["--model=nowhere", "--out=o", "--step=1"], "--step=1: nowhere is no run of dpojax"),
    (["--model=m", "--push=a b"], "hub:a b: no name of the hub"),
  ],
)
def test_options_that_do_not_go_together(options, message, capsys):
  assert main(["export", *options]) == 2
  assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_of_the_hub_is_exported_and_pushed_back(exported, tmp_path, monkeypatch, capsys):
  with serving() as server:
    for name, value in {
      "HF_ENDPOINT": server.endpoint,
      "HF_HUB_CACHE": str(tmp_path / "cache"),
      "HF_TOKEN": server.token,
    }.items():
      monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub, "_commits", {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    commit = server.commit("org/tiny", folder_files(exported))
    assert main(["export", "--model=hub:org/tiny", "--push=me/copy@v1", "--private"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"pushed hub:org/tiny to {server.endpoint}/me/copy/commit/")
    files = server.files("me/copy", "v1")
    pushed, original = (leaves(load_model(path)[1]) for path in ("hub:me/copy@v1", exported))
    for found, expected in zip(pushed, original, strict=True):
      np.testing.assert_array_equal(found, expected)
    assert "# hub:org/tiny" in files["README.md"].decode() and "digests.json" in files
    assert server.private == {"me/copy"}
    assert list((tmp_path / "scratch").iterdir()) == []
    assert commit == server.refs["org/tiny"]["main"]
