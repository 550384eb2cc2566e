"""The trainer: a state, a compiled step and the batches it reads. No disk, no screen."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from dpojax.config.schema import ParallelSettings
from dpojax.data.batches import prefetch
from dpojax.errors import ConfigError
from dpojax.objectives import Objective
from dpojax.parallel import batch_shardings, check_one_process, make_mesh, state_shardings
from dpojax.parallel.placement import place_params
from dpojax.training.hyper import start_hyper
from dpojax.training.state import TrainState
from dpojax.training.step import (
  choose_reference,
  make_evaluation_step,
  make_forward,
  make_outputs,
  make_train_step,
  place_hyper,
  place_state,
)
from dpojax.training.update import GradientTransformation, update_rule
from dpojax.types import Metrics, PackedBatch, Params


class BatchSource(Protocol):
  """step -> packed batch: `Batches`, or one that attaches reference log-probs: pure functions, called ahead in a thread.

  One whose batches depend on the parameters, such as roll-outs, has `ahead = False`: it is called step by step, after
  the step before was dispatched. It may have `begins(step)`: whether a batch waits for the step before it to be done.
  """

  def __call__(self, step: int) -> PackedBatch: ...

  def num_tokens(self, step: int) -> int: ...


class DatasetBatches(BatchSource, Protocol):
  """Batches of a data set that is known from the start."""

  def in_order(self) -> Iterator[PackedBatch]: ...

  @property
  def steps_per_epoch(self) -> int: ...


class Trainer:
  """Takes optimizer steps and evaluations; everything it carries between steps is `state`.

  It knows pytrees and gradient transformations, no model: what `objective.parameters` declares says how parameters lie
  on devices. Two trainers whose objective, optimizer (but for a traced learning rate) and mesh are equal share one
  compiled step. `hyper` holds the traced numbers by name and may be changed between steps:
  `trainer.hyper["beta"] = 0.5` takes effect at once and compiles nothing. `when_compiled` is called once, after the
  step's compilation and before the step first runs; that goes on in the context of `while_compiling`.

  Args:
    objective: what to minimise.
    optimizer: any optax transformation, which clips, decays and schedules its learning rate by itself; or
      `training.optimizer.make_optimizer(settings, steps, objective.parameters)`, whose update is made in place and
      whose learning rate is in `hyper`.
    params: the start, any pytree of floating-point arrays; copied, so they survive donation.
    reference_params: parameters of a live reference, or None. Arrays already on the devices are used as they are, not
      copied: give no trainer's own `params`, which its next step donates.
    moving_reference: initial parameters of a reference that follows the policy (`hyper["reference_every"]`,
      `hyper["reference_mix"]`) and is part of the state; copied.
    hyper: further traced numbers: beta, label_smoothing.
    mesh: devices; None: all of them along the data axis.

  Attributes:
    waited: seconds that the latest step of `steps` waited for its batch.
    last_step: the one after which a built-in optimizer's learning rate is 0; None: it never is, or only optax knows.

  Raises:
    ConfigError: there are several processes, the parameters do not divide by the mesh, or `optimizer` is none.
  """

  def __init__(
    self,
    objective: Objective,
    optimizer: GradientTransformation,
    params: Params,
    *,
    reference_params: Params | None = None,
    moving_reference: Params | None = None,
    hyper: Mapping[str, float] | None = None,
    mesh: Mesh | None = None,
  ):
    check_one_process()
    self.objective = objective
    self.optimizer = optimizer
    self.mesh = make_mesh(ParallelSettings()) if mesh is None else mesh
    rule = update_rule(optimizer)
    declared = objective.parameters
    self.reference_params: Params = place_params(reference_params or {}, self.mesh, declared)
    self.state: TrainState = place_state(params, rule, self.mesh, declared, moving_reference, objective.running)
    self.hyper = start_hyper(rule.hyper(self.state.opt_state), hyper or {})
    self.waited = 0.0
    self.last_step: int | None = getattr(rule, "last_step", None)
    self._step = make_train_step(objective, rule, self.mesh)
    self._evaluate = make_evaluation_step(objective)
    self._outputs = make_outputs(objective, self.mesh)
    self._compiled = False
    self.when_compiled: Callable[[], None] = lambda: None
    self.while_compiling: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

  @property
  def params(self) -> Params:
    """Those after the latest step that was taken; the next step donates them."""
    return self.state.params

  @property
  def policy_params(self) -> Params:
    """Of `params` those of the model that the stage is about: see `Objective.policy`."""
    return self.objective.policy(self.state.params)

  @property
  def compared_params(self) -> Params:
    """Those of the reference as a step reads it: a moving one where it has come to; {} where there is none."""
    return choose_reference(self.state, self.reference_params)

  @property
  def abstract_state(self) -> TrainState:
    """Shape, dtype and sharding of every array of `state`, which a checkpoint is restored into."""
    shardings = state_shardings(self.mesh, self.state, self.objective.parameters)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), self.state, shardings)

  def place(self, batch: PackedBatch) -> PackedBatch:
    """The batch on the devices, rows over the data and fsdp axes."""
    return jax.device_put(batch, batch_shardings(self.mesh, batch))

  def take_step(self, batch: PackedBatch) -> Metrics:
    """One step on a placed batch; returns at once with metrics still on their way."""
    given = self.state, self.reference_params, batch, place_hyper(self.hyper, self.mesh)
    if not self._compiled:
      with self.while_compiling():
        self._step.lower(*given).compile()  # the call below finds this program
      self._compiled = True
      self.when_compiled()
    self.state, metrics = self._step(*given)
    return metrics

  def steps(
    self, batches: Callable[[int], PackedBatch], until: int, *, stop: Callable[[int], bool] = lambda step: False
  ) -> Iterator[tuple[int, Metrics]]:
    """Takes the steps up to number `until`, yielding (steps taken so far, metrics) as soon as each is dispatched.

    Metrics are device arrays still on their way: who reads those of a step while the next one runs (`one_step_late`)
    keeps nobody waiting. `state` is that of the step just yielded, and stays so where the loop is left. At most two
    steps are on their way at a time.

    Args:
      batches: step -> packed batch, called ahead, in a thread, if it has no `ahead = False`.
      until: number of steps taken at the end, those before included.
      stop: asked before each step with the number of steps taken; true ends the loop.

    Raises:
      ConfigError: the optimizer's schedule ends before.
    """
    if self.last_step is not None and until > self.last_step:
      raise ConfigError(
        f"steps up to number {until:,} are asked for, but the learning rate is 0 from step {self.last_step:,} on, for which the "
        f"optimizer was made; give it more steps, as make_optimizer(settings, {until}), or schedule=constant"
      )
    start = int(self.state.step)
    before: Metrics = {}
    with contextlib.closing(self._prepared(batches, start, until)) as prepared:
      for number in range(start, until):
        if stop(number):
          return
        if not getattr(batches, "ahead", True):
          jax.block_until_ready(before)  # the next batch is made with its parameters, and that is all it waits for
        asked = time.perf_counter()
        step, batch = next(prepared)
        self.waited = time.perf_counter() - asked
        metrics = self.take_step(batch)
        yield step + 1, metrics
        jax.block_until_ready(before)
        before = metrics

  def _prepared(
    self, batches: Callable[[int], PackedBatch], start: int, until: int
  ) -> Generator[tuple[int, PackedBatch], None, None]:
    if getattr(batches, "ahead", True):
      return prefetch(lambda step: self.place(batches(step)), start, until)
    return ((step, self.place(batches(step))) for step in range(start, until))

  def forward(self, batch: PackedBatch, *, reference: bool = False, only: str = "") -> Any:
    """What the objective's `forward` says of a placed batch: arrays [G, R, ...], 0 in groups that are not in use.

    The same function that a step differentiates, with the parameters as they are.

    Args:
      reference: with the reference's parameters.
      only: the one field of the outputs that is wanted; the others are not computed.
    """
    return make_forward(self.objective, only)(self.params, self.compared_params if reference else {}, batch)

  def outputs(self, batch: PackedBatch, params: Params | None = None) -> Any:
    """As `forward` without a reference, by the very pass that a step differentiates: to the last bit what it will see.

    Args:
      batch: placed, with everything that the loss reads; what the arrays hold beside the tokens does not matter.
      params: like those of the state; None: these.
    """
    hyper = place_hyper(self.hyper, self.mesh) | self.state.running
    return self._outputs(self.params if params is None else params, {}, batch, hyper)[0]

  def set_running(self, **numbers: float) -> None:
    """Sets statistics of the state that go from step to step."""
    given = place_hyper(numbers, self.mesh)
    self.state = dataclasses.replace(self.state, running=self.state.running | given)

  def evaluate(self, batches: DatasetBatches) -> dict[str, float]:
    """Metrics over every example of a data set, each exactly once."""
    hyper = place_hyper(self.hyper, self.mesh) | self.state.running
    reference = self.compared_params
    total: dict[str, tuple[float, float]] = {}
    for batch in batches.in_order():
      metrics = jax.device_get(self._evaluate(self.params, reference, self.place(batch), hyper))
      for name, (value, count) in metrics.items():
        before = total.get(name, (0.0, 0.0))
        total[name] = (before[0] + float(value), before[1] + float(count))
    return {name: divide(*pair) for name, pair in total.items()}


def one_step_late(steps: Iterable[tuple[int, Metrics]]) -> Iterator[tuple[int, dict[str, float]]]:
  """(step, metrics as numbers) of `Trainer.steps`, each fetched after the next step is dispatched.

  The devices never wait for the host; the trainer's state is a step further than what is yielded, but for the last.
  """
  pending: tuple[int, Metrics] | None = None
  for item in steps:
    if pending is not None:
      yield pending[0], fetch(pending[1])
    pending = item
  if pending is not None:
    yield pending[0], fetch(pending[1])


def fetch(metrics: Metrics) -> dict[str, float]:
  """Waits for metrics and divides each sum by its count, once."""
  return {name: divide(float(value), float(count)) for name, (value, count) in jax.device_get(metrics).items()}


def divide(value: float, count: float) -> float:
  return value / count if count else math.nan
