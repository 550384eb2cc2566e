"""Newton's method, its linear systems by Cholesky or by conjugate gradients, and which of them a fit takes.

Strengths are determined up to a shift only; it is fixed by their mean.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import linalg, sparse

from dpojax.bradley_terry.layout import Grid, Rows, Spec, Totals, totals
from dpojax.bradley_terry.likelihood import Curvature, Normal, Pseudo, dense, derivatives, prior_arrays

Solver = Literal["auto", "newton", "pcg"]
CHOLESKY_ITEMS = 800  # up to which a dense factorisation is about as quick as conjugate gradients, or quicker
SPARSE_CHOLESKY_ITEMS = 3000  # up to which Cholesky is kept where conjugate gradients would be slow

# After a Newton step of this size the error is about its square (Cholesky), or a hundredth of it at worst (conjugate
# gradients, which solve to the relative accuracy of the step before, within bounds).
SMALL_STEP = dict(newton=1e-6, pcg=1e-7)
CG_ACCURACY = (1e-6, 1e-2)
BEYOND = 0.1  # fraction of the slope at the start that may be left, backwards, at the end of a step
HALVINGS = 60


class State(NamedTuple):
  """Where Newton's method is: the vector, its gradient and curvature, the largest change of the last step."""

  x: np.ndarray
  gradient: np.ndarray
  curvature: Any
  step: float
  iteration: int


def newton(
  evaluate: Callable[[np.ndarray], tuple[np.ndarray, Any]],
  direction: Callable[[State], np.ndarray],
  start: np.ndarray,
  *,
  total: float,
  tol: float,
  max_iter: int,
  small_step: float,
  outside: Callable[[np.ndarray], bool] | None = None,
) -> State:
  """The maximum of a concave function, each step halved while it leads beyond the maximum along its line.

  Args:
    evaluate: f64[P] -> (gradient f64[P], curvature, which `direction` reads).
    direction: the Newton step from a state, f64[P].
    start: f64[P].
    total: what the gradient is divided by before it is compared with `tol`.
    small_step: largest change of a last step, beside a gradient below `tol`.
    outside: whether a vector is out of bounds.
  """
  state = State(start, *evaluate(start), np.inf, 0)
  with np.errstate(all="ignore"):
    while (np.abs(state.gradient).max() > tol * total or state.step > small_step) and state.iteration < max_iter:
      along = direction(state)
      slope = (state.gradient * along).sum()
      noise = 1e-15 * total * np.abs(along).max()
      length = 1.0
      for _ in range(HALVINGS + 1):
        x = state.x + length * along
        gradient, curvature = evaluate(x)
        back = (gradient * along).sum() < -BEYOND * slope - noise
        if not (back or (outside is not None and outside(x)) or not np.isfinite(gradient).all()):
          break
        length /= 2
      state = State(x, gradient, curvature, float(np.abs(length * along).max()), state.iteration + 1)
  return state


