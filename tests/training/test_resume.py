"""A run that is killed, stopped or finds a damaged checkpoint ends as the run that was left alone.

`DPOJAX_KILLS=20 pytest tests/training/test_resume.py` kills it more often.
"""

import dataclasses
import os
import random
import signal
import time

import jax
import pytest

from dpojax.config import load_config
from dpojax.recipes import preference
from dpojax.sweeps.stages import run
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.stage_record import read_record, write_record
from tests.training.runs import start, state_digest, timeless_metrics, train, write_config

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DPOJAX_KILLS", "5"))
STEPS = 60 + 8 * KILLS


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  return write_config(tmp_path_factory.mktemp("resume"), **{"train.steps": STEPS})


@pytest.fixture(scope="module")
def undisturbed(config):
  """(digest of the state, metrics) of the run that nothing interrupts."""
  workdir = config.parent / "undisturbed"
  train(config, workdir)
  return state_digest(workdir, STEPS), timeless_metrics(workdir)


def lines(workdir):
  file = workdir / "metrics.jsonl"
  return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_for_line(process, workdir, wanted):
  """Until the run has written `wanted` records, or has ended."""
  deadline = time.monotonic() + 300  # of a machine that others use too
  while process.poll() is None and lines(workdir) < wanted:
    assert time.monotonic() < deadline, "the run writes nothing"
    time.sleep(0.002)


def test_killed_at_random_moments_it_ends_bit_for_bit_the_same(config, undisturbed, tmp_path):
  draws = random.Random(0)
  killed = 0
  while killed < KILLS:
    process = start(config, tmp_path)
    # A resumed run first cuts the log back to its checkpoint, at most 6 steps and an evaluation ago.
    wait_for_line(process, tmp_path, lines(tmp_path) + draws.randint(1, 7))
    time.sleep(draws.uniform(0, 0.05))
    if process.poll() is not None:
      break
    process.kill()
    process.communicate()
    killed += 1
  assert killed == KILLS, f"the run ended after {killed} kills; make it longer"
  train(config, tmp_path)
  digest, metrics = undisturbed
  assert state_digest(tmp_path, STEPS) == digest
  assert timeless_metrics(tmp_path) == metrics
  steps = [row["step"] for row in timeless_metrics(tmp_path) if row["split"] == "train"]
  assert steps == list(range(1, STEPS + 1))


def test_sigterm_saves_exits_and_the_same_command_goes_on(config, undisturbed, tmp_path):
  for after in (3, 40):
    process = start(config, tmp_path)
    wait_for_line(process, tmp_path, after)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 75, output
    assert "asked to stop: saved step" in output
  output = train(config, tmp_path)
  assert "resuming after step" in output
  digest, metrics = undisturbed
  assert state_digest(tmp_path, STEPS) == digest
  assert timeless_metrics(tmp_path) == metrics


def test_a_flipped_byte_names_the_file_and_falls_back_a_checkpoint(config, undisturbed, tmp_path):
  process = start(config, tmp_path)
  wait_for_line(process, tmp_path, 40)
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=120)
  newest, older = sorted((int(p.name) for p in (tmp_path / "checkpoints").iterdir()), reverse=True)[:2]
  file = max(
    (tmp_path / "checkpoints" / str(newest) / "params").rglob("*"), key=lambda p: p.stat().st_size * p.is_file()
  )
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  output = train(config, tmp_path)
  assert file.name in output and f"resuming after step {older}" in output
  digest, metrics = undisturbed
  assert state_digest(tmp_path, STEPS) == digest
  assert timeless_metrics(tmp_path) == metrics


def test_the_fresh_state_makes_room_before_a_checkpoint_is_read(config, tmp_path, monkeypatch):
  """Otherwise a run that resumes holds parameters and moments twice, and needs more memory than it had before."""
  settings = load_config(str(config), ["--config.train.steps=2"])
  run(settings, tmp_path)
  build, restore, seen = preference.Trainer, Checkpointer.restore, []

  def built(*given, **options):
    seen.append(build(*given, **options))
    return seen[0]

  def restored(*given):
    seen.append([leaf.is_deleted() for leaf in jax.tree.leaves(seen[0].state)])
    return restore(*given)

  monkeypatch.setattr(preference, "Trainer", built)
  monkeypatch.setattr(Checkpointer, "restore", restored)
  record = read_record(tmp_path)
  write_record(tmp_path, dataclasses.replace(record, ended=None))  # as if it had been killed at its very end
  run(settings, tmp_path)
  assert seen[1] and all(seen[1])
  assert int(seen[0].state.step) == 2


def test_a_changed_config_is_refused_with_what_changed(config, undisturbed):
  process = start(config, config.parent / "undisturbed", "--config.loss.beta=0.3")
  output = process.communicate(timeout=120)[0]
  assert process.returncode == 2
  assert "loss.beta: its default -> 0.3" in output and "--allow-config-change" in output


def test_one_and_eight_devices_train_alike(config, undisturbed, tmp_path):
  """The eight along every axis: data, fsdp and tensor."""
  options = ("--config.train.steps=12", "--config.optimizer.schedule=constant")
  layout = ("--config.parallel.fsdp=2", "--config.parallel.tensor=2")
  flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
  train(config, tmp_path / "eight", *layout, *options, XLA_FLAGS=flags)
  train(config, tmp_path / "alone", *options)
  for row, other in zip(*(timeless_metrics(tmp_path / name) for name in ("alone", "eight")), strict=True):
    for name in ("loss", "grad_norm", "rewards/margins"):
      if name in row:
        assert other[name] == pytest.approx(row[name], rel=2e-4, abs=2e-5), (row["split"], row["step"], name)
