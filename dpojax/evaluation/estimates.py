"""Means with their uncertainty, honest where several comparisons share a prompt."""

import dataclasses
import math
from statistics import NormalDist

import numpy as np

LEVEL = 0.95  # of every interval
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean and how sure it is.

  Attributes:
    value: the mean; NaN of nothing.
    standard_error: by the clustered variance of `clustered_variance`; NaN where one prompt is all there is.
    low, high: the 95 % interval.
    count: what was averaged.
  """

  value: float
  standard_error: float
  low: float
  high: float
  count: int

  def to_json(self) -> dict[str, float | int | list[float] | None]:
    """{"value", "standard_error", "interval", "count"}; None for NaN."""
    low, high = number(self.low), number(self.high)
    interval = None if low is None or high is None else [low, high]
    return {
      "value": number(self.value),
      "standard_error": number(self.standard_error),
      "interval": interval,
      "count": self.count,
    }


NOTHING = Estimate(math.nan, math.nan, math.nan, math.nan, 0)


def number(value: float) -> float | None:
  """A finite number, or None, which JSON writes as null."""
  return float(value) if math.isfinite(value) else None


def fraction(values: np.ndarray, prompt: np.ndarray) -> Estimate:
  """A fraction with its Wilson interval.

  The interval is that of a binomial fraction of n trials. n is the number of values where every prompt appears
  once. Otherwise n is the effective number: the count divided by the design effect, which is the clustered
  variance over that of independent values, and never below 1.

  Args:
    values: f64[N] in [0, 1]; 1/2 for a tie.
    prompt: i64[N], equal for values that share a prompt.

  References:
    Wilson 1927; the effective number in it: Dean and Pagano 2015, "Evaluating confidence interval methods for
    binomial proportions in clustered surveys".
  """
  if len(values) == 0:
    return NOTHING
  value = float(np.mean(values))
  low, high = wilson(value, effective_count(values, prompt))
  return Estimate(value, math.sqrt(clustered_variance(values, prompt)), low, high, len(values))


def mean(values: np.ndarray, prompt: np.ndarray) -> Estimate:
  """A mean with its normal interval, value ± 1.96 standard errors. Arguments as of `fraction`."""
  if len(values) == 0:
    return NOTHING
  value, error = float(np.mean(values)), math.sqrt(clustered_variance(values, prompt))
  return Estimate(value, error, value - Z * error, value + Z * error, len(values))


def wilson(value: float, count: float) -> tuple[float, float]:
  """Wilson's 95 % interval of a fraction `value` of `count` trials, which need not be whole numbers."""
  centre = (value + Z * Z / (2 * count)) / (1 + Z * Z / count)
  half = Z / (1 + Z * Z / count) * math.sqrt(value * (1 - value) / count + Z * Z / (4 * count * count))
  return max(0.0, centre - half), min(1.0, centre + half)


def clustered_variance(values: np.ndarray, prompt: np.ndarray) -> float:
  """Variance of the mean when values of one prompt may depend on each other: G/(G-1) sum_g (sum_i e_i)^2 / N^2.

  e are the deviations from the mean, g the G prompts. With every prompt once this is s^2 / N. NaN for one prompt.
  """
  deviation = values - np.mean(values)
  sums = cluster_sums(deviation, prompt)
  groups = len(sums)
  return float(groups / (groups - 1) * np.sum(sums**2) / len(values) ** 2) if groups > 1 else math.nan


def effective_count(values: np.ndarray, prompt: np.ndarray) -> float:
  """How many independent values would be as sure of their mean: at most N, and N with every prompt once.

  Where the values have no spread or there is one prompt, nothing is known of their dependence, so prompts count.
  """
  count, groups = len(values), len(np.unique(prompt))
  if groups == count:
    return count
  spread = float(np.var(values, ddof=1)) / count
  if spread == 0 or groups == 1:
    return groups
  return count / max(1.0, clustered_variance(values, prompt) / spread)


def cluster_sums(values: np.ndarray, prompt: np.ndarray) -> np.ndarray:
  """f64[G] sums of the values of each prompt."""
  _, inverse = np.unique(prompt, return_inverse=True)
  return np.bincount(inverse, weights=values)
