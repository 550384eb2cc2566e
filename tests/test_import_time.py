"""What starting costs: importing dpojax, and `dpojax --help`. Best of several, in fresh processes."""

import subprocess
import sys
import time

import pytest


def run(*arguments):
  return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.mark.slow
def test_importing_dpojax_costs_little_beyond_jax():
  # Inside one process, after jax: the difference of two processes' times is mostly noise on a busy machine.
  code = "import time, jax; start = time.perf_counter(); import dpojax; print(time.perf_counter() - start)"
  assert min(float(run("-c", code)) for _ in range(3)) <= 0.3


def test_help_answers_at_once():
  def seconds():
    start = time.perf_counter()
    run("-m", "dpojax", "--help")
    return time.perf_counter() - start

  assert min(seconds() for _ in range(5)) < 0.5


def test_help_and_import_leave_jax_alone():
  code = "import sys, dpojax.cli.main as m; m.main(['--help']); sys.exit('jax' in sys.modules)"
  run("-c", code)
