"""Optimizers from optax, without the learning rate: that is traced, so a sweep compiles once."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dpojax.config.schema import OptimizerSettings
from dpojax.types import Params

# Decay by name and never by the number of dimensions: stacked [layers, D] norm gains look like matrices.
MATRICES = frozenset({"query", "key", "value", "output", "gate", "up", "down"})
EMBEDDINGS = frozenset({"embed", "head"})


def decay_mask(rule: str, params: Params) -> Params:
  """bool for every parameter: whether `optimizer.decay_rule` lets it decay.

  `matrices` are the projections of attention and feed-forward blocks; `with_embeddings` adds the
  embedding and the head; `all` adds norms and biases.
  """
  names = {"matrices": MATRICES, "with_embeddings": MATRICES | EMBEDDINGS}.get(rule)
  return jax.tree_util.tree_map_with_path(lambda path, _: names is None or path[-1].key in names, params)


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
  """Clipping, moments and decoupled decay; its updates are to be scaled by minus the learning rate."""
  parts = []
  if settings.clip_norm > 0:
    parts.append(optax.clip_by_global_norm(settings.clip_norm))
  if settings.name == "adamw":
    parts.append(optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps))
  else:
    # eps outside the root, as PyTorch has it and the DPO paper's code therefore used it.
    parts.append(optax.scale_by_rms(decay=settings.rms_decay, eps=settings.eps, eps_in_sqrt=False))
  if settings.weight_decay > 0:
    mask = lambda params: decay_mask(settings.decay_rule, params)  # noqa: E731
    parts.append(optax.add_decayed_weights(settings.weight_decay, mask=mask))
  return optax.chain(*parts)


def make_schedule(settings: OptimizerSettings, steps: int) -> Callable[[jax.Array], jax.Array]:
  """step i32[] -> share f32[] of the peak learning rate; the first of W warm-up steps has 1 / W."""
  warmup = settings.warmup_steps
  decay_steps = max(steps - warmup, 1)
  final = settings.final_fraction
  main = {
    "constant": lambda: optax.constant_schedule(1.0),
    "linear": lambda: optax.linear_schedule(1.0, final, decay_steps),
    "cosine": lambda: optax.cosine_decay_schedule(1.0, decay_steps, alpha=final),
  }[settings.schedule]()

  def share(step):
    rising = (step + 1) / max(warmup, 1)
    with jax.numpy_dtype_promotion("standard"):  # optax divides integer step counts
      falling = main(jnp.maximum(step - warmup, 0))
    return jnp.where(step < warmup, rising, falling).astype(jnp.float32)

  return share


def without_learning_rate(settings: OptimizerSettings) -> OptimizerSettings:
  """The static part of the settings: equal ones share one compiled step."""
  return dataclasses.replace(settings, learning_rate=1.0)
