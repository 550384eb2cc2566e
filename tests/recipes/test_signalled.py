"""Commands that get signals at random moments, one or two in a row, end with their code, and go on to the same end.

`DPOJAX_SIGNALS=20 pytest tests/recipes/test_signalled.py` sends more of them.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from dpojax.training.stage_record import read_record
from tests.cli.tiny_model import TinyModel
from tests.recipes.killed import ROOT, finish, progress, start, write_tiny
from tests.training.runs import programs_of_the_killed, state_digest, timeless_metrics

SIGNALS = int(os.environ.get("DPOJAX_SIGNALS", "3"))
SECONDS = 40  # in which a step, what is measured after it, and a save are done on a busy machine
ENDS_AT_ONCE = 5


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  folder = tmp_path_factory.mktemp("signalled")
  settings = {"batch.size": 6, "train.steps": 12, "online.refresh": 4, "rollout.samples": 3}
  return write_tiny(folder / "config.py", "online", "online", settings)


@pytest.fixture(scope="module")
def undisturbed(config):
  workdir = config.parent / "undisturbed"
  finish(config, "train", workdir)
  return workdir


@pytest.fixture(scope="module")
def side_by_side(config):
  """With a share of the processors each, on which sums are rounded otherwise."""
  workdir = config.parent / "side_by_side"
  finish(config, "train", workdir, "--jobs=2")
  return workdir


def listens(process):
  """Whether the process has handlers of its own for SIGTERM and SIGINT yet."""
  try:
    with open(f"/proc/{process.pid}/status") as file:
      caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
  except (OSError, StopIteration):
    return False
  return all(caught >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGINT))


def wait_until(process, ready):
  deadline = time.monotonic() + 300
  while process.poll() is None and not ready():
    assert time.monotonic() < deadline, "it does nothing"
    time.sleep(0.003)


def signalled(process, draws, twice):
  """(exit code, output) of a process that gets one signal, or two in a row."""
  first, second = draws.choices((signal.SIGTERM, signal.SIGINT), k=2)
  process.send_signal(first)
  if twice:
    time.sleep(draws.uniform(0.31, 1))
    began = time.monotonic()
    process.send_signal(second)
    output = process.communicate(timeout=SECONDS)[0].decode()
    assert time.monotonic() - began < ENDS_AT_ONCE, output
  else:
    output = process.communicate(timeout=SECONDS)[0].decode()
  assert "Traceback" not in output, output
  return process.returncode, output


@pytest.mark.long
@pytest.mark.parametrize("command", [["train"], ["train", "--jobs=2"], ["sweep", "--grid=online.loss.beta=0.1"]])
def test_a_run_that_is_signalled_goes_on_to_the_same_end(config, request, tmp_path, command):
  if "--jobs=2" in command and len(os.sched_getaffinity(0)) < 2:
    pytest.skip("two stages at once take two processors")
  alone = request.getfixturevalue("side_by_side" if "--jobs=2" in command else "undisturbed")
  draws, stopped = random.Random(len(command[-1])), 0
  name, *options = command
  for number in range(SIGNALS):
    process = start(config, name, tmp_path, *options)
    wait_until(process, lambda process=process: listens(process))
    if number % 4 == 0:  # before anything was written: imports, compilation
      time.sleep(draws.uniform(0, 2))
    else:
      goal = progress(tmp_path) + draws.randint(1, 6)
      wait_until(process, lambda goal=goal: progress(tmp_path) >= goal)
      time.sleep(draws.uniform(0, 0.05))
    code, output = signalled(process, draws, twice=number % 2)
    if code == 0:
      break  # it had ended
    assert code == 75, output
    stopped += 1
  assert stopped >= min(3, SIGNALS)
  finish(config, name, tmp_path, *options)
  for stage in ("sft", "online"):
    (folder,) = [path.parent for path in tmp_path.rglob("stage.json") if path.parent.name == stage]
    steps = read_record(folder).ended.step
    assert state_digest(folder, steps) == state_digest(alone / stage, steps)
    in_order = [sorted(timeless_metrics(path), key=str) for path in (folder, alone / stage)]
    assert in_order[0] == in_order[1]


@pytest.mark.long
@pytest.mark.parametrize("command", ["score", "eval", "sample", "bt", "data", "report"])
def test_other_commands_end_with_their_code_and_leave_nothing_half_done(tmp_path, undisturbed, command):
  model = TinyModel(tmp_path / "tiny").path
  rows = '{"prompt": "is my parcel", "chosen": "yes we will", "rejected": "be calm"}\n' * 300
  (tmp_path / "rows.jsonl").write_text(rows)
  (tmp_path / "games.csv").write_text("w,l\n" + "a,b\nb,c\nc,a\na,c\n" * 30_000)
  data, out = f"--data={tmp_path / 'rows.jsonl'}", f"--out={tmp_path / 'out'}"
  words = {
    "score": [f"--model={model}", data, out],
    "eval": [f"--model={model}", data, out, "--score=sum"],
    "sample": [f"--model={model}", data, out, "--samples=4", "--max-tokens=8"],
    "bt": [str(tmp_path / "games.csv"), "--winner=w", "--loser=l", f"{out}.json", "--bootstrap=500"],
    "data": ["inspect", f"--model={model}", data],
    "report": [str(undisturbed), out],
  }[command]
  before = sorted(path.name for path in tmp_path.iterdir())

  def begun():
    process = subprocess.Popen(
      [sys.executable, "-m", "dpojax", command, *words],
      cwd=ROOT,
      env=os.environ | programs_of_the_killed(),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    wait_until(process, lambda: listens(process))
    return process

  def clear():
    for path in (tmp_path / "out", tmp_path / "out.json"):
      shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

  whole, since = begun(), time.monotonic()
  whole.communicate(timeout=300)
  seconds = time.monotonic() - since  # in which it can be met, on this machine
  assert whole.returncode == 0
  clear()
  draws = random.Random(command)
  ended = 0
  for number in range(SIGNALS):
    process = begun()
    time.sleep(draws.uniform(0, 0.8 * seconds))
    code, output = signalled(process, draws, number % 2)
    assert code in (0, *((75,) if command == "sample" else (130, 143))), output
    ended += code != 0
    left = sorted(path.name for path in tmp_path.iterdir())
    allowed = {"sample": ["out.part", "out", "out.provenance.json"], "report": ["out"]}.get(command, [])
    if code != 0:
      assert [name for name in left if name not in before and name not in allowed] == [], output
    clear()
  assert ended > SIGNALS / 3
