"""The one number that calibrates a reward: p(first wins) = sigmoid(margin / T)."""

import dataclasses
import math

import numpy as np
import scipy

from dpojax.evaluation.calibration import nll_values, targets
from dpojax.evaluation.estimates import Estimate, Z, cluster_sums, mean
from dpojax.evaluation.scored_pairs import ScoredPairs

TOLERANCE = 1e-13  # of 1/T, relative
NEGLIGIBLE = 1e-12  # of the largest margin: a margin below it holds no temperature above 0
NO_FIT = {
  "empty": "there is nothing to fit",
  "flat": "all scores are equal, so no temperature differs from another",
  "inverted": "the better answers score lower on average, so the likelihood rises until T is infinite",
  "separable": "every better answer scores higher, so the likelihood rises until T is 0",
}


@dataclasses.dataclass(frozen=True)
class Temperature:
  """A maximum-likelihood temperature.

  Attributes:
    status: "fitted", or why there is none: a key of `NO_FIT`.
    value: T, above 0; NaN unless fitted.
    standard_error: by the delta method, clustered by prompt; NaN unless fitted to two prompts or more.
    low, high: the 95 % interval, normal in 1/T, so that `high` may be infinite.
  """

  status: str
  value: float = math.nan
  standard_error: float = math.nan
  low: float = math.nan
  high: float = math.nan


@dataclasses.dataclass(frozen=True)
class CrossFit:
  """Every comparison evaluated at a temperature fitted without its prompt.

  Attributes:
    folds: the two fits.
    calibrated: the comparisons with margin / T, T from the other fold; None unless both are fitted.
    nll_change: mean NLL after minus before, paired; None unless both are fitted.
  """

  folds: tuple[Temperature, Temperature]
  calibrated: ScoredPairs | None
  nll_change: Estimate | None


def fit_temperature(comparisons: ScoredPairs) -> Temperature:
  """Maximises sum_i y_i log sigmoid(d_i / T) + (1 - y_i) log sigmoid(-d_i / T) over T > 0, y = 1 or 1/2 for ties.

  The log-likelihood is concave in a = 1/T with gradient g(a) = sum_i d_i (y_i - sigmoid(a d_i)), which falls from
  sum over decided pairs of d/2 at a = 0 to its limit at infinity, -(sum of |d| lost + half of |d| tied). So there is
  a fit if and only if the first is positive and the second negative; otherwise the status says which failed.
  Newton's step where it stays between the bounds found so far, else their middle.

  The variance of a is the sandwich G/(G-1) sum_g (sum_i slope_i)^2 / I^2 over G prompts g, I = sum_i d_i^2 p_i (1-p_i).
  """
  d, y = comparisons.margin, targets(comparisons)
  if len(d) == 0:
    return Temperature("empty")
  largest = float(np.max(np.abs(d)))
  if largest == 0:
    return Temperature("flat")
  scale = math.ldexp(1.0, math.frexp(largest)[1])  # a power of 2 loses no bit
  d = d / scale
  if math.fsum(d[~comparisons.tied]) <= 0:  # exact, so that its sign depends on no order
    return Temperature("inverted")
  if not np.any(np.where(comparisons.tied, np.abs(d), -d) > NEGLIGIBLE):
    return Temperature("separable")
  a = _root(d, y)
  influence = cluster_sums(_slopes(a, d, y), comparisons.prompt) / _information(a, d)
  groups = len(influence)
  error = math.sqrt(groups / (groups - 1) * float(np.sum(influence**2))) if groups > 1 else math.nan
  high = math.inf if a - Z * error <= 0 else scale / (a - Z * error)
  return Temperature("fitted", scale / a, scale / a * error / a, scale / (a + Z * error), high)


def cross_fit(comparisons: ScoredPairs) -> CrossFit:
  """Fits on each half of the prompts and evaluates the other half with it.

  The halves are every other prompt in the order of their numbers, so they do not depend on the order of rows.
  """
  prompts = np.unique(comparisons.prompt)
  fold = np.searchsorted(prompts, comparisons.prompt) % 2
  fits = (fit_temperature(comparisons.where(fold == 0)), fit_temperature(comparisons.where(fold == 1)))
  if any(fit.status != "fitted" for fit in fits):
    return CrossFit(fits, None, None)
  other = np.where(fold == 0, fits[1].value, fits[0].value)
  calibrated = dataclasses.replace(comparisons, margin=comparisons.margin / other)
  change = mean(nll_values(calibrated) - nll_values(comparisons), comparisons.prompt)
  return CrossFit(fits, calibrated, change)


def _slopes(a: float, d: np.ndarray, y: np.ndarray) -> np.ndarray:
  """f64[N] gradient of each comparison's log-likelihood, d (y - sigmoid(a d)), exact where sigmoid rounds to 1."""
  return d * (y * scipy.special.expit(-a * d) - (1 - y) * scipy.special.expit(a * d))


def _information(a: float, d: np.ndarray) -> float:
  return float(np.sum(d**2 * scipy.special.expit(a * d) * scipy.special.expit(-a * d)))


def _root(d: np.ndarray, y: np.ndarray) -> float:
  """The a > 0 at which the gradient, positive at 0 and negative far out, is 0; |d| is at most 1."""
  low, high = 0.0, 1.0
  while np.sum(_slopes(high, d, y)) > 0:
    low, high = high, 2 * high
  a = (low + high) / 2
  for _ in range(200):
    slope, curvature = float(np.sum(_slopes(a, d, y))), _information(a, d)
    low, high = (a, high) if slope > 0 else (low, a)
    step = a + slope / curvature if curvature > 0 else math.nan
    new = step if low < step < high else (low + high) / 2
    if abs(new - a) <= TOLERANCE * a:
      return new
    a = new
  return a
