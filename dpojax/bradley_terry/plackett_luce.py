"""Strengths from rankings of two or more items: `plackett_luce`, and what it found.

A ranking is a series of choices: the best of all its items, then the best of the rest, each item with probability in
proportion to its strength. With strengths exp(theta),

  P(a, b, c, ...) = e^theta_a / (e^theta_a + e^theta_b + e^theta_c + ...) * e^theta_b / (e^theta_b + e^theta_c + ...) * ...

Of two items this is Bradley and Terry's model, and leaving items out of a ranking leaves the model of the others.

References: Luce 1959; Plackett 1975; Hunter 2004 (The Annals of Statistics 32, section 5: an estimate exists if and
only if every two groups of items have been ranked either way).
"""

import dataclasses
import functools
import warnings
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import sparse

from dpojax.bradley_terry import likelihood
from dpojax.bradley_terry.comparisons import FIRST, TIE, Comparisons
from dpojax.bradley_terry.connectivity import connectivity
from dpojax.bradley_terry.fit import Disconnected, check_settings
from dpojax.bradley_terry.priors import NoEstimate, Normal, Pseudo, prior_arrays
from dpojax.bradley_terry.rankings import Choices, Rankings, cholesky_solve, conjugate_gradients, newton, pack
from dpojax.errors import DataError

if TYPE_CHECKING:
  from dpojax.bradley_terry.uncertainty import Contrast

DENSE_ITEMS = 6000  # up to which matrices of all items are formed: 288 MB each


def plackett_luce(
  data: Comparisons,
  *,
  baseline: Hashable = "mean",
  prior: Normal | Pseudo | None = None,
  on_disconnected: Disconnected = "raise",
  tol: float = 1e-10,
  max_iter: int = 100,
) -> "PlackettLuceFit":
  """Log-strengths of the largest likelihood of rankings (or posterior density, with a prior).

  Args:
    data: of `Comparisons.from_rankings`; other comparisons without ties are rankings of two.
    baseline, prior, on_disconnected: as of `fit`.
    tol: what the largest component of the gradient, divided by the number of rankings, must not exceed.
    max_iter: Newton steps. A fit that needs more comes back with `converged` false and a warning.

  Raises:
    NoEstimate: strengths would be infinite.
    DataError: comparisons are tied or have covariates, or a baseline or option is unknown.
  """
  check_settings(prior, tol, max_iter)
  if on_disconnected not in ("raise", "largest", "prior"):
    raise DataError(f"on_disconnected={on_disconnected!r} is unknown; it takes 'raise', 'largest', 'prior'")
  if baseline != "mean" and baseline not in data.items:
    raise DataError(f"baseline {baseline!r} is not among the {len(data.items)} items; it takes one of them or 'mean'")
  place = None if baseline == "mean" else data.items.index(baseline)
  n = len(data.items)
  rankings = _rankings(data)
  chosen = None if on_disconnected == "prior" else prior
  component, kept = np.zeros(n, np.int32), np.arange(n)
  if chosen is None and not rankings.connected:
    found = connectivity(data)
    component = found.label
    if on_disconnected == "prior":
      chosen = prior or Pseudo(1)
    elif on_disconnected == "largest":
      kept = np.flatnonzero(found.label == 0)
      if len(kept) < 2:
        raise NoEstimate(f"no two items were ranked either way, so no component can be fitted: {found.explanation()}")
      if place is not None and place not in kept:
        raise DataError(f"baseline {baseline!r} is not in the largest component, which on_disconnected='largest' fits")
      rankings = rankings.restricted(kept)
    else:
      raise NoEstimate(
        f"the strengths do not exist: {found.explanation()}. Rank them further, fit the largest component "
        "(on_disconnected='largest'), or choose a prior (prior=Pseudo(1), or on_disconnected='prior')"
      )
  with np.errstate(all="ignore"):
    theta, gradient, step, iterations = newton(rankings, prior_arrays(chosen, len(kept)), chosen, tol, max_iter)
  largest = float(np.abs(gradient).max()) / rankings.total
  converged = bool(largest <= tol and step <= 1e-4)  # False of NaN
  if not converged:
    warnings.warn(
      f"the fit did not converge in {iterations} steps: the largest gradient a ranking is {largest:.1e}, tol {tol:g}",
      RuntimeWarning,
      stacklevel=2,
    )
  return PlackettLuceFit(
    data=data,
    baseline=place,
    component=component,
    gradient_norm=largest,
    iterations=iterations,
    converged=converged,
    rankings=rankings,
    kept=kept,
    prior=chosen,
    vector=theta,
  )


