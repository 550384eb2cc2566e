"""The loop: who is called when, on which parameters, what is in the log, and what an early end leaves behind."""

import json

import jax
import numpy as np
import pytest

from dpojax.config.schema import CheckpointSettings, OptimizerSettings, RunConfig, StopSettings
from dpojax.errors import CheckpointError
from dpojax.objectives.preference import Preference
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.loop import train
from dpojax.training.monitors import Checkpoint, EndRun, Every, KeepBest, StopRule
from dpojax.training.optimizer import make_optimizer
from dpojax.training.policy_samples import PolicySamples, sample_file_name, write_policy_sample
from dpojax.training.runlog import RunLog, read_metrics
from dpojax.training.trainer import Trainer
from tests.training.tiny import MODEL, tiny_batches, tiny_params

pytestmark = pytest.mark.slow

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


def test_an_early_end_is_the_end_for_monitors_that_waited_for_it(tmp_path, states):
  called, seen = [], {}

  def held_out(step, trainer):
    called.append(step)
    seen[step] = jax.device_get(trainer.params)
    return {"loss": float(step)}

  def stop(step, trainer):
    called.append(-step)
    if step == 3:
      raise EndRun("enough")

  run(tmp_path, Every(0, held_out), stop)
  assert called == [0, 0, -1, -2, -3, 3] and same(seen[3], states[3])
  records = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["split"] == "held_out"]
  assert [row["step"] for row in records] == [0, 3]


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


class WrittenLooks:
  """A monitor in the place of `SamplePolicy` that writes looks of given mean rewards and KL."""

  name = "policy"

  def __init__(self, folder, rewards, kl):
    self.folder, self.rewards, self.kl = folder, rewards, kl
    self.spread = np.linspace(-1, 1, 8)  # between prompts, the same at every look

  def due(self, step, last):
    return True

  def __call__(self, step, trainer):
    rewards, kl = self.rewards[step] + self.spread, self.kl[step] * np.ones(8)
    pairs = zip(rewards.tolist(), kl.tolist(), strict=True)
    write_policy_sample(self.folder, step, [{"rewards": {"r": reward}, "kl": k, "tokens": 10} for reward, k in pairs])
    return {"reward/r": self.rewards[step], "kl/token": self.kl[step] / 10}


def watched(tmp_path, rewards, kl, **settings):
  """A run of 6 steps that is looked at after each; (result, checkpoints by step, lines of the log, stop.json)."""
  settings = StopSettings(**settings)
  folder = Kept(tmp_path)
  with Checkpointer(tmp_path / "checkpoints", CheckpointSettings(keep=1)) as checkpointer:
    looks = WrittenLooks(tmp_path, rewards, kl)
    best = KeepBest(settings, PolicySamples(tmp_path, folder.log, "r"), checkpointer, 1)
    rule = StopRule(settings, best.samples, 1)
    every = Checkpoint(checkpointer, folder.log, 1)
    result = train(folder, new_trainer(), tiny_batches(), [looks, best, rule, every], steps=STEPS, what="a test")
    checkpointer.wait()
    kept = {step: checkpointer.metadata(step).metrics for step in checkpointer.steps()}
  folder.log.close()
  said = json.loads((tmp_path / "stop.json").read_text())
  return result, kept, (tmp_path / "log.txt").read_text(), said


def test_a_run_ends_when_its_reward_is_flat_and_its_kl_stable(tmp_path):
  result, _, text, said = watched(tmp_path, [0, 1, 2, 3, 3, 3, 3], [0, 1, 2, 2, 2, 2, 2], patience=2, kl_budget=0.0)
  assert (result.reason, result.step) == ("stopped", 5)
  assert " over steps 3 to 5 (8 prompts, paired), KL 0.200 → 0.200 nats a token: stop" in text
  assert said["decision"]["stop"] is True and said["decision"]["first_step"] == 3


