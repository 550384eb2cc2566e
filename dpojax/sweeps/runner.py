"""Runs the points of a sweep one after another; what is finished is skipped, what began goes on."""

import dataclasses
import json
import pathlib
import traceback
from collections.abc import Callable, Sequence

from dpojax.config.record import to_json
from dpojax.config.schema import RunConfig
from dpojax.errors import InputError
from dpojax.files import write_atomically
from dpojax.sweeps.grid import Point

RunPoint = Callable[[RunConfig, pathlib.Path], str]
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class PointOutcome:
  """How a point ended: `status` is finished, stopped, skipped (finished before), failed or preempted."""

  point: Point
  folder: pathlib.Path
  status: str
  message: str = ""


def run_sweep(points: Sequence[Point], workdir: pathlib.Path, run_point: RunPoint, say: Say) -> list[PointOutcome]:
  """Runs each point in `workdir`/NAME and returns how each ended.

  A point that fails is reported and the next one starts; a point asked to stop ends the sweep, and
  the same command goes on from there.

  Args:
    run_point: (config, folder) -> how the run ended; it resumes by itself what is in the folder.
    say: where a line about each point goes.
  """
  outcomes = []
  for number, point in enumerate(points, start=1):
    folder = workdir / point.name
    head = f"point {number} of {len(points)}: {point.name}"
    if is_finished(folder, point.config):
      say(f"{head}: finished before, skipped")
      outcomes.append(PointOutcome(point, folder, "skipped"))
      continue
    say(head)
    outcome = _run(point, folder, run_point)
    if outcome.status == "failed":
      say(f"{head}: failed: {outcome.message}")
    outcomes.append(outcome)
    if outcome.status == "preempted":
      break
  return outcomes


def is_finished(folder: pathlib.Path, config: RunConfig) -> bool:
  """Whether `folder` holds the result of a run of exactly these settings."""
  try:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))["config"] == to_json(config)
  except (OSError, ValueError, KeyError, TypeError):
    return False


def _run(point: Point, folder: pathlib.Path, run_point: RunPoint) -> PointOutcome:
  try:
    return PointOutcome(point, folder, run_point(point.config, folder))
  except InputError as error:
    return PointOutcome(point, folder, "failed", str(error))
  except Exception as error:
    # A defect or a full device: the other points may still run, and the traceback is kept.
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "error.txt", traceback.format_exc())
    first_line = (str(error).splitlines() or [""])[0]
    return PointOutcome(point, folder, "failed", f"{type(error).__name__}: {first_line} (see {folder / 'error.txt'})")
