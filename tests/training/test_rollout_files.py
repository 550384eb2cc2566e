"""What lies where a run keeps its roll-outs: files of another place or another number of steps, cut ones, folders."""

import json
import shutil

import jax
import numpy as np
import pytest

from dpojax.config.schema import RolloutSettings
from dpojax.errors import CheckpointError
from dpojax.recipes.writing import normalised_reward
from dpojax.training.rollout_files import save_rollout
from dpojax.training.rollouts import Rollout
from tests.training.test_rollouts import Lengths, scripted
from tests.training.tiny_rollouts import make_prompts, make_stage

pytestmark = pytest.mark.slow


def going_on(folder, state, **options):
  return make_stage(folder, method="rloo", **options).restore(state)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
  """(folder, state) of a run that stands after step 5, inside roll-out 1 of 4 updates each."""
  folder = tmp_path_factory.mktemp("begun")
  stage = make_stage(folder, method="rloo")
  stage.run(5)
  return folder, jax.device_get(stage.trainer.state)


@pytest.fixture
def run(begun, tmp_path):
  shutil.copytree(begun[0], tmp_path / "run")
  return tmp_path / "run", begun[1]


def test_a_roll_out_under_the_name_of_another_is_damaged(run):
  folder, state = run
  shutil.copy(folder / "rollouts" / "000000.npz", folder / "rollouts" / "000001.npz")
  with pytest.raises(
    CheckpointError,
    match=r"000001.npz: damaged \(it is roll-out 0, under another name\); delete it, and the checkpoints of steps after 4 if",
  ):
    going_on(folder, state).run(1)


@pytest.mark.parametrize(
  "changes",
  [dict(epochs=3, minibatches=1), dict(minibatches=1), dict(epochs=4), dict(epochs=1, minibatches=3)],
  ids=["3 steps", "2 steps", "8 steps", "3 of one epoch"],
)
def test_another_number_of_steps_a_roll_out_takes_a_new_one_for_what_is_left(run, changes):
  """Whatever number the roll-out has that the steps taken would now have come from."""
  folder, state = run
  changed = going_on(folder, state, options=dict(identity="other"), **changes)
  updates = changed.rollouts.updates
  assert updates != 4
  metrics = changed.run(2 * updates)
  begins = [step for step in range(5, 5 + 2 * updates) if step == 5 or step % updates == 0]
  assert [step for step, _ in changed.records] == begins
  assert [5 + i for i, row in enumerate(metrics) if row["policy/approx_kl"] == 0] == begins
  # What is gone on with once more is what was stored.
  later = going_on(folder, jax.device_get(changed.trainer.state), options=dict(identity="other"), **changes)
  assert np.isfinite(later.run(1)[0]["policy/loss"])


def test_a_roll_out_of_the_settings_that_hold_is_not_made_twice(run):
  folder, state = run
  changed = going_on(folder, state, options=dict(identity="other"), epochs=3, minibatches=1)
  changed.run(6)  # to step 11: roll-out 3 is that of steps 9, 10, 11
  state = jax.device_get(changed.trainer.state)
  (folder / "rollouts" / "000003.npz").unlink()
  with pytest.raises(CheckpointError, match=r"000003.npz: it is gone, and 2 of the 3 updates.*of steps after 9"):
    going_on(folder, state, options=dict(identity="other"), epochs=3, minibatches=1).run(1)


def test_a_folder_in_the_place_of_a_roll_out_is_named(run):
  folder, state = run
  path = folder / "rollouts" / "000001.npz"
  path.unlink()
  path.mkdir()
  with pytest.raises(CheckpointError, match=r"000001.npz: it is a folder, but the run keeps a file.*steps after 4 if"):
    going_on(folder, state).run(1)


def test_a_roll_out_that_may_not_be_read_is_named(run, monkeypatch):
  folder, state = run

  def refuse(path):
    raise PermissionError(13, "Permission denied", str(path))

  stage = going_on(folder, state)
  monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
  with pytest.raises(CheckpointError, match=r"000001.npz: Permission denied; make it readable, or delete it, and"):
    stage.rollouts(5)


def test_a_file_in_the_place_of_the_folder_is_named(run):
  folder, state = run
  shutil.rmtree(folder / "rollouts")
  (folder / "rollouts").write_text("x")
  said = r"rollouts: it is a file, but the run keeps a folder of that name; move it away"
  with pytest.raises(CheckpointError, match=said):
    going_on(folder, state).run(1)
  with pytest.raises(CheckpointError, match=said):
    save_rollout(folder / "rollouts" / "000001.npz", "this", range(4, 8), {}, {})
  with pytest.raises(CheckpointError, match=said):
    normalised(folder)


def test_the_digest_covers_number_and_steps(run):
  folder, _ = run
  path = folder / "rollouts" / "000001.npz"
  with np.load(path) as parts:
    arrays = {name: parts[name] for name in parts.files}
  facts = json.loads(str(arrays.pop("facts")))
  assert facts["number"] == 1 and facts["steps"] == [4, 8]
  for name, value in (("number", 0), ("steps", [0, 4])):
    target = folder / "rollouts" / "000000.npz"
    np.savez(target, facts=np.asarray(json.dumps(facts | {name: value})), **arrays)
    with pytest.raises(CheckpointError, match=r"damaged .its contents are not those that were written"):
      Rollout.read(target, "this")


def normalised(folder, reward=None):
  rollout = RolloutSettings(samples=2, normalise=True, normalise_on=5)
  write = scripted([3, 8, 2, 5, 1], cut=())
  return normalised_reward(reward or Lengths(), rollout, write, make_prompts(12), dict, str, folder, "this")


BROKEN = {
  "cut": lambda text: text[:50],
  "a list": lambda text: "[]",
  "no terms": lambda text: json.dumps({"identity": json.loads(text)["identity"]}),
  "another gain": lambda text: text.replace('"gain": ', '"gain": 3'),
  "another bias": lambda text: text.replace('"bias": -', '"bias": '),
  "another identity": lambda text: text.replace('"this"', '"that"'),
  "no text": lambda text: "\ud800",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_normalisation_that_nobody_wrote_is_damaged(tmp_path, broken):
  made = normalised(tmp_path)
  path = tmp_path / "rollouts" / "normalisation.json"
  whole = path.read_text()
  again = normalised(tmp_path)
  assert (again.gain, again.bias) == (made.gain, made.bias) and path.read_text() == whole
  assert BROKEN[broken](whole) != whole
  path.write_bytes(BROKEN[broken](whole).encode(errors="surrogatepass"))
  with pytest.raises(
    CheckpointError, match=r"rollouts/normalisation.json: damaged \(.*\); delete it, and the run measures it anew"
  ):
    normalised(tmp_path)
