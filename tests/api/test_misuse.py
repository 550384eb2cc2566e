"""What a program can do wrong at the short door is refused in words, and never done to something else."""

import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpojax
from dpojax import losses
from dpojax.api.arguments import Arguments, as_dataset
from dpojax.config.keys import replace_values
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError, DataError
from dpojax.references import weights_fingerprint
from tests.api.tiny import SHORT, make_rows, policy  # noqa: F401

ROWS = make_rows()
OPTIONS = {"batch_size": 8, "steps": 4, "quiet": True}


@pytest.mark.slow
def test_a_closed_run_takes_no_step_and_steps_are_counted(policy):  # noqa: F811
  with dpojax.DPO(policy, ROWS, settings=SHORT, **OPTIONS) as run:
    for steps in (-1, 1.0, "2"):
      with pytest.raises(ConfigError, match="must be a whole number, 0 or more"):
        run.train(steps)
    assert run.train(0).reason == "paused" and run.train(np.int64(1)).step == 1
  for call in (run.train, run.save, run.report, lambda: run.export("out")):
    with pytest.raises(ConfigError, match="this run is closed"):
      call()
  assert run.step == 1 and not run.folder.exists()


def test_changed_parameters_are_not_those_of_the_path(policy):  # noqa: F811
  changed = dataclasses.replace(policy, params=jax.tree.map(lambda x: 1.5 * x, policy.params))
  put = Arguments(None)
  put.model("model.path", changed)
  put.model("reference.path", policy)
  assert put.settings["model.path"] != put.settings["reference.path"] == policy.path
  given = put.models[put.settings["model.path"]]
  assert given.params is changed.params and given.digest == weights_fingerprint(changed.params) != policy.digest
  assert put.models[policy.path].params is policy.params
  again = pickle.loads(pickle.dumps(policy))
  assert again.path == policy.path and not again.as_read


def test_one_model_read_twice_is_one(policy):  # noqa: F811
  put = Arguments(None)
  models = [dpojax.load(policy.path), dpojax.load(policy.path)]
  for key, model in zip(("model.path", "reference.path"), models, strict=True):
    put.model(key, model)
    assert put.settings[key] == policy.path


def test_a_loss_that_is_registered_keeps_what_was_said_of_it():
  def own(chosen, rejected):
    return rejected - chosen

  try:
    losses.register(own, coupled=True)
    Arguments(None).loss(own)
    assert losses.get_loss("own").coupled
  finally:
    losses.LOSSES.pop("own", None)


@pytest.mark.parametrize("data", [None, 5, b"rows", {"train": ROWS}])
def test_what_is_no_rows_is_named(policy, data):  # noqa: F811
  with pytest.raises(ConfigError, match="data: wants rows, a list of dicts"):
    dpojax.read_pairs(data, policy)
  with pytest.raises(ConfigError, match="data: wants rows, a list of dicts"):
    Arguments(None).data(data)


def test_a_data_frame_is_its_rows(policy):  # noqa: F811
  frame = pytest.importorskip("pandas").DataFrame(ROWS)
  assert dpojax.read_pairs(frame, policy).train.fingerprint == dpojax.read_pairs(ROWS, policy).train.fingerprint


def test_a_recipe_is_the_class_and_monitors_are_a_list(policy):  # noqa: F811
  with pytest.raises(ConfigError, match="recipe is what the class says"):
    dpojax.DPO(policy, ROWS, settings={"recipe": "sft"})
  with pytest.raises(ConfigError, match="monitors: wants a list"):
    dpojax.DPO(policy, ROWS, monitors=lambda step, trainer: None)


def test_rows_to_evaluate_on_are_read_as_the_run_reads_its_own(policy):  # noqa: F811
  renamed = [{"ask": row["prompt"], "good": row["chosen"], "bad": row["rejected"]} for row in ROWS]
  settings = {"data.columns": "prompt=ask,chosen=good,rejected=bad", "data.max_answer": 5, "data.overlong": "drop"}
  config = replace_values(RunConfig(recipe="preference"), settings)
  with pytest.raises(DataError, match="can be used"):
    as_dataset(renamed, policy, config)
  config = replace_values(config, {"data.max_answer": 6})
  read = as_dataset(renamed, policy, config)
  assert read.fingerprint == dpojax.read_pairs(ROWS, policy, eval_fraction=0.0).train.fingerprint


@pytest.mark.slow
def test_an_own_metric_takes_no_other_metrics_place(policy):  # noqa: F811
  def entropy(policy, reference):
    return jnp.zeros_like(policy.chosen)

  run = dpojax.DPO(policy, ROWS, metrics=[entropy], settings=SHORT, **OPTIONS)
  with run, pytest.raises(ConfigError, match="metrics: two are called entropy"):
    run.evaluate(ROWS[:4])
  for metrics in (entropy, [functools.partial(entropy)]):
    with pytest.raises(ConfigError, match="metrics: wants a list of functions"):
      dpojax.DPO(policy, ROWS, metrics=metrics)


def test_a_run_built_again_takes_its_folder_over(tmp_path, policy):  # noqa: F811
  first = dpojax.DPO(policy, ROWS, settings=SHORT, workdir=tmp_path, **OPTIONS)
  again = dpojax.DPO(policy, ROWS, settings=SHORT, workdir=tmp_path, **OPTIONS)
  with pytest.raises(ConfigError, match="this run is closed"):
    first.train(1)
  first.close()
  assert (tmp_path / "lock.json").is_file()
  again.close()
  assert not (tmp_path / "lock.json").exists()


@pytest.mark.slow
def test_an_own_loss_of_other_defaults_is_another_run(tmp_path, policy):  # noqa: F811
  def run(value):
    def own(chosen, rejected, *, steepness=value):
      return steepness * (rejected - chosen)

    return dpojax.DPO(policy, ROWS, loss=own, settings=SHORT, workdir=tmp_path, **OPTIONS)

  try:
    with run(1.0) as begun:
      begun.train(1)
      begun.save()
    with run(1.0) as begun:
      assert begun.step == 1
    with pytest.raises(ConfigError, match=r"own losses: .*steepness 1\.0.* -> .*steepness 2\.0"):
      run(2.0)
  finally:
    losses.LOSSES.pop("own", None)
