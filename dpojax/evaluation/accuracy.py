"""How often the better answer has the higher score, and how much of that is its length."""

import dataclasses
import itertools

import numpy as np

from dpojax.evaluation.estimates import Estimate, fraction, mean
from dpojax.evaluation.scored_pairs import ScoredPairs, wins

# Bins of (first - second) / longer of the two, in tokens; the middle one holds lengths alike to within 10 %.
LENGTH_EDGES = (-1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class LengthBin:
  """Pairs whose relative length difference lies between two edges.

  Attributes:
    low, high: of (better - worse) / longer, in [-1, 1].
    tokens: mean difference in tokens; NaN when empty.
    accuracy: of the comparisons in it.
  """

  low: float
  high: float
  tokens: float
  accuracy: Estimate


def accuracy(comparisons: ScoredPairs) -> Estimate:
  """Fraction of the decided comparisons whose better answer scores higher; equal scores count one half."""
  decided = comparisons.decided
  return fraction(wins(decided.margin), decided.prompt)


def margin(comparisons: ScoredPairs) -> Estimate:
  """Mean score of the better answer minus that of the worse one."""
  decided = comparisons.decided
  return mean(decided.margin, decided.prompt)


def longer_wins(comparisons: ScoredPairs) -> Estimate:
  """Accuracy of a model that takes the answer longer in tokens; equal lengths count one half."""
  decided = comparisons.decided
  return fraction(wins(decided.tokens[:, 0] - decided.tokens[:, 1]), decided.prompt)


def prefers_longer(comparisons: ScoredPairs) -> Estimate:
  """Fraction of comparisons of unequal length, tied ones too, whose longer answer scores higher; equal scores one half."""
  difference = comparisons.tokens[:, 0] - comparisons.tokens[:, 1]
  unequal = difference != 0
  return fraction(wins(comparisons.margin * np.sign(difference))[unequal], comparisons.prompt[unequal])


def relative_difference(comparisons: ScoredPairs) -> np.ndarray:
  """f64[N] (first - second) / longer of the two lengths in tokens, in (-1, 1)."""
  first, second = comparisons.tokens[:, 0], comparisons.tokens[:, 1]
  return (first - second) / np.maximum(np.maximum(first, second), 1)


def length_matched(comparisons: ScoredPairs, within: float = 0.1) -> Estimate:
  """Accuracy where lengths differ by at most the fraction `within` of the longer answer."""
  return accuracy(comparisons.where(np.abs(relative_difference(comparisons)) <= within))


def by_length(comparisons: ScoredPairs, edges: tuple[float, ...] = LENGTH_EDGES) -> list[LengthBin]:
  """Accuracy in bins of the relative length difference, shorter winners first.

  An edge belongs to the bin nearer to 0, so that the middle bin holds what `length_matched` counts.
  """
  decided = comparisons.decided
  difference = relative_difference(decided)
  tokens = decided.tokens[:, 0] - decided.tokens[:, 1]
  bins = []
  for low, high in itertools.pairwise(edges):
    above = difference > low if low > 0 else difference >= low
    below = difference < high if high < 0 else difference <= high
    inside = above & below
    middle = float(np.mean(tokens[inside])) if inside.any() else float("nan")
    bins.append(LengthBin(low, high, middle, accuracy(decided.where(inside))))
  return bins


def by_subset(comparisons: ScoredPairs) -> dict[str, ScoredPairs]:
  """The comparisons of each subset, by name in alphabetical order."""
  return {name: comparisons.where(comparisons.subset == name) for name in sorted(set(comparisons.subset.tolist()))}
