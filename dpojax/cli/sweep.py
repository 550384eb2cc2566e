"""`dpojax sweep`: a grid of experiments in one process, compiled once, stages that come out the same run once."""

import contextlib
import dataclasses
import pathlib
import sys
from typing import Any

from dpojax import screen
from dpojax.cli.main import INTERRUPTED
from dpojax.cli.options import config_parser, parse_with_config
from dpojax.config.experiment import Experiment
from dpojax.config.keys import value_at
from dpojax.errors import ConfigError


def main(arguments: list[str]) -> int:
  """0 when every point has ended well, 1 when one failed, 75 when asked to stop."""
  parser = config_parser(
    "dpojax sweep",
    "Runs every point of a grid, one after another, each in a folder of its own under the workdir; stages that come\n"
    "out the same at several points run once. What is finished is skipped and what began goes on, so the same command\n"
    "ends a stopped sweep. Without --grid the points are those of get_points() in the config file.",
  )
  parser.add_argument(
    "--grid",
    action="append",
    default=[],
    metavar="KEY=V,V,...",
    help="values to try; given several times: every combination",
  )
  options, experiment = parse_with_config(parser, arguments)
  from dpojax.config.load import load_experiment, load_points
  from dpojax.sweeps.grid import SweepRun, make_points, parse_grid, product

  workdir = pathlib.Path(options.workdir)
  values = product(parse_grid(options.grid, list(experiment.stages))) if options.grid else load_points(options.config)
  if not values:
    raise ConfigError(
      "--grid is missing: give the values to try, such as --grid loss.beta=0.05,0.1, or write get_points() in the "
      "config file"
    )
  points = make_points(
    values, lambda point: with_shared_cache(load_experiment(options.config, options.words, point), workdir), workdir
  )

  from dpojax.cli import compilation_cache
  from dpojax.parallel import check_one_process
  from dpojax.report import read_result
  from dpojax.report.sweep import write_sweep_report
  from dpojax.report.sweep_rows import SweepRow
  from dpojax.sweeps.runner import run_sweep
  from dpojax.sweeps.stages import ended_in, having, pending, to_stderr

  check_one_process()
  compilation_cache.begin()
  memory = {}  # what points have read

  def run_point(point: SweepRun) -> str:
    with contextlib.closing(pending(point.experiment, point.folders, memory=memory)) as stages:
      for recipe, config, inputs, folder in stages:
        recipe(config, inputs, folder)
    ended = ended_in(list(point.folders.values())[-1])
    return ended.reason if ended else "preempted"

  with having(workdir):
    outcomes = run_sweep(points, run_point, to_stderr)
    keys = list(dict.fromkeys(key for point in points for key in point.values))
    rows = []
    for o in outcomes:
      ended = o.status in ("finished", "stopped") and (o.folder / "result.json").exists()
      result = read_result(o.folder) if ended else None
      rows.append(SweepRow({key: setting(o.point.experiment, key) for key in keys}, result, o.status))
    screen.say(write_sweep_report(rows, workdir, width=screen.width_of(sys.stdout)), sys.stdout)
  if any(o.status == "preempted" for o in outcomes):
    return INTERRUPTED
  return 1 if any(o.status == "failed" for o in outcomes) else 0


def setting(experiment: Experiment, key: str) -> Any:
  """What a key of a sweep is at one point; of what stages share, what the last of them has."""
  name, _, inner = key.partition(".")
  own = name in experiment.stages
  return value_at(experiment.stages[name if own else list(experiment.stages)[-1]], inner if own else key)


def with_shared_cache(experiment: Experiment, workdir: pathlib.Path) -> Experiment:
  """The same with reference log-probs of all points in one cache, where no place is given for them."""

  def shared(config):
    if config.reference.kind != "cache" or config.reference.cache_dir:
      return config
    reference = dataclasses.replace(config.reference, cache_dir=str(workdir / "reference_cache"))
    return dataclasses.replace(config, reference=reference)

  return Experiment({name: shared(config) for name, config in experiment.stages.items()})
