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
  """Moments and decoupled decay, without clipping (see `make_update`); updates are to be scaled by minus the learning rate."""
  if settings.name == "adamw":
    scale = optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps)
  else:
    # eps outside the root, as PyTorch has it and the DPO paper's code therefore used it.
    scale = optax.scale_by_rms(decay=settings.rms_decay, eps=settings.eps, eps_in_sqrt=False)
  return optax.chain(scale, _decay(settings))


def _decay(settings: OptimizerSettings) -> optax.GradientTransformation:
  mask = lambda params: decay_mask(settings.decay_rule, params)  # noqa: E731
  return optax.add_decayed_weights(settings.weight_decay, mask=mask) if settings.weight_decay > 0 else optax.identity()


def make_update(settings: OptimizerSettings) -> Callable:
  """(params, opt_state, gradient, norm, sound, learning_rate) -> (params, opt_state), in place where they are donated.

  `norm` is the gradient's, for clipping; where `sound` (bool[]) is False both come back unchanged.

  The update is `make_optimizer`'s, but its direction is computed from the new moments and not beside them. If a
  program read the old moments for both, XLA would have to copy them before it may write the new ones in their
  place, and half of the update's time and 8 bytes a parameter would go to that.
  """
  moments, decay = make_optimizer(settings), _decay(settings)

  def update(params: Params, opt_state, gradient: Params, norm, sound, learning_rate):
    keep = lambda new, old: jnp.where(sound, new, old)  # noqa: E731  # fuses; `lax.cond` would copy the state
    if settings.clip_norm > 0:
      share = jnp.minimum(1.0, settings.clip_norm / norm)
      gradient = jax.tree.map(lambda g: share.astype(g.dtype) * g, gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer step counts
      _, new = moments.update(gradient, opt_state, params)
      new = jax.tree.map(keep, new, opt_state)
      updates, _ = decay.update(_direction(settings, new[0], gradient), new[1], params)
    change = lambda p, u: keep(p - learning_rate.astype(p.dtype) * u, p)  # noqa: E731
    return jax.tree.map(change, params, updates), new

  return update


def _direction(settings: OptimizerSettings, scale, gradient: Params) -> Params:
  """What optax's transformation of this name makes of the gradient, from its new state."""
  if settings.name == "adamw":
    mean = optax.tree.bias_correction(scale.mu, settings.b1, scale.count)
    square = optax.tree.bias_correction(scale.nu, settings.b2, scale.count)
    return jax.tree.map(lambda m, s: m / (jnp.sqrt(s) + settings.eps), mean, square)
  return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + settings.eps), gradient, scale.nu)


def gradient_norm(gradient: Params) -> jax.Array:
  """Euclidean norm of all arrays together.

  Squares of stacked layers are added up layer by layer: where XLA for CPU sums over all dimensions it stores all the
  squares first, which takes as much memory as the layers, and five times as long.
  """

  def squares(x):
    if x.ndim < 3:
      return jnp.sum(jnp.square(x))
    add = lambda i, total: total + jnp.square(x[i])  # noqa: E731
    return jnp.sum(jax.lax.fori_loop(0, x.shape[0], add, jnp.zeros(x.shape[1:], x.dtype)))

  return jnp.sqrt(sum(map(squares, jax.tree.leaves(gradient))))


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
