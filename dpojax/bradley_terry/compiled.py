"""Fits compiled by JAX in float64, whatever the caller's x64 setting; shapes are bucketed, so sizes share programs."""

import functools
from collections.abc import Sequence

import numpy as np

from dpojax.bradley_terry.newton import newton
from dpojax.bradley_terry.numerics import COMPILED, State
from dpojax.bradley_terry.problem import Grid, Prior, Rows, Spec, Totals, derivatives


def bucket(size: int, least: int = 32) -> int:
  """The next of 32, 48, 64, 96, 128, ...: at most half as much again as needed."""
  bound = least
  while bound < size:
    bound = bound * 3 // 2 if bound & (bound - 1) == 0 else bound // 3 * 4
  return bound


def solve(
  method: str, spec: Spec, layout: Grid | Rows | Totals, prior: Prior, start: np.ndarray, total, tol, max_iter
) -> State:
  """`newton.newton`, compiled; takes and gives NumPy arrays."""
  import jax

  n = bucket(spec.items)
  padded = Spec(n, spec.coefficients, spec.model)
  arrays = (pad(layout, spec.items, n), real(spec.items, n), pad_prior(prior, n), pad_vector(spec, start, n))
  with jax.enable_x64(True):
    state = _program(method, padded)(*arrays, float(total), float(tol), int(max_iter))
    state = jax.device_get(state)
  keep = np.concatenate([np.arange(spec.items), np.arange(n, padded.size)])
  return state._replace(x=np.asarray(state.x)[keep], gradient=np.asarray(state.gradient)[keep])


def refit_many(
  spec: Spec,
  layouts: Sequence[Grid | Rows | Totals],
  prior: Prior,
  start: np.ndarray,
  inverse: np.ndarray,
  total,
  tol,
  size: int,
) -> np.ndarray:
  """f64[len(layouts), spec.size] estimates of many counts of the same items, `size` at once in one program.

  Every step is `inverse` times the gradient. Counts that differ from those whose curvature it inverts by little more
  than chance need a few such steps, none of which forms a curvature. NaN where CHORDS of them were not enough.

  Args:
    layouts: grids, or the `problem.totals` of grids.
    start: f64[spec.size], an estimate near all of theirs.
    inverse: f64[spec.size, spec.size] of the negative Hessian there.
  """
  import jax

  filled = [*layouts, *[layouts[0]] * (size - len(layouts))]
  stacked = type(filled[0])(*(np.stack(x) for x in zip(*filled, strict=True)))
  with jax.enable_x64(True):
    x, largest = jax.device_get(_chords(spec)(stacked, prior, start, inverse, float(tol * total)))
  return np.where(largest[:, None] <= tol * total, x, np.nan)[: len(layouts)]


CHORDS = 30


@functools.lru_cache(maxsize=64)
def _chords(spec: Spec):
  import jax
  import jax.numpy as jnp

  def run(layout, prior, start, inverse, bound):
    def gradients(x):
      return jax.vmap(lambda data, x: derivatives(COMPILED, spec, data, prior, x)[0])(layout, x)

    def unfinished(state):
      _, gradient, count = state
      return (jnp.abs(gradient).max() > bound) & (count < CHORDS)

    def improve(state):
      x, gradient, count = state
      # Those that are done stay where they are, so that none depends on its company.
      open_ = jnp.abs(gradient).max(axis=1, keepdims=True) > bound
      x = x + jnp.where(open_, gradient @ inverse, 0.0)
      return x, gradients(x), count + 1

    first = jnp.broadcast_to(start, (layout[0].shape[0], *start.shape))
    x, gradient, _ = jax.lax.while_loop(unfinished, improve, (first, gradients(first), 0))
    return x, jnp.abs(gradient).max(axis=1)

  return jax.jit(run)


@functools.lru_cache(maxsize=64)
def _program(method: str, spec: Spec):
  import jax

  def run(layout, *settings):
    state = newton(COMPILED, method, spec, layout, *settings)
    return state._replace(curvature=())

  return jax.jit(run)


def pad(layout: Grid | Rows | Totals, items: int, n: int) -> Grid | Rows | Totals:
  """Counts of n items, the new ones without games; rows filled to a bucket with empty ones."""
  if not isinstance(layout, Rows):
    return type(layout)(*(x if x.shape == (1, 1) else np.pad(x, (0, n - items)) for x in layout))
  more = bucket(len(layout.first)) - len(layout.first)
  widths = lambda x: [(0, more)] + [(0, 0)] * (x.ndim - 1)  # noqa: E731
  absent = lambda x: x.shape == (1,) and len(layout.first) > 1  # noqa: E731
  return Rows(*(x if absent(x) else np.pad(x, widths(x)) for x in layout))


def pad_prior(prior: Prior, n: int) -> Prior:
  """The prior, which says nothing of padding."""
  return Prior(*(np.pad(x, (0, n - len(x))) for x in prior))


def real(items: int, n: int) -> np.ndarray:
  """f64[n] 1 for items, 0 for padding."""
  return (np.arange(n) < items).astype(float)


def pad_vector(spec: Spec, x: np.ndarray, n: int) -> np.ndarray:
  """The vector with zeros for items that are padding."""
  return np.concatenate([x[: spec.items], np.zeros(n - spec.items), x[spec.items :]])
