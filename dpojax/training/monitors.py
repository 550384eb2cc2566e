"""What happens between steps: evaluation, samples of the policy, checkpoints, the rule that stops a run.

A monitor is a function of (step, trainer) that returns metrics to record under its name, or None. It sees the
parameters of exactly that step. Beside that it may say when it is due:

    def norms(step, trainer):                  # at every step, recorded under "norms"
      return {"embed": float(jnp.linalg.norm(trainer.params["embed"]))}

    Every(10, norms)                           # at every tenth step, the first and the last
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dpojax.config.schema import StopSettings
from dpojax.files import write_atomically
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.runlog import RunLog
from dpojax.training.sample_policy import PolicySampler
from dpojax.training.stopping import should_stop
from dpojax.training.trainer import BatchSource, Trainer

Measured = Mapping[str, float] | None


class EndRun(Exception):
  """Raised by a monitor to end the run after this step; its text says why."""


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

  batches: BatchSource
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
    metrics, samples = self.sampler(trainer.params)
    path = self.folder / "samples" / f"step_{step:08d}.jsonl"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples))
    return metrics


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Saves the state, with what was measured last. The state that a run ends in is saved by the run itself.

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
    self.checkpointer.save(step, trainer.state, metrics=self.log.measured)


@dataclasses.dataclass(frozen=True)
class StopRule:
  """Ends the run when the reward of what the policy writes no longer rises and its KL is stable.

  Attributes:
    settings: how often that must be seen.
    log: holds the records of `SamplePolicy`.
    interval: steps between these.
  """

  settings: StopSettings
  log: RunLog
  interval: int = 0
  name: str = "stop"

  def due(self, step: int, last: int) -> bool:
    return self.settings.patience > 0 and step < last and every(step, self.interval, last)

  def __call__(self, step: int, trainer: Trainer) -> Measured:
    records = self.log.records("policy")
    if should_stop([(r["reward/true"], r["kl/token"]) for r in records if "reward/true" in r], self.settings):
      raise EndRun("reward no longer rises and KL is stable")


def evaluations(batches: BatchSource | None, interval: int) -> list[Evaluate]:
  """`Evaluate` of the held-out examples, or nothing where there are none."""
  return [] if batches is None else [Evaluate(batches, interval)]
