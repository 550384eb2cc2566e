"""What losses are given: the names of arrays, apart from options, and the check that their shapes fit.

Every loss is wrapped in `checked` or `checked_rankings`, so that a column [B, 1] beside [B] is an error and not a
square [B, B] of values.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp

from dpojax.errors import ShapeError

P = ParamSpec("P")

# One number an example, or an answer of a ranking. What is not among DATA is an option.
NUMBERS = frozenset(
  {
    *("chosen", "rejected", "reference_chosen", "reference_rejected", "chosen_kl", "rejected_kl", "prompt", "margin"),
    *("logp", "reference_logp", "mismatched", "reference_mismatched", "opponent", "reward", "label", "weight"),
  }
)
COUNTS = frozenset({"chosen_length", "rejected_length", "prompt_length", "length"})
FLAGS = frozenset({"desirable", "present"})
SCALARS = frozenset({"pairs_per_token"})
DATA = NUMBERS | COUNTS | FLAGS | SCALARS

OF_ANSWERS = frozenset({"logp", "reference_logp", "length", "reward", "present"})  # [B, K] in losses of rankings
WANTED = {1: "[B], one number an example", 2: "[B, K], one number an answer"}


def checked(loss: Callable[P, jax.Array]) -> Callable[P, jax.Array]:
  """The loss on JAX arrays of one shape [B], made of lists, NumPy or JAX arrays; its options are single numbers.

  The wrapped function raises ShapeError, which names both arrays and their shapes, where they do not fit together.
  """
  return _checked(loss, frozenset())


def checked_rankings(loss: Callable[P, jax.Array]) -> Callable[P, jax.Array]:
  """As `checked`, with the arrays of `OF_ANSWERS` of one shape [B, K]."""
  return _checked(loss, OF_ANSWERS)


def data_of(loss: Callable) -> tuple[str, ...]:
  """The names of the arrays that a loss takes, in its order."""
  return tuple(name for name in inspect.signature(loss).parameters if name in DATA)


def options_of(loss: Callable) -> tuple[str, ...]:
  """The names of a loss's options, such as ("beta", "label_smoothing")."""
  return tuple(name for name in inspect.signature(loss).parameters if name not in DATA)


def _checked(loss: Callable[P, jax.Array], of_answers: frozenset[str]) -> Callable[P, jax.Array]:
  parameters = [p.name for p in inspect.signature(loss).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]

  @functools.wraps(loss)
  def on_arrays(*args: P.args, **options: P.kwargs) -> jax.Array:
    positional: Any = [_array(name, value) for name, value in zip(parameters, args, strict=False)]
    given: Any = {name: _array(name, value) for name, value in options.items()}
    _check(loss.__name__, dict(zip(parameters, positional, strict=False)) | given, of_answers)
    return loss(*positional, *args[len(parameters) :], **given)  # pyright: ignore[reportCallIssue]

  setattr(on_arrays, "checks", on_arrays)  # noqa: B010  # told from a function that is wrapped round it
  return on_arrays


def is_checked(loss: Callable) -> bool:
  """Whether it is a function that `checked` or `checked_rankings` gave, and not one that was wrapped round it."""
  return getattr(loss, "checks", None) is loss


def unchecked(loss: Callable) -> Callable:
  """The function as it was before `checked`. What its author wrapped it in, such as `jax.custom_jvp`, stays."""
  return loss.__wrapped__ if is_checked(loss) else loss  # pyright: ignore[reportFunctionMemberAccess]


def check_values(loss: str, values: Any, examples: int) -> jax.Array:
  """What a loss gave, f32[B]; ShapeError where it is a mean, a column or a square, which would be summed as if it were not."""
  if values is None or jnp.shape(values) != (examples,):
    found = "None" if values is None else list(jnp.shape(values))
    raise ShapeError(f"{loss}: it gives {found}, and must give one number an example, [{examples}]")
  return jnp.asarray(values)


def _array(name: str, value: Any) -> Any:
  """Data as a JAX array of its kind; options, and data that are left out, as they are."""
  if name not in DATA - SCALARS or value is None:
    return value
  array = jnp.asarray(value)
  if name in FLAGS:
    return array.astype(bool)
  if name in NUMBERS and not jnp.issubdtype(array.dtype, jnp.floating):
    return array.astype(float)
  return array


def _check(loss: str, given: dict[str, Any], of_answers: frozenset[str]) -> None:
  """Raises ShapeError unless all arrays agree about B and K, and all options are single numbers."""
  shapes = {name: jnp.shape(value) for name, value in given.items() if name in DATA - SCALARS and value is not None}
  axes = {name: 1 + (name in of_answers) for name in shapes}
  # All are compared with the first that has as many axes as it should, where there is one.
  first = next((name for name, shape in shapes.items() if len(shape) == axes[name]), next(iter(shapes), ""))
  for name, shape in shapes.items():
    both = min(axes[name], axes[first])
    if len(shape) != axes[name] or shape[:both] != shapes[first][:both]:
      other = first if name != first else next((other for other in shapes if other != name), "")
      beside = f" and {other} has {list(shapes[other])}" if other else ""
      raise ShapeError(f"{loss}: {name} has shape {list(shape)}{beside}; {name} wants {WANTED[axes[name]]}")
  for name, value in given.items():
    if name not in shapes and value is not None and not callable(value) and jnp.shape(value) != ():
      raise ShapeError(f"{loss}: {name} has shape {list(jnp.shape(value))}; it must be one number")
