"""A run that is killed while it looks at what its policy writes ends as the one that was left alone, looks and all."""

import json
import random
import time

import pytest

from tests.training.runs import start, state_digest, timeless_metrics, train, write_config

pytestmark = pytest.mark.slow

KILLS, STEPS = 4, 40
REWARD = """
import os, time

def words(prompts, answers):
  with open(os.environ["LOOKS"], "a") as file:
    file.write(".")
  time.sleep(0.05)
  return [0.7 * len(set(answer.split())) for answer in answers]
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  folder = tmp_path_factory.mktemp("looks")
  (folder / "reward.py").write_text(REWARD)
  settings = {
    "train.steps": STEPS,
    "monitor.every": 2,
    "monitor.prompts": 3,
    "monitor.rewards": f"python:{folder / 'reward.py'}:words, length",
    "monitor.normalise": True,
    "stop.kl_budget": 0.05,
    "optimizer.learning_rate": 1e-2,
  }
  return write_config(folder, **settings)


def everything(workdir):
  """What the run left: the state, metrics, looks, what the rule said, gain and bias."""
  said = json.loads((workdir / "stop.json").read_text())
  samples = {file.name: file.read_bytes() for file in sorted((workdir / "samples").iterdir())}
  states = {step: state_digest(workdir, step) for step in {STEPS, said["best"]["step"]}}
  return states, timeless_metrics(workdir), samples, said, (workdir / "rewards.json").read_bytes()


@pytest.mark.long
def test_killed_in_its_looks_it_ends_bit_for_bit_the_same(config, tmp_path):
  looks = tmp_path / "looks"
  looks.touch()
  train(config, tmp_path / "left_alone", LOOKS=str(looks))
  wanted = everything(tmp_path / "left_alone")
  assert 0 < wanted[3]["best"]["step"] < STEPS and wanted[3]["budget"]["over"]  # the best is a checkpoint of its own

  draws, killed, workdir = random.Random(0), 0, tmp_path / "killed"
  while killed < KILLS:
    before = looks.stat().st_size
    process = start(config, workdir, LOOKS=str(looks))
    # A resumed run looks again at what it has no checkpoint of; it is killed in one of its first looks.
    wait = draws.randint(1, 4)
    while process.poll() is None and looks.stat().st_size < before + wait:
      time.sleep(0.002)
    time.sleep(draws.uniform(0, 0.12))
    if process.poll() is not None:
      break
    process.kill()
    process.communicate()
    killed += 1
  assert killed == KILLS, f"the run ended after {killed} kills; make it longer"
  train(config, workdir, LOOKS=str(looks))
  assert everything(workdir) == wanted
