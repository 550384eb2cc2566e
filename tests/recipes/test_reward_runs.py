"""Whole runs of reward models: what they leave in their folder, where they may start, what they refuse."""

import gzip
import json

import numpy as np
import pytest

from dpojax.config.load import load_config
from dpojax.config.schema import DataSettings
from dpojax.data import load_dataset
from dpojax.errors import ConfigError
from dpojax.models.reward_model import RewardModel
from dpojax.scoring import reward_scores
from dpojax.sweeps.stages import run
from dpojax.training.model_files import load_model
from dpojax.training.runlog import read_metrics
from dpojax.types import Answers
from tests.tolerances import assert_sums_close
from tests.training.runs import write_config, write_pairs

pytestmark = pytest.mark.slow

SHORT = {
  "recipe": "reward_model",
  "reward.heads": 2,
  "train.steps": 4,
  "checkpoint.every": 2,
  "checkpoint.keep": 5,
  "evaluation.every": 0,
  "data.eval_fraction": 0.25,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(config file, workdir) of a finished run of two heads on pairs with ties, margins and weights."""
  folder = tmp_path_factory.mktemp("reward")
  config_file = write_config(folder, **SHORT)
  text = gzip.decompress(write_pairs(folder / "pairs.jsonl.gz").read_bytes()).decode()
  rows = [json.loads(line) for line in text.splitlines()]
  for i, row in enumerate(rows):
    row |= {"tie": i % 5 == 0, "margin": 0.1 * (i % 3), "weight": 1 + i % 2}
  (folder / "judged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  workdir = folder / "run"
  run(changed(config_file, **{"loss.margin_scale": 1.0, "reward.bootstrap": True}), workdir)
  return config_file, workdir


def changed(config_file, **overrides):
  path = config_file.parent / "judged.jsonl"
  return load_config(str(config_file), {"data.path": str(path)} | overrides)


def held_out_scores(workdir, config_file):
  """[answers, H] rewards of the held-out answers by the run's model."""
  model, params, tokenizer = load_model(workdir)
  data = changed(config_file).data
  _, held_out = load_dataset(data, tokenizer, answers=Answers.PAIR, row_length=48)
  return np.concatenate([s.T for s in reward_scores(model, params, held_out, row_length=48)])


def test_a_run_leaves_its_heads_their_spread_and_its_metrics(trained):
  config_file, workdir = trained
  model = load_model(workdir)[0]
  assert isinstance(model, RewardModel) and model.heads == 2
  rewards = held_out_scores(workdir, config_file)
  size = np.abs(rewards).mean(axis=0)  # means cancel, and deviations from them keep the rounding of the rewards
  assert_sums_close(model.normalisation.mean, rewards.mean(axis=0), size)
  assert_sums_close(model.normalisation.std, rewards.std(axis=0), size)
  normal = model.normalised(rewards)
  assert_sums_close((normal.mean(axis=0), normal.std(axis=0)), ([0, 0], [1, 1]), size / rewards.std(axis=0))
  assert json.loads((workdir / "model.json").read_text())["reward_head"]["measured_at"] == 4
  records = read_metrics(workdir / "metrics.jsonl")
  train = [record for record in records if record["split"] == "train"]
  assert len(train) == 4
  for name in (
    "loss",
    "rewards/chosen",
    "rewards/margins",
    "rewards/accuracies",
    "rewards/disagreement",
    "length/chosen",
  ):
    assert np.isfinite(train[-1][name]), name
  assert json.loads((workdir / "data.json").read_text())["counts"]["ties"] == 8


def test_an_earlier_checkpoint_has_its_own_head_and_no_spread(trained):
  _, workdir = trained
  early, params, _ = load_model(workdir / "checkpoints" / "2")
  late = load_model(workdir)[1]
  assert early.normalisation is None
  assert (params["score"] != late["score"]).all() and "head" not in params


def test_a_run_goes_on_from_a_reward_model_with_its_heads(trained, tmp_path):
  config_file, workdir = trained
  again = changed(config_file, **{"model.path": str(workdir), "reward.heads": 1, "loss.margin_scale": 1.0})
  run(again, tmp_path / "again")
  last, first = (
    [r["loss"] for r in read_metrics(folder / "metrics.jsonl") if r["split"] == "eval"]
    for folder in (workdir, tmp_path / "again")
  )
  assert first[0] == pytest.approx(last[-1], rel=1e-5)
  assert load_model(tmp_path / "again")[0].heads == 2


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"reward.heads": 3}, "reward.heads is 3, but .* is a reward model of 2"),
    ({"recipe": "preference", "reward.heads": 1}, "is a reward model: it scores answers and writes none"),
    ({"recipe": "sft", "reward.heads": 1}, "is a reward model: it scores answers and writes none"),
  ],
)
def test_what_a_reward_model_cannot_start(trained, tmp_path, settings, message):
  config_file, workdir = trained
  with pytest.raises(ConfigError, match=message):
    run(changed(config_file, **{"model.path": str(workdir)} | settings), tmp_path / "run")


def test_rankings_of_different_lengths(trained, tmp_path):
  config_file, _ = trained
  draws = np.random.default_rng(0)
  ids = lambda: draws.integers(2, 32, draws.integers(2, 7)).tolist()  # noqa: E731
  rows = [{"prompt_ids": ids(), "answers_ids": [ids() for _ in range(2 + i % 3)]} for i in range(24)]
  file = tmp_path / "ranked.jsonl"
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))
  config = load_config(
    str(config_file), {"data.path": str(file), "loss.name": "plackett_luce", "reward.heads": 1, "train.steps": 2}
  )
  run(config, tmp_path / "run")
  records = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r["split"] == "train"]
  assert all(np.isfinite(record["loss"]) for record in records) and "rewards/disagreement" not in records[0]
  model, params, tokenizer = load_model(tmp_path / "run")
  dataset, _ = load_dataset(
    DataSettings(source="file", path=str(file), eval_fraction=0.0), tokenizer, answers=Answers.ANY, row_length=48
  )
  assert {score.shape for score in reward_scores(model, params, dataset, row_length=48)} == {(1, 2), (1, 3), (1, 4)}
