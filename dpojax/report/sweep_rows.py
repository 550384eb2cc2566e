"""The points of a sweep as its table and its plot read them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dpojax.report.labels import HELD_OUT, POLICY, Label, policy_labels
from dpojax.training.numbers import rewards_of

# (split, metric, label) of the columns and panels, where measured; every reward of what the policy writes follows.
COLUMNS: list[tuple[str, str, Label]] = [
  ("eval", "rewards/accuracies", HELD_OUT["rewards/accuracies"]),
  ("eval", "rewards/margins", HELD_OUT["rewards/margins"]),
  ("rollout", "objective/score", Label("score of roll-outs", decimals=3)),
  ("rollout", "objective/kl", Label("KL of roll-outs", "nats an answer", decimals=3)),
  ("policy", "kl/sequence", POLICY["kl/sequence"]),
]


@dataclasses.dataclass(frozen=True)
class SweepRow:
  """A point as reported: the settings it changed, its result.json (None: it has none), and how it ended."""

  values: Mapping[str, Any]
  result: Mapping[str, Any] | None
  status: str

  @property
  def prompts(self) -> int | None:
    """That were answered to measure what the policy writes; None where nothing was."""
    return (self.result or {}).get("policy_prompts")

  def after(self, split: str) -> Mapping[str, Any]:
    """The metrics at the end of the run."""
    return (self.result or {}).get("after", {}).get(split, {})

  def last(self, split: str, metric: str) -> float | None:
    """The metric at the end of the run, or None where it was not measured."""
    value = self.after(split).get(metric)
    return None if value is None else float(value)


def measured_columns(rows: Sequence[SweepRow]) -> list[tuple[str, str, Label]]:
  """Those of `COLUMNS` that at least one point has, and every reward that at least one has."""
  names = [name for row in rows for name in row.after("policy")]
  rewards = policy_labels(rewards_of(names)).items()
  columns = [*COLUMNS, *(("policy", name, label) for name, label in rewards)]
  return [column for column in columns if any(row.last(column[0], column[1]) is not None for row in rows)]
