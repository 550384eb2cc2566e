"""The recipe `online` on the complaint desk, made tiny: whole runs, what they resume, and what is refused."""

import numpy as np
import pytest

from dpojax.config.load import load_experiment
from dpojax.errors import ConfigError
from dpojax.sweeps.stages import run
from dpojax.training.preemption import Preemption
from dpojax.training.runlog import read_metrics
from tests.training.runs import state_digest, timeless_metrics, write_tiny_model

pytestmark = pytest.mark.slow

TINY = {
  "model.hidden": 16,
  "model.ffn": 32,
  "model.layers": 1,
  "batch.size": 4,
  "batch.rows": 2,
  "batch.row_length": 128,
  "logging.plots": False,
  "sft.train.steps": 2,
  "sft.data.texts": 40,
  "sft.optimizer.warmup_steps": 1,
} | {
  f"{stage}.{key}": value
  for stage in ("online", "offline")
  for key, value in {
    "rollout.max_tokens": 12,
    "rollout.prompts": 40,
    "train.steps": 6,
    "online.refresh": 4,
    "optimizer.warmup_steps": 1,
    "monitor.every": 3,
    "monitor.prompts": 4,
    "monitor.max_tokens": 12,
  }.items()
}


def tiny(**values):
  changed = {key.replace("__", "."): value for key, value in values.items()}
  experiment = load_experiment("experiments/online_dpo_world.py", values=TINY | changed)
  return type(experiment)({name: experiment.stages[name] for name in ("sft", "online")})


def stored(folder, number):
  arrays = np.load(folder / "rollouts" / f"{number:06d}.npz")
  return {name: arrays[name] for name in arrays.files}


def stopped_at(monkeypatch, step):
  """From now on runs are asked to stop after that many steps, as by SIGTERM."""
  monkeypatch.setattr(Preemption, "requested", lambda self, number=0: number >= step)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("online")
  run(tiny(), workdir)
  return workdir


def test_a_run_records_its_roll_outs_and_looks(finished):
  rows = read_metrics(finished / "online" / "metrics.jsonl")
  rollouts = [row for row in rows if row["split"] == "rollout"]
  assert [row["step"] for row in rollouts] == [0, 4]
  assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 7))
  assert [row["step"] for row in rows if row["split"] == "policy"] == [0, 3, 6]
  for row in rollouts:
    counts = [row[f"pairs/{name}"] for name in ("pairs", "identical", "tied", "below_margin", "not_chosen")]
    assert sum(counts) == 16 * 6  # 16 prompts, 6 pairs among 4 answers to each
    assert {"objective/reward", "objective/reward_sd", "rollout/length", "rollout/eos_share", "objective/kl"} <= set(
      row
    )
  first = next(row for row in rows if row["split"] == "train")
  assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
  assert (finished / "online" / "checkpoints" / "6").is_dir()
  kept = {path.stem for path in (finished / "online" / "rollouts").glob("*.npz")}
  assert kept == {"000000", "000001"}  # the look at step 3 was the best within the budget, and its checkpoint stays
  assert "roll-out 0: " in (finished / "online" / "log.txt").read_text()


def test_a_run_stopped_in_the_middle_of_a_roll_out_ends_as_one_that_was_left_alone(finished, tmp_path, monkeypatch):
  for step in (0, 3, 4, 5):
    with monkeypatch.context() as patch:
      stopped_at(patch, step)
      assert run(tiny(), tmp_path).reason == "preempted"
  run(tiny(), tmp_path)
  assert state_digest(tmp_path / "online", 6) == state_digest(finished / "online", 6)
  # A step's metrics are written while the next one runs, and so before or after the record of a roll-out.
  ordered = lambda rows: sorted(rows, key=lambda row: (row["step"], row["split"]))  # noqa: E731
  assert ordered(timeless_metrics(tmp_path / "online")) == ordered(timeless_metrics(finished / "online"))


@pytest.mark.long
def test_a_run_asked_to_stop_while_it_samples_saves_at_once(finished, tmp_path, monkeypatch):
  # The loop asks before every step, the roll-out at every few tokens: the second time that it is asked of step 4.
  asked = []

  def requested(self, step=0):
    asked.append(step)
    return asked.count(4) > 1

  with monkeypatch.context() as patch:
    patch.setattr(Preemption, "requested", requested)
    assert run(tiny(), tmp_path).reason == "preempted"
  assert (tmp_path / "online" / "checkpoints" / "4").is_dir() and asked[-1] == 4
  assert [path.stem for path in (tmp_path / "online" / "rollouts").glob("*.npz")] == ["000000"]
  run(tiny(), tmp_path)
  assert state_digest(tmp_path / "online", 6) == state_digest(finished / "online", 6)


