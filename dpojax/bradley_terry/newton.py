"""Newton's steps to the strengths of counted comparisons, on NumPy or compiled.

Strengths are determined up to a shift only; it is fixed by their mean.
"""

from collections.abc import Callable

from dpojax.bradley_terry.numerics import CG_ACCURACY, COMPILED, HOST, SMALL_STEP, State, conjugate_gradients
from dpojax.bradley_terry.numerics import newton as ascend
from dpojax.bradley_terry.problem import Array, Curvature, Grid, Prior, Rows, Spec, Totals, dense, derivatives


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
