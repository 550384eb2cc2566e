"""Checks of the settings of stages that learn from what the policy writes."""

import dataclasses

from dpojax.config.experiment import name_of, names_in
from dpojax.config.keys import SECTIONS, STAGE, is_stage
from dpojax.config.schema import RunConfig
from dpojax.environments import get_environment
from dpojax.errors import ConfigError
from dpojax.evaluation.best_of_n import read_counts
from dpojax.rewards.spec import read_reward
from dpojax.rollout.size import check_size
from dpojax.rollout.stop import stop_texts

ADAPTIVE_CLIP = 0.2  # at most this fraction of answers / kl_horizon is added or taken, see `objectives.kl_control`


def check_on_policy(config: RunConfig) -> None:
  """Raises ConfigError, naming the key, for the first contradiction in the settings of a stage with roll-outs."""
  rollout, environment = config.rollout, config.data.source == "world"
  _require(bool(config.model.path), f"model.path is empty: name the model that recipe={config.recipe} starts from")
  _require(
    not is_stage(config.data.path),
    f"data.path={config.data.path}: recipe={config.recipe} reads prompts, from a file, the hub or a built-in environment, and no "
    "stage makes any",
  )
  _require(
    environment or rollout.reward != "auto",
    "rollout.reward=auto is the true reward, which only data.source=world has; name what scores the answers, such as "
    "rollout.reward=model:runs/reward or rollout.reward=python:FILE:FUNCTION, see docs/rewards.md",
  )
  read_reward(rollout.reward, "rollout.reward", environment=environment)
  _require(
    "batch" not in SECTIONS[config.recipe] or rollout.max_tokens < config.batch.row_length,
    f"rollout.max_tokens={rollout.max_tokens} leaves no room for a prompt in rows of "
    f"batch.row_length={config.batch.row_length}; raise the row length",
  )
  defaults = type(rollout)()
  _require(
    rollout.missing_eos != "keep" or rollout.eos_penalty == defaults.eos_penalty,
    "rollout.eos_penalty is set, but rollout.missing_eos=keep leaves the score of a cut answer alone; set "
    "missing_eos=subtract or replace",
  )
  _require(
    rollout.normalise or rollout.normalise_on == defaults.normalise_on,
    "rollout.normalise_on is set, but rollout.normalise is off; set it, or leave normalise_on out",
  )
  stop_texts(rollout.stop, "rollout.stop")
  _require(
    config.reference.kind != "cache",
    f"reference.kind=cache: the answers of recipe={config.recipe} are new at every roll-out, so nothing could be cached; "
    "set reference.kind=live or moving",
  )
  if config.recipe == "policy_gradient":
    _check_policy_gradient(config)
  if config.recipe == "best_of_n":
    _check_best_of_n(config)
  if config.recipe == "online":
    _check_online(config)
  if config.recipe == "comparison":
    _check_comparison(config)


def _check_online(config: RunConfig) -> None:
  settings, samples = config.online, config.rollout.samples
  _require(
    samples > 1, f"rollout.samples is {samples}, but recipe=online compares answers to the same prompt; set 2 or more"
  )
  if settings.opponent == "reference":
    _require(
      samples % 2 == 0,
      f"rollout.samples is {samples}, but with online.opponent=reference the reference writes half of them; set an even "
      "number",
    )
    _require(
      settings.choose == type(settings)().choose,
      f"online.choose={settings.choose} is set, but with online.opponent=reference each answer of the policy is compared "
      "with one of the reference, and there is nothing to choose; leave it out",
    )


