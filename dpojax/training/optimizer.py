"""The built-in optimizers: optax's, with an update in place and a traced learning rate, so that a sweep compiles once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dpojax.config.schema import OptimizerSettings
from dpojax.errors import ConfigError
from dpojax.types import Declared, Metrics, Params

# What `optimizer.decay_rule` lets decay, of the kinds that a `Parameter` may be.
DECAY_RULES: dict[str, tuple[str, ...]] = {
  "matrices": ("matrix",),
  "with_embeddings": ("matrix", "embedding"),
  "all": ("matrix", "embedding", "none"),
}


def make_optimizer(settings: OptimizerSettings, steps: int, declared: Declared = None) -> "Optimizer":
  """AdamW, in PyTorch's or TensorFlow's form, or RMSprop, with clipping, decoupled decay and a schedule.

  Args:
    settings: see `config.schema`.
    steps: planned length of the run, at whose end the schedule ends.
    declared: of the parameters that are trained (`objective.parameters`), says which of them decay.

  Raises:
    ConfigError: something decays, and nothing is declared that says what.
  """
  if settings.weight_decay == 0:
    return Optimizer(settings, steps, frozenset())
  if settings.decay_rule == "all":
    return Optimizer(settings, steps, None)
  if not jax.tree.leaves(declared):
    raise ConfigError(
      f"optimizer.decay_rule={settings.decay_rule}: nothing says what the parameters are; give make_optimizer the "
      "objective's `parameters`, or choose decay_rule=all or weight_decay=0"
    )
  mask = jax.tree_util.tree_leaves_with_path(decay_mask(settings.decay_rule, declared))
  return Optimizer(settings, steps, frozenset(jax.tree_util.keystr(path) for path, decays in mask if decays))


def decay_mask(rule: str, declared: Declared) -> Any:
  """bool for every declared parameter: whether `optimizer.decay_rule` lets it decay.

  `matrices` are the projections of attention and feed-forward blocks; `with_embeddings` adds the
  embedding and the head; `all` adds norms and biases. Never by the number of dimensions: stacked [layers, D] norm gains
  look like matrices.
  """
  return jax.tree.map(lambda parameter: parameter.decay in DECAY_RULES[rule], declared)


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """A gradient transformation as optax's are, which goes into `optax.chain` too; equal settings are equal optimizers.

  A trainer does not call `update`: it takes `in_place()`, which gives the same numbers.

  Attributes:
    settings: see `config.schema`.
    steps: length of the schedule.
    decayed: paths of parameters that decay, as `jax.tree_util.keystr` writes them; None: all.
  """

  settings: OptimizerSettings
  steps: int
  decayed: frozenset[str] | None

  def init(self, params: Params) -> Any:
    return self._chain().init(params)

  def update(self, updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
    """As optax's: updates are to be added to the parameters, the learning rate is in them."""
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer step counts
      return self._chain().update(updates, state, params)

  def in_place(self) -> "InPlaceUpdate":
    """See `training.update.UpdateRule`."""
    static = dataclasses.replace(self.settings, learning_rate=1.0)
    return InPlaceUpdate(static, self.steps, self.decayed, self.settings.learning_rate)

  def _chain(self) -> optax.GradientTransformation:
    settings, fraction = self.settings, make_schedule(self.settings, self.steps)
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm > 0 else optax.identity()
    rate = optax.scale_by_learning_rate(lambda count: settings.learning_rate * fraction(jnp.asarray(count)))
    return optax.chain(clip, make_moments(settings), make_decay(settings, self.decayed), rate)


@dataclasses.dataclass(frozen=True)
class InPlaceUpdate:
  """A built-in optimizer as the step applies it: an `UpdateRule`.

  Attributes:
    settings: all but the learning rate, which is traced; equal ones share one compiled step.
    steps, decayed: see `Optimizer`.
    learning_rate: where `hyper["learning_rate"]` starts.
  """

  settings: OptimizerSettings
  steps: int
  decayed: frozenset[str] | None
  learning_rate: float = dataclasses.field(default=1.0, compare=False)

  @property
  def last_step(self) -> int | None:
    """The step after which the learning rate is 0; None: it never is."""
    falls = self.settings.schedule != "constant" and self.settings.final_fraction == 0
    return self.steps if falls else None

  def init(self, params: Params) -> Any:
    return optax.chain(make_moments(self.settings), make_decay(self.settings, self.decayed)).init(params)

  def hyper(self, opt_state: Any) -> dict[str, float]:
    del opt_state
    return {"learning_rate": self.learning_rate}

  def apply(
    self, params: Params, opt_state: Any, gradient: Params, *, loss, norm, finite, step, hyper
  ) -> tuple[Params, Any, Metrics]:
    del loss
    learning_rate = hyper["learning_rate"] * make_schedule(self.settings, self.steps)(step)
    update = make_update(self.settings, self.decayed)
    params, opt_state = update(params, opt_state, gradient, norm, finite, learning_rate)
    return params, opt_state, {"learning_rate": (learning_rate, jnp.ones((), jnp.float32))}


