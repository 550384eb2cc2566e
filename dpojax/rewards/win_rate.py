"""How often one policy's answers are preferred to another's, with an interval."""

import dataclasses
import math

import numpy as np

Z = 1.959963984540054  # of a two-sided 95 % interval


@dataclasses.dataclass(frozen=True)
class WinRate:
  """A win rate.

  Attributes:
    rate: mean preference in [0, 1]; a tie counts 1/2.
    low, high: 95 % interval.
    ties: fraction of the prompts whose preference is exactly 1/2.
    prompts: how many.
  """

  rate: float
  low: float
  high: float
  ties: float
  prompts: int

  def __str__(self) -> str:
    return f"{self.rate:.1%} [{self.low:.1%}, {self.high:.1%}]"


def win_rate(preference: np.ndarray) -> WinRate:
  """Mean and 95 % interval of preferences.

  The interval is Wilson's score interval (1927, equation 1) with the mean preference for the fraction of wins. It is for
  wins that are 0 or 1; of preferences in [0, 1] with mean p none vary more than those (variance at most p(1 - p), Bhatia
  & Davis 2000), so ties and probabilities only make it wider than it need be: with a fraction t of ties by 1/sqrt(1 - t).

  Args:
    preference: f64[N] in [0, 1], one a prompt, N >= 1; of several samples of a prompt their mean, since they are not
      independent.

  Raises:
    ValueError: there is none, or one is outside [0, 1].
  """
  values = np.asarray(preference, np.float64)
  if values.ndim != 1 or not values.size or not np.all((values >= 0) & (values <= 1)):
    raise ValueError(f"preferences must be one or more numbers in [0, 1], got {values!r}")
  n, p = len(values), float(np.mean(values))
  middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
  half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
  return WinRate(p, max(middle - half, 0.0), min(middle + half, 1.0), float(np.mean(values == 0.5)), n)
