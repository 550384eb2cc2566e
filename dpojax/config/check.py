"""Checks of resolved settings: each value in its range, and no two that contradict each other.

What depends on the devices or the data is checked where those are known.
"""

from typing import Any

from dpojax.config.check_losses import check_losses
from dpojax.config.check_on_policy import check_on_policy
from dpojax.config.experiment import reward_specs
from dpojax.config.foreign_keys import INSTEAD, explained_value
from dpojax.config.keys import (
  SECTIONS,
  SHARED,
  fields_by_key,
  flatten,
  is_stage,
  not_a_choice,
  reads_section,
  suggestion,
  value_at,
)
from dpojax.config.option import LOWEST_TEMPERATURE
from dpojax.config.schema import RunConfig
from dpojax.data.columns import parse_columns
from dpojax.data.formats import format_named
from dpojax.data.prompts import ALONE
from dpojax.errors import ConfigError
from dpojax.rewards.spec import read_reward
from dpojax.rollout.stop import stop_texts


def check(config: RunConfig) -> None:
  """Raises ConfigError, naming the dotted key, for the first wrong value or contradiction found."""
  for key, value in flatten(config).items():
    if value is not None:
      check_value(key, value)
  _check_sections(config)
  _check_kinds(config)
  _check_recipe(config)
  _check_data(config)
  _check_model(config)
  _check_training(config)
  _check_evaluation(config)


def check_value(key: str, value: Any) -> None:
  """Raises ConfigError when `value` is outside the choices or the range of the setting `key`."""
  limits = fields_by_key()[key].metadata
  choices = limits["choices"]
  if choices is not None and value not in choices:
    near = explained_value(key, str(value)) or suggestion(value, choices)
    if key == "recipe" and value in fields_by_key()["policy_gradient.method"].metadata["choices"]:
      near = f"; it is a method of recipe=policy_gradient: policy_gradient.method={value}"
    raise not_a_choice(key, value, choices, near)
  for name, words, wrong in (
    ("minimum", "at least", lambda limit: value < limit),
    ("above", "more than", lambda limit: value <= limit),
    ("maximum", "at most", lambda limit: value > limit),
    ("below", "less than", lambda limit: value >= limit),
  ):
    limit = limits[name]
    if limit is not None and wrong(limit):
      said, got = (f"{number:g}" if isinstance(number, float) else str(number) for number in (limit, value))
      raise ConfigError(f"{key} must be {words} {said}, got {got}")


def _require(holds: bool, message: str) -> None:
  if not holds:
    raise ConfigError(message)


def _check_sections(config: RunConfig) -> None:
  """No setting of another recipe than this one is set: nobody would read it."""
  defaults = flatten(RunConfig())
  for key, value in flatten(config).items():
    if value == defaults[key] or reads_section(config.recipe, key) or key.partition(".")[0] in SHARED:
      continue
    readers = ", ".join(f"recipe={recipe}" for recipe in SECTIONS if reads_section(recipe, key))
    instead = f". Here {INSTEAD[config.recipe, key]}" if (config.recipe, key) in INSTEAD else ""
    raise ConfigError(f"{key} is set, but recipe={config.recipe} does not read it; it belongs to {readers}{instead}")


def _check_kinds(config: RunConfig) -> None:
  """No setting of another kind, of reference or optimizer, than the one that is chosen is set: nobody would read it."""
  for key, field in fields_by_key().items():
    if field.metadata["only"] and value_at(config, key) != field.default:
      chooser, *kinds = field.metadata["only"]
      kind = value_at(config, chooser)
      _require(
        kind in kinds,
        f"{key} is set, but {chooser}={kind} does not read it; it belongs to {' or '.join(f'{chooser}={k}' for k in kinds)}",
      )


def _check_recipe(config: RunConfig) -> None:
  if config.recipe in ("reward_model", "preference", "online"):
    check_losses(config)
  if config.recipe == "pairs":
    _check_pairs(config)
  if reads_section(config.recipe, "rollout.reward"):
    check_on_policy(config)
  for key, spec in reward_specs(config):
    _require(
      config.data.source == "world" or "true" not in (term.kind for term in getattr(spec, "terms", ())),
      f"{key}={value_at(config, key)}: true is an environment's own reward, which only data.source=world has; name "
      "another, such as model:PATH or python:FILE:FUNCTION",
    )


def _check_pairs(config: RunConfig) -> None:
  pairs, environment = config.pairs, config.data.source == "world"
  _require(bool(config.model.path), "model.path is empty: name the model that writes the answers of recipe=pairs")
  _require(
    not is_stage(config.data.path),
    f"data.path={config.data.path}: recipe=pairs reads prompts, from a file, the hub or a built-in environment, and no stage "
    "makes any",
  )
  _require(
    environment or pairs.reward != "auto",
    "pairs.reward=auto is the true reward, which only data.source=world has; name what orders the answers, such as "
    "pairs.reward=model:runs/reward or pairs.reward=python:FILE:FUNCTION, see docs/rewards.md",
  )
  _require(
    not environment or pairs.prompts > 0,
    "pairs.prompts is 0, but a built-in environment has no end of prompts; say how many",
  )
  read_reward(pairs.reward, "pairs.reward", environment=environment)


