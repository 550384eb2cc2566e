"""Checkpoints: exact round trips, and every fault injected for real."""

import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpojax.config.schema import CheckpointSettings
from dpojax.errors import CheckpointError, WeightsError
from dpojax.training import manifest
from dpojax.training.checkpoint import Checkpointer, read_params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  step: jax.Array
  params: dict
  opt_state: optax.OptState
  key: jax.Array


def make_state(number: int = 0, *, finite: bool = False) -> State:
  """A state whose bits all depend on `number`, awkward floats included; with `finite`, those that are numbers."""
  awkward = np.array([0x7FC01234, 0x80000000, 0x00000001, 0xFF800000, 0x3F800000 + number], np.uint32).view(np.float32)
  awkward = np.where(np.isfinite(awkward) | (not finite), awkward, np.finfo(np.float32).max)
  params = {
    "layers": {"q": jax.random.normal(jax.random.key(number), (3, 4, 2)), "gain": jnp.asarray(awkward)},
    "embed": jnp.arange(6, dtype=jnp.bfloat16) * jnp.bfloat16(number + 1),
  }
  return State(jnp.int32(number), params, optax.adamw(1e-3).init(params), jax.random.key(number + 7))


def bits(tree) -> list[tuple]:
  def one(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return str(array.dtype), array.shape, array.tobytes()

  return [one(leaf) for leaf in jax.tree.leaves(tree)]


def checkpointer(folder, **settings) -> Checkpointer:
  return Checkpointer(folder, CheckpointSettings(**settings), warn=lambda text: pytest.fail(text))


def saved(folder, *steps: int, finite: bool = False, **settings) -> pathlib.Path:
  with checkpointer(folder, **settings) as ck:
    for step in steps:
      ck.save(step, make_state(step, finite=finite))
  return folder


def restore_with_warnings(folder, step=None):
  warnings = []
  with Checkpointer(folder, CheckpointSettings(), warn=warnings.append) as ck:
    return *ck.restore(make_state(), step), warnings


def test_round_trip_is_exact_to_the_bit(tmp_path):
  saved(tmp_path, 3)
  with checkpointer(tmp_path) as ck:
    step, state = ck.restore(jax.eval_shape(make_state))
  assert step == 3
  assert bits(state) == bits(make_state(3))
  assert jax.tree.structure(state) == jax.tree.structure(make_state(3))


def test_arrays_may_be_donated_and_written_right_after_save(tmp_path):
  state = {"params": {"w": jnp.arange(1 << 20, dtype=jnp.float32)}, "host": np.arange(1 << 23, dtype=np.int32)}
  before = bits(state)
  with checkpointer(tmp_path) as ck:
    ck.save(1, state)
    params = state["params"]
    for _ in range(3):
      params = jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)(params)
    state["host"] += 1
    _, back = ck.restore({"params": {"w": params["w"]}, "host": state["host"]})
  assert bits(back) == before


@pytest.mark.slow
def test_retention_keeps_the_newest_and_the_best(tmp_path):
  reward = {1: float("nan"), 2: 0.9, 3: float("nan"), 4: 0.5, 5: 0.9, 6: 0.2, 7: 0.3}
  with checkpointer(tmp_path, keep=2, resumable=3, best_metric="reward") as ck:
    for step, value in reward.items():
      ck.save(step, make_state(step), metrics={"reward": value})
    ck.wait()
    assert ck.steps() == [5, 6, 7]  # of equals the newer is best
    assert ck.latest_step() == 7 and ck.best_step() == 5
    assert bits(ck.restore(make_state(), 5)[1]) == bits(make_state(5))
  with checkpointer(tmp_path, keep=1, best_metric="reward", best_mode="min") as ck:
    assert ck.best_step() == 6
    ck.save(8, make_state(8))
    ck.wait()
    assert ck.steps() == [6, 8]


def test_metadata_is_stored(tmp_path):
  with Checkpointer(tmp_path, CheckpointSettings(), config_hash="abc") as ck:
    ck.save(4, make_state(4), metrics={"loss": float("inf"), "reward": 0.25})
    ck.wait()
    found = ck.metadata(4)
  assert (found.step, found.metrics, found.config_hash) == (4, {"loss": float("inf"), "reward": 0.25}, "abc")
  assert found.version == "0.1.0"
  assert found.leaves["params/layers/q"] == ("float32", (3, 4, 2))


def test_a_step_is_saved_once(tmp_path):
  saved(tmp_path, 1)
  stamp = (tmp_path / "1" / manifest.NAME).stat().st_mtime_ns
  with checkpointer(tmp_path) as ck:
    ck.save(1, make_state(2))
  assert (tmp_path / "1" / manifest.NAME).stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_a_flipped_byte_in_any_file_is_named_and_falls_back(tmp_path):
  good = saved(tmp_path / "good", 1, 2)
  files = [path.relative_to(good) for path in sorted((good / "2").rglob("*")) if path.is_file()]
  assert len(files) > 10
  draw = random.Random(0)
  for file in files:
    folder = tmp_path / "damaged"
    shutil.copytree(good, folder)
    data = bytearray((folder / file).read_bytes())
    if data:
      data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    else:
      data = bytearray(b"x")
    (folder / file).write_bytes(data)
    step, state, warnings = restore_with_warnings(folder)
    assert step == 1 and bits(state) == bits(make_state(1))
    assert len(warnings) == 1 and str(folder / file) in warnings[0]
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2.damaged"]
    shutil.rmtree(folder)


