"""Metrics of steps, written one step late, so that the devices never wait for the host."""

import math
import time

from dpojax.errors import TrainingError
from dpojax.training.runlog import RunLog
from dpojax.training.trainer import BatchSource, Trainer, fetch
from dpojax.types import Metrics


class StepLog:
  """Takes a step's metrics while they are still on their way and writes those of the step before.

  Args:
    log: where they go.
    trainer: says how long a step waited for its batch.
    batches: say how many tokens a step has, as each answer alone, its prompt included.
    start: steps taken before.
    max_skipped: a run ends after this many steps in a row whose loss or gradient was not finite.
  """

  def __init__(self, log: RunLog, trainer: Trainer, batches: BatchSource, *, start: int, max_skipped: int):
    self.log, self.trainer, self.max_skipped = log, trainer, max_skipped
    self._num_tokens, self._ahead = batches.num_tokens, getattr(batches, "ahead", True)
    self._tokens = self._before(batches, start)
    self._pending: tuple[int, Metrics, float] | None = None
    self._last = time.perf_counter()

  def _before(self, batches: BatchSource, start: int) -> int:
    """Tokens of the steps that were taken: counted again, or, of roll-outs, which are gone, as they were recorded."""
    if self._ahead:
      return sum(map(batches.num_tokens, range(start)))
    return int(max((row.get("num_tokens", 0) for row in self.log.records("train")), default=0))

  def step(self, step: int, metrics: Metrics) -> None:
    """Takes the metrics of a step that was dispatched just now.

    Raises:
      TrainingError: too many steps in a row were not finite.
    """
    waited = self.trainer.waited
    # What is made between two steps, such as a roll-out, is time of the one that reads it.
    self.flush(0.0 if self._ahead else waited)
    self._pending = step, metrics, waited

  def flush(self, since: float = 0.0) -> None:
    """Waits for the step whose metrics are not written yet, and writes them.

    Args:
      since: seconds that have passed since its end and are of the next step.

    Raises:
      TrainingError: as `step`.
    """
    if self._pending is None:
      return
    (step, metrics, waited), self._pending = self._pending, None
    tokens, numbers = self._num_tokens(step - 1), fetch(metrics)
    if tokens == 0:  # a step of no rows, which a roll-out's end left over: there is nothing to say of it
      numbers = {name: value for name, value in numbers.items() if not math.isnan(value)}
    now = time.perf_counter()
    seconds, self._last = max(now - self._last - since, 1e-9), now - since
    self._tokens += tokens
    numbers |= {"time/step": seconds, "time/data": waited}
    if tokens:
      made = 0.0 if self._ahead else waited  # of a roll-out's time nothing is the step's own
      numbers["tokens_per_second"] = tokens / max(seconds - made, 1e-9)
    self.log.record(step, "train", numbers | {"num_tokens": self._tokens})
    self.log.progress(step, numbers)
    if numbers["skipped_in_row"] >= self.max_skipped:
      raise TrainingError(
        f"step {step}: loss or gradient was not finite {self.max_skipped} steps in a row "
        "(train.max_skipped); no such step changed the parameters. Lower optimizer.learning_rate, or look at "
        "the rows of these steps"
      )

  def resume_clock(self) -> None:
    """What happened since the last step was none: its time is not counted."""
    self._last = time.perf_counter()
