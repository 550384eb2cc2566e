"""Standard errors of more strengths than a matrix can be formed for, by few solves instead of one an item.

Let M be the block of the negative Hessian that belongs to the strengths, D its diagonal, and M = D^1/2 (I - A) D^1/2.
The inverse's diagonal is

  (M^-1)_ii = (1 + r_i) / D_i,  r = diag(A (I - A)^-1 A),

where r_i, what opponents' own uncertainty adds, is small wherever these have several games. Only r is estimated: a draw y
of covariance M (a random sign a comparison) is solved once, x = M^-1 y has covariance M^-1, and r_i is the mean square
of (A D^1/2 x)_i (Spielman and Srivastava 2011, arXiv:0803.0929, on effective resistances). Without a prior M is flat
along the common shift u = D^1/2 1 / |D^1/2 1|: (I - A)^+ stands for the inverse, and u_i^2 is taken off twice.
"""

import numpy as np
from scipy import linalg, sparse

from dpojax.bradley_terry.numerics import HOST, conjugate_gradients
from dpojax.bradley_terry.problem import Curvature, Rows

DRAWS = 1024
ENTRIES = 20_000_000  # of the signs that are drawn at once
LOOSE, TIGHT = 1e-4, 1e-9  # accuracies of solves of draws, and of what enters every item's variance


def variances(data: Rows, curvature: Curvature, against: np.ndarray, *, flat: bool) -> tuple[np.ndarray, np.ndarray]:
  """(variance of each strength less `against` @ strengths, its relative standard deviation over draws), f64[n] each.

  Args:
    data: whose places and coefficients the curvature is of.
    curvature: the negative Hessian at the estimate.
    against: f64[n], of sum 1.
    flat: no prior holds the common shift.
  """
  n, weight = len(against), np.asarray(curvature.weight)
  degree = np.asarray(curvature.degree + curvature.diagonal)
  half = sparse.csr_array((weight, (data.first, data.second)), shape=(n, n))
  adjacent = sparse.csr_array(half + half.T)
  total = degree.sum()

  def grounded(values: np.ndarray) -> np.ndarray:
    """Without the part along the common shift, as seen by the degrees."""
    return values - degree @ values / total if flat else values

  def solve(right: np.ndarray, accuracy: float) -> np.ndarray:
    multiply = lambda v: (v.T * degree).T - adjacent @ v  # noqa: E731
    centred = (lambda v: v - v.mean(axis=0)) if flat else (lambda v: v)
    return grounded(conjugate_gradients(HOST, multiply, degree, right, accuracy, centred))

  def balanced(right: np.ndarray) -> np.ndarray:
    """Of sum 0 where only such a right side has a solution."""
    return right - degree * (right.sum() / total) if flat else right

  added = _added_by_opponents(data, curvature, adjacent, degree, solve)
  own = 1 - 2 * degree / total if flat else np.ones(n)
  from_baseline = solve(balanced(against), TIGHT)
  found = (own + added) / degree - 2 * from_baseline + against @ from_baseline
  border = np.asarray(curvature.border)
  if border.shape[1]:
    slopes = np.stack([solve(column, TIGHT) for column in border.T], axis=1)
    rest = linalg.cho_factor(np.asarray(curvature.corner) - border.T @ slopes)
    seen = slopes - against @ slopes
    found += (seen.T * linalg.cho_solve(rest, seen.T)).sum(axis=0)
  with np.errstate(divide="ignore", invalid="ignore"):
    spread = np.where(found > 0, np.sqrt(2 / DRAWS) * added / degree / np.maximum(found, 0), np.inf)
  return found, spread


def _added_by_opponents(data: Rows, curvature: Curvature, adjacent, degree: np.ndarray, solve) -> np.ndarray:
  """r of the module's text, f64[n], from `DRAWS` draws."""
  n, rows = len(degree), len(data.first)
  root = np.sqrt(np.asarray(curvature.weight))
  comparisons = np.arange(rows)
  places, signed = np.concatenate([data.first, data.second]), np.concatenate([root, -root])
  spread = sparse.csr_array((signed, (places, np.tile(comparisons, 2))), shape=(n, rows))
  held = np.sqrt(np.asarray(curvature.diagonal) * np.ones(n))
  rng, squares = np.random.default_rng(0), np.zeros(n)
  block = int(np.clip(ENTRIES // (rows + n), 1, 64))
  for start in range(0, DRAWS, block):
    columns = min(block, DRAWS - start)
    signs = 2.0 * rng.integers(0, 2, (rows + n, columns), dtype=np.int8) - 1
    drawn = spread @ signs[:rows] + held[:, None] * signs[rows:]
    seen = adjacent @ solve(drawn, LOOSE)  # D^1/2 A D^1/2 x
    squares += (seen**2).sum(axis=1)
  return squares / DRAWS / degree
