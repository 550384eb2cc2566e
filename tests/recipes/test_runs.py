"""Whole runs in this process: cached references, what a session shares, and what it refuses."""

import dataclasses
import json

import numpy as np
import pytest
from dpojax.assemble import Session, run

from dpojax.cli.main import main
from dpojax.config.load import load_config
from dpojax.errors import ConfigError, DataError, TrainingError
from dpojax.training.runlog import read_metrics
from tests.training.runs import state_digest, timeless_metrics, write_config

SHORT = {"train.steps": 6, "checkpoint.every": 0, "evaluation.every": 3, "evaluation.policy_every": 0}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
  return write_config(tmp_path_factory.mktemp("session"), **SHORT)


def changed(config_file, **overrides):
  return load_config(str(config_file), {key.replace("__", "."): value for key, value in overrides.items()})


def losses(workdir):
  return [row["loss"] for row in read_metrics(workdir / "metrics.jsonl") if row["split"] != "policy"]


@pytest.mark.slow
def test_a_cached_reference_trains_as_a_live_one_and_serves_every_beta_and_rate(config_file, tmp_path):
  cache = str(tmp_path / "cache")
  run(changed(config_file), tmp_path / "live")
  run(changed(config_file, reference__kind="cache", reference__cache_dir=cache), tmp_path / "cached")
  np.testing.assert_allclose(losses(tmp_path / "cached"), losses(tmp_path / "live"), rtol=2e-5)
  assert "reference log-probs: 0 answers computed" not in (tmp_path / "cached" / "log.txt").read_text()
  other = changed(
    config_file,
    reference__kind="cache",
    reference__cache_dir=cache,
    loss__beta=0.5,
    loss__name="ipo",
    optimizer__learning_rate=1e-4,
  )
  run(other, tmp_path / "other")
  assert (tmp_path / "other" / "log.txt").read_text().count("reference log-probs: 0 answers computed") == 2


def test_a_run_that_stays_non_finite_ends_with_the_parameters_of_its_start(config_file, tmp_path):
  with pytest.raises(
    TrainingError, match=r"step 5: loss or gradient was not finite 4 steps in a row \(train.max_skipped\)"
  ):
    run(changed(config_file, optimizer__learning_rate=1e38, train__max_skipped=4), tmp_path)
  rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["split"] == "train"]
  assert [row["skipped_in_row"] for row in rows] == [0, 1, 2, 3, 4]


def test_a_finished_run_is_left_alone(config_file, tmp_path):
  run(changed(config_file), tmp_path)
  before = (state_digest(tmp_path, 6), timeless_metrics(tmp_path))
  assert run(changed(config_file), tmp_path).reason == "finished"
  assert (state_digest(tmp_path, 6), timeless_metrics(tmp_path)) == before


def test_a_changed_config_is_refused_before_anything_is_written(config_file, tmp_path):
  run(changed(config_file), tmp_path)
  before = (tmp_path / "config.json").read_bytes()
  assert json.loads(before)["loss"]["beta"] is None
  with pytest.raises(ConfigError, match=r"loss.beta: its default -> 0.3"):
    run(changed(config_file, loss__beta=0.3), tmp_path)
  assert (tmp_path / "config.json").read_bytes() == before


def test_devices_that_do_not_fit_are_named(config_file, tmp_path):
  with pytest.raises(ConfigError, match=r"parallel: data=-1 x fsdp=3 x tensor=1 does not cover the 1 devices"):
    run(changed(config_file, parallel__fsdp=3), tmp_path)


def test_rankings_are_refused_by_a_loss_on_pairs(config_file, tmp_path):
  file = tmp_path / "ranked.jsonl"
  file.write_text(json.dumps({"prompt_ids": [3, 4], "answers_ids": [[5, 6], [7], [8, 9]]}) + "\n")
  with pytest.raises(DataError, match=r"3 answers, but loss.name=dpo compares 2"):
    run(changed(config_file, data__path=str(file), data__eval_fraction=0.0, evaluation__every=0), tmp_path / "run")


def test_an_example_longer_than_the_models_positions_names_its_row(config_file, tmp_path):
  file = tmp_path / "long.jsonl"
  file.write_text(json.dumps({"prompt_ids": [3] * 60, "chosen_ids": [5] * 9, "rejected_ids": [6] * 9}) + "\n")
  config = changed(
    config_file, data__path=str(file), batch__row_length=128, data__eval_fraction=0.0, evaluation__every=0
  )
  with pytest.raises(
    DataError, match=r"long.jsonl:1: prompt and longest answer have 69 tokens, but the model takes 64"
  ):
    run(config, tmp_path / "run")


@pytest.mark.slow
def test_points_of_a_sweep_share_the_stages_before_them(tmp_path):
  config = load_config(
    "experiments/quickstart.py",
    {
      "model.hidden": 16, "model.ffn": 32, "model.layers": 1, "batch.size": 8, "batch.rows": 2, "sft.steps": 3, "sft.texts": 40,
      "sft.warmup_steps": 1, "sft.batch_size": 8, "pairs.prompts": 8, "train.steps": 3, "optimizer.warmup_steps": 1,
      "evaluation.prompts": 4, "evaluation.every": 0, "evaluation.policy_every": 0, "logging.plots": False,
    },
  )  # fmt: skip
  session = Session()
  session.run(config, tmp_path / "a", prelude=tmp_path / "shared")
  kept = [
    tmp_path / "shared" / "pairs" / "pairs.jsonl",
    tmp_path / "shared" / "sft" / "checkpoints" / "3" / "manifest.json",
  ]
  made = [path.stat().st_mtime_ns for path in kept]
  other = dataclasses.replace(config, loss=dataclasses.replace(config.loss, beta=1.0))
  session.run(other, tmp_path / "b", prelude=tmp_path / "shared")
  Session().run(dataclasses.replace(other, seed=1), tmp_path / "c", prelude=tmp_path / "shared")
  assert [path.stat().st_mtime_ns for path in kept] == made
  for point in "abc":
    policy = [row for row in read_metrics(tmp_path / point / "metrics.jsonl") if row["split"] == "policy"]
    assert [row["step"] for row in policy] == [0, 3]
    assert policy[0]["kl/sequence"] == pytest.approx(0, abs=1e-5)


def test_a_whole_run_reads_its_loss_once(config_file, tmp_path, monkeypatch):
  from dpojax.losses import spec

  parse, parsed = spec.parse_losses, []
  monkeypatch.setattr(spec, "parse_losses", lambda text: parsed.append(text) or parse(text))
  words = [f"--config={config_file}", f"--workdir={tmp_path}", "--config.loss.name=dpo+0.2*sft"]
  assert main(["train", *words, "--config.train.steps=2", "--config.evaluation.prompts=1"]) == 0
  assert parsed == ["dpo+0.2*sft"]
