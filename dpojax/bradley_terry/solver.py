"""Strengths of counted comparisons: which way to solve for them, and Newton's steps for each.

Strengths are determined up to a shift only; it is fixed by their mean.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from dpojax.bradley_terry import problem
from dpojax.bradley_terry.numerics import CG_ACCURACY, COMPILED, HOST, SMALL_STEP, State, conjugate_gradients
from dpojax.bradley_terry.numerics import newton as ascend
from dpojax.bradley_terry.priors import Normal, Pseudo, prior_arrays
from dpojax.bradley_terry.problem import Array, Curvature, Grid, Prior, Rows, Spec, Totals, dense, derivatives

Solver = Literal["auto", "newton", "pcg", "numpy"]
CHOLESKY_ITEMS = (
  800  # up to which a dense factorisation on the host is about as quick as conjugate gradients, or quicker
)
COMPILED_CELLS = 2_250_000  # pairs of a grid from which a compiled fit is quicker, its compilation included
SPARSE_CHOLESKY_ITEMS = 3000  # up to which Cholesky is kept where conjugate gradients would be slow


def solve(
  spec: Spec,
  layout: Grid | Rows,
  prior: Normal | Pseudo | None,
  solver: Solver,
  total: float,
  tol: float,
  max_iter: int,
  start: np.ndarray,
) -> tuple[State, str]:
  """(the final state, on NumPy arrays; which solver ran)."""
  if solver == "auto":
    solver = "numpy"
    if isinstance(layout, Grid) and spec.items**2 >= COMPILED_CELLS:
      solver = "pcg"
  settings = (prior_arrays(prior, spec.items), start, total, tol, max_iter)
  counts = problem.totals(spec, layout)
  if solver != "numpy":
    from dpojax.bradley_terry import compiled

    return compiled.solve("cholesky" if solver == "newton" else "cg", spec, counts, *settings), solver
  method = "cholesky" if spec.items <= CHOLESKY_ITEMS else "cg"
  if isinstance(layout, Rows) and spec.items <= SPARSE_CHOLESKY_ITEMS and len(layout.first) < 20 * spec.items:
    method = "cholesky"  # few games an item connect badly
  with np.errstate(all="ignore"):
    return newton(HOST, method, spec, counts, np.ones(spec.items), *settings), "numpy"


def newton(
  backend,
  method: str,
  spec: Spec,
  data: Grid | Rows | Totals,
  real: Array,
  prior: Prior,
  start: Array,
  total,
  tol,
  max_iter,
) -> State:
  """The vector of the largest likelihood.

  Args:
    backend: HOST or COMPILED.
    method: "cholesky" or "cg".
    real: f64[n], 1 for items, 0 for padding.
    start: f64[size].
    total: number of comparisons, by which gradients are divided before they are compared with `tol`.
  """
  xp = backend.xp
  n = spec.items
  proper = (prior.precision + prior.pseudo).max() > 0  # then the prior fixes the shift
  # The vector along which strengths may shift together.
  shift = xp.concatenate([real, xp.zeros(spec.size - n)])
  padding = xp.concatenate([1 - real, xp.zeros(spec.size - n)])
  items = real.sum()

  def centred(v):
    return xp.where(proper, v, v - shift * ((v * shift).sum() / items))

  def direction(state: State):
    gradient, curvature = state.gradient, state.curvature
    if method == "cholesky":
      ground = xp.where(proper, 0.0, curvature.degree.sum() / items**2)
      if backend is COMPILED:
        ground = ground * (real[:, None] * real[None, :])
      matrix = dense(backend, spec, data, curvature, diagonal=1 - real, ground=ground)
      return centred(backend.solve(matrix, gradient))
    multiply, diagonal = negative_hessian(backend, spec, data, curvature)
    accuracy = xp.clip(state.step, *CG_ACCURACY)
    padded = lambda v: multiply(v) + padding * v  # noqa: E731
    return conjugate_gradients(backend, padded, diagonal + padding, gradient, accuracy, centred)

  return ascend(
    backend,
    lambda x: derivatives(backend, spec, data, prior, x),
    direction,
    start,
    total=total,
    tol=tol,
    max_iter=max_iter,
    small_step=SMALL_STEP[method],
    outside=(lambda x: x[-1] <= 0) if spec.model == "rao_kupper" else None,
  )


def negative_hessian(
  backend, spec: Spec, data: Grid | Rows | Totals, curvature: Curvature
) -> tuple[Callable[[Array], Array], Array]:
  """(its product with f64[size] or, on the host, f64[size, r]; its diagonal f64[size])."""
  xp, n = backend.xp, spec.items
  weight, degree = curvature.weight, curvature.degree + curvature.diagonal
  if not isinstance(data, Rows):
    adjacent = lambda v: weight @ v  # noqa: E731
  elif backend is HOST:
    from scipy import sparse

    half = sparse.csr_array((weight, (data.first, data.second)), shape=(n, n))
    adjacent = lambda v: half @ v + half.T @ v  # noqa: E731
  else:

    def adjacent(v):
      there = backend.scatter(data.first, weight * v[data.second], n)
      return there + backend.scatter(data.second, weight * v[data.first], n)

  def multiply(v):
    top = (v[:n].T * degree).T - adjacent(v[:n])
    if spec.size == n:
      return top
    below = curvature.border.T @ v[:n] + curvature.corner @ v[n:]
    return xp.concatenate([top + curvature.border @ v[n:], below])

  return multiply, xp.concatenate([degree, xp.diagonal(curvature.corner)])
