"""All figures of a set of scored rows, as one tree that JSON can hold."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpojax.evaluation import accuracy as acc
from dpojax.evaluation import calibration as cal
from dpojax.evaluation.estimates import number
from dpojax.evaluation.gold_reward import against_gold_reward
from dpojax.evaluation.rankings import rankings
from dpojax.evaluation.scored_pairs import ScoredPairs, ScoredRow, compare
from dpojax.evaluation.temperature import NO_FIT, CrossFit, Temperature, cross_fit, fit_temperature

Tree = dict[str, Any]


def evaluate(rows: Sequence[ScoredRow], *, within: float = 0.1, bins: int = cal.BINS) -> Tree:
  """Every figure of `docs/evaluation.md` but RewardBench's and those of an ensemble.

  Args:
    rows: at least one; their order does not matter.
    within: lengths that differ by at most this fraction of the longer are called alike.
    bins: of the reliability curve, at most.

  Returns:
    Numbers, lists and dicts of them; None where a figure does not exist.
  """
  comparisons = compare(rows)
  decided = comparisons.decided
  found: Tree = {
    "rows": len(rows),
    "prompts": len({row.prompt for row in rows}),
    "comparisons": len(decided),
    "tied_labels": int(np.sum(comparisons.tied)),
    "equal_scores": int(np.sum(decided.margin == 0)),
    "accuracy": acc.accuracy(comparisons).to_json(),
    "margin": acc.margin(comparisons).to_json(),
    "calibration": _calibration(comparisons, bins),
    "temperature": _temperature(fit_temperature(comparisons)),
    "calibrated": _calibrated(cross_fit(comparisons), bins),
    "length": _length(comparisons, within),
    "subsets": _subsets(comparisons),
  }
  if any(len(row.scores) > 2 for row in rows):
    found["rankings"] = {name: estimate.to_json() for name, estimate in rankings(rows).items()}
  gold_reward = against_gold_reward(rows)
  if gold_reward is not None:
    found["truth"] = gold_reward
  return found


def _calibration(comparisons: ScoredPairs, bins: int) -> Tree:
  curve = cal.reliability(comparisons, bins)
  return {
    "nll": cal.nll(comparisons).to_json(),
    "brier": cal.brier(comparisons).to_json(),
    "ece": number(cal.ece(curve)),
    "ece_by_chance": number(cal.ece_by_chance(comparisons, bins)),
    "reliability": [
      {"low": b.low, "high": b.high, "predicted": b.predicted, "observed": b.observed.to_json()} for b in curve
    ],
  }


def _temperature(fit: Temperature) -> Tree:
  if fit.status != "fitted":
    return {"status": fit.status, "why": NO_FIT[fit.status]}
  # An interval without an upper end has None there.
  interval = None if math.isnan(fit.low) else [number(fit.low), number(fit.high)]
  return {
    "status": fit.status,
    "value": number(fit.value),
    "standard_error": number(fit.standard_error),
    "interval": interval,
  }


def _calibrated(fits: CrossFit, bins: int) -> Tree:
  folds = [_temperature(fold) for fold in fits.folds]
  if fits.calibrated is None or fits.nll_change is None:
    why = next(NO_FIT[fold.status] for fold in fits.folds if fold.status in NO_FIT)
    return {"folds": folds, "why": f"on one half of the prompts {why}"}
  return {"folds": folds, "nll_change": fits.nll_change.to_json(), **_calibration(fits.calibrated, bins)}


def _length(comparisons: ScoredPairs, within: float) -> Tree:
  return {
    "longer_wins": acc.longer_wins(comparisons).to_json(),
    "prefers_longer": acc.prefers_longer(comparisons).to_json(),
    "matched": {"within": within, "accuracy": acc.length_matched(comparisons, within).to_json()},
    "bins": [
      {"low": b.low, "high": b.high, "tokens": number(b.tokens), "accuracy": b.accuracy.to_json()}
      for b in acc.by_length(comparisons)
    ],
  }


def _subsets(comparisons: ScoredPairs) -> Tree:
  parts = acc.by_subset(comparisons)
  if set(parts) <= {""}:
    return {}
  return {
    name: {
      "accuracy": acc.accuracy(part).to_json(),
      "nll": cal.nll(part).to_json(),
      "longer_wins": acc.longer_wins(part).to_json(),
    }
    for name, part in parts.items()
  }
