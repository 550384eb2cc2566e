"""One optimizer step over the row groups of a packed batch, and one evaluation, both jitted once."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from dpojax.config.schema import OptimizerSettings
from dpojax.models.language_model import LanguageModel
from dpojax.objectives import Objective
from dpojax.parallel import replicated, state_shardings
from dpojax.training.optimizer import make_optimizer, make_schedule
from dpojax.training.state import TrainState, new_state
from dpojax.types import Metrics, PackedBatch, Params

Step = Callable[[TrainState, Params, PackedBatch, dict], tuple[TrainState, Metrics]]


def accumulate(objective: Objective, params: Params, frozen: Params, batch: PackedBatch, hyper: dict):
  """Loss, gradient and metrics of a whole step, one row group at a time.

  The loop's trip count is traced (`batch.num_groups`), so steps that pack into fewer groups cost
  less and compile nothing new. Shares are divided by global totals before they are added, which
  makes the result independent of grouping.

  Returns:
    (loss f32[], gradient like params, Metrics).
  """
  totals = objective.totals(batch)
  differentiate = jax.value_and_grad(objective, has_aux=True)

  def group(index):
    (loss, metrics), gradient = differentiate(params, frozen, batch.group(index), totals, hyper)
    return loss, gradient, metrics

  def body(index, carry):
    return jax.tree.map(jnp.add, carry, group(index))

  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(group, 0))
  return jax.lax.fori_loop(0, batch.num_groups, body, zeros)


@functools.lru_cache(maxsize=8)
def make_train_step(objective: Objective, optimizer: OptimizerSettings, steps: int, mesh: Mesh) -> Step:
  """The jitted step: (state, frozen, batch, hyper) -> (state, metrics); the state is donated.

  Cached by its arguments, so runs that differ only in traced values (`hyper`: learning_rate, beta,
  label_smoothing ...) share one compilation. A step whose loss or gradient is not finite leaves
  parameters and moments untouched and is counted.
  """
  transformation = make_optimizer(optimizer)
  schedule = make_schedule(optimizer, steps)

  def train_step(state: TrainState, frozen: Params, batch: PackedBatch, hyper: dict):
    loss, gradient, metrics = accumulate(objective, state.params, frozen, batch, hyper)
    grad_norm = optax.global_norm(gradient)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    learning_rate = hyper["learning_rate"] * schedule(state.step)

    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer step counts
      updates, opt_state = transformation.update(gradient, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p - learning_rate.astype(p.dtype) * u, state.params, updates)
    # A select fuses into the update and works in place; `lax.cond` would copy the state.
    keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
    params = jax.tree.map(keep, params, state.params)
    opt_state = jax.tree.map(keep, opt_state, state.opt_state)
    skipped_now = (~finite).astype(jnp.int32)
    new = TrainState(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      skipped=state.skipped + skipped_now,
      skipped_in_row=(state.skipped_in_row + 1) * skipped_now,
    )
    new = jax.lax.with_sharding_constraint(new, state_shardings(mesh, new))
    one = jnp.ones((), jnp.float32)
    metrics = metrics | {
      "grad_norm": (grad_norm, one),
      "learning_rate": (learning_rate, one),
      "skipped": (new.skipped, one),
      "skipped_in_row": (new.skipped_in_row, one),
    }
    return new, metrics

  return jax.jit(train_step, donate_argnums=0)


@functools.lru_cache(maxsize=8)
def make_evaluation_step(objective: Objective) -> Callable[[Params, Params, PackedBatch, dict], Metrics]:
  """The jitted evaluation: (params, frozen, batch, hyper) -> metrics, without gradients."""

  def evaluate(params: Params, frozen: Params, batch: PackedBatch, hyper: dict) -> Metrics:
    totals = objective.totals(batch)

    def group(index):
      return objective(params, frozen, batch.group(index), totals, hyper)[1]

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(group, 0))
    return jax.lax.fori_loop(0, batch.num_groups, lambda i, m: jax.tree.map(jnp.add, m, group(i)), zeros)

  return jax.jit(evaluate)


@functools.lru_cache(maxsize=8)
def make_score_step(model: LanguageModel) -> Callable[[Params, PackedBatch], jax.Array]:
  """The jitted scorer of a whole step: (params, batch) -> f32[G, R, S] log-probs, 0 in empty slots."""

  def score(params: Params, batch: PackedBatch) -> jax.Array:
    def body(index, logps):
      return logps.at[index].set(model.score(params, batch.group(index)).logp)

    zeros = jnp.zeros(batch.target.shape, jnp.float32)
    return jax.lax.fori_loop(0, batch.num_groups, body, zeros)

  return jax.jit(score)


def place_state(params: Params, optimizer: OptimizerSettings, mesh: Mesh) -> TrainState:
  """A fresh state on the mesh, parameters copied so that the caller's survive donation."""
  transformation = make_optimizer(optimizer)
  shardings = state_shardings(mesh, jax.eval_shape(lambda p: new_state(p, transformation), params))
  params = jax.tree.map(jnp.copy, place_params(params, mesh))
  return jax.jit(lambda p: new_state(p, transformation), out_shardings=shardings, donate_argnums=0)(params)


def place_params(params: Params, mesh: Mesh) -> Params:
  """The parameters, laid out by the sharding rules; the same arrays where they are laid out so already."""
  return jax.device_put(params, state_shardings(mesh, params))


def place_hyper(hyper: dict[str, float], mesh: Mesh) -> dict[str, jax.Array]:
  """Python numbers as traced f32[] scalars."""
  return {k: jax.device_put(jnp.float32(v), replicated(mesh)) for k, v in hyper.items()}