def test_a_manifest_with_any_flipped_byte_is_no_manifest(tmp_path):
  saved(tmp_path, 1)
  data = (tmp_path / "1" / manifest.NAME).read_bytes()
  manifest.Manifest.from_json(data.decode())
  for at in range(0, len(data), 3):
    text = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(ValueError):
      manifest.Manifest.from_json(text.decode())


@pytest.mark.parametrize("fault", ["missing", "added", "manifest missing"])
def test_a_missing_or_added_file_is_named(tmp_path, fault):
  saved(tmp_path, 1, 2)
  file = next(path for path in sorted((tmp_path / "2" / "params" / "d").iterdir()))
  if fault == "missing":
    file.unlink()
  elif fault == "added":
    file = file.with_name("more")
    file.write_text("")
  else:
    file = tmp_path / "2" / manifest.NAME
    file.unlink()
  step, _, warnings = restore_with_warnings(tmp_path)
  assert step == 1
  # Without a manifest a save is unfinished: nothing was lost that was ever complete.
  assert [str(file) in text for text in warnings] == ([] if fault == "manifest missing" else [True])


def test_damaged_without_a_way_back_is_an_error(tmp_path):
  saved(tmp_path, 1, 2)
  for step in (1, 2):
    with open(tmp_path / str(step) / "_CHECKPOINT_METADATA", "r+b") as file:
      file.write(b"#")
  with pytest.raises(CheckpointError, match="2/_CHECKPOINT_METADATA: damaged"):
    restore_with_warnings(tmp_path, 2)
  with pytest.raises(CheckpointError, match=r"every checkpoint is damaged.*1/_CHECKPOINT_METADATA"):
    restore_with_warnings(tmp_path)


def test_nothing_to_restore_is_an_error(tmp_path):
  with checkpointer(tmp_path) as ck:
    assert ck.latest_step() is None and ck.best_step() is None
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
      ck.restore(make_state())
  saved(tmp_path, 1)
  with checkpointer(tmp_path) as ck, pytest.raises(CheckpointError, match=r"no checkpoint of step 5; there are \[1\]"):
    ck.restore(make_state(), 5)
  with pytest.raises(CheckpointError, match="no finished checkpoint"):
    read_params(tmp_path / "nowhere")


def test_unfinished_saves_are_cleaned_and_nothing_else(tmp_path):
  saved(tmp_path, 1)
  for name in ("2", "3.orbax-checkpoint-tmp", "notes", "4.damaged"):
    shutil.copytree(tmp_path / "1", tmp_path / name)
    (tmp_path / name / manifest.NAME).unlink()
  (tmp_path / "5").write_text("a file")
  with checkpointer(tmp_path) as ck:
    assert ck.latest_step() == 1
  assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "4.damaged", "5", "notes"]


def wrong_dtype(state):
  return dataclasses.replace(state, step=jnp.float32(0))


def wrong_shape(state):
  return dataclasses.replace(state, params=state.params | {"embed": jnp.zeros(7, jnp.bfloat16)})


def more(state):
  return dataclasses.replace(state, params=state.params | {"head": jnp.zeros(7)})


def fewer(state):
  return dataclasses.replace(state, params={"layers": state.params["layers"]})


def other_optimizer(state):
  return dataclasses.replace(state, opt_state=optax.rmsprop(1e-3).init(state.params))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (wrong_dtype, r"array step is int32\[\], but the state has float32\[\]"),
    (wrong_shape, r"array params/embed is bfloat16\[6\], but the state has bfloat16\[7\]"),
    (more, "no array params/head"),
    (fewer, "array params/embed has no place"),
    (other_optimizer, "no array opt_state/0/nu/embed|no array opt_state|has no place"),
  ],
)
def test_another_state_is_refused_naming_the_leaf(tmp_path, change, message):
  saved(tmp_path, 1)
  with checkpointer(tmp_path) as ck, pytest.raises(CheckpointError, match=message):
    ck.restore(change(make_state()))


def test_64_bits_are_never_halved_silently(tmp_path):
  state = {"n": np.arange(3, dtype=np.int64)}
  with checkpointer(tmp_path) as ck:
    ck.save(1, state)
    with pytest.raises(CheckpointError, match="array n is int64, which needs JAX_ENABLE_X64"):
      ck.restore(state)


