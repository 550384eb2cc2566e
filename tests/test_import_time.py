"""What starting costs: importing dpojax, and `dpojax --help`. Best of several, in fresh processes."""

import subprocess
import sys
import time


def seconds(*command, repeats=5):
  best = float("inf")
  for _ in range(repeats):
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    best = min(best, time.perf_counter() - start)
  return best


def test_importing_dpojax_costs_little_beyond_jax():
  assert seconds("-c", "import jax, dpojax") - seconds("-c", "import jax") <= 0.3


def test_help_answers_at_once():
  assert seconds("-m", "dpojax", "--help") < 0.5


def test_help_and_import_leave_jax_alone():
  code = "import sys, dpojax.cli.main as m; m.main(['--help']); sys.exit('jax' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
