"""The loop: a step, its metrics, and what is due after it."""

import contextlib
import ctypes
import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError
from dpojax.signals import StopRequested
from dpojax.training.checkpoint import UNDER_BUDGET
from dpojax.training.monitors import EndRun, Monitor, as_monitor
from dpojax.training.preemption import Interrupted, Preemption
from dpojax.training.runlog import RunLog, in_words
from dpojax.training.step_log import StepLog
from dpojax.training.trainer import BatchSource, Trainer

HEADINGS = {"eval": "held out", "policy": "policy writes"}


@dataclasses.dataclass(frozen=True)
class RunResult:
  """How a run ended: `reason` is finished, stopped (a monitor said so), preempted (asked to stop) or paused (at `until`)."""

  step: int
  reason: str


class Folder(Protocol):
  """Where a run is kept: see `dpojax.training.run_folder.RunFolder`."""

  config: RunConfig
  log: RunLog

  def resume(self, trainer: Trainer) -> None: ...

  def save(self, trainer: Trainer) -> None: ...


def train(
  folder: Folder,
  trainer: Trainer,
  batches: BatchSource,
  monitors: Sequence[Any],
  *,
  steps: int,
  what: str = "",
  until: int | None = None,
  at_end: Callable[[RunResult], None] = lambda result: None,
) -> RunResult:
  """Trains from the newest checkpoint, or the start, to `steps` or the first reason to stop before.

  Every record of a step is on disk before any monitor is called after that step. When a monitor ends the run, those that
  are due at a run's last step, and were not due here yet, are called.

  Args:
    folder: of the run.
    trainer: takes the steps.
    batches: step -> packed batch.
    monitors: see `dpojax.training.monitors`; called in their order.
    steps: of the whole run.
    what: the run does, in words, to be said at its start; "": that was said.
    until: number of steps at which to pause, which saves nothing; None: `steps`.
    at_end: called when the run has ended or was asked to stop, and not where it pauses.

  Raises:
    TrainingError: loss or gradient was not finite too often in a row, or in every step.
    CheckpointError: the disk is full, or no checkpoint fits the run.
  """
  log = folder.log
  log.total_steps, trainer.when_compiled = steps, give_back_memory
  log.time_left.cycle = getattr(batches, "updates", 1)
  until = steps if until is None else min(until, steps)
  if what:
    each = f" of {folder.config.batch.size}" if getattr(batches, "ahead", True) else ""  # else `what` says it
    log.message(f"{what}: {steps:,} steps{each}; compiling before the first")
  monitors = [as_monitor(monitor) for monitor in monitors]
  # A roll-out waits for the step before it, and its record and its seconds belong after that step's.
  begins = getattr(batches, "begins", lambda step: False)
  with Preemption() as preemption:
    if hasattr(batches, "interrupted"):
      batches.interrupted = preemption.requested  # pyright: ignore[reportAttributeAccessIssue]
    with preemption.released():
      folder.resume(trainer)
    trainer.while_compiling = preemption.released
    step, reason = int(trainer.state.step), "finished"
    step_log = StepLog(log, trainer, batches, start=step, max_skipped=folder.config.train.max_skipped)
    try:
      with preemption.released():  # nothing was done yet: they are asked again
        observe(monitors, step, trainer, log, last=steps)
      if step == 0:
        check_best_metric(folder.config.checkpoint.best_metric, log.measured_at(step))
      step_log.resume_clock()
      log.time_left.begin(step)
      for step, metrics in trainer.steps(batches, until=until, stop=preemption.requested):
        step_log.step(step, metrics)  # writes those of the step before
        due = any(monitor.due(step, steps) for monitor in monitors)
        if due or begins(step):
          step_log.flush()
        if due:
          observe(monitors, step, trainer, log, last=steps)
          step_log.resume_clock()
      step_log.flush()
    except (Interrupted, StopRequested):
      step_log.flush()
    except EndRun as end:
      reason = "stopped"
      log.message(f"stopping after step {step}: {end}")
      # This step became the last: who waited for the end, such as an evaluation, sees it now. Nobody is asked twice.
      waited = [monitor for monitor in monitors if not monitor.due(step, steps)]
      with contextlib.suppress(EndRun):
        observe(waited, step, trainer, log, last=step)
    if reason == "finished" and step == until < steps:
      return RunResult(step, "paused")
    folder.save(trainer)
  if reason == "finished" and step < steps:
    reason = "preempted"
    log.message(f"asked to stop: saved step {step}; the same command goes on from here")
  result = RunResult(step, reason)
  at_end(result)
  return result


def observe(monitors: Sequence[Monitor], step: int, trainer: Trainer, log: RunLog, *, last: int) -> None:
  """Calls the monitors that are due after `step` and have no record of it yet, as after a checkpoint they have.

  Raises:
    EndRun: a monitor ends the run; those after it are not called.
  """
  for monitor in monitors:
    if not monitor.due(step, last) or log.has(step, monitor.name):
      continue
    metrics = monitor(step, trainer)
    if metrics is not None:
      log.record(step, monitor.name, metrics)
      if words := in_words(metrics):
        log.message(f"{HEADINGS.get(monitor.name, monitor.name)}, after step {step:,}: {words}")


def check_best_metric(name: str, measured: Mapping[str, float]) -> None:
  """Raises ConfigError where nothing that was measured is called so: the best checkpoint would never be known."""
  if name and measured and name not in measured and name != UNDER_BUDGET:
    near = difflib.get_close_matches(name, measured, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(measured)}"
    raise ConfigError(f"checkpoint.best_metric={name}: nothing measures that; {hint}")


def give_back_memory() -> None:
  """Returns to the system what the C library holds free: half a gigabyte once the step of a small model is compiled.

  A process's peak is that of a step, which would otherwise come on top. Nothing where the C library is not glibc.
  """
  with contextlib.suppress(OSError, TypeError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)
