"""Online DPO that is killed, in the middle of a roll-out or of its updates, ends as one left alone.

`DPOJAX_KILLS=20 pytest tests/recipes/test_killed_online.py` kills it more often.
"""

import os
import shutil

import pytest

from dpojax.training.runlog import read_metrics
from dpojax.training.stage_record import read_record
from tests.recipes.killed import finish, kill_until_done, write_tiny
from tests.training.runs import state_digest, timeless_metrics

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DPOJAX_KILLS", "3"))
REFRESH = 4  # steps of a roll-out; checkpoints are taken every 3, so most lie in the middle of one
SETTINGS = {
  "batch.size": 4,
  "rollout.samples": 4,
  "online.refresh": REFRESH,
  "online.label": "bradley_terry",  # of equal scores too, so that no roll-out is left without pairs
  # The answers of the reference, which moves, are the policy's opponents.
  "online.opponent": "reference",
  "reference.kind": "moving",
  "reference.every": 5,
}


@pytest.mark.long
def test_killed_at_random_moments(tmp_path):
  steps = 4 * KILLS + 10  # 10: the last roll-out is cut short
  config = write_tiny(tmp_path / "kills.py", "online", "online", SETTINGS | {"train.steps": steps})
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