def _check_data(config: RunConfig) -> None:
  data, batch = config.data, config.batch
  _require(
    data.source != "hub" or bool(data.name) or is_stage(data.path),
    "data.name is empty: name a data set of the hub, give a file as data.path, or set data.source=world",
  )
  _require(
    data.source != "world" or bool(data.name), "data.name is empty: name a built-in environment (complaint_desk)"
  )
  if data.source == "world" and config.recipe in ("reward_model", "preference"):
    _require(
      bool(data.path),
      f"data.path is empty: recipe={config.recipe} on data.source=world learns from pairs that a stage of recipe=pairs "
      "wrote; name it, such as stage:pairs",
    )
  _require(
    data.source != "world" or not data.path or is_stage(data.path),
    f"data.path={data.path} is a file; data.source=world reads the pairs of a stage",
  )
  _require(data.source != "file" or bool(data.path), "data.path is empty, but data.source=file needs a file to read")
  _require(not data.eval_split or data.source == "hub", "data.eval_split is set, but only data.source=hub has splits")
  _require(
    not (data.eval_split and data.eval_path), "data.eval_path and data.eval_split are both set; choose one held-out set"
  )
  _require(
    not data.eval_path or data.source != "world",
    "data.eval_path is set, but data.source=world writes its own held-out prompts",
  )
  for name in ("eval_path", "eval_split"):
    _require(
      not (getattr(data, name) and is_stage(data.path)),
      f"data.{name} is set, but the pairs of a stage are held out by data.eval_fraction; leave it empty",
    )
  parse_columns(data.columns)
  if data.format != "auto" and data.format not in ALONE:
    format_named(data.format)
  for name in ("max_prompt", "max_answer", "max_example"):
    limit = getattr(data, name)
    _require(
      limit <= batch.row_length,
      f"data.{name} is {limit}, longer than a row (batch.row_length={batch.row_length}); raise the row length",
    )
  for name in ("scored", "examples"):
    slots = getattr(batch, name)
    _require(
      slots <= batch.row_length,
      f"batch.{name} is {slots}, more than the tokens of a row (batch.row_length={batch.row_length}); lower it, or "
      "leave it at 0",
    )


def _check_model(config: RunConfig) -> None:
  model = config.model
  _require(config.parallel.data != 0, "parallel.data must be -1 (all devices that remain) or at least 1, got 0")
  if model.path:
    return
  _require(
    config.data.source == "world",
    "model.path is empty: a model from scratch knows only the words of a built-in environment; "
    "give model.path, or set data.source=world",
  )
  _require(
    model.hidden % (2 * model.heads) == 0,
    f"model.hidden must be a multiple of 2 * model.heads = {2 * model.heads}, got {model.hidden}",
  )
  _require(
    model.heads % model.kv_heads == 0,
    f"model.heads must be a multiple of model.kv_heads = {model.kv_heads}, got {model.heads}",
  )


def _check_training(config: RunConfig) -> None:
  optimizer, steps = config.optimizer, config.train.steps
  _require(
    steps == 0 or optimizer.warmup_steps <= steps,
    f"optimizer.warmup_steps is {optimizer.warmup_steps}, more than train.steps = {steps}",
  )
  _require(
    optimizer.schedule != "constant" or optimizer.final_fraction == 0,
    "optimizer.final_fraction is set, but optimizer.schedule=constant never falls; set it to 0",
  )


def _check_evaluation(config: RunConfig) -> None:
  data, evaluation = config.data, config.evaluation
  held_out = bool(data.eval_path or data.eval_split or data.eval_fraction or data.source == "world")
  looks = config.monitor.every > 0 and config.monitor.prompts > 0
  _require(
    held_out or evaluation.every == 0,
    "evaluation.every is set, but nothing is held out; set data.eval_path, data.eval_split or data.eval_fraction",
  )
  _require(
    not config.checkpoint.best_metric or evaluation.every > 0 or looks,
    f"checkpoint.best_metric is {config.checkpoint.best_metric!r}, but nothing is evaluated on the way; "
    "set evaluation.every or monitor.every",
  )
  _check_monitor(config, looks, held_out)


def _check_monitor(config: RunConfig, looks: bool, held_out: bool) -> None:
  monitor, stop = config.monitor, config.stop
  _require(
    monitor.temperature == 0 or monitor.temperature >= LOWEST_TEMPERATURE,
    f"monitor.temperature must be 0, which is greedy, or at least {LOWEST_TEMPERATURE:g}, got {monitor.temperature:g}",
  )
  stop_texts(monitor.stop, "monitor.stop")
  stop_texts(config.pairs.stop, "pairs.stop")
  _require(
    held_out or monitor.every == 0,
    "monitor.every is set, but nothing is held out that the policy could answer; set data.eval_path, data.eval_split or "
    "data.eval_fraction",
  )
  rewards = bool(monitor.rewards.strip()) and (monitor.rewards.strip() != "auto" or config.data.source == "world")
  _require(
    rewards or not monitor.normalise,
    "monitor.normalise is set, but there is no reward; name one, such as monitor.rewards=model:runs/reward",
  )
  _require(
    monitor.prompts > 0 or not (monitor.normalise or monitor.judge),
    f"monitor.{'normalise' if monitor.normalise else 'judge'} is set, but monitor.prompts=0 looks at no answers",
  )
  deciding = "stop.patience" if stop.patience else "stop.over_budget=stop" if stop.over_budget == "stop" else ""
  if not deciding:
    return
  _require(looks, f"{deciding} is set, but the policy is not sampled on the way; set monitor.every and monitor.prompts")
  for name, truncates in (
    ("temperature", monitor.temperature == 0),
    ("top_k", monitor.top_k > 0),
    ("top_p", monitor.top_p < 1),
  ):
    _require(
      not truncates,
      f"{deciding} reads the KL of what the policy writes, which monitor.{name}={getattr(monitor, name):g} truncates; "
      "draw from the whole distribution",
    )
  _require(
    stop.over_budget == "warn" or stop.kl_budget > 0, "stop.over_budget=stop has no budget; set stop.kl_budget above 0"
  )
  _require(
    rewards or not stop.patience,
    "stop.patience is set, but it watches the reward of what the policy writes, and none is known: name one, such as "
    "monitor.rewards=model:runs/reward",
  )
