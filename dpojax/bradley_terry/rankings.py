"""The likelihood of rankings and its largest value, on the host.

A ranking of L items is a series of L - 1 choices: the best of all its items, then the best of the rest. Each is a
softmax over log-strengths, so the log-likelihood is concave and its negative Hessian a Laplacian.
"""

import dataclasses
import functools

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from dpojax.bradley_terry.numerics import CG_ACCURACY, HOST, SMALL_STEP, State, conjugate_gradients, grounded, newton
from dpojax.bradley_terry.priors import Normal, Pseudo, prior_arrays
from dpojax.bradley_terry.problem import prior_terms

CHOLESKY_ITEMS = 2000  # up to which Newton's steps are solved by Cholesky, above by conjugate gradients
PAIRS_AT_ONCE = 4_000_000  # pairs of a ranking's items that are held in memory


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
    share = np.where(self.choice, 1 / self.left, 0.0)
    self.once = np.cumsum(share, axis=1)
    self.share = share
    self.twice = np.cumsum(share * share, axis=1)

  @functools.cached_property
  def scores(self) -> np.ndarray:
    """f64[M, K] derivatives of a ranking's log-likelihood by the log-strength at each place, unweighted."""
    return np.where(self.rankings.there, self.choice - self.e * self.once, 0.0)

  def curve(self, v: np.ndarray) -> np.ndarray:
    """The negative Hessian of the log-likelihood times f64[n]."""
    at = np.where(self.rankings.there, v[self.rankings.order], 0.0)
    mean = _sum_after(self.e * at) * self.share  # of v among the candidates of a choice
    bent = self.e * (at * self.once - np.cumsum(self.share * mean, axis=1))
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
  method = "cholesky" if rankings.items <= CHOLESKY_ITEMS else "cg"

  def evaluate(theta):
    choices = Choices(rankings, theta)
    slope, bend = prior_terms(given, theta)
    return rankings.scatter(rankings.weight[:, None] * choices.scores) + slope, (choices, bend)

  def direction(state):
    choices, bend = state.curvature
    if method == "cg":
      return solve_sparse(choices, bend, prior, state.gradient, float(np.clip(state.step, *CG_ACCURACY)))
    along = HOST.solve(negative_hessian(choices, bend, prior), state.gradient)
    return along if prior else along - along.mean()

  start, small = np.zeros(rankings.items), SMALL_STEP[method]
  with np.errstate(all="ignore"):
    return newton(HOST, evaluate, direction, start, total=rankings.total, tol=tol, max_iter=max_iter, small_step=small)


def negative_hessian(choices: Choices, bend: np.ndarray, prior: object) -> np.ndarray:
  """f64[n, n] with diag(bend); made definite along the common shift of strengths where no prior holds it."""
  matrix = HOST.add_diagonal(choices.hessian(), bend)
  return matrix if prior else grounded(matrix, len(matrix))


def solve_sparse(choices: Choices, bend: np.ndarray, prior: object, right: np.ndarray, accuracy: float) -> np.ndarray:
  """f64[n] the negative Hessian's inverse times `right`, without forming either."""
  multiply = lambda v: choices.curve(v) + bend * v  # noqa: E731
  centred = (lambda v: v) if prior else (lambda v: v - v.mean())
  return conjugate_gradients(HOST, multiply, choices.diagonal() + bend, right, accuracy, centred)
