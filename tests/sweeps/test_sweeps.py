"""Grids and their runs: products, folders that stages share, refusals, and a failed point among good ones."""

import itertools
import pathlib

import pytest

from dpojax.config.check import check
from dpojax.config.experiment import ALONE, Experiment
from dpojax.config.keys import replace_values, value_at
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError, DataError
from dpojax.sweeps.grid import make_points, parse_grid, product
from dpojax.sweeps.runner import run_sweep

CONFIG = replace_values(RunConfig(), {"data.source": "file", "data.path": "rows.jsonl", "model.path": "model"})
WORLD = {"data.source": "world", "data.name": "complaint_desk"}
STAGES = {
  "sft": replace_values(RunConfig(recipe="sft"), WORLD),
  "pairs": replace_values(RunConfig(recipe="pairs"), WORLD | {"model.path": "stage:sft"}),
  "dpo": replace_values(RunConfig(), WORLD | {"model.path": "stage:sft", "data.path": "stage:pairs"}),
}
HERE = pathlib.Path("sweep")


def alone(values):
  config = replace_values(CONFIG, dict(values))
  check(config)
  return Experiment({ALONE: config})


def staged(values):
  changed = dict(STAGES)
  for key, value in values.items():
    name, _, inner = key.partition(".")
    changed[name] = replace_values(changed[name], {inner: value})
  return Experiment(changed)


def points_of(texts, load=alone, stages=()):
  return make_points(product(parse_grid(texts, stages)), load, HERE)


def sweep(points, run_point=lambda point: "finished"):
  lines = []
  outcomes = run_sweep(points, run_point, lines.append)
  return [o.status for o in outcomes], lines


def test_several_grids_are_a_product_and_values_have_the_settings_types():
  grid = parse_grid(["loss.beta=0.05, 0.1,1", "seed=0,1", "loss.name=dpo"])
  assert grid == {"loss.beta": (0.05, 0.1, 1.0), "seed": (0, 1), "loss.name": ("dpo",)}
  points = make_points(product(grid), alone, HERE)
  configs = [point.experiment.stages[ALONE] for point in points]
  reached = [(value_at(config, "loss.beta"), config.seed) for config in configs]
  assert reached == list(itertools.product((0.05, 0.1, 1.0), (0, 1)))
  assert points[0].name == "loss.beta=0.05,seed=0,loss.name=dpo"


def test_one_stage_has_a_folder_for_each_point():
  points = points_of(["loss.beta=0.1,1"])
  assert [p.folders[ALONE] for p in points] == [HERE / "loss.beta=0.1", HERE / "loss.beta=1.0"]


def test_a_path_in_a_grid_is_one_folder_name():
  point = points_of(["data.path=../a/b.jsonl,c.jsonl"])[0]
  assert point.folders[ALONE] == HERE / "data.path=..%2Fa%2Fb.jsonl"


def test_stages_that_come_out_the_same_have_one_folder():
  points = points_of(["dpo.loss.beta=0.1,1"], staged, list(STAGES))
  for point in points:
    assert (point.folders["sft"], point.folders["pairs"]) == (HERE / "sft", HERE / "pairs")
  assert [p.folders["dpo"] for p in points] == [HERE / "dpo.loss.beta=0.1" / "dpo", HERE / "dpo.loss.beta=1.0" / "dpo"]


def test_what_a_stage_starts_from_decides_its_folder_too():
  points = points_of(["sft.train.steps=5,6", "dpo.loss.beta=0.1,1"], staged, list(STAGES))
  assert [p.folders["sft"] for p in points] == [HERE / f"sft.train.steps={n}" / "sft" for n in (5, 5, 6, 6)]
  assert [p.folders["pairs"] for p in points] == [HERE / f"sft.train.steps={n}" / "pairs" for n in (5, 5, 6, 6)]
  assert len({p.folders["dpo"] for p in points}) == 4


def test_a_list_of_points_may_change_different_settings():
  points = make_points([{"dpo.loss.beta": 0.1}, {"dpo.loss.name": "ipo"}], staged, HERE)
  assert [p.folders["dpo"] for p in points] == [HERE / "dpo.loss.beta=0.1" / "dpo", HERE / "dpo.loss.name=ipo" / "dpo"]
  assert points[0].folders["pairs"] == points[1].folders["pairs"] == HERE / "pairs"


def test_points_that_come_out_the_same_are_refused():
  with pytest.raises(ConfigError) as caught:
    points_of(["train.log_every=1,2"])
  assert str(caught.value) == (
    "point train.log_every=2: its last stage is the same as that of train.log_every=1: what it changes is not read"
  )


@pytest.mark.parametrize(
  "texts, message",
  [
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
    points_of(["loss.beta=0.1,-1"])
  assert str(caught.value) == "point loss.beta=-1.0: loss.beta must be more than 0, got -1"


def test_a_failed_point_is_reported_and_the_others_go_on(tmp_path):
  points = make_points(product(parse_grid(["seed=0,1,2"])), alone, tmp_path)

  def run_point(point):
    seed = point.values["seed"]
    if seed == 0:
      raise DataError("rows.jsonl, line 3: no column 'chosen'")
    if seed == 1:
      raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")
    return "finished"

  statuses, lines = sweep(points, run_point)
  assert statuses == ["failed", "failed", "finished"]
  assert lines[1] == "point 1 of 3: seed=0: failed: rows.jsonl, line 3: no column 'chosen'"
  assert "RuntimeError: RESOURCE_EXHAUSTED: out of memory (see " in lines[3]
  assert "Traceback" in (tmp_path / "seed=1" / "error.txt").read_text()


def test_a_point_asked_to_stop_ends_the_sweep():
  assert sweep(points_of(["seed=0,1"]), lambda point: "preempted")[0] == ["preempted"]


def test_an_interrupt_is_not_a_failed_point():
  def run_point(point):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    sweep(points_of(["seed=0"]), run_point)
