"""What happens between steps: evaluation, samples of the policy, checkpoints, the rule that stops a run.

A monitor is a function of (step, trainer) that returns metrics to record under its name, or None. It sees the
parameters of exactly that step. Beside that it may say when it is due:

    def norms(step, trainer):                  # at every step, recorded under "norms"
      return {"embed": float(jnp.linalg.norm(trainer.params["embed"]))}

    Every(10, norms)                           # at every tenth step, the first and the last
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dpojax.config.schema import StopSettings
from dpojax.training.checkpoint import CHECKPOINTS, UNDER_BUDGET, Checkpointer
from dpojax.training.policy_samples import PolicySamples, write_policy_sample, write_stop
from dpojax.training.runlog import RunLog
from dpojax.training.sample_policy import PolicySampler
from dpojax.training.stopping import best_under_budget, budget, should_stop
from dpojax.training.trainer import DatasetBatches, Trainer

Measured = Mapping[str, float] | None


class EndRun(Exception):
  """Raised by a monitor to end the run after this step; its text says why. What is due at the end is called then."""


class Monitor(Protocol):
  """See the module."""

  @property
  def name(self) -> str:
    """The split under which metrics are recorded."""
    ...

  def due(self, step: int, last: int) -> bool:
    """Whether to be called after `step` of `last`, where step 0 is the start."""
    ...

  def __call__(self, step: int, trainer: Trainer) -> Measured: ...


def every(step: int, interval: int, last: int) -> bool:
  """True at the start, at the end and at every `interval`-th step; 0: only at the start and the end."""
  return step in (0, last) or (interval > 0 and step % interval == 0)


@dataclasses.dataclass(frozen=True)
class Every:
  """A plain function of (step, trainer) as a monitor that is due every `interval` steps, first and last included."""

  interval: int
  function: Callable[[int, Trainer], Measured]

  @property
  def name(self) -> str:
    return getattr(self.function, "__name__", type(self.function).__name__)

  def due(self, step: int, last: int) -> bool:
    return every(step, self.interval, last)

  def __call__(self, step: int, trainer: Trainer) -> Measured:
    return self.function(step, trainer)


def as_monitor(monitor: Any) -> Monitor:
  """A monitor as it is; a plain function as one that is due after every step."""
  return monitor if hasattr(monitor, "due") else Every(1, monitor)


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """Metrics over every held-out example.

  Attributes:
    batches: of the held-out examples.
    interval: steps between evaluations; 0: at the start and the end.
  """

  batches: DatasetBatches
  interval: int = 0
  name: str = "eval"

  def due(self, step: int, last: int) -> bool:
    return every(step, self.interval, last)

  def __call__(self, step: int, trainer: Trainer) -> Measured:
    return trainer.evaluate(self.batches)


@dataclasses.dataclass(frozen=True)
class SamplePolicy:
  """What the policy writes to held-out prompts; the answers go to `samples/`.

  Attributes:
    sampler: writes and measures.
    folder: of the run.
    interval: steps between samples; 0: at the start and the end.
  """

  sampler: PolicySampler
  folder: pathlib.Path
  interval: int = 0
  name: str = "policy"

  def due(self, step: int, last: int) -> bool:
    return every(step, self.interval, last)

  def __call__(self, step: int, trainer: Trainer) -> Measured:
    metrics, records = self.sampler(trainer.policy_params)
    write_policy_sample(self.folder, step, records)
    return metrics


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Saves the state, with what was measured after the same step. The state that a run ends in is saved by the run itself.

  Attributes:
    checkpointer: writes it.
    log: whose records are on disk before the checkpoint of their step.
    interval: steps between checkpoints; 0: none on the way.
  """

  checkpointer: Checkpointer
  log: RunLog
  interval: int = 0
  name: str = "checkpoint"

  def due(self, step: int, last: int) -> bool:
    return step > 0 and self.interval > 0 and step % self.interval == 0

  def __call__(self, step: int, trainer: Trainer) -> Measured:
    self.checkpointer.save(step, trainer.state, metrics=self.log.measured_at(step))
    self.log.seal()


@dataclasses.dataclass(frozen=True)
class KeepBest:
  """Keeps the checkpoint of the highest reward among the looks that keep to the KL budget.

  Attributes:
    settings: the budget.
    samples: of `SamplePolicy`, with a reward that decides.
    checkpointer: keeps the best by `checkpoint.UNDER_BUDGET`.
    interval: steps between looks.
  """

  settings: StopSettings
  samples: PolicySamples
  checkpointer: Checkpointer
  interval: int = 0
  name: str = "under_budget"

  def due(self, step: int, last: int) -> bool:
    return step > 0 and every(step, self.interval, last)

  def __call__(self, step: int, trainer: Trainer) -> Measured:
    samples, log = self.samples.so_far(), self.samples.log
    best = best_under_budget(samples, self.settings)
    if best is None or samples[best].step != step:
      return None
    metrics = {UNDER_BUDGET: samples[best].reward}
    if step < log.total_steps:  # the run itself saves its last state, with what is recorded of it
      self.checkpointer.save(step, trainer.state, metrics=log.measured_at(step) | metrics)
    return metrics


@dataclasses.dataclass(frozen=True)
class StopRule:
  """Ends the run when the reward of what the policy writes no longer rises and its KL is stable, or over the budget.

  What it says after each look goes into the log and into `stop.json`.

  Attributes:
    settings: see `StopSettings` and `dpojax.training.stopping`.
    samples: of `SamplePolicy`; without a reward that decides only the budget is watched.
    interval: steps between looks.
  """

  settings: StopSettings
  samples: PolicySamples
  interval: int = 0
  name: str = "stop"

  def due(self, step: int, last: int) -> bool:
    return bool(self.settings.patience or self.settings.kl_budget) and every(step, self.interval, last)

  def __call__(self, step: int, trainer: Trainer) -> Measured:
    settings, samples, log, reward = self.settings, self.samples.so_far(), self.samples.log, self.samples.reward
    over = budget(samples[-1], settings)
    said: dict[str, Any] = {"budget": over.as_json()}
    decision = should_stop(samples, settings) if reward else None
    if decision is not None and settings.patience:
      said["decision"] = decision.as_json()
      log.message(decision.said())
    best = best_under_budget(samples, settings) if reward else None
    if best is not None:
      sample = samples[best]
      best_of: dict[str, Any] = {"step": sample.step, "reward": sample.reward, "kl_token": sample.kl_token}
      best_of["start"] = samples[0].reward if samples[0].step == 0 else None
      said["best"] = best_of | {"label": reward, "checkpoint": f"{CHECKPOINTS}/{sample.step}"}
    verdict = decision.reason if decision is not None and decision.stop else over.said() if over.stop else ""
    said["ended"] = bool(verdict) and step < log.total_steps
    write_stop(self.samples.folder, said)
    if over.over and not (len(samples) > 1 and budget(samples[-2], settings).over):
      log.message(over.said())
    if said["ended"]:
      raise EndRun(verdict)
    return None


def evaluations(batches: DatasetBatches | None, interval: int) -> list[Evaluate]:
  """`Evaluate` of the held-out examples, or nothing where there are none."""
  return [] if batches is None else [Evaluate(batches, interval)]
