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

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from dpojax.bradley_terry import likelihood
from dpojax.bradley_terry.columns import FIRST, TIE
from dpojax.bradley_terry.comparisons import Comparisons
from dpojax.bradley_terry.existence import Disconnected, what_to_fit
from dpojax.bradley_terry.fitting import Strengths, baseline_place, check_settings
from dpojax.bradley_terry.likelihood import Normal, Pseudo, prior_arrays, prior_terms
from dpojax.bradley_terry.solver import (
  CG_ACCURACY,
  SMALL_STEP,
  State,
  conjugate_gradients,
  grounded,
  newton,
  solve_dense,
)
from dpojax.errors import DataError

CHOLESKY_ITEMS = 2000  # up to which Newton's steps are solved by Cholesky, above by conjugate gradients
PAIRS_AT_ONCE = 4_000_000  # pairs of a ranking's items that are held in memory


def plackett_luce(
  data: Comparisons | Sequence[Sequence[Hashable]],
  *,
  baseline: Hashable = "mean",
  prior: Normal | Pseudo | None = None,
  on_disconnected: Disconnected = "raise",
  tol: float = 1e-10,
  max_iter: int = 100,
) -> "PlackettLuceFit":
  """Log-strengths of the largest likelihood of rankings (or posterior density, with a prior).

  Args:
    data: a list of rankings, each of two or more labels, best first; or `Comparisons.from_rankings`; other comparisons
      without ties are rankings of two.
    baseline, prior, on_disconnected: as of `fit`.
    tol: what the largest component of the gradient, divided by the number of rankings, must not exceed.
    max_iter: Newton steps. A fit that needs more comes back with `converged` false and a warning.

  Raises:
    NoEstimate: strengths would be infinite.
    DataError: comparisons are tied or have covariates, or a baseline or option is unknown.
  """
  if not isinstance(data, Comparisons):
    data = Comparisons.from_rankings(data)
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


def _rankings(data: Comparisons) -> "Rankings":
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
  rankings: "Rankings"
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

  @functools.cached_property
  def inverse(self) -> np.ndarray:
    """f64[kept, kept] inverse of the negative Hessian; without a prior, its common shift is held fast."""
    return solve_dense(negative_hessian(*self._curvature, self.prior), np.eye(len(self.kept)))

  def solve(self, directions: np.ndarray, accuracy: float) -> np.ndarray:
    """The negative Hessian's inverse times f64[kept, r], without forming either."""
    columns = [solve_sparse(*self._curvature, self.prior, column, min(accuracy, 1e-10)) for column in directions.T]
    return np.stack(columns, axis=1)

  @property
  def _curvature(self) -> tuple["Choices", np.ndarray]:
    """The choices at the estimate, and f64[kept] what a prior adds to the diagonal of their negative Hessian."""
    bend = prior_terms(prior_arrays(self.prior, len(self.kept)), self.vector)[1]
    return Choices(self.rankings, self.vector), bend

  @functools.cached_property
  def score_squares(self) -> sparse.csr_array:
    """[kept, kept] sum over rankings of the outer square of what each adds to the gradient."""
    rankings = self.rankings
    scores = Choices(rankings, self.vector).scores * rankings.weight[:, None]
    row = np.broadcast_to(np.arange(len(scores))[:, None], scores.shape)[rankings.there]
    shape = (len(scores), rankings.items)
    scores = sparse.csr_array((scores[rankings.there], (row, rankings.order[rankings.there])), shape=shape)
    return scores.T @ scores


# --- the likelihood of rankings: each choice is a softmax over log-strengths, so it is concave, its Hessian a Laplacian


@dataclasses.dataclass(frozen=True, eq=False)
class Rankings:
  """Rankings with positive weight.

  Attributes:
    items: how many there are.
    order: i32[M, K] items, best first; 0 where a ranking has ended.
    there: bool[M, K] where it has not.
    weight: f64[M].
  """

  items: int
  order: np.ndarray
  there: np.ndarray
  weight: np.ndarray

  @functools.cached_property
  def total(self) -> float:
    """Number of rankings, weighted."""
    return float(self.weight.sum())

  @property
  def connected(self) -> bool:
    """Whether every two groups of items were ranked either way; neighbours stand for all pairs of a ranking."""
    both = self.there[:, 1:]
    edges = (self.order[:, :-1][both], self.order[:, 1:][both])
    above = sparse.csr_array((np.ones(len(edges[0]), bool), edges), shape=(self.items, self.items))
    return csgraph.connected_components(above, connection="strong", return_labels=False) == 1

  def restricted(self, places: np.ndarray) -> "Rankings":
    """Rankings of the items at `places` only, where two or more of them are left."""
    new = np.full(self.items, -1, np.int32)
    new[places] = np.arange(len(places), dtype=np.int32)
    return pack(len(places), np.where(self.there, new[self.order], -1), self.weight)

  def scatter(self, values: np.ndarray) -> np.ndarray:
    """f64[items] sums of what the places f64[M, K] of rankings hold."""
    return np.bincount(self.order[self.there], values[self.there], self.items)


def pack(items: int, order: np.ndarray, weight: np.ndarray) -> Rankings:
  """Rankings i32[M, K] with -1 anywhere, moved together; those of one item or weight 0 say nothing and are left out."""
  there = order >= 0
  kept = (there.sum(axis=1) >= 2) & (weight > 0)
  order, there, weight = order[kept], there[kept], weight[kept]
  if not there[:, :-1].all():
    moved = np.argsort(~there, axis=1, kind="stable")
    order, there = np.take_along_axis(order, moved, axis=1), np.take_along_axis(there, moved, axis=1)
    used = there.any(axis=0)
    order, there = order[:, used], there[:, used]
  return Rankings(items, np.where(there, order, 0), there, weight)


