"""SmolLM2 on eight forced host devices, and in several row groups, says what it says on one device in one group."""

import json
import os
import subprocess
import sys

import pytest

from tests.training.runs import ROOT


@pytest.mark.pretrained
def test_devices_and_row_groups_change_nothing():
  environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "tests.training.device_check"]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
  assert done.returncode == 0, done.stderr
  results = json.loads(done.stdout)
  results.pop("peak_gigabytes")
  assert len(results) == 5
  for layout, difference in results.items():
    assert difference["token"] <= 5e-5, layout
    assert difference["answer"] <= 5e-4, layout
    assert difference["gradient"] <= 1e-5, layout
