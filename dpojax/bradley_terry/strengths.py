"""What fits of comparisons and of rankings have in common: strengths by label, and which items can have one."""

import functools
from collections.abc import Hashable
from typing import Literal

import numpy as np

from dpojax.bradley_terry.comparisons import Comparisons
from dpojax.bradley_terry.graph import connectivity
from dpojax.bradley_terry.priors import NoEstimate, Normal, Pseudo
from dpojax.errors import DataError

Disconnected = Literal["raise", "largest", "prior"]


class Strengths:
  """Log-strengths of all items of `data`; those that were not fitted are NaN.

  `data`, `baseline` (a place, or None for the mean), `kept` (i[k] places that were fitted) and `vector` (f64[>= k],
  their log-strengths first, up to a shift) come from the fit.
  """

  data: Comparisons
  baseline: int | None
  kept: np.ndarray
  vector: np.ndarray

  @property
  def items(self) -> tuple[Hashable, ...]:
    """Labels, in the order of all arrays."""
    return self.data.items

  @functools.cached_property
  def log_strength(self) -> np.ndarray:
    """f64[n] theta in nats."""
    theta = self.vector[: len(self.kept)]
    out = np.full(len(self.items), np.nan)
    out[self.kept] = theta - self.against @ theta
    return out

  @property
  def strength(self) -> np.ndarray:
    """f64[n] exp(theta): 1 for the baseline (for the geometric mean, where that is it)."""
    return np.exp(self.log_strength)

  @functools.cached_property
  def against(self) -> np.ndarray:
    """f64[k] whose product with log-strengths is what they are relative to: their mean, or the baseline's."""
    k = len(self.kept)
    return np.full(k, 1 / k) if self.baseline is None else (self.kept == self.baseline).astype(float)

  def place(self, item: Hashable) -> int:
    """The place of an item. Raises DataError where it is unknown."""
    try:
      return self._places[item]
    except KeyError:
      raise DataError(f"{item!r} is not among the {len(self.items)} items") from None

  def fitted_place(self, item: Hashable) -> int:
    """The place of an item among those fitted. Raises DataError where it is unknown or was not fitted."""
    place = np.flatnonzero(self.kept == self.place(item))
    if not len(place):
      raise DataError(f"{item!r} was not fitted: it is not in the largest component")
    return int(place[0])

  def spread_out(self, matrix: np.ndarray) -> np.ndarray:
    """f64[n, n], relative to the baseline, of a covariance f64[k, k] of fitted log-strengths; NaN for other items."""
    matrix = matrix - self.against @ matrix
    full = np.full((len(self.items),) * 2, np.nan)
    full[np.ix_(self.kept, self.kept)] = matrix - (matrix @ self.against)[:, None]
    return full

  @functools.cached_property
  def _places(self) -> dict[Hashable, int]:
    return {item: i for i, item in enumerate(self.items)}


def baseline_place(data: Comparisons, baseline: Hashable) -> int | None:
  """The place of the item whose log-strength is to be 0, or None for "mean"."""
  if baseline == "mean":
    return None
  if baseline not in data.items:
    raise DataError(f"baseline {baseline!r} is not among the {len(data.items)} items; it takes one of them or 'mean'")
  return data.items.index(baseline)


def what_to_fit(
  data: Comparisons,
  connected: bool,
  place: int | None,
  prior: Normal | Pseudo | None,
  on_disconnected: Disconnected,
) -> tuple[Normal | Pseudo | None, np.ndarray, np.ndarray]:
  """(the prior to use, i32[n] component of each item, i[k] places of the items to fit).

  Args:
    connected: whether every two groups of items have beaten each other, without which there is no estimate.
    place: of the baseline.

  Raises:
    NoEstimate: they have not, and neither a prior nor `on_disconnected` says what to do.
    DataError: the baseline is not among what `on_disconnected="largest"` fits.
  """
  n = len(data.items)
  component, everything = np.zeros(n, np.int32), np.arange(n)
  if connected or (prior is not None and on_disconnected != "prior"):
    return (None if on_disconnected == "prior" else prior), component, everything
  found = connectivity(data)
  if on_disconnected == "prior":
    return prior or Pseudo(1), found.label, everything
  if on_disconnected == "raise":
    raise NoEstimate(
      f"the strengths do not exist: {found.explanation()}. Compare them further, fit the largest component "
      "(on_disconnected='largest'), or choose a prior (prior=Pseudo(1), or on_disconnected='prior')"
    )
  kept = np.flatnonzero(found.label == 0)
  if len(kept) < 2:
    raise NoEstimate(f"no two items have beaten each other, so no component can be fitted: {found.explanation()}")
  if place is not None and place not in kept:
    label = data.items[place]
    raise DataError(f"baseline {label!r} is not in the largest component, which on_disconnected='largest' fits")
  return None, found.label, kept


def check_settings(prior, on_disconnected: str, tol: float, max_iter: int) -> None:
  """Raises DataError where an option that all fits have is not what it should be."""
  if on_disconnected not in ("raise", "largest", "prior"):
    raise DataError(f"on_disconnected={on_disconnected!r} is unknown; it takes 'raise', 'largest', 'prior'")
  if prior is not None and not isinstance(prior, Normal | Pseudo):
    raise DataError(f"prior={prior!r} is unknown; it takes Normal(sd), Pseudo(n) and None")
  if isinstance(prior, Normal) and not 0 < prior.sd < np.inf:
    raise DataError(f"Normal(sd={prior.sd}): the standard deviation must be above 0 and finite")
  if isinstance(prior, Pseudo) and not 0 < prior.n < np.inf:
    raise DataError(f"Pseudo(n={prior.n}): the number of imaginary games must be above 0 and finite")
  if not tol > 0:
    raise DataError(f"tol={tol} must be above 0")
  if not max_iter >= 1:
    raise DataError(f"max_iter={max_iter} must be 1 or more")
