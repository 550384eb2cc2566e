"""`dpojax export` of a reward model, and what else a command makes of its folder."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_model import TinyModel

from dpojax.cli.main import main
from dpojax.config.record import write_config
from dpojax.config.schema import CheckpointSettings, DataSettings, RunConfig
from dpojax.data.dataset import dataset_from_rows
from dpojax.models.reward_model import Normalisation, RewardModel
from dpojax.scoring import reward_scores
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.model_files import LoadedModel, load_language_model, load_model, save_description
from dpojax.types import Answers

HEADS = 3
MEASURED = Normalisation((0.5, -1.0, 2.0), (1.5, 0.5, 2.5), 0.75)
ROWS = [
  {"prompt": "my parcel is", "chosen": "sorry the refund is yes", "rejected": "be calm"},
  {"prompt": "refund", "chosen": "yes", "rejected": "we will be calm"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A workdir with checkpoints of steps 1 and 2 of an ensemble; the second head's weights are times the step."""
  workdir = tmp_path_factory.mktemp("reward") / "run"
  tiny = TinyModel(workdir.parent / "tiny")
  model = RewardModel(tiny.model, HEADS, MEASURED)
  params = model.with_head(tiny.params, jax.random.key(5))
  workdir.mkdir()
  write_config(dataclasses.replace(RunConfig(), recipe="reward_model"), workdir)
  save_description(workdir, LoadedModel(model, params, tiny.tokenizer), measured_at=2)
  with Checkpointer(workdir / "checkpoints", CheckpointSettings()) as checkpointer:
    for step in (1, 2):
      checkpointer.save(step, {"params": params | {"score": params["score"] * step}})
  return workdir, tiny, model, params | {"score": params["score"] * 2}


def scores(path, precision="float32"):
  """f64[answers, H] of ROWS by the model at `path`."""
  model, params, tokenizer = load_model(path, precision=precision)
  dataset = dataset_from_rows(ROWS, DataSettings(), tokenizer, answers=Answers.ANY, row_length=40)
  return model, np.concatenate([s.T for s in reward_scores(model, params, dataset, row_length=40)])


@pytest.mark.slow
def test_trap_19_the_head_is_saved_with_the_run(run):
  workdir, tiny, model, params = run
  loaded, found = scores(workdir)
  assert loaded == model
  dataset = dataset_from_rows(ROWS, DataSettings(), tiny.tokenizer, answers=Answers.ANY, row_length=40)
  expected = np.concatenate([s.T for s in reward_scores(model, params, dataset, row_length=40)])
  np.testing.assert_array_equal(found, expected)
  assert len(np.unique(found)) == found.size


def test_a_normalisation_belongs_to_its_step(run):
  workdir = run[0]
  assert load_model(workdir / "checkpoints" / "2")[0].normalisation == MEASURED
  assert load_model(workdir / "checkpoints" / "1")[0].normalisation is None


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize("head", [None, "mean", "0", "2"])
def test_scores_survive_the_export(run, tmp_path, head):
  workdir, tiny, *_ = run
  out = tmp_path / "out"
  options = [] if head is None else [f"--head={head}"]
  assert main(["export", f"--workdir={workdir}", f"--out={out}", "--pad-token=<user>", *options]) == 0
  _, ours = scores(workdir)
  model, exported = scores(out)
  place = None if head in (None, "mean") else int(head)
  expected = ours.mean(axis=1, keepdims=True) if place is None else ours[:, [place]]
  np.testing.assert_allclose(exported, expected, atol=1e-6)
  assert isinstance(model, RewardModel) and model.heads == 1
  assert model.normalisation == MEASURED.of_head(place)
  config = json.loads((out / "config.json").read_text())
  assert config["architectures"] == ["LlamaForSequenceClassification"] and config["num_labels"] == 1
  assert config["pad_token_id"] == tiny.tokenizer.encode("<user>")[0] != config["eos_token_id"]
  assert json.loads((out / "tokenizer_config.json").read_text())["pad_token"] == "<user>"
  card = (out / "README.md").read_text()
  assert "text-classification" in card
  assert ("mean over 3 heads" if place is None else f"that of head {head}") in card


def test_what_does_not_fit_a_reward_model_is_said(run, tmp_path, capsys):
  workdir = run[0]
  for options, message in (
    ([], "no spare special token"),
    (["--pad-token=<end>"], "pad token '<end>' ends answers"),
    (["--pad-token=nope"], "pad token 'nope' is not in the vocabulary"),
    (["--pad-token=<user>", "--head=3"], "--head=3: wants mean, or a number from 0 to 2"),
    (["--pad-token=<user>", "--head=first"], "--head=first: wants mean"),
  ):
    assert main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_language_models_have_no_heads_to_choose(run, tmp_path, capsys):
  tiny = run[1]
  other = tmp_path / "lm"
  other.mkdir()
  write_config(RunConfig(), other)
  save_description(other, LoadedModel(tiny.model, tiny.params, tiny.tokenizer))
  with Checkpointer(other / "checkpoints", CheckpointSettings()) as checkpointer:
    checkpointer.save(1, {"params": tiny.params})
  assert main(["export", f"--workdir={other}", f"--out={tmp_path / 'out'}", "--head=0"]) == 2
  assert "holds a language model; leave the option out" in capsys.readouterr().err


@pytest.mark.parametrize("exported", [False, True])
def test_commands_that_need_a_writer_refuse_it(run, tmp_path, capsys, exported):
  path = run[0]
  if exported:
    path = tmp_path / "out"
    assert main(["export", f"--workdir={run[0]}", f"--out={path}", "--pad-token=<user>"]) == 0
  capsys.readouterr()
  assert main(["sample", f"--model={path}", "--prompt=my parcel is"]) == 2
  assert f"{path} is a reward model: it scores answers and writes none" in capsys.readouterr().err
  with pytest.raises(ValueError, match="is a reward model"):
    load_language_model(path)
