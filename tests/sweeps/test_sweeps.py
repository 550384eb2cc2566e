"""Grids and their runs: products, refusals, skipping, resuming, and a failed point among good ones."""

import itertools
import json

import pytest

from dpojax.config.check import check
from dpojax.config.keys import replace_values, value_at
from dpojax.config.record import to_json
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError, DataError
from dpojax.sweeps.grid import make_points, parse_grid
from dpojax.sweeps.runner import is_finished, run_sweep

CONFIG = replace_values(RunConfig(), {"data.source": "file", "data.path": "rows.jsonl", "model.path": "model"})


def finish(config, folder):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "result.json").write_text(json.dumps({"config": to_json(config)}))
  return "finished"


def sweep(points, workdir, run_point=finish):
  lines = []
  outcomes = run_sweep(points, workdir, run_point, lines.append)
  return [o.status for o in outcomes], lines


def test_several_grids_are_a_product_and_values_have_the_settings_types():
  grid = parse_grid(["loss.beta=0.05, 0.1,1", "seed=0,1", "loss.name=dpo"])
  assert grid == {"loss.beta": (0.05, 0.1, 1.0), "seed": (0, 1), "loss.name": ("dpo",)}
  points = make_points(CONFIG, grid, check)
  reached = [(value_at(p.config, "loss.beta"), p.config.seed) for p in points]
  assert reached == list(itertools.product((0.05, 0.1, 1.0), (0, 1)))
  assert points[0].name == "loss.beta=0.05,seed=0,loss.name=dpo"


def test_a_path_in_a_grid_is_one_folder_name():
  point = make_points(CONFIG, parse_grid(["data.path=../a/b.jsonl"]), check)[0]
  assert point.name == "data.path=..%2Fa%2Fb.jsonl"


@pytest.mark.parametrize(
  "texts, message",
  [
    ([], "--grid is missing: give the values to try, such as --grid loss.beta=0.05,0.1"),
    (["loss.beta"], "--grid 'loss.beta': wants KEY=VALUE,VALUE,..., such as loss.beta=0.05,0.1"),
    (["loss.beta="], "--grid 'loss.beta=': wants KEY=VALUE,VALUE,..., such as loss.beta=0.05,0.1"),
    (["loss.betta=1"], "--grid 'loss.betta=1': unknown key 'loss.betta'; did you mean 'loss.beta'?"),
    (["loss.beta=1,,2"], "--grid 'loss.beta=1,,2': loss.beta wants a number, got ''"),
    (["seed=1.5"], "--grid 'seed=1.5': seed wants a whole number, got '1.5'"),
    (["seed=1,1"], "--grid 'seed=1,1': a value is there twice"),
    (["seed=1", "seed=2"], "--grid 'seed=2': seed is given twice; write all its values in one --grid"),
  ],
)
def test_bad_grids(texts, message):
  with pytest.raises(ConfigError) as caught:
    parse_grid(texts)
  assert str(caught.value) == message


def test_a_bad_point_is_refused_before_any_starts():
  with pytest.raises(ConfigError) as caught:
    make_points(CONFIG, parse_grid(["loss.beta=0.1,-1"]), check)
  assert str(caught.value) == "point loss.beta=-1.0: loss.beta must be more than 0, got -1"


def test_finished_points_are_skipped_and_changed_ones_are_not(tmp_path):
  points = make_points(CONFIG, parse_grid(["loss.beta=0.1,0.2"]), check)
  assert sweep(points, tmp_path)[0] == ["finished", "finished"]
  statuses, lines = sweep(points, tmp_path)
  assert statuses == ["skipped", "skipped"]
  assert lines[0] == "point 1 of 2: loss.beta=0.1: finished before, skipped"
  other = make_points(replace_values(CONFIG, {"seed": 1}), parse_grid(["loss.beta=0.1"]), check)
  assert sweep(other, tmp_path)[0] == ["finished"]


def test_a_damaged_result_is_not_a_finished_point(tmp_path):
  for text in ("{", "[]", "{}", "null"):
    (tmp_path / "result.json").write_text(text)
    assert not is_finished(tmp_path, CONFIG)


def test_a_failed_point_is_reported_and_the_others_go_on(tmp_path):
  points = make_points(CONFIG, parse_grid(["seed=0,1,2"]), check)

  def run_point(config, folder):
    if config.seed == 0:
      raise DataError("rows.jsonl, line 3: no column 'chosen'")
    if config.seed == 1:
      raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")
    return finish(config, folder)

  statuses, lines = sweep(points, tmp_path, run_point)
  assert statuses == ["failed", "failed", "finished"]
  assert lines[1] == "point 1 of 3: seed=0: failed: rows.jsonl, line 3: no column 'chosen'"
  assert "RuntimeError: RESOURCE_EXHAUSTED: out of memory (see " in lines[3]
  assert "Traceback" in (tmp_path / "seed=1" / "error.txt").read_text()


def test_a_point_asked_to_stop_ends_the_sweep(tmp_path):
  points = make_points(CONFIG, parse_grid(["seed=0,1"]), check)
  assert sweep(points, tmp_path, lambda config, folder: "preempted")[0] == ["preempted"]


def test_an_interrupt_is_not_a_failed_point(tmp_path):
  def run_point(config, folder):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    sweep(make_points(CONFIG, parse_grid(["seed=0"]), check), tmp_path, run_point)
