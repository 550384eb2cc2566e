"""Newton's method and conjugate gradients, each written once for the host (NumPy, SciPy) and for JAX."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dpojax.bradley_terry.likelihood import Array

# After a Newton step of this size the error is about its square (Cholesky), or a hundredth of it at worst (conjugate
# gradients, which solve to the relative accuracy of the step before, within bounds).
SMALL_STEP = dict(cholesky=1e-6, cg=1e-7)
CG_ACCURACY = (1e-6, 1e-2)
BEYOND = 0.1  # share of the slope at the start that may be left, backwards, at the end of a step
HALVINGS = 60


class State(NamedTuple):
  """Where Newton's method is: the vector, its gradient and curvature, the largest change of the last step."""

  x: Array
  gradient: Array
  curvature: Any
  step: Array
  iteration: Array


class Host:
  """NumPy and SciPy."""

  xp: Any = np

  @staticmethod
  def while_loop(cond, body, state):
    while cond(state):
      state = body(state)
    return state

  @staticmethod
  def scatter(index, values, size):
    return np.bincount(index, values, size)

  @staticmethod
  def add_diagonal(matrix, values):
    matrix.flat[:: len(matrix) + 1] += values
    return matrix

  @staticmethod
  def solve(matrix, right):
    from scipy import linalg

    try:
      return linalg.cho_solve(linalg.cho_factor(matrix, check_finite=False), right, check_finite=False)
    except linalg.LinAlgError:  # flat to rounding: the shortest step that solves it
      if not (np.isfinite(matrix).all() and np.isfinite(right).all()):
        return np.full_like(right, np.nan)  # no step, and so no convergence
      return np.linalg.lstsq(matrix, right, rcond=1e-14)[0]


class Compiled:
  """JAX; to be used where x64 is enabled and inside a jitted function."""

  @functools.cached_property
  def xp(self):
    import jax.numpy as jnp

    return jnp

  @staticmethod
  def while_loop(cond, body, state):
    import jax

    return jax.lax.while_loop(cond, body, state)

  def scatter(self, index, values, size):
    return self.xp.zeros(size, values.dtype).at[index].add(values)

  def add_diagonal(self, matrix, values):
    return matrix + self.xp.diag(values)

  @staticmethod
  def solve(matrix, right):
    import jax

    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), right)


HOST, COMPILED = Host(), Compiled()


def newton(
  backend,
  evaluate: Callable[[Array], tuple[Array, Any]],
  direction: Callable[[State], Array],
  start: Array,
  *,
  total,
  tol,
  max_iter,
  small_step: float,
  outside: Callable[[Array], Array] | None = None,
) -> State:
  """The maximum of a concave function, each step halved while it leads beyond the maximum along its line.

  Args:
    backend: HOST or COMPILED.
    evaluate: f64[P] -> (gradient f64[P], curvature, which `direction` reads).
    direction: the Newton step from a state, f64[P].
    start: f64[P].
    total: what the gradient is divided by before it is compared with `tol`.
    small_step: largest change of a last step, beside a gradient below `tol`.
    outside: whether a vector is out of bounds.
  """
  xp = backend.xp

  def unfinished(state: State):
    large = xp.abs(state.gradient).max() > tol * total
    return (large | (state.step > small_step)) & (state.iteration < max_iter)

  def improve(state: State) -> State:
    along = direction(state)
    slope = (state.gradient * along).sum()
    noise = 1e-15 * total * xp.abs(along).max()

    def beyond(trial):
      _, x, gradient, _, halvings = trial
      back = (gradient * along).sum() < -BEYOND * slope - noise
      forbidden = False if outside is None else outside(x)
      return (back | forbidden | ~xp.isfinite(gradient).all()) & (halvings < HALVINGS)

    def halve(trial):
      return at(trial[0] / 2, trial[-1] + 1)

    def at(length, halvings):
      x = state.x + length * along
      return (length, x, *evaluate(x), halvings)

    length, x, gradient, curvature, _ = backend.while_loop(beyond, halve, at(xp.ones(()), 0))
    return State(x, gradient, curvature, xp.abs(length * along).max(), state.iteration + 1)

  return backend.while_loop(unfinished, improve, State(start, *evaluate(start), xp.full((), np.inf), 0))


def conjugate_gradients(
  backend,
  multiply: Callable[[Array], Array],
  diagonal: Array,
  right: Array,
  accuracy,
  centred: Callable[[Array], Array],
) -> Array:
  """What `multiply`, a positive matrix f64[P, P] with that diagonal, turns into `right` f64[P] or f64[P, r].

  It ends when the squared residual, scaled by the diagonal, is `accuracy` squared of what it was. `centred` takes out
  what rounding adds along a direction in which the matrix is flat.
  """
  xp = backend.xp
  scale = 1 / xp.where(diagonal > 0, diagonal, 1.0)
  precondition = lambda v: (v.T * scale).T  # noqa: E731
  product = lambda a, b: (a * b).sum(axis=0)  # noqa: E731
  safe = lambda x: xp.where(x > 0, x, 1.0)  # of a column that is done  # noqa: E731
  scaled = precondition(right)
  energy = product(right, scaled)
  wanted = accuracy * accuracy * energy

  def unfinished(state):
    return (state[3] > wanted).any() & (state[4] < 4 * len(right))

  def improve(state):
    found, residual, along, energy, k = state
    image = multiply(along)
    length = energy / safe(product(along, image))
    residual = centred(residual - length * image)
    scaled = precondition(residual)
    new = product(residual, scaled)
    return found + length * along, residual, scaled + new / safe(energy) * along, new, k + 1

  return centred(backend.while_loop(unfinished, improve, (xp.zeros_like(right), right, scaled, energy, 0))[0])


def grounded(matrix: np.ndarray, items: int) -> np.ndarray:
  """A negative Hessian, flat along the common shift of its first `items` entries, made definite.

  Of the typical curvature c, c / items is added for every two items; its inverse has 1 / (c items) more for them.
  """
  matrix = matrix.copy()
  matrix[:items, :items] += np.trace(matrix[:items, :items]) / items**2
  return matrix
