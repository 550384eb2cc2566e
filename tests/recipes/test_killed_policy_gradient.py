"""A policy gradient that is killed or asked to stop, in the middle of a roll-out or of its updates, ends as one left alone.

`DPOJAX_KILLS=20 pytest tests/recipes/test_killed_policy_gradient.py` kills it more often.
"""

import dataclasses
import os
import shutil
import signal

import numpy as np
import pytest

from dpojax.cli.main import main
from dpojax.cli.train import INTERRUPTED
from dpojax.recipes import writing
from dpojax.training.rollouts import Rollout
from dpojax.training.runlog import read_metrics
from dpojax.training.stage_record import read_record, write_record
from dpojax.training.trainer import Trainer
from tests.recipes.killed import finish, kill_until_done, write_tiny
from tests.training.runs import state_digest, timeless_metrics

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DPOJAX_KILLS", "3"))
UPDATES = 4  # of a roll-out; checkpoints are taken every 3 steps, so most lie in the middle of one
SETTINGS = {
  "batch.size": 2,
  "rollout.samples": 2,
  "rollout.missing_eos": "subtract",
  "policy_gradient.epochs": 2,
  "policy_gradient.minibatches": 2,
  "policy_gradient.kl_controller": "adaptive",
  "policy_gradient.kl_horizon": 50.0,
}
NOISE = """import os

def noise(prompts, answers):
  return [int.from_bytes(os.urandom(4), "big") / 2**32 for _ in answers]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Holds the stage that all start from."""
  made = tmp_path_factory.mktemp("killed")
  finish(write_config(made, "sft.py", steps=1), "train", made / "begun", "--only=sft")
  return made


def begun(folder, workdir):
  shutil.copytree(folder / "begun" / "sft", workdir / "sft")
  return workdir


def write_config(folder, name, *, steps, limit=0.01):
  changed = {"train.steps": steps, "policy_gradient.update_kl_limit": limit}
  return write_tiny(folder / name, "ppo", "policy_gradient", SETTINGS | changed)


def what_is_there(workdir, steps):
  """(state, metrics) of the stage, to the last bit and in the order of writing."""
  return state_digest(workdir / "ppo", steps), timeless_metrics(workdir / "ppo")


def check_record(workdir, steps):
  """Every step and roll-out once, no number that is none, and tokens that only rise."""
  rows = read_metrics(workdir / "ppo" / "metrics.jsonl")
  train = [row for row in rows if row["split"] == "train"]
  assert [row["step"] for row in train] == list(range(1, steps + 1))
  assert [row["step"] for row in rows if row["split"] == "rollout"] == list(range(0, steps, UPDATES))
  assert not [row for row in rows if row["split"] != "policy" and any(v != v for v in row.values())]
  tokens = np.diff([0] + [row["num_tokens"] for row in train])
  assert all((tokens > 0) == [bool("policy/approx_kl" in row) for row in train])
  return train


@pytest.mark.long
def test_killed_at_random_moments(folder, tmp_path):
  steps = 4 * KILLS + 10  # 10: the last roll-out is cut short
  config = write_config(folder, "kills.py", steps=steps)
  alone, killed = begun(folder, tmp_path / "alone"), begun(folder, tmp_path / "killed")
  finish(config, "train", alone)
  where = kill_until_done(config, "train", killed, KILLS, 3, most=9)
  assert len(where) == KILLS, where
  assert what_is_there(killed, steps) == what_is_there(alone, steps)
  train = check_record(killed, steps)
  # Some steps were not taken, and some checkpoints lie behind such a step.
  assert 0 < sum(row["taken"] for row in train) < steps
  assert read_record(killed / "ppo").ended.weights == read_record(alone / "ppo").ended.weights
  if KILLS >= 20:
    print(f"killed {len(where)} times in {steps} steps")


@pytest.mark.long
def test_a_reward_that_never_says_the_same_twice(folder, tmp_path):
  """Then the run is a function of the roll-outs that it stored, however often it was killed."""
  (folder / "noise.py").write_text(NOISE)
  steps = 22
  config = write_config(folder, "noisy.py", steps=steps)
  options = (f"--config.ppo.rollout.reward=python:{folder / 'noise.py'}:noise", "--config.ppo.checkpoint.keep=100")
  begun(folder, tmp_path / "killed")
  where = kill_until_done(config, "train", tmp_path / "killed", 2, 5, *options, most=9)
  assert where
  check_record(tmp_path / "killed", steps)
  stage = tmp_path / "killed" / "ppo"
  identity = read_record(stage).identity
  for row in read_metrics(stage / "metrics.jsonl"):
    if row["split"] == "rollout":
      stored = Rollout.read(stage / "rollouts" / f"{row['step'] // UPDATES:06d}.npz", identity)
      assert stored.metrics.items() <= row.items()
  # From the start, with nothing but the roll-outs.
  shutil.copytree(tmp_path / "killed", tmp_path / "again")
  again = tmp_path / "again" / "ppo"
  shutil.rmtree(again / "checkpoints")
  (again / "metrics.jsonl").unlink()
  write_record(again, dataclasses.replace(read_record(again), ended=None))
  finish(config, "train", tmp_path / "again", *options)
  assert what_is_there(tmp_path / "again", steps) == what_is_there(tmp_path / "killed", steps)


def command(config, workdir, *options):
  return main(["train", f"--config={config}", f"--workdir={workdir}", *options])


