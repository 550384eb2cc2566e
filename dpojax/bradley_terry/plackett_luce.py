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
from dpojax.bradley_terry.numerics import HOST
from dpojax.bradley_terry.priors import Normal, Pseudo, prior_arrays
from dpojax.bradley_terry.problem import prior_terms
from dpojax.bradley_terry.rankings import Choices, Rankings, fit_rankings, negative_hessian, pack, solve_sparse
from dpojax.bradley_terry.strengths import Disconnected, Strengths, baseline_place, check_settings, what_to_fit
from dpojax.errors import DataError

if TYPE_CHECKING:
  from dpojax.bradley_terry.uncertainty import Contrast


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
  check_settings(prior, on_disconnected, tol, max_iter)
  place = baseline_place(data, baseline)
  rankings = _rankings(data)
  chosen, component, kept = what_to_fit(data, rankings.connected, place, prior, on_disconnected)
  if len(kept) < len(data.items):
    rankings = rankings.restricted(kept)
  state = fit_rankings(rankings, chosen, tol, max_iter)
  largest = float(np.abs(state.gradient).max()) / rankings.total
  converged = bool(largest <= tol and state.step <= 1e-4)  # False of NaN
  if not converged:
    warnings.warn(
      f"the fit did not converge in {state.iteration} steps: the largest gradient a ranking is {largest:.1e}, tol {tol:g}",
      RuntimeWarning,
      stacklevel=2,
    )
  return PlackettLuceFit(
    data=data,
    baseline=place,
    component=component,
    gradient_norm=largest,
    iterations=state.iteration,
    converged=converged,
    rankings=rankings,
    kept=kept,
    prior=chosen,
    vector=state.x,
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
class PlackettLuceFit(Strengths):
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

  @functools.cached_property
  def log_likelihood(self) -> float:
    """Of the rankings, without the prior, in nats."""
    return float(self.rankings.weight @ Choices(self.rankings, self.vector).log_probability.sum(axis=1))

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
    from dpojax.bradley_terry.uncertainty import check_size

    _check_kind(kind)
    check_size(len(self.kept))
    found = self._inverse
    if kind == "sandwich":
      found = found @ (self._scores.T @ self._scores).toarray() @ found
    return self.spread_out(found)

  def standard_errors(self, kind: Literal["hessian", "sandwich"] = "hessian") -> np.ndarray:
    """f64[n] standard errors of `log_strength`; 0 for an item that is the baseline."""
    return np.sqrt(np.maximum(np.diagonal(self.covariance(kind)), 0))

  def contrast(
    self, i: Hashable, j: Hashable, *, kind: Literal["hessian", "sandwich"] = "hessian", level: float = 0.95
  ) -> "Contrast":
    """log_strength of i less that of j, of any number of items: estimate, standard error, interval, two-sided p-value
    of equality."""
    from dpojax.bradley_terry import uncertainty

    _check_kind(kind)
    direction = np.zeros(len(self.kept))
    direction[self.fitted_place(i)] += 1
    direction[self.fitted_place(j)] -= 1
    if len(self.kept) <= uncertainty.DENSE_ITEMS:
      solved = self._inverse @ direction
    else:
      solved = solve_sparse(*self._curvature, self.prior, direction, 1e-10)
    variance = direction @ solved if kind == "hessian" else ((self._scores @ solved) ** 2).sum()
    return uncertainty.Contrast.of(float(direction @ self.vector), float(np.sqrt(max(variance, 0))), level)

  @property
  def _curvature(self) -> tuple[Choices, np.ndarray]:
    """The choices at the estimate, and f64[kept] what a prior adds to the diagonal of their negative Hessian."""
    bend = prior_terms(prior_arrays(self.prior, len(self.kept)), self.vector)[1]
    return Choices(self.rankings, self.vector), bend

  @functools.cached_property
  def _inverse(self) -> np.ndarray:
    """f64[kept, kept] inverse of the negative Hessian; without a prior, its common shift is held fast."""
    return HOST.solve(negative_hessian(*self._curvature, self.prior), np.eye(len(self.kept)))

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
