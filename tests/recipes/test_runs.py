"""Whole runs in this process: cached references, what stages share, and what is refused."""

import json

import numpy as np
import pytest

from dpojax.cli.main import main
from dpojax.config.load import load_config
from dpojax.errors import ConfigError, DataError, TrainingError
from dpojax.sweeps.stages import run
from dpojax.training.runlog import read_metrics
from tests.recipes.staged import tiny
from tests.training.runs import state_digest, timeless_metrics, write_config

SHORT = {"train.steps": 6, "checkpoint.every": 0, "evaluation.every": 3, "monitor.every": 0}


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


@pytest.mark.slow
def test_a_run_that_stays_non_finite_ends_with_the_parameters_of_its_start(config_file, tmp_path):
  with pytest.raises(
    TrainingError, match=r"step 5: loss or gradient was not finite 4 steps in a row \(train.max_skipped\)"
  ):
    run(changed(config_file, optimizer__learning_rate=1e38, train__max_skipped=4), tmp_path)
  rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["split"] == "train"]
  assert [row["skipped_in_row"] for row in rows] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_finished_run_is_left_alone(config_file, tmp_path):
  run(changed(config_file), tmp_path)
  before = (state_digest(tmp_path, 6), timeless_metrics(tmp_path))
  assert run(changed(config_file), tmp_path).reason == "finished"
  assert (state_digest(tmp_path, 6), timeless_metrics(tmp_path)) == before


@pytest.mark.slow
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


def test_a_folder_that_holds_something_else_of_a_run_is_not_used(config_file, tmp_path):
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(ConfigError, match=r"holds config.json of a run, but no stage.json"):
    run(changed(config_file), tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


@pytest.mark.slow
def test_stages_run_once_and_the_last_starts_where_the_first_ended(tmp_path):
  run(tiny(), tmp_path)
  records = read_metrics(tmp_path / "dpo" / "metrics.jsonl")
  policy = [row for row in records if row["split"] == "policy"]
  assert [row["step"] for row in policy] == [0, 3]
  assert policy[0]["kl/sequence"] == pytest.approx(0, abs=1e-5)
  assert next(row["loss"] for row in records if row["split"] == "train") == pytest.approx(np.log(2), abs=1e-6)
  made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
  run(tiny(), tmp_path)
  assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == made


def test_a_data_file_that_is_missing_is_said_before_the_stages_before_it(tmp_path):
  with pytest.raises(DataError, match=r"rows.jsonl: no such file; dpo.data.path takes a JSONL"):
    run(tiny(dpo__data__path=str(tmp_path / "rows.jsonl")), tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_report_that_a_kill_prevented_is_written_at_the_next_start(config_file, tmp_path):
  run(changed(config_file), tmp_path)
  (tmp_path / "result.json").unlink()
  run(changed(config_file), tmp_path)
  assert (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_a_finished_run_under_a_constant_rate_goes_on_to_more_steps(config_file, tmp_path):
  constant = {"optimizer__schedule": "constant", "evaluation__every": 0, "monitor__prompts": 0}
  run(changed(config_file, **constant), tmp_path / "a")
  assert run(changed(config_file, train__steps=9, **constant), tmp_path / "a").step == 9
  run(changed(config_file, train__steps=9, **constant), tmp_path / "b")
  assert state_digest(tmp_path / "a", 9) == state_digest(tmp_path / "b", 9)
  train = [row["loss"] for row in read_metrics(tmp_path / "a" / "metrics.jsonl") if row["split"] == "train"]
  assert train == [row["loss"] for row in read_metrics(tmp_path / "b" / "metrics.jsonl") if row["split"] == "train"]


@pytest.mark.slow
def test_under_a_falling_rate_more_steps_are_another_run(config_file, tmp_path):
  run(changed(config_file), tmp_path)
  with pytest.raises(ConfigError, match=r"train.steps: 6 -> 9"):
    run(changed(config_file, train__steps=9), tmp_path)


def test_a_warm_up_longer_than_the_run_is_refused(config_file, tmp_path):
  with pytest.raises(ConfigError, match=r"optimizer.warmup_steps is 9, more than the 5 steps that train.epochs=1"):
    run(changed(config_file, train__steps=0, optimizer__warmup_steps=9), tmp_path)


def test_weights_that_are_all_zero_are_refused(config_file, tmp_path):
  file = tmp_path / "rows.jsonl"
  row = {"prompt_ids": [3, 4], "chosen_ids": [5, 6], "rejected_ids": [7], "weight": 0}
  file.write_text("".join(json.dumps(row | {"prompt_ids": [3, i]}) + "\n" for i in range(4, 12)))
  with pytest.raises(DataError, match=r"column 'weight' is 0 in all \d+ training examples"):
    run(changed(config_file, data__path=str(file)), tmp_path / "run")


@pytest.mark.long
def test_a_run_whose_every_step_was_skipped_does_not_end_well(config_file, tmp_path):
  file = tmp_path / "rows.jsonl"
  row = {"chosen_ids": [5, 6], "rejected_ids": [7], "margin": 1e30}
  file.write_text("".join(json.dumps(row | {"prompt_ids": [3, i]}) + "\n" for i in range(4, 12)))
  config = changed(config_file, data__path=str(file), loss__margin_scale=1e30, train__steps=3)
  with pytest.raises(TrainingError, match=r"not finite in all 3 steps, so nothing was learned"):
    run(config, tmp_path / "run")
  assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_whole_run_and_its_report_read_its_loss_once_each(config_file, tmp_path, monkeypatch):
  from dpojax.losses import spec

  parse, parsed = spec.parse_losses, []
  monkeypatch.setattr(spec, "parse_losses", lambda text: parsed.append(text) or parse(text))
  words = [f"--config={config_file}", f"--workdir={tmp_path}", "--config.loss.name=dpo+0.2*sft"]
  assert main(["train", *words, "--config.train.steps=2", "--config.monitor.prompts=1"]) == 0
  # Once by the run, and once by its report, which describes what it finds in the folder.
  assert parsed == ["dpo+0.2*sft"] * 2