def test_xpo_against_a_moving_reference(tmp_path):
  changed = dict(
    loss__name="xpo", loss__alpha=0.01, online__opponent="reference", reference__kind="moving", reference__every=3
  )
  run(tiny(**{f"online__{key}": value for key, value in changed.items()}), tmp_path)
  rows = read_metrics(tmp_path / "online" / "metrics.jsonl")
  rollouts = [row for row in rows if row["split"] == "rollout"]
  # 8 prompts, of whose 4 answers each the reference wrote two: 16 pairs and no others.
  assert all(sum(v for k, v in row.items() if k.startswith("pairs/") and k != "pairs/margin") == 16 for row in rollouts)
  assert all("objective/reward_of_reference" in row for row in rollouts)
  found = stored(tmp_path / "online", 1)
  assert np.all(found["by_reference"][found["pairs"]].sum(axis=1) == 1)
  first = next(row["loss"] for row in rows if row["split"] == "train")
  assert first < np.log(2) - 0.01  # the bonus: 0.01 times the log-prob of an answer


@pytest.mark.long
def test_a_refresh_longer_than_the_run_is_one_roll_out(tmp_path):
  run(tiny(online__online__refresh=1000, online__loss__name="simpo", online__train__steps=3), tmp_path)
  rows = [row for row in read_metrics(tmp_path / "online" / "metrics.jsonl") if row["split"] == "rollout"]
  assert [row["step"] for row in rows] == [0]
  assert "objective/kl" not in rows[0]  # simpo has no reference
  assert (
    "offline, one roll-out of 48 answers (4 to each of 12 prompts)" in (tmp_path / "online" / "log.txt").read_text()
  )


@pytest.mark.long
def test_prompts_of_a_file_that_leave_no_room_for_two_answers_are_dropped(tmp_path):
  from dpojax.config.load import load_config

  write_tiny_model(tmp_path / "model")
  (tmp_path / "prompts.txt").write_text("".join(f"word1 word{i}\n" for i in range(2, 20)) + "word1 " * 30 + "\n")
  values = {
    "model.path": str(tmp_path / "model"),
    "data.path": str(tmp_path / "prompts.txt"),
    "rollout.reward": "regex:word1?count=true",
    "rollout.max_tokens": 6,
    "batch.size": 4,
    "batch.rows": 2,
    "batch.row_length": 40,
    "train.steps": 2,
    "monitor.prompts": 2,
    "monitor.max_tokens": 6,
    "logging.plots": False,
  }
  file = tmp_path / "config.py"
  lines = ["from dpojax.config import base", "def get_config():", "  config = base()", '  config.recipe = "online"']
  file.write_text("\n".join([*lines, "  return config", ""]))
  run(load_config(str(file), values), tmp_path / "run")
  assert '"dropped/prompt_too_long": 1' in (tmp_path / "run" / "data.json").read_text()
  with pytest.raises(
    ConfigError, match=r"rollout.max_tokens=20 leaves no room for a prompt and two answers in rows of"
  ):
    run(load_config(str(file), values | {"rollout.max_tokens": 20}), tmp_path / "other")


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    (dict(loss__name="kto"), "loss.name=kto does not learn from pairs, and recipe=online makes nothing else"),
    (dict(loss__name="plackett_luce_dpo"), "loss.name=plackett_luce_dpo does not learn from pairs"),
    (dict(loss__name="tpo"), "loss.name=tpo does not learn from pairs"),
    (dict(loss__name="bradley_terry"), "loss.name=bradley_terry trains reward models"),
    (dict(loss__name="xpo"), "loss.name=xpo .* policy writes both; set online.opponent=reference"),
    (dict(loss__name="dpo+0.1*xpo"), "loss.name=xpo .* policy writes both; set online.opponent=reference"),
    (dict(reference__kind="cache"), "reference.kind=cache: the answers of recipe=online are new"),
    (dict(rollout__samples=1), "rollout.samples is 1, but recipe=online compares answers"),
    (dict(rollout__samples=3, online__opponent="reference"), "rollout.samples is 3, .* set an even number"),
    (dict(online__opponent="reference", online__choose="all"), "online.choose=all is set, but .* nothing to choose"),
    (dict(loss__gamma=1.0), "loss.gamma is 1, but loss.name=auto|loss.gamma is 1, but loss.name=dpo"),
  ],
)
def test_what_cannot_be_learned_so_is_refused_by_name(changed, message):
  with pytest.raises(ConfigError, match=message):
    tiny(**{f"online__{key}": value for key, value in changed.items()})


def test_xpo_on_given_pairs_is_refused_by_name():
  with pytest.raises(ConfigError, match=r"loss.name=xpo .* set recipe=online and online.opponent=reference"):
    load_experiment("experiments/quickstart.py", values={"dpo.loss.name": "xpo"})
