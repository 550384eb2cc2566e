"""`dpojax sweep`: a grid of runs in one process, compiled once, reference log-probs computed once."""

import dataclasses
import pathlib
import sys

from dpojax.cli.options import config_parser, parse_with_config
from dpojax.cli.train import INTERRUPTED

# Settings that the stages before the main one do not read: points that differ only in these share them.
AFTER_PRELUDE = ("seed", "loss.", "optimizer.", "reference.", "stop.", "train.steps", "train.epochs")


def main(arguments: list[str]) -> int:
  """0 when every point has ended well, 1 when one failed, 75 when asked to stop."""
  parser = config_parser(
    "dpojax sweep",
    "Trains every point of a grid, one after another, each in a folder of its own under the workdir.\n"
    "Points that are finished are skipped and a begun one goes on, so the same command ends a stopped sweep.",
  )
  parser.add_argument(
    "--grid",
    action="append",
    default=[],
    metavar="KEY=V,V,...",
    help="values to try; given several times: every combination",
  )
  options, config = parse_with_config(parser, arguments)
  from dpojax.config.check import check
  from dpojax.sweeps.grid import make_points, parse_grid

  grid = parse_grid(options.grid)
  workdir = pathlib.Path(options.workdir)
  if config.reference.kind == "cache" and not config.reference.cache_dir:
    shared = dataclasses.replace(config.reference, cache_dir=str(workdir / "reference_cache"))
    config = dataclasses.replace(config, reference=shared)
  points = make_points(config, grid, check)

  from dpojax.assemble import Session
  from dpojax.cli import compilation_cache
  from dpojax.parallel import check_one_process
  from dpojax.report import read_result
  from dpojax.report.sweep import write_sweep_report
  from dpojax.report.sweep_rows import SweepRow
  from dpojax.sweeps.runner import run_sweep

  check_one_process()
  compilation_cache.begin()
  session = Session()
  prelude = workdir / "shared" if all(key.startswith(AFTER_PRELUDE) for key in grid) else None
  workdir.mkdir(parents=True, exist_ok=True)
  outcomes = run_sweep(
    points,
    workdir,
    lambda point, folder: session.run(point, folder, prelude=prelude).reason,
    lambda line: print(line, file=sys.stderr, flush=True),
  )
  rows = []
  for o in outcomes:
    result = read_result(o.folder) if o.status in ("finished", "stopped", "skipped") else None
    rows.append(SweepRow(o.point.values, result, result["reason"] if result else o.status))
  print(write_sweep_report(rows, workdir))
  if any(o.status == "preempted" for o in outcomes):
    return INTERRUPTED
  return 1 if any(o.status == "failed" for o in outcomes) else 0
