"""Experiments: stages in order, shared settings, references between stages, and each way to be wrong."""

import pytest

from dpojax.config.load import load_config, load_experiment, load_points, stages
from dpojax.errors import ConfigError

TEXT = """from dpojax.config import stages


def get_config():
  config = stages(sft="sft", pairs="pairs", dpo="preference")
  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.batch.size = 16
  config.sft.train.steps = 50
  config.pairs.model.path = "stage:sft"
  config.dpo.model.path = "stage:sft"
  config.dpo.data.path = "stage:pairs"
  config.dpo.batch.rows = 2
  config.dpo.loss.beta = 0.2
  return config
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "config.py"
  path.write_text(TEXT)
  return str(path)


def refused(call, *arguments):
  with pytest.raises(ConfigError) as caught:
    call(*arguments)
  return str(caught.value)


def test_stages_keep_their_order_and_share_what_stands_at_the_root(file):
  experiment = load_experiment(file, ["--config.batch.row_length=64", "--config.dpo.loss.beta=0.5"])
  assert list(experiment.stages) == ["sft", "pairs", "dpo"]
  assert [config.recipe for config in experiment.stages.values()] == ["sft", "pairs", "preference"]
  assert {config.batch.size for config in experiment.stages.values()} == {16}
  assert {config.batch.row_length for config in experiment.stages.values()} == {64}
  assert [config.batch.rows for config in experiment.stages.values()] == [4, 4, 2]
  assert experiment.stages["dpo"].loss.beta == 0.5
  assert experiment.sources("dpo") == {"model.path": "sft", "data.path": "pairs"}


def test_values_from_python_come_after_the_words(file):
  experiment = load_experiment(file, ["--config.dpo.loss.beta=0.5"], {"dpo.loss.beta": 0.7, "batch.size": 4})
  assert experiment.stages["dpo"].loss.beta == 0.7
  assert {config.batch.size for config in experiment.stages.values()} == {4}


def test_a_later_change_of_the_root_does_not_reach_a_stage_that_has_its_own(file):
  experiment = load_experiment(file, ["--config.batch.rows=8"])
  assert [config.batch.rows for config in experiment.stages.values()] == [8, 8, 2]


def test_a_file_of_one_stage_is_an_experiment_too(tmp_path):
  path = tmp_path / "one.py"
  path.write_text(
    "from dpojax.config import base\ndef get_config():\n  c = base()\n  c.data.path = 'x.jsonl'\n"
    "  c.model.path = 'm'\n  return c\n"
  )
  experiment = load_experiment(str(path), ["--config.loss.beta=0.4"])
  assert experiment.alone and experiment.stages[""].loss.beta == 0.4
  assert load_config(str(path)).data.source == "file"


@pytest.mark.parametrize(
  "words, message",
  [
    (
      ["--config.loss.beta=1"],
      "'loss.beta' belongs to a stage; this experiment has sft, pairs, dpo: write dpo.loss.beta",
    ),
    (["--config.dpo.loss.betta=1"], "stage dpo: unknown key 'loss.betta'; did you mean 'loss.beta'?"),
    (["--config.dop.loss.beta=1"], "unknown key 'dop.loss.beta'; did you mean 'dpo.loss.beta'?"),
    (["--config.data.nam=x"], "unknown key 'data.nam'; did you mean 'data.name'?"),
    (["--config.dpo.loss.beta=abc"], "dpo.loss.beta wants a number, got 'abc'"),
    (
      ["--config.sft.loss.beta=1"],
      "stage sft: loss.beta is set, but recipe=sft does not read it; it belongs to recipe=reward_model, "
      "recipe=preference, recipe=online",
    ),
    (
      ["--config.dpo.model.path=stage:dpo"],
      "dpo.model.path=stage:dpo: no such stage before this one; there is sft, pairs",
    ),
    (["--config.sft.model.path=stage:dpo"], "sft.model.path=stage:dpo: no such stage before this one; there is none"),
    (
      ["--config.dpo.data.path=stage:sft"],
      "dpo.data.path=stage:sft: that is a stage of recipe=sft; this setting needs one of recipe=pairs",
    ),
    (
      ["--config.dpo.model.path=stage:pairs"],
      "dpo.model.path=stage:pairs: that is a stage of recipe=pairs; this setting needs one of recipe=sft or "
      "recipe=reward_model or recipe=preference or recipe=policy_gradient or recipe=online",
    ),
    (["--config.sft.data.name=world"], None),
  ],
)
def test_bad_experiments(file, words, message):
  if message is None:
    load_experiment(file, words)  # a name is looked up when the data are read
  else:
    assert refused(load_experiment, file, words) == message


def test_a_shared_setting_that_nobody_takes_is_refused(file):
  own = [f"--config.{stage}.data.name=complaint_desk2" for stage in ("sft", "pairs", "dpo")]
  message = refused(load_experiment, file, [*own, "--config.data.name=complaint_desk3"])
  assert (
    message
    == "data.name has no effect: every stage has its own; write sft.data.name and pairs.data.name and dpo.data.name"
  )


@pytest.mark.parametrize("name", ["data", "model", "seed", "recipe", "logging", "jobs", "report"])
def test_a_stage_is_not_called_as_what_is_shared(name):
  assert refused(lambda: stages(**{name: "sft"})).startswith(f"a stage cannot be called {name!r}")


def test_an_unknown_recipe():
  known = "sft, pairs, reward_model, preference, policy_gradient, online, best_of_n, comparison"
  assert refused(lambda: stages(a="dpo")) == f"recipe wants one of {known}, got 'dpo'"
  for method in ("ppo", "rloo", "grpo", "dr_grpo", "reinforce"):
    text = refused(lambda method=method: stages(a=method))
    assert text == (
      f"recipe cannot be {method!r}; it is a method of recipe=policy_gradient: policy_gradient.method={method}. "
      f"It wants one of {known}"
    )


def test_one_stage_is_not_read_from_a_file_of_several(file):
  assert refused(load_config, file).endswith("has several stages (sft, pairs, dpo); read it with load_experiment")


def test_points_of_a_file(tmp_path, file):
  assert load_points(file) == []
  path = tmp_path / "points.py"
  path.write_text(TEXT + "\n\ndef get_points():\n  return [{'dpo.loss.beta': b} for b in (0.1, 0.5)]\n")
  assert load_points(str(path)) == [{"dpo.loss.beta": 0.1}, {"dpo.loss.beta": 0.5}]
  path.write_text(TEXT + "\n\ndef get_points():\n  return {'dpo.loss.beta': 1}\n")
  assert "get_points() must return a list of {'KEY': value} dicts" in refused(load_points, str(path))


REWARDS = """from dpojax.config import stages


