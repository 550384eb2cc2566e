"""What roll-outs measured: one record each, with what the steps that were taken from it say."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from dpojax.report.records import Records, RunRecords, newest_tenth

SPLIT = "rollout"
# Of a roll-out's steps: how one number is made of theirs, and whether that of a step that was refused counts.
OF_STEPS: dict[str, tuple[Callable[[Sequence[float]], float], bool]] = {
  "policy/approx_kl": (max, True),  # that of the refused step says how far the policy had come
  "policy/ratio_variance": (max, True),
  "policy/clip_fraction": (lambda values: float(np.mean(values)), False),
  "value/loss": (lambda values: float(np.mean(values)), False),
  "value/clip_fraction": (lambda values: float(np.mean(values)), False),
}
TAKEN = "steps/taken"


def rollout_records(run: RunRecords) -> Records:
  """A record for each roll-out, in order: its own metrics, and of its steps those of `OF_STEPS` and the share taken.

  A roll-out whose steps are not recorded, because the run ended before them, has its own metrics only.
  """
  found = run.splits.get(SPLIT, [])
  train = run.splits.get("train", [])
  ends = [*(record["step"] for record in found), math.inf][1:]
  return [
    record | of_steps([row for row in train if record["step"] < row["step"] <= end])
    for record, end in zip(found, ends, strict=True)
  ]


def of_steps(steps: Records) -> dict[str, float]:
  """What the steps from one roll-out say together; see `rollout_records`."""
  if not any("taken" in row for row in steps):
    return {}  # no policy gradient
  found = {}
  for name, (join, refused) in OF_STEPS.items():
    values = [row[name] for row in steps if math.isfinite(row.get(name, math.nan)) and (refused or row["taken"])]
    if values:
      found[name] = join(values)
  return found | {TAKEN: sum(row["taken"] for row in steps) / len(steps)}


def first_and_last(records: Records) -> tuple[dict[str, float], dict[str, float]]:
  """(metrics of the first roll-out, their means over the last tenth of them): one alone is a small sample."""
  tail = newest_tenth(records)
  names = dict.fromkeys(name for record in (records[0], *tail) for name in record)
  names = [name for name in names if name not in ("step", "split") and not name.startswith("time/")]

  def mean(some: Records) -> dict[str, float]:
    return {
      name: float(np.mean([r[name] for r in some if name in r])) for name in names if any(name in r for r in some)
    }

  return mean(records[:1]), mean(tail)


def cost(run: RunRecords) -> dict[str, float]:
  """{"rollouts": how many, "steps_taken": of all, "sampling": fraction of the run's time} of a run with roll-outs, else {}."""
  rollouts, train = run.splits.get(SPLIT, []), run.splits.get("train", [])
  if not rollouts:
    return {}
  seconds = sum(row.get("time/step", 0.0) for row in train)
  sampling = sum(row.get("time/sample", 0.0) for row in rollouts)
  return {
    "rollouts": len(rollouts),
    "steps_taken": int(sum(row.get("taken", 1.0) for row in train)),
    "sampling": min(1.0, sampling / seconds) if seconds else 0.0,
  }
