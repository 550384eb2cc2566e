"""`dpojax sweep` over runs that take no time: what points share, its table, and its exit codes."""

import types

import pytest

import dpojax.assemble
from dpojax.cli.main import main
from dpojax.config.record import write_config
from dpojax.errors import DataError
from dpojax.report import write_report

CONFIG = """from dpojax.config import base


def get_config():
  config = base()
  config.data.path = "rows.jsonl"
  config.model.path = "model"
  config.reference.kind = "cache"
  return config
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
  """Runs the command with a session whose runs end at once, as `outcome(config)` says; gives (code, calls)."""
  (tmp_path / "config.py").write_text(CONFIG)

  def run(*grids, outcome=lambda config: "finished"):
    calls = []

    class Session:
      def run(self, config, workdir, *, prelude=None):
        reason = outcome(config)
        calls.append((config, prelude))
        workdir.mkdir(parents=True, exist_ok=True)
        write_config(config, workdir)
        (workdir / "metrics.jsonl").write_text('{"step": 1, "split": "eval", "rewards/accuracies": 0.625}\n')
        if reason != "preempted":
          write_report(workdir, reason=reason)
        return types.SimpleNamespace(reason=reason)

    monkeypatch.setattr(dpojax.assemble, "Session", Session)
    words = [word for grid in grids for word in ("--grid", grid)]
    return main(["sweep", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}", *words]), calls

  return run


def test_points_share_earlier_stages_and_the_reference_cache(sweep, tmp_path, capsys):
  code, calls = sweep("loss.beta=0.1,0.2")
  assert code == 0
  assert {prelude for _, prelude in calls} == {tmp_path / "w" / "shared"}
  assert {config.reference.cache_dir for config, _ in calls} == {str(tmp_path / "w" / "reference_cache")}
  lines = capsys.readouterr().out.splitlines()
  assert lines[1].split() == ["0.1", "62.5", "%", "finished"]
  assert (tmp_path / "w" / "sweep.png").exists()


def test_points_that_differ_in_an_earlier_stage_do_not_share_it(sweep):
  assert {prelude for _, prelude in sweep("data.seed=0,1", "loss.beta=0.1")[1]} == {None}


def test_a_second_start_runs_nothing_and_shows_the_same_table(sweep, capsys):
  sweep("loss.beta=0.1,0.2")
  first = capsys.readouterr().out
  assert sweep("loss.beta=0.1,0.2") == (0, [])
  assert capsys.readouterr().out == first


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