def solve_dense(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
  """What a positive matrix turns into `right`; where it is flat to rounding, the shortest such vector."""
  try:
    return linalg.cho_solve(linalg.cho_factor(matrix, check_finite=False), right, check_finite=False)
  except linalg.LinAlgError:
    if not (np.isfinite(matrix).all() and np.isfinite(right).all()):
      return np.full_like(right, np.nan)  # no step, and so no convergence
    return np.linalg.lstsq(matrix, right, rcond=1e-14)[0]


def conjugate_gradients(
  multiply: Callable[[np.ndarray], np.ndarray],
  diagonal: np.ndarray,
  right: np.ndarray,
  accuracy: float,
  centred: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
  """What `multiply`, a positive matrix f64[P, P] with that diagonal, turns into `right` f64[P] or f64[P, r].

  It ends when the squared residual, scaled by the diagonal, is `accuracy` squared of what it was. `centred` takes out
  what rounding adds along a direction in which the matrix is flat.
  """
  scale = 1 / np.where(diagonal > 0, diagonal, 1.0)
  precondition = lambda v: (v.T * scale).T  # noqa: E731
  product = lambda a, b: (a * b).sum(axis=0)  # noqa: E731
  safe = lambda x: np.where(x > 0, x, 1.0)  # of a column that is done  # noqa: E731
  found, residual = np.zeros_like(right), right
  along = precondition(right)
  energy = product(right, along)
  wanted = accuracy * accuracy * energy
  for _ in range(4 * len(right)):
    if not (energy > wanted).any():
      break
    image = multiply(along)
    length = energy / safe(product(along, image))
    found = found + length * along
    residual = centred(residual - length * image)
    scaled = precondition(residual)
    new = product(residual, scaled)
    along, energy = scaled + new / safe(energy) * along, new
  return centred(found)


def grounded(matrix: np.ndarray, items: int) -> np.ndarray:
  """A negative Hessian, flat along the common shift of its first `items` entries, made definite.

  Of the typical curvature c, c / items is added for every two items; its inverse has 1 / (c items) more for them.
  """
  matrix = matrix.copy()
  matrix[:items, :items] += np.trace(matrix[:items, :items]) / items**2
  return matrix


def negative_hessian(
  spec: Spec, data: Grid | Rows | Totals, curvature: Curvature
) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
  """(its product with f64[size] or f64[size, r]; its diagonal f64[size])."""
  n = spec.items
  weight, degree = curvature.weight, curvature.degree + curvature.diagonal
  if isinstance(data, Rows):
    half = sparse.csr_array((weight, (data.first, data.second)), shape=(n, n))
    adjacent = lambda v: half @ v + half.T @ v  # noqa: E731
  else:
    adjacent = lambda v: weight @ v  # noqa: E731

  def multiply(v):
    top = (v[:n].T * degree).T - adjacent(v[:n])
    if spec.size == n:
      return top
    below = curvature.border.T @ v[:n] + curvature.corner @ v[n:]
    return np.concatenate([top + curvature.border @ v[n:], below])

  return multiply, np.concatenate([degree, np.diagonal(curvature.corner)])


def solve(
  spec: Spec,
  layout: Grid | Rows,
  given: Normal | Pseudo | None,
  solver: Solver,
  total: float,
  tol: float,
  max_iter: int,
  start: np.ndarray,
) -> tuple[State, str]:
  """(the state at the largest likelihood, or posterior density; which solver ran).

  Args:
    given: the prior.
    total: number of comparisons, by which gradients are divided before they are compared with `tol`.
    start: f64[size].
  """
  n, data = spec.items, totals(spec, layout)
  if solver == "auto":
    # Few games an item connect badly, and conjugate gradients are slow.
    sparse_games = isinstance(layout, Rows) and n <= SPARSE_CHOLESKY_ITEMS and len(layout.first) < 20 * n
    solver = "newton" if n <= CHOLESKY_ITEMS or sparse_games else "pcg"
  prior = prior_arrays(given, n)

  def centred(v):  # a prior holds the shift
    return v if given is not None else np.concatenate([v[:n] - v[:n].mean(axis=0), v[n:]])

  def direction(state: State):
    gradient, curvature = state.gradient, state.curvature
    if solver == "newton":
      ground = 0.0 if given is not None else curvature.degree.sum() / n**2
      return centred(solve_dense(dense(spec, data, curvature, ground=ground), gradient))
    multiply, diagonal = negative_hessian(spec, data, curvature)
    accuracy = float(np.clip(state.step, *CG_ACCURACY))
    return conjugate_gradients(multiply, diagonal, gradient, accuracy, centred)

  state = newton(
    lambda x: derivatives(spec, data, prior, x),
    direction,
    start,
    total=total,
    tol=tol,
    max_iter=max_iter,
    small_step=SMALL_STEP[solver],
    outside=(lambda x: x[-1] <= 0) if spec.model == "rao_kupper" else None,
  )
  return state, solver
