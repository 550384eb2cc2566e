"""Commands in processes of their own that are killed at random moments and started again."""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

from dpojax.training.stage_record import read_record
from tests.training.runs import ROOT


def start(config, command, workdir, *options, **environment):
  words = [sys.executable, "-m", "dpojax", command, f"--config={config}", f"--workdir={workdir}", *options]
  cache = {"JAX_COMPILATION_CACHE_DIR": str(config.parent / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  return subprocess.Popen(
    words,
    cwd=ROOT,
    env=os.environ | cache | {"JAX_PLATFORMS": "cpu"} | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
  )


def finish(config, command, workdir, *options, **environment):
  process = start(config, command, workdir, *options, **environment)
  output = process.communicate(timeout=1200)[0].decode()
  assert process.returncode == 0, output


def progress(workdir):
  """A number that rises with all that is written: records, stages, answers, pairs, roll-outs, log-probs, checkpoints."""
  total = 0
  for folder, _, names in os.walk(workdir):  # which does not mind folders that are removed meanwhile
    for name in names:
      if name in ("metrics.jsonl", "pairs.jsonl", "answers.jsonl", "answers.jsonl.part"):
        with contextlib.suppress(OSError):  # a file that is being replaced
          total += pathlib.Path(folder, name).read_bytes().count(b"\n")
      total += name in ("stage.json", "manifest.json") or name.endswith((".records", ".npz"))
  return total


def kill_until_done(config, command, workdir, wanted, seed, *options, most=14):
  """Starts and kills the command at random moments, at most `wanted` times; the stages in which it was killed.

  A moment comes after 1 to `most` further things were written.
  """
  draws, where = random.Random(seed), []
  while len(where) < wanted:
    process = start(config, command, workdir, *options)
    goal = progress(workdir) + draws.randint(1, most)
    deadline = time.monotonic() + 600
    while process.poll() is None and progress(workdir) < goal:
      assert time.monotonic() < deadline, "it writes nothing"
      time.sleep(0.003)
    time.sleep(draws.uniform(0, 0.05))
    if process.poll() is not None:
      output = process.communicate()[0].decode()
      assert process.returncode == 0, output
      break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folders = [pathlib.Path(folder) for folder, _, names in os.walk(workdir) if "stage.json" in names]
    began = {folder.name for folder in folders if read_record(folder).ended is None}
    where.append(began.pop() if began else "between stages")
  finish(config, command, workdir, *options)
  return where
