"""Settings of stages that learn from what the policy writes: contradictions, and names that other libraries have."""

import pathlib
import re

import pytest

from dpojax.cli.main import main
from dpojax.config.check import check
from dpojax.config.foreign_keys import FOREIGN, NEEDLESS, OWN, REFUSED, TRAINING
from dpojax.config.keys import check_key, fields_by_key, replace_values
from dpojax.config.load import load_config, load_experiment
from dpojax.config.resolved import autos, resolved
from dpojax.config.schema import PolicyGradientSettings, RunConfig
from dpojax.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
WORLD = {
  "recipe": "policy_gradient",
  "data.source": "world",
  "data.name": "complaint_desk",
  "model.path": "stage:sft",
  "batch.row_length": 256,
}
FILE = WORLD | {"data.source": "file", "data.name": "", "data.path": "prompts.jsonl", "rollout.reward": "length"}
PG = "policy_gradient."


def refused(start, values):
  with pytest.raises(ConfigError) as caught:
    check(replace_values(RunConfig(), {**start, **values}))
  return str(caught.value)


@pytest.mark.parametrize(
  "start",
  [
    WORLD,
    FILE,
    FILE | {"reference.kind": "moving"},
    FILE | {"rollout.reward": "model:stage:reward"},
    WORLD | {f"{PG}method": "reinforce", "rollout.samples": 1},
    WORLD | {f"{PG}method": "grpo", f"{PG}group_std": "biased"},
    WORLD | {f"{PG}kl_controller": "adaptive", f"{PG}kl_target": 2.0, f"{PG}kl_horizon": 500.0},
    WORLD | {f"{PG}kl_controller": "exponential", f"{PG}kl_target": 2.0},
    WORLD | {"rollout.missing_eos": "replace", "rollout.eos_penalty": 2.0},
    WORLD | {"rollout.normalise": True, "rollout.normalise_on": 64},
    FILE | {f"{PG}critic": "shared"},
    FILE | {f"{PG}critic_path": "runs/ppo"},
  ],
)
def test_sound_settings_pass(start):
  check(replace_values(RunConfig(), start))