def make_moments(settings: OptimizerSettings) -> optax.GradientTransformation:
  """The optimizer's moments, and the direction they give."""
  if settings.name == "rmsprop":
    # eps outside the root, as PyTorch has it and the DPO paper's code therefore used it.
    return optax.scale_by_rms(decay=settings.rms_decay, eps=settings.eps, eps_in_sqrt=False)
  adam = optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps)
  if settings.name == "adamw":
    return adam

  def update(updates, state, params=None):
    _, state = adam.update(updates, state, params)
    return _direction(settings, state, updates), state

  return optax.GradientTransformation(adam.init, update)


def make_decay(settings: OptimizerSettings, decayed: frozenset[str] | None) -> optax.GradientTransformation:
  """Adds decoupled decay to the direction."""
  if settings.weight_decay == 0:
    return optax.identity()

  def mask(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, _: decayed is None or jax.tree_util.keystr(path) in decayed, params
    )

  return optax.add_decayed_weights(settings.weight_decay, mask=mask)


def make_update(settings: OptimizerSettings, decayed: frozenset[str] | None) -> Callable:
  """(params, opt_state, gradient, norm, finite, learning_rate) -> (params, opt_state), in place where they are donated.

  `norm` is the gradient's, for clipping; where `finite` (bool[]) is False both come back unchanged.

  The direction is computed from the new moments and not beside them. If a program read the old moments for both, XLA
  would have to copy them before it may write the new ones in their place, and half of the update's time and 8 bytes a
  parameter would go to that.
  """
  moments, decay = make_moments(settings), make_decay(settings, decayed)

  def update(params: Params, opt_state, gradient: Params, norm, finite, learning_rate):
    keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731  # fuses; `lax.cond` would copy the state
    if settings.clip_norm > 0:
      factor = jnp.minimum(1.0, settings.clip_norm / norm)
      gradient = jax.tree.map(lambda g: factor.astype(g.dtype) * g, gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer step counts
      scale, unchanged = opt_state
      _, scale_now = moments.update(gradient, scale, params)
      scale_now = jax.tree.map(keep, scale_now, scale)
      updates, unchanged = decay.update(_direction(settings, scale_now, gradient), unchanged, params)
    change = lambda p, u: keep(p - learning_rate.astype(p.dtype) * u, p)  # noqa: E731
    return jax.tree.map(change, params, updates), (scale_now, unchanged)

  return update


def _direction(settings: OptimizerSettings, scale, gradient: Params) -> Params:
  """What the transformation of this name makes of the gradient, from its new state."""
  if settings.name == "rmsprop":
    return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + settings.eps), gradient, scale.nu)
  mean = optax.tree.bias_correction(scale.mu, settings.b1, scale.count)
  square = optax.tree.bias_correction(scale.nu, settings.b2, scale.count)
  eps = jnp.asarray(settings.eps)
  if settings.name == "adamw_tensorflow":
    # TensorFlow adds eps to the root of the biased moment, and corrects what comes out: eps / sqrt(1 - b2^t) here.
    eps = eps / jnp.sqrt(1 - settings.b2**scale.count)
  return jax.tree.map(lambda m, s: m / (jnp.sqrt(s) + eps.astype(s.dtype)), mean, square)


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
  """step i32[] -> fraction f32[] of the peak learning rate; the first of W warm-up steps has 1 / W."""
  warmup = settings.warmup_steps
  decay_steps = max(steps - warmup, 1)
  final = settings.final_fraction
  main = {
    "constant": lambda: optax.constant_schedule(1.0),
    "linear": lambda: optax.linear_schedule(1.0, final, decay_steps),
    "cosine": lambda: optax.cosine_decay_schedule(1.0, decay_steps, alpha=final),
  }[settings.schedule]()

  def fraction(step):
    rising = (step + 1) / max(warmup, 1)
    with jax.numpy_dtype_promotion("standard"):  # optax divides integer step counts
      falling = main(jnp.maximum(step - warmup, 0))
    return jnp.where(step < warmup, rising, falling).astype(jnp.float32)

  return fraction
