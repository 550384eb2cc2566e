"""Whether score differences are the log-odds they claim to be: p(first wins) = sigmoid(margin).

All figures are of the Bradley-Terry probability of a margin d = r_first - r_second. A comparison labelled
as a tie has the target 1/2. Since sigmoid(-d) = 1 - sigmoid(d), which answer is called the first must not
matter: reliability and ECE are those of p(first wins) over every comparison taken both ways round. Both
ways fall into mirrored bins with equal gaps, so what is kept is one half: the confidence c = sigmoid(|d|) in
the answer with the higher score, against how often that answer wins.
"""

import dataclasses
import math

import numpy as np
import scipy

from dpojax.evaluation.estimates import Estimate, fraction, mean
from dpojax.evaluation.scored_pairs import ScoredPairs

BINS = 10  # at most, of the confidence; twice as many over the whole range of p
FEWEST = 10  # comparisons of a bin, else there are fewer bins


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
  """Pairs of similar confidence.

  Attributes:
    low, high: least and greatest confidence in it.
    predicted: mean confidence.
    observed: fraction won by the answer with the higher score; ties of either kind one half.
  """

  low: float
  high: float
  predicted: float
  observed: Estimate


def targets(comparisons: ScoredPairs) -> np.ndarray:
  """f64[N], the label of p(first wins): 1, or 1/2 for a tie."""
  return np.where(comparisons.tied, 0.5, 1.0)


def nll_values(comparisons: ScoredPairs) -> np.ndarray:
  """f64[N] nats: -y log sigmoid(d) - (1 - y) log sigmoid(-d)."""
  y, d = targets(comparisons), comparisons.margin
  return y * np.logaddexp(0.0, -d) + (1 - y) * np.logaddexp(0.0, d)


def nll(comparisons: ScoredPairs) -> Estimate:
  """Mean negative log-likelihood in nats; ln 2 for a model that knows nothing."""
  return mean(nll_values(comparisons), comparisons.prompt)


def brier(comparisons: ScoredPairs) -> Estimate:
  """Mean (p(first wins) - y)^2, in [0, 1]; 1/4 for a model that knows nothing."""
  return mean((scipy.special.expit(comparisons.margin) - targets(comparisons)) ** 2, comparisons.prompt)


def confidence(comparisons: ScoredPairs) -> tuple[np.ndarray, np.ndarray]:
  """(f64[N] confidence in the answer with the higher score, in [1/2, 1]; f64[N] 1, 1/2 or 0 as it won, tied, lost)."""
  d = comparisons.margin
  won = np.where(comparisons.tied | (d == 0), 0.5, d > 0)
  return scipy.special.expit(np.abs(d)), won


def reliability(comparisons: ScoredPairs, bins: int = BINS) -> list[ReliabilityBin]:
  """The reliability curve in bins of equally many comparisons, least confident first.

  Equal confidences are never parted, so the bins do not depend on the order of rows; a bin may then be larger,
  and some may be missing.
  """
  sure, won = confidence(comparisons)
  place = bin_of(sure, bins)
  found = []
  for b in np.unique(place):
    inside = place == b
    observed = fraction(won[inside], comparisons.prompt[inside])
    found.append(
      ReliabilityBin(float(sure[inside].min()), float(sure[inside].max()), float(sure[inside].mean()), observed)
    )
  return found


def bin_of(values: np.ndarray, bins: int) -> np.ndarray:
  """i64[N] bin of each value: `bins` of equal mass, or as many as leave `FEWEST` values in each."""
  count = len(values)
  bins = min(bins, max(1, count // FEWEST))
  ordered = np.sort(values)
  edges = [ordered[round(k * count / bins)] for k in range(1, bins)]
  return np.searchsorted(np.asarray(edges), values, side="right")


def ece(curve: list[ReliabilityBin]) -> float:
  """Expected calibration error: mean over comparisons of |observed - predicted| of their bin; NaN of nothing."""
  total = sum(b.observed.count for b in curve)
  gaps = sum(b.observed.count * abs(b.observed.value - b.predicted) for b in curve)
  return gaps / total if total else math.nan


def ece_by_chance(comparisons: ScoredPairs, bins: int = BINS) -> float:
  """About what ECE a perfectly calibrated model of the same confidences would show, as fractions never fall even.

  sum_b sqrt(2/pi sum_i c_i (1 - c_i)) / N over bins b, the mean of |normal|; repeated prompts are not allowed for.
  """
  sure, _ = confidence(comparisons)
  place = bin_of(sure, bins)
  variances = [np.sum((sure * (1 - sure))[place == b]) for b in np.unique(place)]
  return float(np.sum(np.sqrt(2 / np.pi * np.asarray(variances))) / len(sure)) if len(sure) else math.nan
