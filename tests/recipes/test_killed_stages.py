"""An experiment that is killed again and again, in every stage, ends as the one that was left alone."""

import random
import signal
import time

import pytest

from dpojax.training.stage_record import read_record
from tests.recipes.killed import finish, kill_until_done, start
from tests.training.runs import state_digest, timeless_metrics, write_tiny_model

pytestmark = pytest.mark.slow

CONFIG = """from dpojax.config import stages


def get_config():
  config = stages(sft="sft", pairs="pairs", reward="reward_model", dpo="preference")
  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.model.hidden = 16
  config.model.ffn = 32
  config.model.layers = 1
  config.batch.size = 8
  config.batch.rows = 2
  config.batch.row_length = 256
  config.logging.plots = False
  config.sft.data.texts = 200
  config.sft.train.steps = STEPS
  config.sft.evaluation.every = 8
  config.sft.checkpoint.every = 4
  config.pairs.model.path = "stage:sft"
  config.pairs.pairs.prompts = 24
  config.pairs.pairs.max_tokens = 16
  for stage in (config.reward, config.dpo):
    stage.model.path = "stage:sft"
    stage.data.path = "stage:pairs"
    stage.train.steps = STEPS
    stage.checkpoint.every = 4
    stage.evaluation.every = 8
  config.dpo.reference.kind = "cache"
  config.dpo.monitor.every = 10
  config.dpo.monitor.prompts = 4
  config.dpo.monitor.max_tokens = 8
  return config
"""
STEPS = 40
STAGES = ("sft", "pairs", "reward", "dpo")
TRAINED = ("sft", "reward", "dpo")
MADE = ("answers", "pairs", "rankings", "triples", "provenance")  # by a pairs stage
PROMPTS = """from dpojax.config import stages

def get_config():
  config = stages(pairs="pairs")
  config.model.path = "FOLDER/model"
  config.data.path = "FOLDER/prompts.txt"
  config.pairs.pairs.prompts = 0
  config.pairs.pairs.max_tokens = 24
  config.pairs.pairs.reward = "regex:word1?count=true"
  return config
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  file = tmp_path_factory.mktemp("killed") / "config.py"
  file.write_text(CONFIG.replace("STEPS", str(STEPS)))
  return file


def what_is_there(folder):
  """Everything that a stage computed, by digest."""
  if folder.name == "pairs":
    return {file.name: file.read_bytes() for file in folder.glob("*.json*") if file.stem in MADE}
  return state_digest(folder, STEPS), timeless_metrics(folder)


@pytest.mark.long
def test_an_experiment_killed_in_every_stage(config, tmp_path):
  alone = config.parent / "alone"
  finish(config, "train", alone)
  where = kill_until_done(config, "train", tmp_path, 6, seed=1, most=60)
  assert len(where) >= 4, where
  assert set(where) >= {"sft", "dpo"}, where
  for stage in STAGES:
    assert what_is_there(tmp_path / stage) == what_is_there(alone / stage), stage
    assert read_record(tmp_path / stage).identity == read_record(alone / stage).identity


@pytest.mark.long
def test_a_sweep_killed_between_and_within_its_points(config, tmp_path):
  grid = ("--grid", "dpo.loss.beta=0.1,0.5", "--config.reward.train.steps=4")
  alone = config.parent / "sweep"
  finish(config, "sweep", alone, *grid)
  where = kill_until_done(config, "sweep", tmp_path, 4, 2, *grid, most=40)
  assert len(where) >= 3, where
  for beta in ("0.1", "0.5"):
    folder = f"dpo.loss.beta={beta}/dpo"
    assert what_is_there(tmp_path / folder) == what_is_there(alone / folder)
  assert (tmp_path / "sft").is_dir() and not list(tmp_path.glob("dpo.loss.beta=*/sft"))


@pytest.mark.long
def test_a_pairs_stage_killed_while_it_samples(tmp_path):
  write_tiny_model(tmp_path / "model")
  prompts = [f"word{i % 30} word{i % 29} word{i % 7}\n" * (1 + i % 2) for i in range(3000)]
  (tmp_path / "prompts.txt").write_text("".join(prompts))
  file = tmp_path / "config.py"
  file.write_text(PROMPTS.replace("FOLDER", str(tmp_path)))
  alone, killed = tmp_path / "alone", tmp_path / "killed"
  finish(file, "train", alone)
  part, done, kills, draws = killed / "pairs" / "answers.jsonl.part", [], 0, random.Random(3)
  while kills < 4:
    process = start(file, "train", killed)
    goal = (part.stat().st_size if part.exists() else 0) + draws.randint(1, 1_000_000)
    while process.poll() is None and (not part.exists() or part.stat().st_size < goal):
      time.sleep(0.001)
    time.sleep(draws.uniform(0, 0.02))
    assert process.poll() is None, process.communicate()[0].decode()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kills += 1
    done.append(part.read_bytes().count(b"\n"))
  assert done == sorted(done) and len(set(done)) >= 3, done
  finish(file, "train", killed)
  assert what_is_there(killed / "pairs") == what_is_there(alone / "pairs")
  assert set(what_is_there(alone / "pairs")) == {*(f"{name}.jsonl" for name in MADE[:4]), "provenance.json"}
  assert read_record(killed / "pairs").ended.files == read_record(alone / "pairs").ended.files