def get_config():
  config = stages(reward="reward_model", second="reward_model", first="preference", pairs="pairs", dpo="preference")
  config.model.path = "model"
  config.data.path = "rows.jsonl"
  config.dpo.data.path = "stage:pairs"
  config.pairs.pairs.reward = "model:stage:reward"
  return config
"""


@pytest.mark.parametrize(
  "values, stage, wanted",
  [
    ({}, "pairs", {"pairs.reward": "reward"}),
    ({}, "dpo", {"data.path": "pairs"}),
    ({"pairs.pairs.reward": "length"}, "pairs", {}),
    (
      {"pairs.pairs.reward": "model:stage:reward + -0.5*model:stage:second?normalised=true"},
      "pairs",
      {"pairs.reward": "reward", "pairs.reward[2]": "second"},
    ),
    (
      {
        "dpo.monitor.rewards": "model:stage:reward, a=implicit:stage:first?reference=stage:first",
        "dpo.monitor.judge": "model:stage:second",
      },
      "dpo",
      {"data.path": "pairs", "monitor.rewards": "reward", "monitor.rewards[2]": "first", "monitor.judge": "second"},
    ),
    ({"dpo.monitor.judge": "judge:stage:x.py:f"}, "dpo", {"data.path": "pairs"}),
  ],
)
def test_rewards_name_earlier_stages(tmp_path, values, stage, wanted):
  path = tmp_path / "config.py"
  path.write_text(REWARDS)
  assert load_experiment(str(path), values=values).sources(stage) == wanted


@pytest.mark.parametrize(
  "reward, message",
  [
    (
      "model:stage:dpo",
      "pairs.pairs.reward=model:stage:dpo: no such stage before this one; there is reward, second, first",
    ),
    (
      "length + 2*model:stage:first",
      "pairs.pairs.reward=2*model:stage:first: that is a stage of recipe=preference; this setting needs one of "
      "recipe=reward_model",
    ),
    (
      "implicit:stage:first?reference=stage:reward",
      "pairs.pairs.reward=implicit:stage:first?reference=stage:reward: that is a stage of recipe=reward_model; this "
      "setting needs one of recipe=sft or recipe=preference or recipe=policy_gradient or recipe=online",
    ),
  ],
)
def test_rewards_of_stages_that_give_none(tmp_path, reward, message):
  path = tmp_path / "config.py"
  path.write_text(REWARDS)
  with pytest.raises(ConfigError) as caught:
    load_experiment(str(path), values={"pairs.pairs.reward": reward})
  assert str(caught.value) == message