@pytest.mark.parametrize(
  "start, values, message",
  [
    (WORLD, {"model.path": ""}, "model.path is empty: name the model that recipe=policy_gradient starts from"),
    (
      FILE,
      {"data.path": "stage:pairs", "data.source": "world", "data.name": "complaint_desk"},
      "data.path=stage:pairs: recipe=policy_gradient reads prompts, from a file, the hub or a built-in environment, and no stage "
      "makes any",
    ),
    (
      FILE,
      {"rollout.reward": "auto"},
      "rollout.reward=auto is the true reward, which only data.source=world has; name what scores the answers, such as "
      "rollout.reward=model:runs/reward or rollout.reward=python:FILE:FUNCTION, see docs/rewards.md",
    ),
    (
      WORLD,
      {"reference.kind": "cache"},
      "reference.kind=cache: the answers of recipe=policy_gradient are new at every roll-out, so nothing could be cached; "
      "set reference.kind=live or moving",
    ),
    (
      WORLD,
      {"rollout.max_tokens": 256},
      "rollout.max_tokens=256 leaves no room for a prompt in rows of batch.row_length=256; raise the row length",
    ),
    (
      WORLD,
      {"rollout.eos_penalty": 2.0},
      "rollout.eos_penalty is set, but rollout.missing_eos=keep leaves the score of a cut answer alone; set "
      "missing_eos=subtract or replace",
    ),
    (
      WORLD,
      {"rollout.normalise_on": 64},
      "rollout.normalise_on is set, but rollout.normalise is off; set it, or leave normalise_on out",
    ),
    *(
      (
        WORLD,
        {f"{PG}method": method, "rollout.samples": 1},
        f"rollout.samples is 1, but policy_gradient.method={method} compares the answers to a prompt with one another; set "
        "2 or more",
      )
      for method in ("rloo", "grpo", "dr_grpo")
    ),
    *(
      (
        WORLD,
        {f"{PG}method": "rloo", f"{PG}{name}": value},
        f"policy_gradient.{name} is set, but policy_gradient.method=rloo has no critic and no rewards of tokens; it belongs "
        "to method=ppo",
      )
      for name, value in (
        ("gamma", 0.9),
        ("gae_lambda", 1.0),
        ("critic", "shared"),
        ("critic_path", "runs/reward"),
        ("value_coef", 0.5),
        ("value_clip", 0.5),
        ("whiten_rewards", True),
      )
    ),
    (
      WORLD,
      {f"{PG}group_std": "biased"},
      "policy_gradient.group_std is set, but policy_gradient.method=ppo divides by no standard deviation",
    ),
    (
      WORLD,
      {f"{PG}critic": "shared", f"{PG}critic_path": "runs/reward"},
      "policy_gradient.critic_path is set, but policy_gradient.critic=shared reads the policy's own decoder; leave it empty",
    ),
    (
      WORLD,
      {f"{PG}dual_clip": 0.5},
      "policy_gradient.dual_clip is 0.5; a bound on the loss of bad tokens is above 1, and 0 is none",
    ),
    (
      WORLD,
      {f"{PG}kl_controller": "adaptive", f"{PG}kl_coef": 0.0},
      "policy_gradient.kl_coef is 0, which no controller changes; set it above 0, or kl_controller=fixed",
    ),
    (
      WORLD,
      {f"{PG}kl_target": 2.0},
      "policy_gradient.kl_target is set, but kl_controller=fixed does not read it; it belongs to kl_controller=adaptive or "
      "exponential",
    ),
    (
      WORLD,
      {f"{PG}kl_controller": "exponential", f"{PG}kl_horizon": 500.0},
      "policy_gradient.kl_horizon is set, but kl_controller=exponential does not read it; it belongs to "
      "kl_controller=adaptive",
    ),
    (
      {k: v for k, v in WORLD.items() if k != "recipe"} | {"data.path": "stage:pairs"},
      {f"{PG}kl_coef": 0.1},
      "policy_gradient.kl_coef is set, but recipe=preference does not read it; it belongs to recipe=policy_gradient",
    ),
    (
      WORLD,
      {"loss.beta": 0.1},
      "loss.beta is set, but recipe=policy_gradient does not read it; it belongs to recipe=reward_model, "
      "recipe=preference, recipe=online. Here the weight of KL is policy_gradient.kl_coef",
    ),
    (
      WORLD,
      {"evaluation.every": 5},
      "evaluation.every is set, but recipe=policy_gradient does not read it; it belongs to recipe=sft, "
      "recipe=reward_model, recipe=preference",
    ),
  ],
)
def test_contradictions(start, values, message):
  assert refused(start, values) == message


@pytest.mark.parametrize("reward", ["lenght", "model:", "length, sentiment"])
def test_a_reward_that_cannot_be_read_names_its_key(reward):
  assert refused(FILE, {"rollout.reward": reward}).startswith("rollout.reward")


def message_of(key):
  with pytest.raises(ConfigError) as caught:
    check_key(key)
  return str(caught.value)


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_tokens", "repetition_penalty"])
def test_what_changes_the_distribution_is_refused_with_its_reason(name):
  text = message_of(f"rollout.{name}")
  assert text.startswith(f"unknown key 'rollout.{name}': roll-outs are drawn from the whole distribution at ")
  assert "makes ratio and KL those of another policy than the one that is trained" in text
  assert text.endswith(f"Looks may have it: monitor.{name}") == (name in ("top_k", "top_p"))


@pytest.mark.parametrize(
  "key, said",
  [
    ("policy_gradient.num_ppo_epochs", "; here it is policy_gradient.epochs"),
    ("num_ppo_epochs", "; here it is policy_gradient.epochs"),
    ("train.num_mini_batches", "; here it is policy_gradient.minibatches"),
    ("policy_gradient.beta", "; here it is policy_gradient.kl_coef"),
    ("rollout.learning_rate", "; here it is optimizer.learning_rate"),
    ("rollout.missing_eos_penalty", "; here it is rollout.eos_penalty with rollout.missing_eos=subtract"),
    ("policy_gradient.kl_estimator", "; here it is policy_gradient.kl: reward is k1, loss is k3"),
    ("lr", "; here it is optimizer.learning_rate"),
    (
      "policy_gradient.loss_type",
      "; here it is policy_gradient.reduction; loss_type=dr_grpo is policy_gradient.method=dr_grpo",
    ),
    (
      "num_sample_generations",
      "; here it is monitor.every, steps between looks at the policy, and monitor.show, how many answers are shown",
    ),
    ("kl_coef", "; did you mean 'policy_gradient.kl_coef'?"),
    ("rollout.kl_coef", "; did you mean 'policy_gradient.kl_coef'?"),
    ("loss.whiten_rewards", "; did you mean 'policy_gradient.whiten_rewards'?"),
    ("policy_gradient.max_tokens", "; did you mean 'rollout.max_tokens'?"),
    ("policy_gradient.temperature", "; did you mean 'rollout.temperature'?"),
    ("gamma", "; did you mean 'loss.gamma' or 'policy_gradient.gamma'?"),
    ("policy_gradient.klcoef", "; did you mean 'policy_gradient.kl_coef'?"),
    ("beta", "; did you mean 'loss.beta'?"),  # a key of ours is meant where nothing says otherwise
  ],
)
def test_a_key_at_the_wrong_place_or_of_another_library_is_led_home(key, said):
  assert message_of(key) == f"unknown key {key!r}{said}"


