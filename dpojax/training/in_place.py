"""Gradients added to a step's sum where it lies, for the parameters that a model declares fit for it."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dpojax.ops.summed import Summed
from dpojax.types import Declared, Params


def add_gradient(function: Callable, params: Params, total: Params, declared: Declared) -> tuple[Any, Params, Any]:
  """(value, total + gradient, rest) of (value, rest) = function(params).

  Gradients of parameters declared `in_place` are added in place (`dpojax.ops.summed`), others when they are known.
  Where `function` does not read a declared parameter as that needs, its gradient is added like any other, and a
  warning says so: the sum is right in either case, but a second array of its size stands beside it.

  Args:
    function: parameters -> (value f32[], anything); called again where it misreads a declared parameter.
    params: the point; any pytree of arrays.
    total: like params, the sum so far; donated, it is written in place.
    declared: `Parameter` by path.
  """
  shapes = {path: x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}
  known = jax.tree_util.tree_leaves_with_path(declared)
  paths = {path for path, parameter in known if parameter.in_place and shapes.get(path) == parameter.shape}
  misread: dict[Any, str] = {}
  found: tuple[Any, Params, Any] | None = None
  while True:
    try:
      found, wrong = _added(function, params, total, paths)
    except Exception as error:
      if not paths:
        raise
      # It may be that a `Summed` was taken for an array. If it is not, the next try says the same of arrays.
      wrong = dict.fromkeys(paths, f"cannot be read: {type(error).__name__}: {error}")
    misread |= wrong
    paths -= wrong.keys()
    if not wrong:
      break
  if misread:
    _warn(misread)
  assert found is not None
  return found


def _added(function: Callable, params: Params, total: Params, paths: set):
  """What `add_gradient` returns, adding in place at `paths`; and {path: what is wrong} of those that were misread."""
  each = jax.tree_util.tree_map_with_path
  summed: dict[Any, Summed] = {}

  def seeded(varied):
    def leaf(path, x, v, so_far):
      if path not in paths:
        return v
      summed[path] = Summed(x, v, so_far)
      return summed[path]

    return function(each(leaf, params, varied, total))

  varied = each(lambda path, x: jnp.zeros_like(x) if path in paths else x, params)
  (value, rest), gradient = jax.value_and_grad(seeded, has_aux=True)(varied)
  added = each(lambda path, t, g: g if path in paths else t + g, total, gradient)
  return (value, added, rest), {path: wrong for path, leaf in summed.items() if (wrong := leaf.misread())}


def _warn(misread: Mapping[Any, str]) -> None:
  groups: dict[str, list[str]] = {}
  for path, wrong in misread.items():
    groups.setdefault(wrong, []).append(jax.tree_util.keystr(path, simple=True, separator="/"))
  what = "; ".join(f"{', '.join(sorted(names))} {wrong}" for wrong, names in groups.items())
  warnings.warn(
    f"gradients are added beside the step's sum and not in place, which takes as much memory again as these "
    f"parameters: {what}. See dpojax.ops.summed",
    stacklevel=2,
  )