def _rankings(data: Comparisons) -> Rankings:
  if data.covariates is not None:
    raise DataError("plackett_luce takes no covariates; fit(data) does, from the pairs of the rankings")
  weight = data.row_weight
  if data.orderings is not None:  # all pairs of a ranking have its weight
    lengths = (data.orderings >= 0).sum(axis=1)
    pairs = lengths * (lengths - 1) // 2
    return pack(len(data.items), data.orderings, weight[np.cumsum(pairs) - pairs])
  if data.has_ties:
    row = int(((data.outcome == TIE) & (weight > 0)).argmax())
    raise DataError(f"row {row} is a tie, which rankings do not have; use fit(ties='half'), or 'davidson'")
  won = data.outcome == FIRST
  order = np.stack([np.where(won, data.first, data.second), np.where(won, data.second, data.first)], axis=1)
  return pack(len(data.items), order, weight)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PlackettLuceFit:
  """Strengths from rankings. All of `data`'s items are here; NaN marks those that were not fitted.

  Attributes:
    data: what the rankings came from.
    baseline: place of the item whose log-strength is 0, or None where the mean is 0.
    component: i32[n] strong component of every item, 0 the largest; all 0 where all are connected or a prior holds.
    gradient_norm: largest component of the gradient, divided by the number of rankings.
    iterations: Newton steps.
    converged: whether gradient_norm <= tol, at a point that no longer moves.
    rankings, kept, prior, vector: the problem as it was solved (of the items `kept`).
  """

  data: Comparisons
  baseline: int | None
  component: np.ndarray
  gradient_norm: float
  iterations: int
  converged: bool
  rankings: Rankings
  kept: np.ndarray
  prior: Normal | Pseudo | None
  vector: np.ndarray

  def __repr__(self) -> str:
    state = f"converged in {self.iterations} steps" if self.converged else "NOT CONVERGED"
    return f"PlackettLuceFit({len(self.items):,} items, {len(self.rankings.order):,} rankings, {state})"

  @property
  def items(self) -> tuple[Hashable, ...]:
    """Labels, in the order of all arrays."""
    return self.data.items

  @functools.cached_property
  def log_strength(self) -> np.ndarray:
    """f64[n] theta in nats."""
    out = np.full(len(self.items), np.nan)
    out[self.kept] = self.vector - self._against @ self.vector
    return out

  @property
  def strength(self) -> np.ndarray:
    """f64[n] exp(theta): 1 for the baseline (for the geometric mean, where that is it)."""
    return np.exp(self.log_strength)

  @functools.cached_property
  def log_likelihood(self) -> float:
    """Of the rankings, without the prior, in nats."""
    return float(self.rankings.weight @ Choices(self.rankings, self.vector).log_probability.sum(axis=1))

  @functools.cached_property
  def _against(self) -> np.ndarray:
    """f64[kept] what is subtracted of the vector: its mean, or the baseline."""
    k = len(self.kept)
    return np.full(k, 1 / k) if self.baseline is None else (self.kept == self.baseline).astype(float)

  def place(self, item: Hashable) -> int:
    """The place of an item. Raises DataError where it is unknown."""
    try:
      return self._places[item]
    except KeyError:
      raise DataError(f"{item!r} is not among the {len(self.items)} items") from None

  @functools.cached_property
  def _places(self) -> dict[Hashable, int]:
    return {item: i for i, item in enumerate(self.items)}

  def probability(self, i: Hashable, j: Hashable) -> float:
    """P(i is ranked above j), whoever else is ranked."""
    theta = self.log_strength
    return float(likelihood.probabilities("none", theta[self.place(i)] - theta[self.place(j)], None)[0])

  def probability_of(self, ordering: Sequence[Hashable]) -> float:
    """P(these items, and no others, come in this order, best first)."""
    places = [self.place(item) for item in ordering]
    if len(set(places)) != len(places):
      raise DataError("the ordering names an item twice")
    theta = self.log_strength[places]
    return float(np.exp(theta.sum() - np.logaddexp.accumulate(theta[::-1]).sum()))

  # --- uncertainty

  def covariance(self, kind: Literal["hessian", "sandwich"] = "hessian") -> np.ndarray:
    """f64[n, n] covariance of `log_strength`; NaN for items not fitted.

    "hessian" is the inverse of the observed information (with a prior: of the posterior's curvature); "sandwich" stays
    right where choices within a ranking depend on each other, rankings being independent.

    Raises:
      DataError: there are more than 6,000 items, or the kind is unknown.
    """
    k = len(self.kept)
    _check_kind(kind)
    if k > DENSE_ITEMS:
      raise DataError(f"the covariance of {k:,} items would take {8e-9 * k * k:.0f} GB; ask for contrasts of pairs")
    found = self._inverse
    if kind == "sandwich":
      found = found @ (self._scores.T @ self._scores).toarray() @ found
    found = found - self._against @ found
    full = np.full((len(self.items),) * 2, np.nan)
    full[np.ix_(self.kept, self.kept)] = found - (found @ self._against)[:, None]
    return full

  def standard_errors(self, kind: Literal["hessian", "sandwich"] = "hessian") -> np.ndarray:
    """f64[n] standard errors of `log_strength`; 0 for an item that is the baseline."""
    return np.sqrt(np.maximum(np.diagonal(self.covariance(kind)), 0))

  def contrast(
    self, i: Hashable, j: Hashable, *, kind: Literal["hessian", "sandwich"] = "hessian", level: float = 0.95
  ) -> "Contrast":
    """log_strength of i less that of j, of any number of items: estimate, standard error, interval, two-sided p-value
    of equality."""
    from scipy import stats

    from dpojax.bradley_terry.uncertainty import Contrast

    _check_kind(kind)
    direction = np.zeros(len(self.kept))
    for item, sign in ((i, 1), (j, -1)):
      where = np.flatnonzero(self.kept == self.place(item))
      if not len(where):
        raise DataError(f"{item!r} was not fitted: it is not in the largest component")
      direction[where] += sign
    estimate = float(direction @ self.vector)
    if len(self.kept) <= DENSE_ITEMS:
      solved = self._inverse @ direction
    else:
      choices, bend = Choices(self.rankings, self.vector), self._prior_curvature
      centred = (lambda v: v) if self.prior else (lambda v: v - v.mean())
      solved = conjugate_gradients(choices, bend, direction, 1e-10, centred)
    variance = direction @ solved if kind == "hessian" else ((self._scores @ solved) ** 2).sum()
    error = float(np.sqrt(max(variance, 0)))
    z = float(stats.norm.ppf((1 + level) / 2))
    p = float(2 * stats.norm.sf(abs(estimate) / error)) if error else 1.0
    return Contrast(estimate, error, estimate - z * error, estimate + z * error, p)

  @property
  def _prior_curvature(self) -> np.ndarray:
    """f64[kept] what a prior adds to the diagonal of the negative Hessian."""
    prior = prior_arrays(self.prior, len(self.kept))
    imaginary = likelihood.terms(np, "none", self.vector, 0.0, prior.pseudo / 2, prior.pseudo / 2, 0.0)
    return imaginary.ee + prior.precision

  @functools.cached_property
  def _inverse(self) -> np.ndarray:
    """f64[kept, kept] inverse of the negative Hessian; without a prior, its common shift is held fast."""
    matrix = Choices(self.rankings, self.vector).hessian() + np.diag(self._prior_curvature)
    return cholesky_solve(matrix, np.eye(len(matrix)), shift=self.prior is None)

  @functools.cached_property
  def _scores(self) -> sparse.csr_array:
    """f64[M, kept] derivatives of every ranking's weighted log-likelihood."""
    rankings = self.rankings
    scores = Choices(rankings, self.vector).scores * rankings.weight[:, None]
    row = np.broadcast_to(np.arange(len(scores))[:, None], scores.shape)[rankings.there]
    shape = (len(scores), rankings.items)
    return sparse.csr_array((scores[rankings.there], (row, rankings.order[rankings.there])), shape=shape)


def _check_kind(kind: str) -> None:
  if kind not in ("hessian", "sandwich"):
    raise DataError(f"kind={kind!r} is unknown; it takes 'hessian' and 'sandwich'")