@pytest.mark.parametrize(
  ("rewards", "kl"), [([0, 1, 2, 3, 4, 5, 6], [0, 1, 1, 1, 1, 1, 1]), ([1] * 7, [0, 1, 2, 4, 8, 16, 32])]
)
def test_a_run_goes_on_while_reward_rises_or_kl_moves(tmp_path, rewards, kl):
  result, _, _, said = watched(tmp_path, rewards, kl, patience=2)
  assert (result.reason, result.step) == ("finished", STEPS)
  assert said["decision"]["stop"] is False and said["decision"]["step"] == STEPS


def test_over_the_budget_a_run_says_so_once_and_goes_on(tmp_path):
  result, _, text, said = watched(tmp_path, [0, 1, 2, 3, 4, 5, 6], [0, 0.3, 0.4, 0.6, 0.7, 0.8, 1.3], kl_budget=0.05)
  assert (result.reason, result.step) == ("finished", STEPS)
  assert text.count("times the budget of 0.05") == 1
  assert "nats a token at step 3 is 1.2 times the budget of 0.05" in text
  assert said["budget"]["times"] == pytest.approx(2.6)


def test_over_the_budget_a_run_ends_where_that_is_asked_for(tmp_path):
  result, *_ = watched(tmp_path, [0, 1, 2, 3, 4, 5, 6], [0, 0.3, 0.4, 0.6, 0.7, 0.8, 1.3], over_budget="stop")
  assert (result.reason, result.step) == ("stopped", 3)


def test_the_best_within_the_budget_is_kept_with_its_own_figures(tmp_path):
  _, kept, _, said = watched(tmp_path, [9, 1, 3, 2, 5, 6, 7], [0, 0.1, 0.2, 0.3, 0.9, 0.9, 0.9], kl_budget=0.05)
  figures = {"step": 2, "reward": pytest.approx(3.0), "kl_token": pytest.approx(0.02), "start": 9.0}
  assert said["best"] == figures | {"label": "r", "checkpoint": "checkpoints/2"}
  assert sorted(kept) == [2, 6]  # and the newest
  assert kept[2]["under_budget/reward"] == pytest.approx(3.0) and kept[2]["reward/r"] == 3
  assert "under_budget/reward" not in kept[6]


def test_a_run_without_rewards_watches_the_budget_alone(tmp_path):
  folder = Kept(tmp_path)
  looks = WrittenLooks(tmp_path, [0] * 7, [0, 0.1, 0.6, 0.6, 0.6, 0.6, 0.6])
  rule = StopRule(StopSettings(patience=1), PolicySamples(tmp_path, folder.log, ""), 1)
  assert train(folder, new_trainer(), tiny_batches(), [looks, rule], steps=STEPS, what="a test").reason == "finished"
  assert "times the budget" in (tmp_path / "log.txt").read_text()
  assert not StopRule(StopSettings(patience=0, kl_budget=0.0), PolicySamples(tmp_path, folder.log, ""), 1).due(3, STEPS)


def test_a_look_that_is_gone_is_named(tmp_path):
  folder = Kept(tmp_path)
  looks = WrittenLooks(tmp_path, [0] * 7, [0] * 7)
  folder.log.record(1, "policy", looks(1, None))
  (tmp_path / sample_file_name(1)).unlink()
  with pytest.raises(CheckpointError, match=r"step_00000001.jsonl: it is gone, and digests.json lists it"):
    StopRule(StopSettings(), PolicySamples(tmp_path, folder.log, "r"), 1)(1, None)
  (tmp_path / "digests.json").unlink()
  with pytest.raises(CheckpointError, match=r"step_00000001.jsonl: no such file, but metrics.jsonl has a look"):
    StopRule(StopSettings(), PolicySamples(tmp_path, folder.log, "r"), 1)(1, None)


def test_a_look_is_read_once(tmp_path):
  folder = Kept(tmp_path)
  written, looks = WrittenLooks(tmp_path, [1, 2, 3], [0, 0, 0]), PolicySamples(tmp_path, folder.log, "r")
  for step in range(3):
    folder.log.record(step, "policy", written(step, None))
    assert [look.reward for look in looks.so_far()] == pytest.approx(list(range(1, step + 2)))
    (tmp_path / sample_file_name(step)).unlink()
