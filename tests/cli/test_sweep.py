"""`dpojax sweep` over runs that take no time: what points share, its table, and its exit codes."""

import pytest

from dpojax.cli.main import main
from dpojax.errors import DataError
from dpojax.sweeps import stages
from dpojax.training.loop import RunResult

CONFIG = """from dpojax.config import base


def get_config():
  config = base()
  config.data.path = "rows.jsonl"
  config.model.path = "model"
  config.reference.kind = "cache"
  config.logging.plots = False
  return config
"""
STAGED = """from dpojax.config import stages


def get_config():
  config = stages(sft="sft", dpo="preference")
  config.model.path = "model"
  config.sft.data.path = "texts.jsonl"
  config.dpo.data.path = "rows.jsonl"
  config.dpo.model.path = "stage:sft"
  config.logging.plots = False
  return config


def get_points():
  return [{"dpo.loss.beta": 0.1}, {"dpo.loss.name": "ipo"}]
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
  """Runs the command with recipes that end at once, as `outcome(config)` says; gives (code, calls)."""

  def run(*grids, outcome=lambda config: "finished", text=CONFIG):
    (tmp_path / "config.py").write_text(text)
    calls = []
    monkeypatch.setattr(stages, "check_data_files", lambda experiment: None)

    def recipe(config, inputs, folder):
      calls.append((config, folder.path))
      result = RunResult(1, outcome(config))
      folder.begin({}, training=False)
      (folder.path / "metrics.jsonl").write_text('{"step": 1, "split": "eval", "rewards/accuracies": 0.625}\n')
      (folder.path / "model.json").write_text("{}")
      (folder.path / "checkpoints" / "1").mkdir(parents=True)
      (folder.path / "checkpoints" / "1" / "manifest.json").write_text("{}")
      folder._weights = "a" * 64  # as if it had saved a model
      folder.end(result)
      return result

    monkeypatch.setattr(stages, "RECIPES", {"preference": recipe, "sft": recipe})
    words = [word for grid in grids for word in ("--grid", grid)]
    return main(["sweep", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}", *words]), calls

  return run


@pytest.mark.slow
def test_points_share_the_reference_cache(sweep, tmp_path, capsys):
  code, calls = sweep("loss.beta=0.1,0.2")
  assert code == 0
  assert [folder for _, folder in calls] == [tmp_path / "w" / "loss.beta=0.1", tmp_path / "w" / "loss.beta=0.2"]
  assert {config.reference.cache_dir for config, _ in calls} == {str(tmp_path / "w" / "reference_cache")}
  lines = capsys.readouterr().out.splitlines()
  assert lines[1].split() == ["0.1", "62.5", "%", "finished"]
  assert (tmp_path / "w" / "sweep.png").exists()


@pytest.mark.slow
def test_a_stage_that_comes_out_the_same_runs_once(sweep, tmp_path):
  _, calls = sweep("dpo.loss.beta=0.1,0.2", text=STAGED)
  assert [folder.relative_to(tmp_path / "w").as_posix() for _, folder in calls] == [
    "sft",
    "dpo.loss.beta=0.1/dpo",
    "dpo.loss.beta=0.2/dpo",
  ]


@pytest.mark.slow
def test_points_of_the_config_file(sweep, tmp_path):
  code, calls = sweep(text=STAGED)
  assert code == 0
  assert [(config.loss.beta, config.loss.name) for config, _ in calls[1:]] == [(0.1, "auto"), (None, "ipo")]


def test_without_points_it_says_how_to_give_some(sweep, capsys):
  assert sweep()[0] == 2
  assert "--grid is missing: give the values to try, such as --grid loss.beta=0.05,0.1, or" in capsys.readouterr().err


@pytest.mark.slow
def test_a_second_start_runs_nothing_and_shows_the_same_table(sweep, capsys):
  sweep("loss.beta=0.1,0.2")
  first = capsys.readouterr().out
  assert sweep("loss.beta=0.1,0.2") == (0, [])
  assert capsys.readouterr().out == first


@pytest.mark.slow
def test_one_failed_point_makes_the_exit_code_1(sweep, capsys):
  def outcome(config):
    if config.loss.beta == 0.1:
      raise DataError("rows.jsonl: no such file")
    return "stopped"

  assert sweep("loss.beta=0.1,0.2", outcome=outcome)[0] == 1
  captured = capsys.readouterr()
  assert "point 1 of 2: loss.beta=0.1: failed: rows.jsonl: no such file" in captured.err
  assert [line.split()[-1] for line in captured.out.splitlines()[1:3]] == ["failed", "stopped"]


def test_asked_to_stop_the_sweep_ends_with_code_75(sweep):
  code, calls = sweep("loss.beta=0.1,0.2", outcome=lambda config: "preempted")
  assert code == 75 and len(calls) == 1