@pytest.mark.parametrize(
  "recipe, key, said",
  [
    ("policy_gradient", "temperature", "'rollout.temperature' or 'monitor.temperature'"),
    ("online", "temperature", "'rollout.temperature' or 'monitor.temperature'"),
    ("pairs", "temperature", "'pairs.temperature'"),
    ("preference", "temperature", "'monitor.temperature'"),
    ("policy_gradient", "model.temperature", "'rollout.temperature'"),
    ("policy_gradient", "gamma", "'policy_gradient.gamma'"),
    ("preference", "gamma", "'loss.gamma'"),
  ],
)
def test_of_several_keys_the_one_that_the_recipe_reads_is_meant(recipe, key, said):
  with pytest.raises(ConfigError) as caught:
    check_key(key, recipe)
  assert str(caught.value) == f"unknown key {key!r}; did you mean {said}?"


def test_the_stage_of_a_command_line_says_which_is_meant(tmp_path):
  file = tmp_path / "config.py"
  file.write_text(CONFIG.format("rollout.samples"))
  with pytest.raises(ConfigError, match=r"did you mean 'rollout.temperature' or 'monitor.temperature'\?"):
    load_experiment(str(file), ["--config.temperature=1"])


@pytest.mark.parametrize(
  "key, value, said",
  [
    ("policy_gradient.method", "GRPO", "; did you mean 'grpo'?"),
    ("policy_gradient.method", "Dr_GRPO", "; did you mean 'dr_grpo'?"),
    ("reference.kind", "LIVE", "; did you mean 'live'?"),
    ("loss.name", "DPO", "; did you mean 'dpo'?"),
  ],
)
def test_capitals_make_no_difference_to_what_is_meant(key, value, said):
  start = {"data.source": "file", "data.path": "x.jsonl"} if key == "loss.name" else FILE
  assert f"{value!r}{said}" in refused(start, {key: value})


def test_what_other_libraries_names_lead_to_is_a_key_of_ours():
  ours = fields_by_key()
  for name, meant in [*FOREIGN.items(), *TRAINING.items()]:
    assert re.split("[,;:]", meant)[0].partition("=")[0].split()[0] in ours, name
    for section in OWN:
      assert f"{section}.{name}" not in ours, "a key of ours needs no translation"
  assert not set(REFUSED) & set(ours) and not set(NEEDLESS) & {*FOREIGN, *TRAINING}


@pytest.mark.parametrize(
  "key, said",
  [
    ("loss_type", "; here it is loss.name (of policy gradients policy_gradient.reduction; "),
    ("policy_gradient.loss_type", "; here it is policy_gradient.reduction; loss_type=dr_grpo is "),
    ("gradient_accumulation_steps", "; here it is batch.size, examples of a whole step"),
    ("train.eval_steps", "; here it is evaluation.every; monitor.every is that of looks"),
    ("output_dir", "; it needs no key: where a run is written is said by --workdir"),
  ],
)
def test_names_of_training_lead_home(key, said):
  with pytest.raises(ConfigError, match=re.escape(f"unknown key {key!r}{said}")):
    check_key(key)


CONFIG = """from dpojax.config import base

def get_config():
  config = base()
  config.recipe = "policy_gradient"
  config.{} = 1
  return config
"""


