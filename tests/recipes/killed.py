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
from tests.training.runs import ROOT, programs_of_the_killed

# Of the built-in desk, as small as it can be: SFT, then NAME=RECIPE with STAGE's settings; checkpoints are taken every 3 steps.
TINY = """from dpojax.config import stages


def get_config():
  config = stages(sft="sft", NAME="RECIPE")
  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.model.hidden = 16
  config.model.ffn = 32
  config.model.layers = 1
  config.logging.plots = False
  config.batch.rows = 2
  config.batch.row_length = 128
  config.sft.batch.size = 8
  config.sft.batch.row_length = 256
  config.sft.data.texts = 200
  config.sft.train.steps = 20
  config.sft.optimizer.learning_rate = 1e-2
  config.sft.monitor.prompts = 0
  stage = config.NAME
  stage.model.path = "stage:sft"
  stage.rollout.prompts = 11
  stage.rollout.max_tokens = 12
  stage.rollout.normalise = True
  stage.rollout.normalise_on = 8
  stage.optimizer.learning_rate = 1e-2
  stage.checkpoint.every = 3
  stage.monitor.every = 8
  stage.monitor.prompts = 4
  stage.monitor.max_tokens = 8
SETTINGS
  return config
"""


def write_tiny(file, name, recipe, settings):
  """Writes the config of `TINY`; `settings`: of the stage, by key."""
  lines = "\n".join(f"  stage.{key} = {value!r}" for key, value in settings.items())
  file.write_text(TINY.replace("NAME", name).replace("RECIPE", recipe).replace("SETTINGS", lines))
  return file


def start(config, command, workdir, *options, **environment):
  words = [sys.executable, "-m", "dpojax", command, f"--config={config}", f"--workdir={workdir}", *options]
  return subprocess.Popen(
    words,
    cwd=ROOT,
    env=os.environ | programs_of_the_killed() | {"JAX_PLATFORMS": "cpu"} | environment,
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
