"""`dpojax export`: the folder holds the checkpoint's weights bit for bit, and appears only when complete."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from tiny_model import TinyModel

from dpojax.cli.main import main
from dpojax.config.record import write_config
from dpojax.config.schema import CheckpointSettings, RunConfig
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.model_files import LoadedModel, load_model, save_description


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
