"""Checkpoints of weights alone: which they are, what they still serve, and every moment at which a drop may be killed."""

import contextlib
import dataclasses
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpojax import digests
from dpojax.config.schema import CheckpointSettings, RunConfig
from dpojax.errors import CheckpointError
from dpojax.training import manifest, weights_only
from dpojax.training.checkpoint import Checkpointer, read_params
from dpojax.training.loop import RunResult
from dpojax.training.manifest import DamagedError, read_manifest, verify
from dpojax.training.run_folder import RunFolder
from dpojax.training.state import new_state
from dpojax.training.update import update_rule
from dpojax.training.weights_only import drop_state, has_state
from tests.training.test_checkpoint import bits, checkpointer, make_state, saved


def with_state(folder):
  return [int(path.name) for path in sorted(folder.iterdir()) if path.name.isdecimal() and has_state(path)]


def same_params(folder, step):
  found = read_params(folder, step)
  return bits(found) == bits(make_state(step, finite=True).params)


@pytest.mark.slow
@pytest.mark.parametrize("resumable, expected", [(0, [5]), (1, [5]), (2, [4, 5]), (3, [3, 4, 5])])
def test_the_newest_keep_their_state_and_the_others_their_weights(tmp_path, resumable, expected):
  reward = {1: 0.9, 2: 0.1, 3: 0.1, 4: 0.1, 5: 0.1}
  with checkpointer(tmp_path, keep=3, resumable=resumable, best_metric="reward") as ck:
    for step, value in reward.items():
      ck.save(step, make_state(step, finite=True), metrics={"reward": value})
  assert sorted(int(path.name) for path in tmp_path.iterdir()) == [1, 3, 4, 5]
  assert with_state(tmp_path) == expected
  for step in (1, 3, 4, 5):
    assert same_params(tmp_path, step)
    verify(tmp_path / str(step))
    assert (tmp_path / str(step) / "rest").exists() == (step in expected)
  with checkpointer(tmp_path) as ck:
    assert ck.best_step("reward", "max") == 1
    step, state = ck.restore(make_state())
  assert step == 5 and bits(state) == bits(make_state(5, finite=True))


def test_going_on_from_weights_alone_is_refused_and_says_what_would_do(tmp_path):
  saved(tmp_path, 1, 2, 3, finite=True, keep=3, resumable=1)
  with checkpointer(tmp_path) as ck:
    with pytest.raises(
      CheckpointError, match=r"/2: it holds weights alone, without .* \(checkpoint.resumable\); start another run"
    ):
      ck.restore(make_state(), 2)
    ck.drop_state()
    with pytest.raises(CheckpointError) as caught:
      ck.restore(make_state())
  assert str(caught.value).endswith(f"in a workdir of its own, with model.path={tmp_path / '3'}")
  assert same_params(tmp_path, 3)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]  # nothing is moved away as damaged


def test_where_the_one_with_state_is_damaged_the_others_are_named(tmp_path):
  saved(tmp_path, 1, 2, finite=True, keep=2, resumable=1)
  victim = next(path for path in (tmp_path / "2" / "rest").rglob("*") if path.is_file() and path.stat().st_size)
  victim.write_bytes(b"!" + victim.read_bytes()[1:])
  said = []
  with Checkpointer(tmp_path, CheckpointSettings(), warn=said.append) as ck, pytest.raises(CheckpointError) as caught:
    ck.restore(make_state())
  assert str(victim) in str(caught.value) and f"model.path={tmp_path / '1'}" in str(caught.value)
  assert same_params(tmp_path, 1)


@pytest.mark.slow
def test_one_killed_at_any_moment_is_sound_and_is_finished_by_the_next_start(tmp_path, monkeypatch):
  """Before the manifest, after it, and with each number of files of the rest gone."""
  whole = saved(tmp_path / "whole", 1, 2, finite=True)
  rest = sorted(path for path in (whole / "1" / "rest").rglob("*") if path.is_file())
  for gone in range(-1, len(rest) + 1):
    folder = tmp_path / f"killed{gone}"
    shutil.copytree(whole, folder)

    def killed(*_, gone=gone, folder=folder, **__):
      for file in rest[: max(gone, 0)]:
        (folder / file.relative_to(whole)).unlink()
      raise KeyboardInterrupt

    with monkeypatch.context() as patched:
      patched.setattr(weights_only.shutil, "rmtree", killed)
      if gone < 0:
        patched.setattr(weights_only, "write_atomically", killed)
      with pytest.raises(KeyboardInterrupt):
        drop_state(folder / "1")
    verify(folder / "1")
    assert same_params(folder, 1)
    assert has_state(folder / "1") == (gone < 0)
    with checkpointer(folder) as ck:
      assert ck.restore(make_state())[0] == 2
    assert (folder / "1" / "rest").exists() == (gone < 0)


def test_what_is_damaged_or_added_in_the_weights_is_still_found(tmp_path):
  folder = saved(tmp_path, 1, finite=True) / "1"
  drop_state(folder)
  (folder / "params" / "more").write_text("x")
  with pytest.raises(DamagedError, match="it was added after saving"):
    verify(folder)
  (folder / "params" / "more").unlink()
  victim = next(path for path in (folder / "params").rglob("*") if path.is_file() and path.stat().st_size)
  victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
  with pytest.raises(DamagedError, match="damaged, its SHA-256"):
    read_params(tmp_path, 1)


def test_a_damaged_checkpoint_is_left_as_it_is(tmp_path):
  folder = saved(tmp_path, 1) / "1"
  (folder / manifest.NAME).write_text("{")
  drop_state(folder)
  assert (folder / manifest.NAME).read_text() == "{" and (folder / "rest").exists()


def test_the_manifest_of_weights_alone_is_one_that_reads_back(tmp_path):
  folder = saved(tmp_path, 1) / "1"
  before = read_manifest(folder)
  drop_state(folder)
  after = read_manifest(folder)
  assert after.weights_only and not before.weights_only
  assert set(after.files) == {name for name in before.files if not name.startswith("rest/")}
  assert sum(size for size, _ in after.files.values()) < sum(size for size, _ in before.files.values())
  assert np.all([name.startswith("params/") for name in after.leaves]) and jax.tree.leaves(dict(after.leaves))


@pytest.mark.parametrize(
  "resumable, reason, kept", [(0, "finished", False), (0, "preempted", True), (1, "finished", True)]
)
def test_a_run_that_has_ended_keeps_no_state_where_none_is_asked_for(tmp_path, resumable, reason, kept):
  state = dataclasses.replace(
    new_state(make_state(2, finite=True).params, update_rule(optax.sgd(0.1))), step=jnp.int32(2)
  )
  folder = RunFolder(tmp_path, RunConfig(checkpoint=CheckpointSettings(resumable=resumable)))
  with contextlib.closing(folder):
    folder.begin({})
    digests.write_json(tmp_path, "model.json", {})
    folder.save(types.SimpleNamespace(state=state, policy_params=state.params))
    folder.end(RunResult(2, reason))
  assert has_state(tmp_path / "checkpoints" / "2") == kept
  assert same_params(tmp_path / "checkpoints", 2)
  digests.check(tmp_path)
