"""What a frontier has to show wherever it is sound: no policy above the oracle, and KL that falls as the weight of KL rises."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dpojax.evaluation.estimates import Z
from dpojax.report.comparison_records import Comparison
from dpojax.report.methods import method_of

BEYOND = 3.0  # standard errors above the oracle that are more than chance


@dataclasses.dataclass(frozen=True)
class Excess:
  """How far the point `name` of a comparison lies above the oracle curve, in standard errors of that difference."""

  name: str
  errors: float


def above_oracle(comparison: Comparison) -> list[Excess]:
  """Every policy and best of N at a KL that the oracle curve of its comparison covers, on the curve's own prompts.

  The error is that of the point's reward, of the curve, and of the point's KL times the curve's slope, taken as independent.
  """
  curve = (comparison.content.get("oracle") or {}).get("points") or []
  rows = [
    (str(policy["name"]), policy["splits"].get(comparison.split, {}))
    for policy in comparison.policies
    if policy["name"] != comparison.content.get("reference")
  ]
  rows += [(f"best of {row['n']}", row) for row in comparison.content.get("best_of_n") or () if row["n"] > 1]
  found = [(name, _excess(row, curve, comparison.reward)) for name, row in rows]
  return [Excess(name, errors) for name, errors in found if errors is not None]


def _excess(row: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], reward: str) -> float | None:
  kl, value = row.get("kl"), row.get(f"reward/{reward}")
  if kl is None or value is None:
    return None
  for left, right in itertools.pairwise(sorted(curve, key=lambda point: point["kl"])):
    if left["kl"] <= kl <= right["kl"]:
      width = right["kl"] - left["kl"]
      weight = (kl - left["kl"]) / width if width else 0.5
      slope = (right["reward"] - left["reward"]) / width if width else 0.0
      most = (1 - weight) * left["reward"] + weight * right["reward"]
      of_curve = max((point["reward_high"] - point["reward_low"]) / (2 * Z) for point in (left, right))
      parts = (row.get(f"reward/{reward}_error") or 0.0, of_curve, slope * (row.get("kl_error") or 0.0))
      error = math.hypot(*parts)
      return (value - most) / error if error else math.copysign(math.inf, value - most) if value != most else 0.0
  return None


def kl_by_beta(comparison: Comparison, series: str = "DPO") -> list[tuple[float, float]]:
  """(β, KL) of the policies of that method, β rising; policies whose runs are no longer there are left out."""
  found = []
  for policy in comparison.policies:
    stage, kl = comparison.stage_of(policy), policy["splits"].get(comparison.split, {}).get("kl")
    method = method_of(stage) if stage is not None else None
    if method is not None and method.series == series and method.value is not None and kl is not None:
      found.append((method.value, float(kl)))
  return sorted(found)


def falls_strictly(kls: Sequence[tuple[float, float]]) -> bool:
  """Whether KL falls strictly as β rises."""
  return all(left[0] < right[0] and left[1] > right[1] for left, right in itertools.pairwise(kls))


def claims(comparisons: Sequence[Comparison]) -> list[str]:
  """A sentence about each of the two, over all comparisons; none about what was not measured."""
  said, beta = [], "\N{GREEK SMALL LETTER BETA}"
  of_beta = [kls for comparison in comparisons if len(kls := kl_by_beta(comparison)) > 1]
  kept = sum(map(falls_strictly, of_beta))
  if len(of_beta) > 1:
    said.append(f"KL of DPO falls strictly as {beta} rises in {kept} of {len(of_beta)} comparisons.")
  elif of_beta:
    said.append(f"KL of DPO {'falls' if kept else 'does not fall'} strictly as {beta} rises.")
  excesses = [excess for comparison in comparisons for excess in above_oracle(comparison)]
  if excesses:
    over = [excess for excess in excesses if excess.errors > BEYOND]
    most = max(excesses, key=lambda excess: excess.errors)
    names = f" ({', '.join(dict.fromkeys(excess.name for excess in over))})" if over else ""
    said.append(
      f"{len(over) or 'None'} of {len(excesses)} points at the oracle's KLs lie{'s' * (len(over) < 2)} above it by more than "
      f"{BEYOND:g} standard errors{names}; the highest, {most.name}, by {most.errors:.1f}."
    )
  return said
