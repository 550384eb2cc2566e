"""The loop round a trainer: evaluation, looks at the policy, checkpoints, logging, stopping.

Everything that touches clock, disk or screen during training happens here.
"""

import contextlib
import ctypes
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator

import jax

from dpojax.config.schema import RunConfig
from dpojax.errors import TrainingError
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.policy_look import PolicyLook
from dpojax.training.preemption import Preemption
from dpojax.training.runlog import METRICS, RunLog, in_words, read_metrics
from dpojax.training.stopping import should_stop
from dpojax.training.trainer import BatchSource, Trainer, one_step_late


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended: `reason` is finished, stopped (reward and KL settled) or preempted."""

  step: int
  reason: str


@dataclasses.dataclass
class Loop:
  """One run in one folder, from its latest sound checkpoint to its end.

  Every record of a step is on disk before the checkpoint of that step, and records past the
  checkpoint are removed when a run resumes from it: no step is ever twice in the log or missing.

  Attributes:
    trainer: takes the steps.
    batches: of the training examples.
    steps: number of steps of the run.
    config: `train`, `evaluation`, `stop` and `checkpoint` are read.
    folder: the working directory.
    log: where metrics and messages go.
    held_out: batches to evaluate on, or None.
    look: measures what the policy writes, or None.
  """

  trainer: Trainer
  batches: BatchSource
  steps: int
  config: RunConfig
  folder: pathlib.Path
  log: RunLog
  held_out: BatchSource | None = None
  look: PolicyLook | None = None

  def run(self) -> Outcome:
    """Trains to the end, or to the first reason to stop before.

    Raises:
      TrainingError: the loss or its gradient was not finite `train.max_skipped` steps in a row.
      CheckpointError: the disk is full, or no checkpoint fits the run.
    """
    folder = self.folder / "checkpoints"
    self.trainer.when_compiled = give_back_memory
    with (
      Checkpointer(folder, self.config.checkpoint, warn=self.log.message) as checkpointer,
      Preemption() as preemption,
    ):
      self._resume(checkpointer)
      outcome = self._until_the_end(checkpointer, preemption)
      checkpointer.wait()
    return outcome

  def _resume(self, checkpointer: Checkpointer) -> None:
    state = self.trainer.state
    abstract = self.trainer.abstract_state
    if checkpointer.latest_step() is None:
      self.log.truncate_after(-1)
      self._events(0)
      return
    for leaf in jax.tree.leaves(state):
      leaf.delete()  # makes room for what is read
    step, self.trainer.state = checkpointer.restore(abstract)
    self.log.truncate_after(step)
    self.log.message(f"resuming after step {step}")
    self._events(step)  # a run asked to stop saves first and leaves these for later

  def _until_the_end(self, checkpointer: Checkpointer, preemption: Preemption) -> Outcome:
    step = int(self.trainer.state.step)
    tokens = sum(self.batches.num_tokens(s) for s in range(step))
    latest: dict[str, float] = {}
    while step < self.steps:
      if self._settled():
        self.log.message(f"stopping after step {step}: reward no longer rises and KL is stable")
        self._save(checkpointer, step, latest)
        return Outcome(step, "stopped")
      event = self._next_event(step)
      for step, metrics in self._train(event, preemption):
        tokens += int(metrics["num_tokens"])
        self.log.record(step, "train", metrics | {"num_tokens": tokens})
        self.log.progress(step, metrics)
        self._check_finite(step, metrics)
      if step < event:
        self._save(checkpointer, step, latest)
        self.log.message(f"asked to stop: saved step {step}; the same command goes on from here")
        return Outcome(step, "preempted")
      latest = self._events(step) or latest
      if self._is_due(step, self.config.checkpoint.every) or step == self.steps:
        self._save(checkpointer, step, latest)
    return Outcome(step, "finished")

  def _train(self, until: int, preemption: Preemption) -> Iterator[tuple[int, dict[str, float]]]:
    """Steps up to `until` with their metrics and times, one step late."""
    last = time.perf_counter()
    for step, metrics in one_step_late(self.trainer.steps(self.batches, until, stop=preemption.requested)):
      seconds = max(time.perf_counter() - last, 1e-9)
      tokens = self.batches.num_tokens(step - 1)
      times = {"time/step": seconds, "time/data": self.trainer.waited, "tokens_per_second": tokens / seconds}
      yield step, metrics | times | {"num_tokens": float(tokens)}
      last = time.perf_counter()

  def _next_event(self, step: int) -> int:
    """The next step after which something other than a step happens."""
    intervals = (self.config.evaluation.every, self.config.evaluation.policy_every, self.config.checkpoint.every)
    return min([self.steps] + [(step // every + 1) * every for every in intervals if every])

  def _is_due(self, step: int, every: int) -> bool:
    return every > 0 and step % every == 0

  def _events(self, step: int) -> dict[str, float]:
    """Evaluates and looks at the policy where `step` asks for it and the log has no record of it yet."""
    measured: dict[str, float] = {}
    if self.held_out is not None and self._is_event(step, "eval", self.config.evaluation.every):
      metrics = self.trainer.evaluate(self.held_out)
      self.log.record(step, "eval", metrics)
      self.log.message(f"held out, after step {step:,}: {in_words(metrics)}")
      measured |= metrics
    if self.look is not None and self._is_event(step, "policy", self.config.evaluation.policy_every):
      metrics, samples = self.look(self.trainer.params)
      self._write_samples(step, samples)
      self.log.record(step, "policy", metrics)
      self.log.message(f"policy writes, after step {step:,}: {in_words(metrics)}")
      measured |= metrics
    return measured

  def _is_event(self, step: int, split: str, every: int) -> bool:
    due = step in (0, self.steps) or self._is_due(step, every)
    return due and all(record["step"] != step for record in self._records(split))

  def _records(self, split: str) -> list[dict]:
    return [row for row in read_metrics(self.folder / METRICS) if row["split"] == split]

  def _write_samples(self, step: int, samples: list[dict]) -> None:
    path = self.folder / "samples" / f"step_{step:08d}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples), encoding="utf-8")

  def _settled(self) -> bool:
    if not self.config.stop.patience:
      return False
    records = self._records("policy")
    return should_stop([(r["reward/true"], r["kl/token"]) for r in records if "reward/true" in r], self.config.stop)

  def _check_finite(self, step: int, metrics: dict[str, float]) -> None:
    if metrics["skipped_in_row"] >= self.config.train.max_skipped:
      raise TrainingError(
        f"step {step}: loss or gradient was not finite {self.config.train.max_skipped} steps in a row "
        "(train.max_skipped); no such step changed the parameters. Lower optimizer.learning_rate, or look at "
        "the rows of these steps"
      )

  def _save(self, checkpointer: Checkpointer, step: int, metrics: dict[str, float]) -> None:
    checkpointer.save(step, self.trainer.state, metrics=metrics)


def give_back_memory() -> None:
  """Returns to the system what the C library holds free: half a gigabyte once the step of a small model is compiled.

  A process's peak is that of a step, which would otherwise come on top. Nothing where the C library is not glibc.
  """
  with contextlib.suppress(OSError, TypeError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)