def test_parameters_alone(tmp_path):
  saved(tmp_path, 1, 2, finite=True)
  assert bits(read_params(tmp_path)) == bits(make_state(2, finite=True).params)
  assert bits(read_params(tmp_path, 1)) == bits(make_state(1, finite=True).params)
  assert bits(read_params(tmp_path / "1")) == bits(make_state(1, finite=True).params)
  with open(next((tmp_path / "2" / "rest" / "d").iterdir()), "r+b") as file:
    file.write(b"#")
  assert bits(read_params(tmp_path)) == bits(make_state(2, finite=True).params)  # optimizer state is not even read
  with open(tmp_path / "2" / "_CHECKPOINT_METADATA", "r+b") as file:
    file.write(b"#")
  with pytest.warns(UserWarning, match="2/_CHECKPOINT_METADATA"):
    params = read_params(tmp_path)
  assert bits(params) == bits(make_state(1, finite=True).params)
  assert (tmp_path / "2").is_dir()  # reading touches nothing
  with pytest.raises(CheckpointError, match="2/_CHECKPOINT_METADATA"):
    read_params(tmp_path, 2)


def test_parameters_that_are_not_finite_are_named(tmp_path):
  saved(tmp_path, 1)
  with pytest.raises(
    WeightsError, match=r"/1: tensor layers/gain is not finite: of its 5 numbers 1 NaN and 1 infinite"
  ):
    read_params(tmp_path)


def run_child(code: str, *arguments: object, devices: int = 1) -> subprocess.Popen:
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
  environment["PYTHONPATH"] = str(pathlib.Path(__file__).parent)
  return subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
def test_restores_onto_other_shardings(tmp_path):
  child = run_child(
    """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from dpojax.config.schema import CheckpointSettings
    from dpojax.training.checkpoint import Checkpointer

    folder = sys.argv[1]
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    w = jnp.arange(64.0).reshape(8, 8)
    one = {"w": w, "n": jnp.int32(5)}
    spread = jax.device_put(one, {"w": NamedSharding(mesh, P("a", "b")), "n": NamedSharding(mesh, P())})
    turned = jax.device_put(one, {"w": NamedSharding(mesh, P("b")), "n": NamedSharding(mesh, P())})
    with Checkpointer(folder, CheckpointSettings(keep=9)) as ck:
      for step, state in enumerate([one, spread]):
        ck.save(step, state)
      for step in (0, 1):
        for like in (one, spread, turned):
          back = ck.restore(like, step)[1]
          assert jax.tree.map(lambda x: x.sharding, back) == jax.tree.map(lambda x: x.sharding, like)
          assert np.array_equal(back["w"], w) and int(back["n"]) == 5
    print("done")
    """,
    tmp_path,
    devices=8,
  )
  assert child.communicate(timeout=60)[0] == "done\n"
  # Written by eight devices, read by one process that has one.
  with checkpointer(tmp_path) as ck:
    _, state = ck.restore({"w": jax.ShapeDtypeStruct((8, 8), jnp.float32), "n": jnp.int32(0)}, 1)
  assert np.array_equal(state["w"], np.arange(64.0).reshape(8, 8)) and int(state["n"]) == 5


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_sound_checkpoint(tmp_path):
  code = """
    import sys
    from test_checkpoint import checkpointer, make_state
    with checkpointer(sys.argv[1], keep=2) as ck:
      start = ck.latest_step() or 0
      if start:
        ck.restore(make_state())
      for step in range(start + 1, start + 10_000):
        ck.save(step, make_state(step))
        if step == start + 2:
          print("ready", flush=True)  # the save before is complete
  """
  draw = random.Random(1)
  reached = 0
  for _ in range(2):
    child = run_child(code, tmp_path)
    assert child.stdout.readline() == "ready\n"
    time.sleep(draw.uniform(0.0, 0.5))
    child.send_signal(signal.SIGKILL)
    child.wait()
    step, state, warnings = restore_with_warnings(tmp_path)
    assert warnings == [] and bits(state) == bits(make_state(step))
    assert step > reached
    reached = step
    assert all(path.name.isdecimal() for path in tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a disk of 4 MB."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
  if mounted.returncode:
    pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
  yield folder
  subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_reported_and_older_checkpoints_stay(small_disk, caplog):
  def state(number):
    return {"params": {"w": jax.random.normal(jax.random.key(number), (600_000,))}}

  folder = small_disk / "checkpoints"
  with checkpointer(folder) as ck:
    ck.save(1, state(1))
    ck.wait()
    ck.save(2, state(2))
    with pytest.raises(CheckpointError, match=rf"{folder}: saving a checkpoint failed \(.*(space|ENOSPC|full)"):
      ck.wait()
    assert not [record for record in caplog.records if record.exc_info]  # Orbax's threads print no traceback beside it
    assert [path.name for path in folder.iterdir()] == ["1"]  # what was written of the other is gone
    assert bits(ck.restore(state(0))[1]) == bits(state(1))
  # With room again, saving goes on.
  with checkpointer(folder, keep=1) as ck:
    ck.save(4, {"params": {"w": jnp.zeros(10)}})
    ck.wait()
    assert ck.steps() == [4]
