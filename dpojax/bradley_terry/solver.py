"""Newton's method for strengths: one algorithm, on the host (NumPy, SciPy) or compiled (JAX).

Each step solves with the negative Hessian, by Cholesky or by preconditioned conjugate gradients, and is halved while
it leads beyond the maximum along its line. Strengths are determined up to a shift only; it is fixed by their mean.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from dpojax.bradley_terry.problem import Array, Curvature, Grid, Prior, Rows, Spec, Totals, dense, derivatives

# After a Newton step of this size the error is about its square (Cholesky), or a hundredth of it at worst (conjugate
# gradients, which solve to the relative accuracy of the step before, within bounds).
SMALL_STEP = dict(cholesky=1e-6, cg=1e-7)
CG_ACCURACY = (1e-6, 1e-2)
BEYOND = 0.1  # share of the slope at the start that may be left, backwards, at the end of a step
HALVINGS = 60


class State(NamedTuple):
  """Where Newton's method is. `step` is the largest change of the last step, `spent` all conjugate-gradient steps."""

  x: Array
  gradient: Array
  curvature: Curvature
  step: Array
  iteration: Array
  spent: Array


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
  def solve(matrix, vector):
    from scipy import linalg

    try:
      return linalg.cho_solve(linalg.cho_factor(matrix, check_finite=False), vector, check_finite=False)
    except linalg.LinAlgError:  # flat to rounding: the shortest step that solves it
      return np.linalg.lstsq(matrix, vector, rcond=1e-14)[0]

  @staticmethod
  def laplacian(spec: Spec, data: Rows, curvature: Curvature):
    from scipy import sparse

    n = spec.items
    half = sparse.csr_array((curvature.weight, (data.first, data.second)), shape=(n, n))
    adjacency = half + half.T
    return lambda v: curvature.degree * v - adjacency @ v


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
  def solve(matrix, vector):
    import jax

    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), vector)

  def laplacian(self, spec: Spec, data: Rows, curvature: Curvature):
    def multiply(v):
      flow = curvature.weight * (v[data.first] - v[data.second])
      return self.scatter(data.first, flow, spec.items) - self.scatter(data.second, flow, spec.items)

    return multiply


HOST, COMPILED = Host(), Compiled()


def newton(
  backend,
  method: str,
  spec: Spec,
  data: Grid | Rows | Totals,
  prior: Prior,
  real: Array,
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

  def evaluate(x):
    return derivatives(backend, spec, data, prior, x)

  def direction(state: State):
    gradient, curvature = state.gradient, state.curvature
    if method == "cholesky":
      ground = xp.where(proper, 0.0, curvature.degree.sum() / items**2)
      if backend is COMPILED:
        ground = ground * (real[:, None] * real[None, :])
      matrix = dense(backend, spec, data, curvature, diagonal=1 - real, ground=ground)
      return centred(backend.solve(matrix, gradient)), 0
    return conjugate_gradients(gradient, curvature, xp.clip(state.step, *CG_ACCURACY))

  def conjugate_gradients(gradient, curvature, accuracy):
    if not isinstance(data, Rows):
      laplacian = lambda v: curvature.degree * v - curvature.weight @ v  # noqa: E731
    else:
      laplacian = backend.laplacian(spec, data, curvature)
    beside = spec.size - n

    def multiply(v):
      top = laplacian(v[:n]) + curvature.diagonal * v[:n]
      if not beside:
        return top + padding * v
      below = curvature.border.T @ v[:n] + curvature.corner @ v[n:]
      return xp.concatenate([top + curvature.border @ v[n:], below]) + padding * v

    diagonal = xp.concatenate([curvature.degree + curvature.diagonal, xp.diagonal(curvature.corner)]) + padding
    scale = 1 / xp.where(diagonal > 0, diagonal, 1.0)
    wanted = accuracy * accuracy * (gradient * scale * gradient).sum()

    def unfinished(state):
      _, _, _, energy, k = state
      return (energy > wanted) & (k < 4 * n)

    def improve(state):
      found, residual, along, energy, k = state
      image = multiply(along)
      length = energy / (along * image).sum()
      found = found + length * along
      residual = centred(residual - length * image)
      scaled = scale * residual
      new = (residual * scaled).sum()
      return found, residual, scaled + (new / energy) * along, new, k + 1

    scaled = scale * gradient
    begin = (xp.zeros_like(gradient), gradient, scaled, (gradient * scaled).sum(), 0 * spec.size)
    found, _, _, _, k = backend.while_loop(unfinished, improve, begin)
    return centred(found), k

  def unfinished(state: State):
    large = xp.abs(state.gradient).max() > tol * total
    return (large | (state.step > SMALL_STEP[method])) & (state.iteration < max_iter)

  def improve(state: State) -> State:
    along, spent = direction(state)
    slope = (state.gradient * along).sum()
    noise = 1e-15 * total * xp.abs(along).max()

    def beyond(trial):
      _, x, gradient, _, halvings = trial
      back = (gradient * along).sum() < -BEYOND * slope - noise
      outside = (x[-1] <= 0) if spec.model == "rao_kupper" else False
      return (back | outside | ~xp.isfinite(gradient).all()) & (halvings < HALVINGS)

    def halve(trial):
      length, _, _, _, halvings = trial
      return at(length / 2, halvings + 1)

    def at(length, halvings):
      x = state.x + length * along
      return (length, x, *evaluate(x), halvings)

    length, x, gradient, curvature, _ = backend.while_loop(beyond, halve, at(xp.ones(()), 0))
    return State(x, gradient, curvature, xp.abs(length * along).max(), state.iteration + 1, state.spent + spent)

  begin = State(start, *evaluate(start), xp.full((), np.inf), 0, 0)
  return backend.while_loop(unfinished, improve, begin)
