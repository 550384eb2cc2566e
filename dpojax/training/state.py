"""What training carries from step to step, and nothing else: this is what a checkpoint holds."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from dpojax.types import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """One pytree, donated to every step.

  Attributes:
    step: i32[], steps taken, skipped ones included; the next batch is a pure function of it.
    params: nested dict of f32 arrays.
    opt_state: optax state.
    skipped: i32[], steps whose loss or gradient was not finite and which left the rest untouched.
    skipped_in_row: i32[], how many of the latest steps were so.
  """

  step: jax.Array
  params: Params
  opt_state: optax.OptState
  skipped: jax.Array
  skipped_in_row: jax.Array


def new_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step."""
  # Four arrays and not one four times: a donated buffer may be given away only once.
  zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731
  return TrainState(zero(), params, optimizer.init(params), zero(), zero())
