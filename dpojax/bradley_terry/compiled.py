"""Fits compiled by JAX in float64, whatever the caller's x64 setting; shapes are bucketed, so sizes share programs."""

import functools
from collections.abc import Sequence

import numpy as np

from dpojax.bradley_terry.numerics import COMPILED, State
from dpojax.bradley_terry.problem import Grid, Prior, Rows, Spec, Totals, totals
from dpojax.bradley_terry.solver import newton


def bucket(size: int, least: int = 32) -> int:
  """The next of 32, 48, 64, 96, 128, ...: at most half as much again as needed."""
  bound = least
  while bound < size:
    bound = bound * 3 // 2 if bound & (bound - 1) == 0 else bound // 3 * 4
  return bound


def solve(
  method: str, spec: Spec, layout: Grid | Rows | Totals, prior: Prior, start: np.ndarray, total, tol, max_iter
) -> State:
  """`solver.newton`, compiled; takes and gives NumPy arrays."""
  import jax

  n = bucket(spec.items)
  padded = Spec(n, spec.coefficients, spec.model)
  arrays = (pad(layout, spec.items, n), real(spec.items, n), pad_prior(prior, n), pad_vector(spec, start, n))
  with jax.enable_x64(True):
    state = _program(method, padded)(*arrays, float(total), float(tol), int(max_iter))
    state = jax.device_get(state)
  keep = np.concatenate([np.arange(spec.items), np.arange(n, padded.size)])
  return state._replace(x=np.asarray(state.x)[keep], gradient=np.asarray(state.gradient)[keep])


def solve_many(
  spec: Spec, layouts: Sequence[Grid], prior: Prior, start: np.ndarray, total, tol, max_iter, size: int
) -> np.ndarray:
  """f64[len(layouts), spec.size] estimates of many counts of the same items, `size` at once in one program.

  NaN where a fit did not come under `tol`.
  """
  import jax

  n = bucket(spec.items)
  padded = Spec(n, spec.coefficients, spec.model)
  filled = [*layouts, *[layouts[0]] * (size - len(layouts))]
  padded_layouts = [pad(totals(spec, layout), spec.items, n) for layout in filled]
  stacked = type(padded_layouts[0])(*(np.stack(x) for x in zip(*padded_layouts, strict=True)))
  with jax.enable_x64(True):
    state = _program("cg", padded, many=True)(
      stacked, real(spec.items, n), pad_prior(prior, n), pad_vector(spec, start, n), float(total), float(tol), max_iter
    )
    x, gradient = (np.asarray(y)[: len(layouts)] for y in jax.device_get((state.x, state.gradient)))
  good = np.abs(gradient).max(axis=1) <= tol * total
  keep = np.concatenate([np.arange(spec.items), np.arange(n, padded.size)])
  return np.where(good[:, None], x[:, keep], np.nan)


@functools.lru_cache(maxsize=64)
def _program(method: str, spec: Spec, many: bool = False):
  import jax

  def run(layout, *settings):
    state = newton(COMPILED, method, spec, layout, *settings)
    return state._replace(curvature=())

  return jax.jit(jax.vmap(run, in_axes=(0, *[None] * 6)) if many else run)


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
