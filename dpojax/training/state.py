"""What training carries from step to step, and nothing else: this is what a checkpoint holds."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dpojax.training.update import UpdateRule
from dpojax.types import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """One pytree, donated to every step.

  Attributes:
    step: i32[], steps taken, skipped ones included; the next batch is a pure function of it.
    params: any pytree of floating-point arrays: one model's, or those of several, each under its name.
    opt_state: the optimizer's own.
    skipped: i32[], steps whose loss or gradient was not finite and which left the rest untouched.
    skipped_in_row: i32[], how many of the latest steps were so.
    reference: parameters of a moving reference, f32 as `params`; {} where it does not move.
    running: f32[] statistics that the loss carries from step to step, by name.
  """

  step: jax.Array
  params: Params
  opt_state: Any
  skipped: jax.Array
  skipped_in_row: jax.Array
  reference: Params = dataclasses.field(default_factory=dict)
  running: dict[str, jax.Array] = dataclasses.field(default_factory=dict)


def new_state(
  params: Params,
  rule: UpdateRule,
  reference: Params | None = None,
  running: dict[str, float] | None = None,
) -> TrainState:
  """The state before the first step."""
  # Four arrays and not one four times: a donated buffer may be given away only once.
  zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731
  statistics = {name: jnp.asarray(value, jnp.float32) for name, value in (running or {}).items()}
  return TrainState(
    zero(), params, rule.init(params), zero(), zero(), {} if reference is None else reference, statistics
  )
