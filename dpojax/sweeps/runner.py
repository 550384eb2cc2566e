"""Runs the points of a sweep one after another; what is finished is skipped, what began goes on."""

import contextlib
import dataclasses
import pathlib
import traceback
from collections.abc import Callable, Sequence

from dpojax.errors import InputError
from dpojax.files import write_atomically
from dpojax.sweeps.grid import SweepRun

RunPoint = Callable[[SweepRun], str]
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class SweepRunResult:
  """How a point ended: `status` is finished, stopped, failed or preempted."""

  point: SweepRun
  folder: pathlib.Path
  status: str
  message: str = ""


def run_sweep(points: Sequence[SweepRun], run_point: RunPoint, say: Say) -> list[SweepRunResult]:
  """Runs each point and returns how its last stage ended.

  A point that fails is reported and the next one starts; a point asked to stop ends the sweep, and
  the same command goes on from there.

  Args:
    run_point: point -> how it ended; it skips and resumes by itself what is in the folders.
    say: where a line about each point goes.
  """
  outcomes = []
  for number, point in enumerate(points, start=1):
    head = f"point {number} of {len(points)}: {point.name}"
    say(head)
    outcome = _run(point, run_point)
    if outcome.status == "failed":
      say(f"{head}: failed: {outcome.message}")
    outcomes.append(outcome)
    if outcome.status == "preempted":
      break
  return outcomes


def _run(point: SweepRun, run_point: RunPoint) -> SweepRunResult:
  folder = list(point.folders.values())[-1]
  try:
    return SweepRunResult(point, folder, run_point(point))
  except (InputError, OSError) as error:
    return SweepRunResult(point, folder, "failed", str(error))
  except Exception as error:
    # A defect or a full device: the other points may still run, and the traceback is kept.
    with contextlib.suppress(OSError):
      folder.mkdir(parents=True, exist_ok=True)
      write_atomically(folder / "error.txt", traceback.format_exc())
    first_line = (str(error).splitlines() or [""])[0]
    return SweepRunResult(point, folder, "failed", f"{type(error).__name__}: {first_line} (see {folder / 'error.txt'})")
