"""Online DPO that is killed, in the middle of a roll-out or of its updates, ends as one left alone.

`DPOJAX_KILLS=20 pytest tests/recipes/test_killed_online.py` kills it more often.
"""

import os
import shutil

import pytest

from dpojax.training.runlog import read_metrics
from dpojax.training.stage_record import read_record
from tests.recipes.killed import finish, kill_until_done
from tests.training.runs import state_digest, timeless_metrics

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DPOJAX_KILLS", "5"))
REFRESH = 4  # steps of a roll-out; checkpoints are taken every 3, so most lie in the middle of one
CONFIG = """from dpojax.config import stages


def get_config():
  config = stages(sft="sft", online="online")
  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.model.hidden = 16
  config.model.ffn = 32
  config.model.layers = 1
  config.logging.plots = False
  config.batch.size = 4
  config.batch.rows = 2
  config.batch.row_length = 128
  config.sft.batch.size = 8
  config.sft.batch.row_length = 256
  config.sft.data.texts = 200
  config.sft.train.steps = 20
  config.sft.optimizer.learning_rate = 1e-2
  config.sft.monitor.prompts = 0
  online = config.online
  online.model.path = "stage:sft"
  online.rollout.prompts = 11
  online.rollout.samples = 4
  online.rollout.max_tokens = 12
  online.rollout.normalise = True
  online.rollout.normalise_on = 8
  online.online.refresh = REFRESH
  online.optimizer.learning_rate = 1e-2
  online.train.steps = STEPS
  online.checkpoint.every = 3
  online.monitor.every = 8
  online.monitor.prompts = 4
  online.monitor.max_tokens = 8
  online.online.label = "bradley_terry"  # of equal scores too, so that no roll-out is left without pairs
  # The answers of the reference, which moves, are the policy's opponents.
  online.online.opponent = "reference"
  online.reference.kind = "moving"
  online.reference.every = 5
  return config
"""


def test_killed_at_random_moments(tmp_path):
  steps = 4 * KILLS + 10  # 10: the last roll-out is cut short
  config = tmp_path / "kills.py"
  config.write_text(CONFIG.replace("REFRESH", str(REFRESH)).replace("STEPS", str(steps)))
  alone, killed = tmp_path / "alone", tmp_path / "killed"
  finish(config, "train", alone, "--only=sft")
  shutil.copytree(alone, killed)
  finish(config, "train", alone)
  where = kill_until_done(config, "train", killed, KILLS, 3, most=9)
  assert len(where) == KILLS, where
  assert state_digest(killed / "online", steps) == state_digest(alone / "online", steps)
  rows = timeless_metrics(killed / "online")
  assert rows == timeless_metrics(alone / "online")
  assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, steps + 1))
  assert [row["step"] for row in rows if row["split"] == "rollout"] == list(range(0, steps, REFRESH))
  losses = [row["loss"] for row in read_metrics(killed / "online" / "metrics.jsonl") if row["split"] == "train"]
  assert len(set(losses)) > steps // 2  # it learns
  assert read_record(killed / "online").ended.weights == read_record(alone / "online").ended.weights
  if KILLS >= 20:
    print(f"killed {len(where)} times in {steps} steps: {where}")
