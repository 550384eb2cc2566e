"""How a step applies an optimizer: any optax transformation, or one that has an update in place."""

import contextlib
import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from dpojax.errors import ConfigError
from dpojax.types import Metrics, Params

RATE = "learning_rate"


class GradientTransformation(Protocol):
  """What optax calls so, by its two functions."""

  @property
  def init(self) -> Any: ...

  @property
  def update(self) -> Any: ...


class UpdateRule(Protocol):
  """What a step does with a gradient. Hashable: equal rules share one compiled step.

  An optimizer that can write parameters and moments where they lie has a method `in_place()` that returns such a rule,
  and the trainer uses it instead of `init` and `update`. Of any other the rule is `OptaxUpdate`.
  """

  def init(self, params: Params) -> Any:
    """The optimizer's state before the first step, a pytree."""
    ...

  def hyper(self, opt_state: Any) -> dict[str, float]:
    """Traced numbers that may be changed between steps, and where they start. Not part of the rule's equality."""
    ...

  def apply(
    self, params: Params, opt_state: Any, gradient: Params, *, loss, norm, finite, step, hyper
  ) -> tuple[Params, Any, Metrics]:
    """(parameters, state, metrics) after a step.

    Args:
      loss, norm: f32[] of the whole step; norm is the gradient's.
      finite: bool[]; False: parameters and state come back as they were.
      step: i32[], steps taken before this one.
      hyper: all traced numbers of the trainer, f32[] by name.
    """
    ...


def update_rule(optimizer: GradientTransformation) -> UpdateRule:
  """The rule by which a step applies `optimizer`.

  Raises:
    ConfigError: it is no optimizer.
  """
  if callable(getattr(optimizer, "in_place", None)):
    return optimizer.in_place()  # pyright: ignore[reportAttributeAccessIssue]
  if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
    raise ConfigError(
      f"optimizer is of {type(optimizer).__name__}, which has no `init` and `update`; give an optax transformation, "
      "or make_optimizer(settings, steps, objective.parameters)"
    )
  return OptaxUpdate(optimizer)


@dataclasses.dataclass(frozen=True)
class OptaxUpdate:
  """The update of an optax transformation as it is, learning rate and clipping included."""

  optimizer: GradientTransformation

  def init(self, params: Params) -> Any:
    with _promoting():
      return jax.tree.map(strong, self.optimizer.init(params))

  def hyper(self, opt_state: Any) -> dict[str, float]:
    """The learning rate, where `optax.inject_hyperparams` made it part of the state and no schedule sets it."""
    free = [float(node.hyperparams[RATE]) for node in _injected(opt_state) if not _is_scheduled(node)]
    return {RATE: free[0]} if free else {}

  def apply(
    self, params: Params, opt_state: Any, gradient: Params, *, loss, norm, finite, step, hyper
  ) -> tuple[Params, Any, Metrics]:
    del norm, step
    before = opt_state
    if RATE in hyper:
      before = _inject(opt_state, hyper[RATE])
    extra = {"value": loss, "grad": gradient} if _takes_more(self.optimizer) else {}
    with _promoting():
      updates, new = self.optimizer.update(gradient, before, params, **extra)
      moved = optax.apply_updates(params, updates)
    rates = [node.hyperparams[RATE] for node in _injected(new)]
    one = jnp.ones((), jnp.float32)
    metrics: Metrics = {RATE: (jnp.asarray(rates[0], jnp.float32), one)} if rates else {}

    def keep(new, old):
      new = jnp.asarray(new)
      return jnp.where(finite, new if new.dtype == old.dtype else new.astype(old.dtype), old)

    return jax.tree.map(keep, moved, params), jax.tree.map(keep, new, opt_state), metrics


def _promoting():
  """optax mixes integer counts with floats, and ranks."""
  stack = contextlib.ExitStack()
  stack.enter_context(jax.numpy_dtype_promotion("standard"))
  stack.enter_context(jax.numpy_rank_promotion("allow"))
  return stack


def strong(x: Any) -> jax.Array:
  """The array without JAX's mark that its type came from a Python number: the first step would lose it and compile anew."""
  x = jnp.asarray(x)
  return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else jax.lax.convert_element_type(x, x.dtype)


def _takes_more(optimizer: Any) -> bool:
  return isinstance(optimizer, optax.GradientTransformationExtraArgs)


def _holds_rate(node: Any) -> bool:
  return RATE in getattr(node, "hyperparams", ())


def _is_scheduled(node: Any) -> bool:
  return RATE in getattr(node, "hyperparams_states", ())


def _injected(opt_state: Any) -> list[Any]:
  """States of `optax.inject_hyperparams` that hold a learning rate."""
  return [node for node in jax.tree.leaves(opt_state, is_leaf=_holds_rate) if _holds_rate(node)]


def _inject(opt_state: Any, rate: jax.Array) -> Any:
  def put(node):
    if not _holds_rate(node):
      return node
    numbers = node.hyperparams
    return node._replace(hyperparams=numbers | {RATE: rate.astype(numbers[RATE].dtype)})

  return jax.tree.map(put, opt_state, is_leaf=_holds_rate)
