"""`batch.rows` follows the devices: a run on eight learns what it learns on one, though eight do not divide its rows."""

import os

import pytest

from dpojax.training.runlog import read_metrics
from tests.training.runs import train, write_config

FEW = {
  "batch.rows": 3,
  "train.steps": 4,
  "optimizer.schedule": "constant",  # under which a longer run is the same run
  "checkpoint.every": 0,
  "evaluation.every": 0,
  "monitor.every": 0,
  "monitor.prompts": 0,
}


@pytest.mark.slow
def test_rows_that_eight_devices_do_not_divide_change_nothing(tmp_path):
  config = write_config(tmp_path, **FEW)
  eight = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
  printed, rows = {}, {}
  for name, flags in (("one", os.environ.get("XLA_FLAGS", "")), ("eight", eight)):
    printed[name] = train(config, tmp_path / name, XLA_FLAGS=flags)
    rows[name] = [row for row in read_metrics(tmp_path / name / "metrics.jsonl") if row["split"] == "train"]
  said = "batch.rows=3: a row group has 8 rows here, a multiple of the devices that share it; a step stays 8 examples"
  assert said in " ".join(printed["eight"].split()) and "batch.rows=3" not in printed["one"]
  assert len(rows["one"]) == len(rows["eight"]) == 4
  for one, other in zip(rows["one"], rows["eight"], strict=True):
    for key in ("loss", "rewards/margins", "logps/chosen", "grad_norm"):
      assert other[key] == pytest.approx(one[key], rel=2e-5, abs=1e-6), key
  assert rows["one"][0]["loss"] != rows["one"][-1]["loss"]
  # The folder keeps what was asked for, so a run goes on where there are other devices.
  again = train(config, tmp_path / "one", "--config.train.steps=6", XLA_FLAGS=eight)
  assert "resuming after step 4" in again and "batch.rows=3: a row group has 8 rows" in " ".join(again.split())
