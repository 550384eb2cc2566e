"""Metrics of steps, written one step late, so that the devices never wait for the host."""

import time
from collections.abc import Callable

from dpojax.errors import TrainingError
from dpojax.training.runlog import RunLog
from dpojax.training.trainer import Trainer, fetch
from dpojax.types import Metrics


class StepLog:
  """Takes a step's metrics while they are still on their way and writes those of the step before.

  Args:
    log: where they go.
    trainer: says how long a step waited for its batch.
    num_tokens: step -> tokens of its batch, as each answer alone, its prompt included.
    start: steps taken before.
    max_skipped: a run ends after this many steps in a row whose loss or gradient was not finite.
  """

  def __init__(self, log: RunLog, trainer: Trainer, num_tokens: Callable[[int], int], *, start: int, max_skipped: int):
    self.log, self.trainer, self.max_skipped = log, trainer, max_skipped
    self._num_tokens = num_tokens
    self._tokens = sum(map(num_tokens, range(start)))
    self._pending: tuple[int, Metrics, float] | None = None
    self._last = time.perf_counter()

  def step(self, step: int, metrics: Metrics) -> None:
    """Takes the metrics of a step that was dispatched just now.

    Raises:
      TrainingError: too many steps in a row were not finite.
    """
    self.flush()
    self._pending = step, metrics, self.trainer.waited

  def flush(self) -> None:
    """Waits for the step whose metrics are not written yet, and writes them.

    Raises:
      TrainingError: as `step`.
    """
    if self._pending is None:
      return
    (step, metrics, waited), self._pending = self._pending, None
    numbers = fetch(metrics)
    now = time.perf_counter()
    seconds, self._last = max(now - self._last, 1e-9), now
    tokens = self._num_tokens(step - 1)
    self._tokens += tokens
    numbers |= {"time/step": seconds, "time/data": waited, "tokens_per_second": tokens / seconds}
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
