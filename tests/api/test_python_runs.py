"""Runs that take steps when told to are the runs of the command line."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dpojax
from dpojax.api.run import PREPARE
from dpojax.config.keys import replace_values
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError, InputError
from dpojax.interop import hub
from dpojax.recipes import preference
from dpojax.references import weights_fingerprint
from dpojax.training.stage_record import read_record, write_record
from tests.api.tiny import SHORT, make_rows, policy  # noqa: F401

pytestmark = pytest.mark.slow

ROWS = make_rows()
OPTIONS = {"batch_size": 8, "steps": 6, "learning_rate": 1e-2, "quiet": True}


def dpo(start, data=ROWS, settings=None, **options):
  return dpojax.DPO(start, data, settings=SHORT | (settings or {}), **OPTIONS | options)


def digest(run):
  return weights_fingerprint(jax.device_get(run.trainer.policy_params))


@pytest.fixture(scope="module")
def straight(policy):  # noqa: F811
  with dpo(policy) as run:
    assert run.train().reason == "finished"
    return digest(run), run.evaluate()


def test_twice_three_steps_are_six(policy, straight):  # noqa: F811
  with dpo(policy) as run:
    assert run.train(3).reason == "paused" and run.step == 3
    run.train(2)
    assert run.train().reason == "finished" and run.step == 6
    assert digest(run) == straight[0]
    assert [row["step"] for row in run.metrics if row["split"] == "train"] == list(range(1, 7))
    assert (run.folder / "report.md").is_file()


def test_the_command_line_trains_the_same(tmp_path, policy, straight):  # noqa: F811
  file = tmp_path / "pairs.jsonl"
  file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  settings = SHORT | {"model.path": policy.path, "data.path": str(file), "data.source": "file"}
  settings |= {"batch.size": 8, "train.steps": 6, "optimizer.learning_rate": 1e-2}
  result = dpojax.run(replace_values(RunConfig(), settings), tmp_path / "run")
  assert result.reason == "finished"
  assert weights_fingerprint(dpojax.load(str(tmp_path / "run")).params) == straight[0]
  # And the short door opens that run as its own.
  with dpo(policy, str(file), workdir=tmp_path / "run") as run:
    assert run.step == 6 and digest(run) == straight[0]


def test_a_saved_run_goes_on_to_the_same_end(tmp_path, policy, straight):  # noqa: F811
  with dpo(policy, workdir=tmp_path) as run:
    run.train(3)
    run.save()
  with dpo(policy, workdir=tmp_path) as run:
    assert run.step == 3
    run.train()
    assert digest(run) == straight[0]
  with pytest.raises(ConfigError, match=r"loss.beta: its default -> 0.5"):
    dpo(policy, workdir=tmp_path, beta=0.5)


def test_a_run_that_goes_on_reads_the_commits_that_it_began_with(tmp_path, policy, monkeypatch):  # noqa: F811
  with dpo(policy, workdir=tmp_path) as run:
    run.train(1)
    run.save()
  record = read_record(tmp_path)
  write_record(tmp_path, dataclasses.replace(record, revisions={"hub:owner/name": "c" * 40}))
  meant = []
  prepare = preference.prepare

  def looked(*given):
    meant.append(hub.resolved())
    return prepare(*given)

  monkeypatch.setitem(PREPARE, "preference", looked)
  dpo(policy, workdir=tmp_path).close()
  assert meant == [{"hub:owner/name": "c" * 40}]


def test_two_runs_do_not_share_a_folder_and_a_closed_one_is_free(tmp_path, policy):  # noqa: F811
  run = dpo(policy, workdir=tmp_path)
  assert (tmp_path / "lock.json").is_file()
  run.close()
  assert not (tmp_path / "lock.json").exists()
  temporary = dpo(policy)
  folder = temporary.folder
  temporary.close()
  assert not folder.exists()


def test_steps_beyond_the_plan_are_refused(policy):  # noqa: F811
  with dpo(policy) as run:
    run.train(4)
    with pytest.raises(ConfigError, match=r"has 2 of its 6 left.*DPO\(\.\.\., steps=14\)"):
      run.train(10)
    batches = run._session.batches
    with pytest.raises(ConfigError, match=r"the learning rate is 0 from step 6 on"):
      next(run.trainer.steps(batches, until=7))
    assert run.step == 4


def test_numbers_are_set_by_name_and_a_typo_is_named(policy):  # noqa: F811
  with dpo(policy) as run:
    before = run.evaluate()["rewards/margins"]
    run.train(3)
    margin = run.evaluate()["rewards/margins"]
    run.beta = 0.2
    np.testing.assert_allclose(run.evaluate()["rewards/margins"], 2 * margin, rtol=1e-5)
    assert before == 0 and run.hyper["beta"] == 0.2
    with pytest.raises(AttributeError, match="did you mean 'beta'"):
      run.betaa = 0.5
    with pytest.raises(ConfigError, match='did you mean "beta"'):
      run.hyper["betaa"] = 0.5


@pytest.mark.parametrize(
  "options, said",
  [
    ({"settings": {"loss.betaa": 0.1}}, "did you mean 'loss.beta'"),
    ({"beta": 0.1, "settings": {"loss.beta": 0.2}}, "loss.beta is given twice"),
    ({"optimizer": optax.sgd(0.1)}, "optimizer.learning_rate is given beside an optax optimizer"),
    ({"loss": "dop"}, "did you mean 'dpo'"),
    ({"settings": {"checkpoint.best_metric": "rewards/margin", "evaluation.every": 2}}, "rewards/margins"),
  ],
)
def test_what_is_wrong_is_named(policy, options, said):  # noqa: F811
  with pytest.raises(InputError, match=said), dpo(policy, **options) as run:
    run.train()


def test_an_own_metric_is_a_mean_over_examples(policy):  # noqa: F811
  def length_gap(policy, reference):
    return (policy.chosen_length - policy.rejected_length).astype(jnp.float32) + 0 * reference.chosen

  with dpo(policy, metrics=[length_gap]) as run:
    found = run.evaluate()
    np.testing.assert_allclose(found["length_gap"], found["length/chosen"] - found["length/rejected"], rtol=1e-6)
    run.train(1)
    assert run.metrics[-1]["length_gap"] == pytest.approx(2.0)  # answers of 5 and of 3 words


def test_an_own_optimizer_and_monitor(policy):  # noqa: F811
  seen = []

  def watch(step, trainer):
    seen.append(step)
    return {"seen": float(step)}

  # A step of sgd is params - rate * gradient: from two rates the same gradient follows.
  moved = []
  for rate in (0.5, 1.0):
    options = {key: value for key, value in OPTIONS.items() if key != "learning_rate"}
    with dpojax.DPO(policy, ROWS, optimizer=optax.sgd(rate), monitors=[watch], settings=SHORT, **options) as run:
      run.train(1)
      moved.append(jax.tree.map(lambda a, b: np.asarray(a) - b, run.trainer.params, policy.params))
      assert run.metrics[-1] == {"step": 1, "split": "watch", "seen": 1.0}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, atol=1e-6), *moved)
  assert seen == [0, 1, 0, 1]


def test_references(policy, straight):  # noqa: F811
  live = straight[1]["loss"]
  for reference, same in (("cache", True), (policy, True), ("moving", False)):
    with dpo(policy, reference=reference, settings={"reference.every": 2} if reference == "moving" else {}) as run:
      run.train()
      loss = run.evaluate()["loss"]
      assert (abs(loss - live) < 1e-5) == same, reference


def test_tokenised_examples_and_other_data_to_evaluate_on(policy, straight):  # noqa: F811
  pairs = dpojax.read_pairs(ROWS, policy, row_length=48)
  with dpo(policy, pairs.train) as run:
    run.train()
    assert digest(run) == straight[0]
    assert run.evaluate(pairs.held_out) == straight[1]
    assert run.evaluate(ROWS) != straight[1]
    with pytest.raises(ConfigError, match="nothing is held out"):
      run.evaluate()


def test_an_export_is_the_model_as_it_is_now(tmp_path, policy):  # noqa: F811
  with dpo(policy) as run:
    run.train(2)
    run.export(tmp_path / "out")
    read = dpojax.load(str(tmp_path / "out"))
    for one, other in zip(dpojax.score(read, ROWS[:3]), dpojax.score(run.policy, ROWS[:3]), strict=True):
      np.testing.assert_array_equal(one, other)
    with pytest.raises(ConfigError, match="must be new or empty"):
      run.export(tmp_path / "out")


def test_the_policy_of_a_run_is_where_another_starts(policy):  # noqa: F811
  with dpojax.SFT(policy, ROWS, settings=SHORT, **OPTIONS) as sft:
    sft.train(3)
    trained = sft.policy
    assert sft.sample("word1 word2", max_tokens=4) == [dpojax.generate(trained, "word1 word2", max_tokens=4)[0][0].text]
  with dpo(trained) as run:
    assert run.evaluate()["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert digest(run) == weights_fingerprint(trained.params) != weights_fingerprint(policy.params)


@pytest.mark.parametrize(
  ("name", "hint"),
  [
    ("bta", "did you mean 'beta'?"),
    ("workdr", "did you mean 'workdir'?"),
    ("lr", "here it is learning_rate"),
    ("precompute_ref_log_probs", "here it is reference=cache"),
    ("max_prompt", "did you mean 'data.max_prompt'?; settings go into settings={'SECTION.KEY': value}"),
  ],
)
def test_an_argument_that_is_none_is_told_which_was_meant(policy, name, hint):  # noqa: F811
  with pytest.raises(TypeError) as raised:
    dpo(policy, **{name: 1})
  assert str(raised.value) == f"DPO has no argument {name!r}; {hint}"


def test_a_folder_of_another_run_is_refused_in_words_of_python(tmp_path, policy):  # noqa: F811
  with dpo(policy, workdir=tmp_path / "run") as run:
    run.train(1)
    run.save()
  with pytest.raises(ConfigError) as raised:
    dpo(policy, workdir=tmp_path / "run", beta=0.7)
  assert "loss.beta" in str(raised.value)
  assert str(raised.value).endswith("; use another workdir, or allow_config_change=True to go on with the new ones")


def test_a_model_and_rows_are_shown_without_their_numbers_and_texts(policy):  # noqa: F811
  size = sum(leaf.size for leaf in jax.tree.leaves(policy.params))
  assert repr(policy) == f"LoadedModel({policy.path}: LanguageModel, {size:,} parameters, 32 tokens)"
  pairs = dpojax.read_pairs(ROWS, policy)
  assert repr(pairs) == "Pairs(40 rows, not tokenised yet)"
  assert len(pairs.train) == 36 and repr(pairs) == "Pairs(40 rows, 36 for training, 4 held out)"
