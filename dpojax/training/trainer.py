"""The trainer: a state, a compiled step and the batches it reads. No disk, no screen, no clock."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import jax
from jax.sharding import Mesh

from dpojax.config.schema import OptimizerSettings, ParallelSettings
from dpojax.data.batches import prefetch
from dpojax.objectives import Objective
from dpojax.parallel import batch_shardings, check_one_process, make_mesh
from dpojax.training.optimizer import without_learning_rate
from dpojax.training.state import TrainState
from dpojax.training.step import make_evaluation_step, make_train_step, place_hyper, place_params, place_state
from dpojax.types import Metrics, PackedBatch, Params


class BatchSource(Protocol):
  """step -> packed batch, a pure function; `Batches`, or one that attaches reference log-probs."""

  def __call__(self, step: int) -> PackedBatch: ...

  def in_order(self) -> Iterator[PackedBatch]: ...

  def num_tokens(self, step: int) -> int: ...

  @property
  def steps_per_epoch(self) -> int: ...


class Trainer:
  """Takes optimizer steps and evaluations; everything it carries between steps is `state`.

  Two trainers whose objective, optimizer settings (but for the learning rate), number of steps and
  mesh are equal share one compiled step. `hyper` holds the traced numbers by name and may be changed
  between steps: `trainer.hyper["beta"] = 0.5` takes effect at once and compiles nothing. `when_compiled`
  is called once, after the step's compilation and before the step first runs.

  Args:
    objective: what to minimise.
    optimizer: settings; the learning rate goes to `hyper`.
    params: the start; copied, so they survive donation.
    batches: step -> packed batch.
    steps: planned length of the run, which the schedule needs.
    reference_params: parameters of a live reference, or None. Arrays already on the devices are used as they are, not
      copied: give no trainer's own `params`, which its next step donates.
    hyper: further traced numbers: beta, label_smoothing.
    moving_reference: the reference follows the policy (`hyper["reference_every"]`, `hyper["reference_mix"]`) and
      is part of the state.
    mesh: devices; None: all of them along the data axis.

  Raises:
    ConfigError: there are several processes, or the parameters do not divide by the mesh.
  """

  def __init__(
    self,
    objective: Objective,
    optimizer: OptimizerSettings,
    params: Params,
    batches: BatchSource,
    *,
    steps: int,
    reference_params: Params | None = None,
    hyper: dict[str, float] | None = None,
    mesh: Mesh | None = None,
    moving_reference: bool = False,
  ):
    check_one_process()
    self.objective = objective
    self.batches = batches
    self.steps = steps
    self.mesh = make_mesh(ParallelSettings()) if mesh is None else mesh
    self.hyper: dict[str, float] = {"learning_rate": optimizer.learning_rate} | (hyper or {})
    live = {} if reference_params is None else reference_params
    self.frozen: Params = {} if moving_reference else place_params(live, self.mesh)
    self.state: TrainState = place_state(
      params, optimizer, self.mesh, live if moving_reference else None, objective.running
    )
    self._step = make_train_step(objective, without_learning_rate(optimizer), steps, self.mesh)
    self._evaluate = make_evaluation_step(objective)
    self._compiled = False
    self.when_compiled: Callable[[], None] = lambda: None

  @property
  def params(self) -> Params:
    return self.state.params

  def place(self, batch: PackedBatch) -> PackedBatch:
    """The batch on the devices, rows over the data and fsdp axes."""
    return jax.device_put(batch, batch_shardings(self.mesh, batch))

  def take_step(self, batch: PackedBatch) -> Metrics:
    """One step on a placed batch; returns at once with metrics still on their way."""
    given = self.state, self.frozen, batch, place_hyper(self.hyper, self.mesh)
    if not self._compiled:
      self._step.lower(*given).compile()  # the call below finds this program
      self._compiled = True
      self.when_compiled()
    self.state, metrics = self._step(*given)
    return metrics

  def train(
    self, steps: int, *, stop: Callable[[int], bool] = lambda step: False, clock: Callable[[], float] | None = None
  ) -> Iterator[tuple[int, dict[str, float]]]:
    """Takes up to `steps` further steps, yielding (steps taken so far, metrics) of each, one step late.

    The metrics of a step are fetched after the next one is dispatched, so the devices never wait for
    the host. When the iterator ends, `state` is that of the last step yielded.

    Args:
      stop: asked before each step with its number; true ends the loop after the steps already dispatched.
      clock: seconds; when given, metrics carry `time/step`, `time/data` (waiting for a batch) and
        `tokens_per_second` (tokens as each answer alone, its prompt included).
    """
    start = int(self.state.step)
    pending: tuple[int, Metrics, float] | None = None
    with contextlib.closing(prefetch(lambda s: self.place(self.batches(s)), start, start + steps)) as batches:
      last = asked = clock() if clock else 0.0
      for number in range(start, start + steps):
        if stop(number):
          break
        step, batch = next(batches)
        waited = clock() - asked if clock else 0.0
        metrics = self.take_step(batch)
        if pending is not None:
          yield self._finish(*pending, clock, last)
          last = clock() if clock else 0.0
        pending = step + 1, metrics, waited
        asked = clock() if clock else 0.0
    if pending is not None:
      yield self._finish(*pending, clock, last)

  def _finish(
    self, step: int, metrics: Metrics, waited: float, clock: Callable[[], float] | None, last: float
  ) -> tuple[int, dict[str, float]]:
    numbers = fetch(metrics)
    tokens = self.batches.num_tokens(step - 1)
    if clock:
      seconds = max(clock() - last, 1e-9)
      numbers |= {"time/step": seconds, "time/data": waited, "tokens_per_second": tokens / seconds}
    return step, numbers | {"num_tokens": float(tokens)}

  def evaluate(self, batches: BatchSource) -> dict[str, float]:
    """Metrics over every example of a data set, each exactly once."""
    hyper = place_hyper(self.hyper, self.mesh) | self.state.running
    total: dict[str, tuple[float, float]] = {}
    for batch in batches.in_order():
      frozen = self.state.reference or self.frozen
      metrics = jax.device_get(self._evaluate(self.params, frozen, self.place(batch), hyper))
      for name, (value, count) in metrics.items():
        before = total.get(name, (0.0, 0.0))
        total[name] = (before[0] + float(value), before[1] + float(count))
    return {name: divide(*pair) for name, pair in total.items()}


def fetch(metrics: Metrics) -> dict[str, float]:
  """Waits for metrics and divides each sum by its count, once."""
  return {name: divide(float(value), float(count)) for name, (value, count) in jax.device_get(metrics).items()}


def divide(value: float, count: float) -> float:
  return value / count if count else math.nan
