"""The loop: who is called when, on which parameters, what is in the log, and what an early end leaves behind."""

import types

import jax
import numpy as np
import pytest

from dpojax.config.schema import OptimizerSettings, RunConfig, StopSettings
from dpojax.objectives.preference import Preference
from dpojax.training.loop import train
from dpojax.training.monitors import EndRun, Every, StopRule
from dpojax.training.optimizer import make_optimizer
from dpojax.training.runlog import RunLog, read_metrics
from dpojax.training.trainer import Trainer
from tests.training.tiny import MODEL, tiny_batches, tiny_params

STEPS = 6


def new_trainer():
  objective = Preference(MODEL)
  optimizer = make_optimizer(OptimizerSettings(learning_rate=1e-2), STEPS, objective.parameters)
  return Trainer(objective, optimizer, tiny_params(), reference_params=tiny_params(), hyper={"beta": 0.1})


@pytest.fixture(scope="module")
def states():
  """Parameters after every step, taken one by one."""
  trainer, batches = new_trainer(), tiny_batches()
  found = [jax.device_get(trainer.params)]
  for step in range(STEPS):
    trainer.take_step(trainer.place(batches(step)))
    found.append(jax.device_get(trainer.params))
  return found


class Kept:
  """A folder that keeps nothing on disk but the log."""

  def __init__(self, path):
    self.config, self.log, self.saved = RunConfig(), RunLog(path, live=False), []

  def resume(self, trainer):
    pass

  def save(self, trainer):
    self.saved.append((int(trainer.state.step), jax.device_get(trainer.params)))


def same(a, b):
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def run(tmp_path, *monitors, trainer=None):
  folder = Kept(tmp_path)
  trainer = trainer or new_trainer()
  result = train(folder, trainer, tiny_batches(), monitors, steps=STEPS, what="a test")
  folder.log.close()
  return result, folder, trainer


def test_a_function_sees_the_parameters_of_exactly_its_step(tmp_path, states):
  seen = {}

  def watch(step, trainer):
    seen[step] = jax.device_get(trainer.params)
    return {"norm": float(np.linalg.norm(seen[step]["final_norm"]))}

  result, folder, _ = run(tmp_path, watch)
  assert result.reason == "finished" and result.step == STEPS
  assert list(seen) == list(range(STEPS + 1))
  assert all(same(seen[step], states[step]) for step in seen)
  records = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["split"] == "watch"]
  assert [row["step"] for row in records] == list(range(STEPS + 1)) and all(row["norm"] > 0 for row in records)
  assert [step for step, _ in folder.saved] == [STEPS]


def test_records_of_a_step_are_on_disk_before_its_monitors_are_called(tmp_path):
  def look(step, trainer):
    trained = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if row["split"] == "train"]
    assert trained == list(range(1, step + 1))

  run(tmp_path, Every(2, look))


def test_monitors_are_due_at_the_start_the_end_and_in_between(tmp_path):
  called = []
  run(
    tmp_path, Every(4, lambda step, trainer: called.append(step)), Every(0, lambda step, trainer: called.append(-step))
  )
  assert called == [0, 0, 4, STEPS, -STEPS]


def test_the_order_of_the_list_is_the_order_of_the_calls_and_an_end_ends_it(tmp_path, states):
  called = []

  def first(step, trainer):
    called.append(("first", step))
    if step == 3:
      raise EndRun("enough")

  def second(step, trainer):
    called.append(("second", step))

  result, folder, trainer = run(tmp_path, first, second)
  assert called[-3:] == [("first", 2), ("second", 2), ("first", 3)]
  assert (result.step, result.reason) == (3, "stopped")
  (step, params) = folder.saved[0]
  assert step == 3 and same(params, states[3]) and same(jax.device_get(trainer.params), states[3])
  assert "stopping after step 3: enough" in (tmp_path / "log.txt").read_text()


def test_a_failing_monitor_is_not_hidden(tmp_path):
  def wrong(step, trainer):
    raise KeyError("no such metric")

  with pytest.raises(KeyError, match="no such metric"):
    run(tmp_path, wrong)


def test_what_is_recorded_already_is_not_asked_again(tmp_path):
  folder = Kept(tmp_path)
  folder.log.record(0, "count", {"x": 1.0})
  called = []

  def count(step, trainer):
    called.append(step)
    return {"x": 0.0}

  train(folder, new_trainer(), tiny_batches(), [count], steps=2, what="a test")
  assert called == [1, 2]


def test_leaving_the_loop_leaves_the_state_there(states):
  trainer = new_trainer()
  for step, _ in trainer.steps(tiny_batches(), until=STEPS):
    if step == 2:
      break
  assert int(trainer.state.step) == 2 and same(jax.device_get(trainer.params), states[2])


def test_the_stop_rule_reads_what_the_policy_wrote():
  records = [{"reward/true": r, "kl/token": 0.1} for r in (1.0, 2.0, 2.0, 2.0)]
  log = types.SimpleNamespace(records=lambda split: records if split == "policy" else [])
  with pytest.raises(EndRun, match="reward no longer rises and KL is stable"):
    StopRule(StopSettings(patience=2), log, 10)(30, None)
  StopRule(StopSettings(patience=3), log, 10)(30, None)
  assert not StopRule(StopSettings(patience=0), log, 10).due(30, 100)
  assert not StopRule(StopSettings(patience=2), log, 10).due(100, 100)