@pytest.mark.long
def test_asked_to_stop_while_it_samples_and_while_it_updates(folder, tmp_path, monkeypatch):
  """It saves before the next minibatch and says so by its exit code; the same command goes on."""
  steps = 14
  config = write_config(folder, "asked.py", steps=steps)
  for workdir in ("whole", "stopped"):
    begun(folder, tmp_path / workdir)
  assert command(config, tmp_path / "whole") == 0
  stopped = tmp_path / "stopped"
  sample, take_step = writing.sample, Trainer.take_step

  def saved():
    return max((int(path.name) for path in (stopped / "ppo" / "checkpoints").iterdir()), default=None)

  for rollout in (0, 1):  # in the middle of its sampling; step 4 is due for nothing else
    calls = []

    def sampling(*given, numbers, progress, rollout=rollout, calls=calls, **options):
      def told(*done):
        calls.append(done)
        if numbers[0] == 4 * rollout and len(calls) > 1:
          os.kill(os.getpid(), signal.SIGTERM)
        progress(*done)

      return sample(*given, numbers=numbers, progress=told, **options)

    monkeypatch.setattr(writing, "sample", sampling)
    assert command(config, stopped) == INTERRUPTED
    assert saved() == UPDATES * rollout
    assert not (stopped / "ppo" / "rollouts" / f"{rollout:06d}.npz").exists()
    monkeypatch.setattr(writing, "sample", sample)
    for step in (UPDATES * rollout, UPDATES * rollout + 2):  # while a step is dispatched

      def stepping(self, batch, step=step):
        if int(self.state.step) == step:
          os.kill(os.getpid(), signal.SIGTERM)
        return take_step(self, batch)

      monkeypatch.setattr(Trainer, "take_step", stepping)
      assert command(config, stopped) == INTERRUPTED
      assert saved() == step + 1
      monkeypatch.setattr(Trainer, "take_step", take_step)
  assert command(config, stopped) == 0
  assert what_is_there(stopped, steps) == what_is_there(tmp_path / "whole", steps)
  check_record(stopped, steps)


@pytest.mark.long
def test_a_finished_run_is_extended_and_its_settings_may_change(folder, tmp_path):
  """The last roll-out was cut short: the longer run goes on with what is left of it."""
  constant = "--config.ppo.optimizer.schedule=constant"
  short, long = (write_config(folder, f"steps{steps}.py", steps=steps, limit=0.0) for steps in (6, 13))
  for workdir in ("long", "extended"):
    begun(folder, tmp_path / workdir)
  assert command(long, tmp_path / "long", constant) == 0
  extended = tmp_path / "extended"
  assert command(short, extended, constant) == 0
  assert read_record(extended / "ppo").ended.step == 6
  assert command(long, extended, constant) == 0
  ours, whole = what_is_there(extended, 13), what_is_there(tmp_path / "long", 13)
  assert ours[0] == whole[0]
  looks = {6}  # the short run's last look is one more
  assert [row for row in ours[1] if row["split"] != "policy" or row["step"] not in looks] == whole[1]

  changed = ("--config.ppo.optimizer.learning_rate=3e-3", "--config.ppo.train.steps=17", constant)
  assert command(long, extended, *changed) == 2  # refused
  before = (extended / "ppo" / "rollouts" / "normalisation.json").read_text()
  assert command(long, extended, *changed, "--allow-config-change") == 0
  rows = read_metrics(extended / "ppo" / "metrics.jsonl")
  # Step 13 stood inside roll-out 3; what is left of it is taken from a new one, made by the policy of that step.
  assert [row["step"] for row in rows if row["split"] == "rollout"] == [0, 4, 8, 12, 13, 16]
  first = next(row for row in rows if row["split"] == "train" and row["step"] == 14)
  assert first["policy/approx_kl"] == 0 and first["learning_rate"] == pytest.approx(3e-3)
  after = (extended / "ppo" / "rollouts" / "normalisation.json").read_text()
  assert before != after and before.split("terms")[1] == after.split("terms")[1]  # measured anew, and the same


@pytest.mark.long
def test_it_goes_on_on_another_number_of_devices(folder, tmp_path):
  """On eight after one: the same run up to rounding, from the stored roll-out of the one device."""
  config = write_config(folder, "devices.py", steps=10, limit=0.0)
  options = ("--config.ppo.batch.rows=8", "--config.ppo.optimizer.schedule=constant")
  begun(folder, tmp_path / "one")
  assert command(config, tmp_path / "one", *options, "--config.ppo.train.steps=7") == 0
  shutil.copytree(tmp_path / "one", tmp_path / "eight")
  assert command(config, tmp_path / "one", *options) == 0
  environment = dict(XLA_FLAGS=os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8")
  layout = ("--config.ppo.parallel.fsdp=2", "--config.ppo.parallel.tensor=2", "--config.ppo.parallel.data=2")
  finish(config, "train", tmp_path / "eight", *options, *layout, **environment)
  one, eight = (
    [row for row in timeless_metrics(tmp_path / name / "ppo") if row["split"] in ("train", "rollout")]
    for name in ("one", "eight")
  )
  assert len(one) == len(eight) == 13
  for a, b in zip(one, eight, strict=True):
    assert (a["step"], a["split"]) == (b["step"], b["split"])
    if a["step"] <= 8 and a["split"] == "train":  # the next roll-out is written by a policy that was rounded otherwise
      assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
      assert b["num_tokens"] == a["num_tokens"]