@pytest.mark.parametrize(
  "key, said",
  [
    (
      "rollout.top_k",
      "unknown key 'rollout.top_k': roll-outs are drawn from the whole distribution at rollout.temperature; ",
    ),
    ("rollout.num_generations", "unknown key 'rollout.num_generations'; here it is rollout.samples"),
    ("rollout.kl_coef", "unknown key 'rollout.kl_coef'; did you mean 'policy_gradient.kl_coef'?"),
  ],
)
def test_a_config_file_names_them_too(tmp_path, key, said):
  file = tmp_path / "config.py"
  file.write_text(CONFIG.format(key))
  with pytest.raises(ConfigError) as caught:
    load_config(str(file))
  assert str(caught.value).startswith(f"{file}:6: {said}")


def test_the_command_line_names_the_stage(tmp_path):
  file = tmp_path / "config.py"
  file.write_text("from dpojax.config import stages\n\ndef get_config():\n  return stages(ppo='policy_gradient')\n")
  for key, said in (
    (
      "ppo.rollout.top_p",
      "stage ppo: unknown key 'rollout.top_p': roll-outs are drawn from the whole distribution at ",
    ),
    (
      "ppo.policy_gradient.cliprange",
      "stage ppo: unknown key 'policy_gradient.cliprange'; here it is policy_gradient.clip",
    ),
    ("ppo.kl_coef", "stage ppo: unknown key 'kl_coef'; did you mean 'policy_gradient.kl_coef'?"),
    ("num_ppo_epochs", "unknown key 'num_ppo_epochs'; here it is policy_gradient.epochs"),
  ):
    with pytest.raises(ConfigError) as caught:
      load_experiment(str(file), [f"--config.{key}=1"])
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
  "method, reduction, whiten, kl",
  [
    ("ppo", "token", "minibatch", "reward"),
    ("rloo", "sequence", "none", "reward"),
    ("reinforce", "sequence", "none", "reward"),
    ("grpo", "answer", "none", "loss"),
    ("dr_grpo", "constant", "none", "loss"),
  ],
)
def test_auto_is_what_the_method_says(method, reduction, whiten, kl):
  found = resolved(PolicyGradientSettings(method=method))
  assert (found.reduction, found.whiten, found.kl) == (reduction, whiten, kl)
  given = resolved(PolicyGradientSettings(method=method, reduction="token", whiten="rollout", kl="reward"))
  assert (given.reduction, given.whiten, given.kl) == ("token", "rollout", "reward")
  config = replace_values(RunConfig(), WORLD | {f"{PG}method": method, f"{PG}kl": "reward"})
  assert autos(config) == [
    f"policy_gradient.reduction: auto is {reduction}",
    f"policy_gradient.whiten: auto is {whiten}",
  ]
  assert autos(RunConfig()) == []


def test_a_dry_run_says_what_auto_is(tmp_path, capsys):
  file = tmp_path / "config.py"
  file.write_text("from dpojax.config import base\n\ndef get_config():\n  config = base()\n")
  with file.open("a") as out:
    out.writelines(f"  config.{key} = {value!r}\n" for key, value in (WORLD | {"model.path": "m"}).items())
    out.write("  return config\n")
  command = ["train", f"--config={file}", f"--workdir={tmp_path / 'run'}", "--dry-run"]
  assert main([*command, "--config.policy_gradient.method=grpo", "--config.policy_gradient.kl=reward"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.strip() for line in lines if "auto is" in line] == [
    "policy_gradient.reduction: auto is answer",
    "policy_gradient.whiten: auto is none",
  ]


@pytest.mark.parametrize(
  "page, start",
  [("docs/guide.md", "# ppo.py\n"), ("docs/experiments.md", 'def get_config():\n  config = stages(reward="rew')],
)
def test_the_configs_shown_are_sound(tmp_path, page, start):
  text = (ROOT / page).read_text(encoding="utf-8")
  begin = next(m.start() for m in re.finditer(re.escape(start), text) if "policy_gradient" in text[m.start() :][:200])
  block = text[begin : text.index("```", begin)]
  file = tmp_path / "config.py"
  file.write_text(f"from dpojax.config import base, stages\n{block}")
  experiment = load_experiment(str(file))
  assert "policy_gradient" in [config.recipe for config in experiment.stages.values()]


def test_a_batch_says_what_it_counts():
  assert "prompts with all their answers" in fields_by_key()["batch.size"].metadata["meaning"]
