"""Preference losses: pure functions from log-probs to one value per pair, found by name.

A loss is `f(policy, reference, *, beta, ...) -> f32[B]`, unreduced. To add one, write the function in
the file of its family and name it in `LOSSES`; its keyword arguments are the options it reads from
the config's `loss` section, traced, so that changing them never recompiles.
"""

import inspect
from collections.abc import Callable

import jax

from dpojax.errors import ConfigError
from dpojax.losses.dpo import dpo
from dpojax.losses.hinge import hinge
from dpojax.losses.ipo import ipo, ipo_sum

Loss = Callable[..., jax.Array]

LOSSES: dict[str, Loss] = {f.__name__: f for f in (dpo, hinge, ipo, ipo_sum)}


def get_loss(name: str) -> Loss:
  """The loss called `name`; ConfigError for an unknown name, because nothing may stand in for it."""
  try:
    return LOSSES[name]
  except KeyError:
    raise ConfigError(f"loss.name: unknown loss {name!r}; known are {', '.join(sorted(LOSSES))}") from None


def loss_options(name: str) -> tuple[str, ...]:
  """The keyword options that the loss called `name` reads, such as ("beta", "label_smoothing")."""
  parameters = inspect.signature(get_loss(name)).parameters.values()
  return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
