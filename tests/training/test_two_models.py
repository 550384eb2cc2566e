"""Two models trained in one state: on eight devices as on one, moments where their parameters are, resumed bit for bit."""

import json
import os
import subprocess
import sys

import pytest

from tests.training.runs import ROOT


@pytest.mark.slow
def test_a_policy_and_a_critic_train_together_on_eight_devices():
  flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "tests.training.two_models"]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
  assert done.returncode == 0, done.stderr
  assert "gradients are added beside" not in done.stderr
  results = json.loads(done.stdout)
  assert results.pop("resumed") is True
  assert min(results.pop("moved").values()) > 0.1
  assert len(results) == 1
  for layout, found in results.items():
    assert found["loss"] <= 1e-5, layout
    # Adam divides by the root of second moments, so that where a gradient is all rounding its sign decides.
    assert found["parameters"] <= 2e-3, layout
    specs = found["spec"]
    for model in ("policy", "critic"):
      own = f"['{model}']['layers']['query']"
      places = [f".params{own}", f".opt_state[1][0].mu{own}", f".opt_state[1][0].nu{own}"]
      assert [specs[place] for place in places] == [[None, "fsdp", "tensor"]] * 3, layout
      assert specs[f".params['{model}']['layers']['attention_norm']"] == []
    assert specs[".opt_state[1][0].count"] == specs[".step"] == specs[".params['critic']['score']"] == []
