"""Row groups and devices change neither the loss nor the gradient of any loss, coupled over the batch or not."""

import json
import os
import subprocess
import sys

import pytest

from dpojax.losses import LOSSES
from tests.tolerances import EPS
from tests.training.runs import ROOT

pytestmark = pytest.mark.slow

NAMES = sorted(name for name, loss in LOSSES.items() if not loss.of_rewards)


@pytest.fixture(scope="module")
def results(request):
  """Figures of the losses whose tests are selected: they share a process, and their programs."""
  names = {item.callspec.params["name"] for item in request.session.items if item.path == request.path}
  flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
  environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "tests.training.every_loss", *sorted(names)]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", NAMES)
def test_layouts_change_nothing(results, name):
  found = results[name]
  assert found["size"] > 0.01
  # A loss moves by beta = 0.3 times the rounding of four log-probs of some 25 nats, averaged over 16 examples.
  assert found["loss"] <= 16 * EPS
  assert found["gradient"] <= 256 * EPS  # as in `assert_gradients_close`
