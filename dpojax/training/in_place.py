"""Gradients added to a step's sum where it lies, for the parameters that a model declares fit for it."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp

from dpojax.ops.summed import Summed
from dpojax.types import Declared, Params


class InPlaceSum:
  """A sum of gradients, and the declared parameters whose gradient is added to it in place (see `dpojax.ops.summed`).

    (value, rest), gradient = jax.value_and_grad(function, has_aux=True)(sums.variables(), sums.read)

  with function(variables, read) that reads `read(variables)`. Where `is_sound`, total + gradient is `added(gradient)`;
  otherwise misread parameters have been given up, and the same again gets on without them.

  Args:
    params: the point; any pytree of arrays.
    total: like params, the sum so far.
    declared: `Parameter` by path.
  """

  def __init__(self, params: Params, total: Params, declared: Declared):
    self._params, self._total = params, total
    shapes = {path: x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}
    known = jax.tree_util.tree_leaves_with_path(declared)
    self._paths = {path for path, parameter in known if parameter.in_place and shapes.get(path) == parameter.shape}
    self._summed: dict[Any, Summed] = {}
    self._misread: dict[Any, str] = {}

  def variables(self) -> Params:
    """What is differentiated: the parameters, and zeros in place of those whose gradient is added in place."""
    return _each(lambda path, x: jnp.zeros_like(x) if path in self._paths else x, self._params)

  def read(self, variables: Params) -> Params:
    """The parameters as a model reads them: a `Summed` where the gradient is added in place."""

    def leaf(path, x, variable, so_far):
      if path not in self._paths:
        return variable
      self._summed[path] = Summed(x, variable, so_far)
      return self._summed[path]

    return _each(leaf, self._params, variables, self._total)

  def added(self, gradient: Params) -> Params:
    """The sum with the gradient by `variables`."""
    return _each(lambda path, t, g: g if path in self._paths else t + g, self._total, gradient)

  def is_sound(self) -> bool:
    """Whether every parameter was read as it must be; gives up those that were not."""
    wrong = {path: why for path, leaf in self._summed.items() if (why := leaf.misread())}
    self._drop(wrong)
    return not wrong

  def give_up(self, error: Exception) -> bool:
    """Gives up all parameters, one of which may have been taken for an array; False where none was left.

    If that was not it, the next try raises the same of arrays.
    """
    if not self._paths:
      return False
    self._drop(dict.fromkeys(self._paths, f"cannot be read: {type(error).__name__}: {error}"))
    return True

  def warn(self) -> None:
    """Says which parameters were given up, and why."""
    groups: dict[str, list[str]] = {}
    for path, why in self._misread.items():
      groups.setdefault(why, []).append(jax.tree_util.keystr(path, simple=True, separator="/"))
    if groups:
      what = "; ".join(f"{', '.join(sorted(names))} {why}" for why, names in groups.items())
      warnings.warn(
        f"gradients are added beside the step's sum and not in place, which takes as much memory again as these "
        f"parameters: {what}. See dpojax.ops.summed",
        stacklevel=2,
      )

  def _drop(self, wrong: dict[Any, str]) -> None:
    self._misread |= wrong
    self._paths -= wrong.keys()
    self._summed = {}


_each = jax.tree_util.tree_map_with_path
