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
  assert len(results) == 3
  for layout, difference in results.items():
    assert difference["token"] <= 5e-5, layout
    assert difference["answer"] <= 5e-4, layout
    assert difference["gradient"] <= 1e-5, layout


@pytest.mark.long
def test_policy_gradients_are_the_same_on_one_device_and_on_eight():
  """Given the same answers, in float32; with all that the policy writes on the way, in float64.

  In float32 some 1e-7 of a gradient is rounding, and Adam makes it as much of a step: of 8 steps that move the parameters
  by a hundredth, 1e-6 of the parameters at most. A token that falls otherwise changes everything after it, which float64
  puts off.
  """
  flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "tests.training.rollouts_on_devices"]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600)
  assert done.returncode == 0, done.stderr
  results = json.loads(done.stdout)
  assert results["given"]["moved"] > 5e-3 and results["given"]["apart"] <= 1e-6, results["given"]
  assert results["dtypes"] == ["float64"] and results["rollouts"] == 2
  assert len(results["whole"]) == 2
  for layout, found in results["whole"].items():
    assert found["first"] is None and found["apart"] <= 1e-9, (layout, found)
