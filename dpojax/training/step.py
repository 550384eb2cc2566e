"""One optimizer step over the row groups of a packed batch, and one evaluation, both jitted once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Mesh

from dpojax.objectives import Objective
from dpojax.parallel import compiler_options, replicated, state_shardings
from dpojax.parallel.placement import place_params
from dpojax.training.in_place import InPlaceSum
from dpojax.training.optimizer import gradient_norm
from dpojax.training.state import TrainState, new_state
from dpojax.training.update import UpdateRule, strong
from dpojax.types import Declared, Metrics, PackedBatch, Params

Traced = tuple[ClosedJaxpr, Any]  # a function's jaxpr, and the shapes of what it returns
INDEX = jax.ShapeDtypeStruct((), jnp.int32)  # of a row group
trace = functools.partial(jax.make_jaxpr, return_shape=True)  # function -> arguments -> Traced


def accumulate(
  objective: Objective, params: Params, reference_params: Params, batch: PackedBatch, hyper: dict, *, keep: bool = False
):
  """Loss, gradient, metrics and, if asked for, outputs of a whole step, one row group at a time.

  The loop's trip count is traced (`batch.num_groups`), so steps that pack into fewer groups cost
  less and compile nothing new. Parts are divided by global normalizers before they are added, which
  makes the result independent of grouping. A coupled objective takes two passes over the groups: one
  forwards, and after the loss of the whole step is known, one that pulls its gradient back.

  Args:
    keep: whether to return what an uncoupled objective's `forward` says of every group.

  Returns:
    (loss f32[], gradient like params, Metrics, outputs [G, R, ...], {} if not kept).
  """
  if objective.coupled:
    return *_two_passes(objective, params, reference_params, batch, hyper), {}
  normalizers = objective.normalizers(batch)

  def group(index, carry):
    gradient, kept = carry
    rows = batch.group(index)

    def partial_loss(params, read):
      outputs = objective.forward(read(params), reference_params, rows)
      loss, metrics = objective.loss(outputs, rows, normalizers, hyper)
      return loss, (metrics, outputs if keep else {})

    loss, gradient, (metrics, outputs) = add_gradient(partial_loss, params, gradient, objective.parameters)
    kept = jax.tree.map(lambda all, one: all.at[index].set(one), kept, outputs)
    return (gradient, kept), (loss, metrics)

  kept = _empty_outputs(objective, params, reference_params, batch) if keep else {}
  start = jax.tree.map(jnp.zeros_like, params), kept
  (gradient, kept), (loss, metrics) = over_groups(trace(group)(INDEX, start), start, batch)
  return loss, gradient, metrics, kept


def _empty_outputs(objective: Objective, params: Params, reference_params: Params, batch: PackedBatch):
  """Zeros [G, R, ...] like what `forward` says of every group."""
  shapes = jax.eval_shape(lambda i: objective.forward(params, reference_params, batch.group(i)), INDEX)
  groups = batch.tokens.shape[0]
  return jax.tree.map(lambda x: jnp.zeros((groups, *x.shape), x.dtype), shapes)


def add_gradient(function: Callable, params: Params, total: Params, declared: Declared) -> tuple[Any, Params, Any]:
  """(value, total + gradient, rest) of (value, rest) = function(params, read), where it reads `read(params)`.

  Gradients of parameters declared `in_place` are added in place (`dpojax.ops.summed`), others when they are known.
  Where `function` does not read a declared parameter as that needs, its gradient is added like any other, and a
  warning says so: the sum is right in either case, but a second array of its size stands beside it.

  Args:
    function: differentiated by its first argument; called again where it misreads a declared parameter.
    params: the point; any pytree of arrays.
    total: like params, the sum so far; donated, it is written in place.
    declared: `Parameter` by path.
  """
  sums = InPlaceSum(params, total, declared)
  while True:
    try:
      (value, rest), gradient = jax.value_and_grad(function, has_aux=True)(sums.variables(), sums.read)
    except Exception as error:
      if not sums.give_up(error):
        raise
    else:
      if sums.is_sound():
        break
  sums.warn()
  return value, sums.added(gradient), rest


def _two_passes(objective: Objective, params: Params, reference_params: Params, batch: PackedBatch, hyper: dict):
  outputs = _forward_all(objective, params, reference_params, batch)
  normalizers = objective.normalizers(batch)
  rows = batch.flat()

  def whole_loss(outputs):
    return objective.loss(_join_groups(outputs), rows, normalizers, hyper)

  (loss, metrics), cotangent = jax.value_and_grad(whole_loss, has_aux=True)(outputs)

  def group(index, gradient):
    toward = jax.tree.map(lambda x: x[index], cotangent)

    def along(params, read):
      seen = objective.forward(read(params), reference_params, batch.group(index))
      return sum(jnp.sum(x * t) for x, t in zip(jax.tree.leaves(seen), jax.tree.leaves(toward), strict=True)), None

    return add_gradient(along, params, gradient, objective.parameters)[1], None

  zeros = jax.tree.map(jnp.zeros_like, params)
  gradient, _ = over_groups(trace(group)(INDEX, zeros), zeros, batch)
  return loss, gradient, metrics


def _forward_all(objective: Objective, params: Params, reference_params: Params, batch: PackedBatch, only: str = ""):
  """Outputs of every group, [G, R, ...]; 0 in groups that are not in use."""

  def group(index):
    outputs = objective.forward(params, reference_params, batch.group(index))
    return getattr(outputs, only) if only else outputs

  group, shapes = as_function(trace(group)(INDEX))

  def body(index, seen):
    return jax.tree.map(lambda all, one: all.at[index].set(one), seen, group(index))

  groups = batch.tokens.shape[0]
  zeros = jax.tree.map(lambda x: jnp.zeros((groups, *x.shape), x.dtype), shapes)
  return jax.lax.fori_loop(0, batch.num_groups, body, zeros)


def _join_groups(outputs):
  """[G, R, ...] -> [G * R, ...], as `PackedBatch.flat` does."""
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)


def sum_over_groups(function: Callable, batch: PackedBatch):
  """The sum of function(index) over the groups in use; a pytree."""
  return over_groups(trace(lambda index, _: (None, function(index)))(INDEX, None), None, batch)[1]


def over_groups(traced: Traced, carry, batch: PackedBatch):
  """Of (carry, value) = function(index, carry) over the groups in use: the last carry, and the sum of the values.

  Args:
    traced: trace(function)(INDEX, carry).
  """
  function, (_, value) = as_function(traced)

  def body(index, carry_and_sum):
    carry, total = carry_and_sum
    carry, value = function(index, carry)
    return carry, jax.tree.map(jnp.add, total, value)

  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), value)
  return jax.lax.fori_loop(0, batch.num_groups, body, (carry, zeros))


def as_function(traced: Traced) -> tuple[Callable, Any]:
  """The traced function, for arguments of the traced shapes only, and the shapes of what it returns.

  A loop needs the shapes before it traces its body, and tracing is most of a start from the compilation cache: traced
  once, a function serves for both.
  """
  jaxpr, shapes = traced
  tree = jax.tree.structure(shapes)
  return lambda *given: tree.unflatten(jaxpr_as_fun(jaxpr)(*jax.tree.leaves(given))), shapes


@functools.lru_cache(maxsize=8)
def make_train_step(objective: Objective, rule: UpdateRule, mesh: Mesh) -> jax.stages.Wrapped:
  """The jitted step: (state, reference_params, batch, hyper) -> (state, metrics); the state is donated.

  Cached by its arguments, so runs that differ only in traced values (`hyper`: learning_rate, beta,
  label_smoothing ...) share one compilation. A step whose loss or gradient is not finite leaves
  parameters and the optimizer's state untouched and is counted.
  """

  def train_step(state: TrainState, reference_params: Params, batch: PackedBatch, hyper: dict):
    reference = choose_reference(state, reference_params)
    loss, gradient, metrics, _ = accumulate(objective, state.params, reference, batch, hyper | state.running)
    grad_norm = gradient_norm(gradient)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    taken, settled = objective.settle(metrics, state.running, hyper)
    params, opt_state, of_update = rule.apply(
      state.params,
      state.opt_state,
      gradient,
      loss=loss,
      norm=grad_norm,
      finite=finite & taken,
      step=state.step,
      hyper=hyper,
    )
    measured = {name: metrics[name][0] / metrics[name][1] for name in state.running if name in metrics}
    running = {name: jnp.where(finite, (measured | settled).get(name, old), old) for name, old in state.running.items()}
    skipped_now = (~finite).astype(jnp.int32)
    new = TrainState(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      skipped=state.skipped + skipped_now,
      skipped_in_row=(state.skipped_in_row + 1) * skipped_now,
      reference=move_reference(state.reference, objective.policy(params), state.step + 1, hyper),
      running=running,
    )
    new = jax.lax.with_sharding_constraint(new, state_shardings(mesh, new, objective.parameters))
    one = jnp.ones((), jnp.float32)
    metrics = metrics | {
      "grad_norm": (grad_norm, one),
      **of_update,
      **({} if taken is True else {"taken": (jnp.asarray(taken, jnp.float32), one)}),
      "skipped": (new.skipped, one),
      "skipped_in_row": (new.skipped_in_row, one),
    }
    return new, metrics

  return jax.jit(train_step, donate_argnums=0, compiler_options=compiler_options(mesh))


@functools.lru_cache(maxsize=8)
def make_outputs(objective: Objective, mesh: Mesh) -> Callable[..., Any]:
  """The jitted outputs of a step's own forward pass: (params, reference_params, batch, hyper) -> [G, R, ...] of its groups.

  The pass is that of the loop whose gradient a step adds up, gradient included: a program that only went forward would be
  fused otherwise and round otherwise, by some 1e-6 of a nat a token in float32 and by thousandths in bfloat16.
  """

  def outputs(params: Params, reference_params: Params, batch: PackedBatch, hyper: dict):
    _, gradient, _, found = accumulate(objective, params, reference_params, batch, hyper, keep=True)
    return found, gradient_norm(gradient)  # or the gradient would be optimised away

  return jax.jit(outputs, compiler_options=compiler_options(mesh))


@functools.lru_cache(maxsize=8)
def make_forward(objective: Objective, only: str = "") -> Callable[[Params, Params, PackedBatch], Any]:
  """The jitted forward pass of a whole step: (params, reference_params, batch) -> outputs [G, R, ...] of its groups.

  Args:
    only: the one field of the outputs that is wanted, and computed; empty: all.
  """

  def forward(params: Params, reference_params: Params, batch: PackedBatch):
    return _forward_all(objective, params, reference_params, batch, only)

  return jax.jit(forward)


def choose_reference(state: TrainState, reference_params: Params) -> Params:
  """The moving reference that the state carries, or, where there is none, the one given."""
  return state.reference if jax.tree.leaves(state.reference) else reference_params


def move_reference(reference: Params, params: Params, step: jax.Array, hyper: dict) -> Params:
  """The reference after `step` steps: at every `reference_every`-th it moves towards the policy.

  reference <- mix * policy + (1 - mix) * reference, with `hyper["reference_mix"]` in (0, 1]; 1 puts it where the
  policy is. {} stays {}. TR-DPO (Gorbatovski et al. 2024, arXiv:2404.09656, Eq. 7 and 8: soft and hard).
  """
  if not jax.tree.leaves(reference):
    return reference
  due = step % hyper["reference_every"].astype(step.dtype) == 0
  mix = jnp.where(due, hyper["reference_mix"], 0.0)
  return jax.tree.map(lambda r, p: mix.astype(p.dtype) * p + (1 - mix).astype(r.dtype) * r, reference, params)


@functools.lru_cache(maxsize=8)
def make_evaluation_step(objective: Objective) -> Callable[[Params, Params, PackedBatch, dict], Metrics]:
  """The jitted evaluation: (params, reference_params, batch, hyper) -> metrics, without gradients."""

  def evaluate(params: Params, reference_params: Params, batch: PackedBatch, hyper: dict) -> Metrics:
    normalizers = objective.normalizers(batch)
    if objective.coupled:
      outputs = _join_groups(_forward_all(objective, params, reference_params, batch))
      return objective.loss(outputs, batch.flat(), normalizers, hyper)[1]

    def group(index):
      rows = batch.group(index)
      return objective.loss(objective.forward(params, reference_params, rows), rows, normalizers, hyper)[1]

    return sum_over_groups(group, batch)

  return jax.jit(evaluate)


def place_state(
  params: Params,
  rule: UpdateRule,
  mesh: Mesh,
  declared: Declared,
  reference: Params | None = None,
  running: dict[str, float] | None = None,
) -> TrainState:
  """A fresh state on the mesh, parameters (and those of a moving reference) copied so that the caller's survive donation."""
  reference = {} if reference is None else reference

  def fresh(params, reference):
    return new_state(jax.tree.map(strong, params), rule, reference, running)

  shardings = state_shardings(mesh, jax.eval_shape(fresh, params, reference), declared)
  copies = [jax.tree.map(jnp.copy, place_params(p, mesh, declared)) for p in (params, reference)]
  return jax.jit(fresh, out_shardings=shardings, donate_argnums=(0, 1))(*copies)


def place_hyper(hyper: dict[str, float], mesh: Mesh) -> dict[str, jax.Array]:
  """Python numbers as traced f32[] scalars."""
  return {k: jax.device_put(jnp.float32(v), replicated(mesh)) for k, v in hyper.items()}
