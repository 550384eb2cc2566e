"""Metrics of steps one step late: whose time is whose, and what a step without rows says."""

import io
import types

import numpy as np
import pytest

from dpojax.training import step_log
from dpojax.training.runlog import METRICS, RunLog, read_metrics
from dpojax.training.step_log import StepLog


class Clock:
  """A clock that tests move, and a trainer that waits for batches by it."""

  def __init__(self, monkeypatch):
    self.now = 0.0
    monkeypatch.setattr(step_log.time, "perf_counter", lambda: self.now)
    self.trainer = types.SimpleNamespace(waited=0.0)

  def wait(self, seconds):
    self.now += seconds
    self.trainer.waited = seconds


def source(tokens, ahead):
  return types.SimpleNamespace(ahead=ahead, num_tokens=lambda step: tokens[step] if step < len(tokens) else 0)


def metrics(value=1.0, count=1.0):
  """As a step gives them: sums and counts, still on the device."""
  return {"loss": (np.float32(value), np.float32(count)), "skipped_in_row": (np.float32(0), np.float32(1))}


@pytest.mark.parametrize("ahead, seconds", [(False, [12.0, 2.0, 22.0]), (True, [2.0, 22.0, 2.0])])
def test_the_time_of_a_roll_out_is_that_of_the_step_that_reads_it(tmp_path, monkeypatch, ahead, seconds):
  """Waits of 10, 0 and 20 seconds before steps of 2: made with the parameters before, or ahead while a step runs."""
  clock = Clock(monkeypatch)
  with RunLog(tmp_path, stream=io.StringIO()) as log:
    written = StepLog(log, clock.trainer, source([100, 50, 200], ahead), start=0, max_skipped=1)
    for step, waited in enumerate((10.0, 0.0, 20.0), start=1):
      if ahead and step == 1:
        waited = 0.0
      if not ahead and step > 1:
        clock.now += 2.0  # the step before ends, then the batch is made
      clock.wait(waited)
      written.step(step, metrics())
      if ahead and step < 3:
        clock.now += 2.0
    clock.now += 2.0
    written.flush()
  rows = read_metrics(tmp_path / METRICS)
  assert [row["time/step"] for row in rows] == pytest.approx(seconds, rel=1e-12)
  assert sum(row["time/step"] for row in rows) == pytest.approx(clock.now, rel=1e-12)
  # Of a roll-out's time nothing is the speed of a step.
  of_steps = seconds if ahead else [2.0, 2.0, 2.0]
  assert [row["tokens_per_second"] for row in rows] == pytest.approx(
    [tokens / s for tokens, s in zip((100, 50, 200), of_steps, strict=True)], rel=1e-12
  )


def test_a_step_without_rows_has_no_loss_and_no_speed(tmp_path, monkeypatch):
  clock, stream = Clock(monkeypatch), io.StringIO()
  with RunLog(tmp_path, stream=stream) as log:
    written = StepLog(log, clock.trainer, source([100, 0], False), start=0, max_skipped=1)
    for step, given in ((1, metrics()), (2, metrics(0.0, 0.0))):
      clock.now += 1.0
      written.step(step, given | {"taken": (np.float32(step == 1), np.float32(1))})
    written.flush()
  first, second = read_metrics(tmp_path / METRICS)
  assert first["loss"] == 1.0 and first["tokens_per_second"] == 50.0
  assert "loss" not in second and "tokens_per_second" not in second
  assert second["num_tokens"] == 100 and second["taken"] == 0.0
  assert stream.getvalue().splitlines()[1:] == ["roll-out 1: 1 of 1 steps left out"] and "nan" not in stream.getvalue()