class Choices:
  """The choices of all rankings at some strengths.

  At its place t an item is among the candidates of the choices s <= t. It is chosen at s with probability
  e[t] / left[s], where left[s] sums e over the places from s on; so sums over choices are cumulative sums along a
  ranking, and no matrix of choices and items is formed.
  """

  def __init__(self, rankings: Rankings, theta: np.ndarray):
    self.rankings = rankings
    there = rankings.there
    at = np.where(there, theta[rankings.order], -np.inf)
    top = at.max(axis=1, keepdims=True)
    self.e = np.exp(at - top)
    self.left = np.where(there, _sum_after(self.e), 1.0)
    self.choice = there & np.append(there[:, 1:], np.zeros((len(there), 1), bool), axis=1)  # the last is no choice
    self.log_probability = np.where(self.choice, at - top - np.log(self.left), 0.0)
    inverse = np.where(self.choice, 1 / self.left, 0.0)
    self.once = np.cumsum(inverse, axis=1)
    self.inverse = inverse
    self.twice = np.cumsum(inverse * inverse, axis=1)

  @functools.cached_property
  def scores(self) -> np.ndarray:
    """f64[M, K] derivatives of a ranking's log-likelihood by the log-strength at each place, unweighted."""
    return np.where(self.rankings.there, self.choice - self.e * self.once, 0.0)

  def curve(self, v: np.ndarray) -> np.ndarray:
    """The negative Hessian of the log-likelihood times f64[n]."""
    at = np.where(self.rankings.there, v[self.rankings.order], 0.0)
    mean = _sum_after(self.e * at) * self.inverse  # of v among the candidates of a choice
    bent = self.e * (at * self.once - np.cumsum(self.inverse * mean, axis=1))
    return self.rankings.scatter(self.rankings.weight[:, None] * bent)

  def diagonal(self) -> np.ndarray:
    """f64[n] diagonal of the negative Hessian."""
    return self.rankings.scatter(self.rankings.weight[:, None] * (self.e * self.once - self.e * self.e * self.twice))

  def hessian(self) -> np.ndarray:
    """f64[n, n] the negative Hessian."""
    rankings, n = self.rankings, self.rankings.items
    width = rankings.order.shape[1]
    before, after = np.triu_indices(width, 1)  # an item meets a later one in the choices up to its own place
    joint = np.zeros((n, n))
    for part in np.array_split(np.arange(len(rankings.order)), -(-len(rankings.order) * len(before) // PAIRS_AT_ONCE)):
      e, order, weighted = self.e[part], rankings.order[part], self.twice[part] * rankings.weight[part, None]
      both = rankings.there[part][:, after]
      value = (e[:, before] * e[:, after] * weighted[:, before])[both]
      cell = np.multiply(order[:, before], n, dtype=np.int64)[both] + order[:, after][both]
      if len(cell) * 8 > n * n:
        joint += np.bincount(cell, value, n * n).reshape(n, n)
      else:
        np.add.at(joint.reshape(-1), cell, value)
    joint = joint + joint.T
    return np.diag(joint.sum(axis=1)) - joint


def _sum_after(values: np.ndarray) -> np.ndarray:
  """Sums over each place and those after it."""
  return np.cumsum(values[:, ::-1], axis=1)[:, ::-1]


def fit_rankings(rankings: Rankings, prior: Normal | Pseudo | None, tol: float, max_iter: int) -> State:
  """The log-strengths of the largest likelihood, or posterior density."""
  given = prior_arrays(prior, rankings.items)
  method = "newton" if rankings.items <= CHOLESKY_ITEMS else "pcg"

  def evaluate(theta):
    choices = Choices(rankings, theta)
    slope, bend = prior_terms(given, theta)
    return rankings.scatter(rankings.weight[:, None] * choices.scores) + slope, (choices, bend)

  def direction(state):
    choices, bend = state.curvature
    if method == "pcg":
      return solve_sparse(choices, bend, prior, state.gradient, float(np.clip(state.step, *CG_ACCURACY)))
    along = solve_dense(negative_hessian(choices, bend, prior), state.gradient)
    return along if prior else along - along.mean()

  start, small = np.zeros(rankings.items), SMALL_STEP[method]
  return newton(evaluate, direction, start, total=rankings.total, tol=tol, max_iter=max_iter, small_step=small)


def negative_hessian(choices: Choices, bend: np.ndarray, prior: object) -> np.ndarray:
  """f64[n, n] with diag(bend); made definite along the common shift of strengths where no prior holds it."""
  matrix = choices.hessian()
  matrix.flat[:: len(matrix) + 1] += bend
  return matrix if prior else grounded(matrix, len(matrix))


def solve_sparse(choices: Choices, bend: np.ndarray, prior: object, right: np.ndarray, accuracy: float) -> np.ndarray:
  """f64[n] the negative Hessian's inverse times `right`, without forming either."""
  multiply = lambda v: choices.curve(v) + bend * v  # noqa: E731
  centred = (lambda v: v) if prior else (lambda v: v - v.mean())
  return conjugate_gradients(multiply, choices.diagonal() + bend, right, accuracy, centred)