def _check_policy_gradient(config: RunConfig) -> None:
  settings, samples = config.policy_gradient, config.rollout.samples
  unread = type(config.batch)()
  for name in ("seed", "share_prompt", "scored", "examples"):
    _require(
      getattr(config.batch, name) == getattr(unread, name),
      f"batch.{name} is set, but recipe=policy_gradient does not read it: rows are made of roll-outs, whose order is "
      "rollout.seed's; leave it out, and where other stages need it set it in those",
    )
  grouped = settings.method in ("rloo", "grpo", "dr_grpo")
  _require(
    samples > 1 or not grouped,
    f"rollout.samples is {samples}, but policy_gradient.method={settings.method} compares the answers to a prompt with one "
    "another; set 2 or more",
  )
  defaults = type(settings)()
  for name in ("gamma", "gae_lambda", "critic", "critic_path", "value_coef", "value_clip", "whiten_rewards"):
    _require(
      settings.method == "ppo" or getattr(settings, name) == getattr(defaults, name),
      f"policy_gradient.{name} is set, but policy_gradient.method={settings.method} has no critic and no rewards of tokens; "
      "it belongs to method=ppo",
    )
  _require(
    settings.method == "grpo" or settings.group_std == defaults.group_std,
    f"policy_gradient.group_std is set, but policy_gradient.method={settings.method} divides by no standard deviation",
  )
  _require(
    settings.critic == "reward" or not settings.critic_path,
    "policy_gradient.critic_path is set, but policy_gradient.critic=shared reads the policy's own decoder; leave it empty",
  )
  _require(
    settings.dual_clip == 0 or settings.dual_clip > 1,
    f"policy_gradient.dual_clip is {settings.dual_clip:g}; a bound on the loss of bad tokens is above 1, and 0 is none",
  )
  _require(
    settings.kl_controller == "fixed" or settings.kl_coef > 0,
    "policy_gradient.kl_coef is 0, which no controller changes; set it above 0, or kl_controller=fixed",
  )
  answers = settings.minibatches * config.batch.size * samples
  check_size(answers, "policy_gradient.minibatches, batch.size or rollout.samples")
  _require(
    settings.kl_controller != "adaptive" or answers < settings.kl_horizon / ADAPTIVE_CLIP,
    f"policy_gradient.kl_horizon={settings.kl_horizon:g} is too short for roll-outs of {answers:,} answers (minibatches * "
    f"batch.size * rollout.samples): where KL is low, one of them would take the weight of KL to 0 or below; set it above "
    f"{answers * ADAPTIVE_CLIP:g}",
  )
  for name, read_by in (("kl_target", ("adaptive", "exponential")), ("kl_horizon", ("adaptive",))):
    _require(
      settings.kl_controller in read_by or getattr(settings, name) == getattr(defaults, name),
      f"policy_gradient.{name} is set, but kl_controller={settings.kl_controller} does not read it; it belongs to "
      f"kl_controller={' or '.join(read_by)}",
    )


def _check_comparison(config: RunConfig) -> None:
  settings = config.comparison
  _check_measured(config)
  policies = names_in(settings.policies)
  _require(
    bool(policies),
    "comparison.policies is empty: name what is compared, such as comparison.policies=stage:dpo,stage:ppo",
  )
  names = policy_names(policies)
  for name in names_in(settings.oracle):
    _require(
      name.removeprefix(STAGE) in names,
      f"comparison.oracle={settings.oracle}: {name} is none of comparison.policies; there is {', '.join(names)}",
    )
  paths = names_in(settings.best_of_n)
  _require(
    len(paths) < 2 and all(map(is_stage, paths)),
    f"comparison.best_of_n={settings.best_of_n}: wants one stage of recipe=best_of_n, as stage:NAME",
  )
  environment = config.data.source == "world"
  known = get_environment(config.data.name).splits if environment else ("held_out", "all")
  splits = names_in(settings.splits)
  _require(
    bool(splits), f"comparison.splits is empty; {config.data.name if environment else 'data'} has {', '.join(known)}"
  )
  for split in splits:
    _require(
      split in known and splits.count(split) == 1,
      f"comparison.splits={settings.splits}: wants different ones of {', '.join(known)}",
    )


def policy_names(paths: list[str]) -> list[str]:
  """How `comparison.policies` are called: each by its stage, or the last part of its path.

  Raises:
    ConfigError: two have the same name.
  """
  names = [name_of(path) for path in paths]
  for name in names:
    _require(
      names.count(name) == 1,
      f"comparison.policies: two are called {name}; name each once, and copy or link one under another name if need be",
    )
  return names


def _check_measured(config: RunConfig) -> None:
  """Of stages that measure answers and train nothing."""
  rollout, monitor, recipe = config.rollout, config.monitor, config.recipe
  for name, value in (("normalise", False), ("missing_eos", "keep")):
    _require(
      getattr(rollout, name) == value,
      f"rollout.{name} is set, but recipe={recipe} reads the reward as it is; leave it at {value}",
    )
  defaults = type(monitor)()
  for field in dataclasses.fields(monitor):
    _require(
      field.name == "rewards" or getattr(monitor, field.name) == getattr(defaults, field.name),
      f"monitor.{field.name} is set, but recipe={recipe} trains no policy to look at; of this section it reads "
      "monitor.rewards alone, which score the answers beside rollout.reward",
    )


def _check_best_of_n(config: RunConfig) -> None:
  read_counts(config.best_of_n.counts, config.rollout.samples)
  _check_measured(config)
  _require(
    config.data.source == "world" or config.best_of_n.split == "held_out",
    "best_of_n.split=train is for the prompts of a built-in environment; of data those of data.path are answered",
  )


def _require(holds: bool, message: str) -> None:
  if not holds:
    raise ConfigError(message)
