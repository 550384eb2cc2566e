"""Scores on eight forced host devices are those of one."""

import json
import os
import subprocess
import sys

import pytest

from tests.training.runs import ROOT


@pytest.mark.slow
def test_devices_change_nothing():
  flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "tests.scoring.sharded_check"]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stderr
  results = json.loads(done.stdout)
  assert "batch.rows: 2 rows a group do not divide by the 8 devices" in results["two rows"]
  assert len(results["sampled"]) == 3
  for mesh, (others, apart) in results["sampled"].items():
    assert others == 0 and apart <= 1e-6, (mesh, others, apart)  # log-probs are stored in float32
  worst = results["worst"]
  assert len(worst) == 3
  for mesh, differences in worst.items():
    assert sorted(differences) == ["answers", "cached", "kl", "rewards", "tokens"]
    for kind, difference in differences.items():
      assert difference <= (5e-5 if kind in ("tokens", "cached") else 5e-4), (mesh, kind)
