"""Dotted keys of the settings: `loss.beta` is RunConfig.loss.beta, on the command line and in errors."""

import dataclasses
import difflib
import functools
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpojax.config.foreign_keys import explained
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError

KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
# Keys and sections of earlier versions.
RENAMED = {
  "objective": "recipe",
  "sft": "a stage of recipe=sft, see docs/experiments.md",
  "evaluation.policy_every": "monitor.every",
  "stop.min_gain": "the standard error of the paired change, which stop.patience looks at by itself",
} | {
  f"evaluation.{name}": f"monitor.{name}" for name in ("prompts", "max_tokens", "temperature", "top_p", "show", "seed")
}


EVERY = ("model", "data", "parallel", "logging")
TRAINING = (*EVERY, "batch", "optimizer", "train", "evaluation", "checkpoint")
ON_POLICY = (*EVERY, "batch", "optimizer", "train", "checkpoint", "reference", "monitor", "stop", "rollout")
SECTIONS = {
  "sft": (*TRAINING, "monitor", "stop"),
  "pairs": (*EVERY, "pairs"),
  "reward_model": (*TRAINING, "loss", "reward"),
  "preference": (*TRAINING, "loss", "reference", "monitor", "stop"),
  "policy_gradient": (*ON_POLICY, "policy_gradient"),
  "online": (*ON_POLICY, "loss", "online"),
  "best_of_n": (*EVERY, "rollout", "monitor", "best_of_n"),
  "comparison": (*EVERY, "rollout", "monitor", "comparison"),
}  # of the settings that each recipe reads
SHARED = (*EVERY, "batch")  # sections that all stages of an experiment may take from its root
SHORT = 6  # a list of so many choices is read at a glance
STAGE = "stage:"  # before the name of an earlier stage, where a path could stand


def is_stage(path: str) -> bool:
  """Whether a path names an earlier stage of the experiment: `stage:NAME`."""
  return path.startswith(STAGE)


def reads_section(recipe: str, key: str) -> bool:
  """Whether a recipe reads the setting of this dotted key."""
  return "." not in key or key.partition(".")[0] in SECTIONS[recipe]


@functools.cache
def fields_by_key() -> Mapping[str, dataclasses.Field]:
  """Every setting by its dotted key, in the order of the schema."""
  found, defaults = {}, RunConfig()
  for field in dataclasses.fields(RunConfig):
    section = getattr(defaults, field.name)
    if dataclasses.is_dataclass(section):
      found.update({f"{field.name}.{inner.name}": inner for inner in dataclasses.fields(section)})
    else:
      found[field.name] = field
  return types.MappingProxyType(found)


def flatten(config: RunConfig) -> dict[str, Any]:
  """The value of every setting by its dotted key."""
  return {key: value_at(config, key) for key in fields_by_key()}


def value_at(config: RunConfig, key: str) -> Any:
  """The value of the setting `key`; ConfigError for an unknown key."""
  check_key(key)
  value: Any = config
  for name in key.split("."):
    value = getattr(value, name)
  return value


def replace_values(config: RunConfig, values: dict[str, Any]) -> RunConfig:
  """A copy of `config` with the settings of `values` (dotted key -> value, see `convert`) replaced."""
  changed: dict[str, dict[str, Any]] = {}  # by section; "" for settings outside one
  for key, value in values.items():
    section, _, name = key.rpartition(".")
    changed.setdefault(section, {})[name] = convert(key, value)
  top = changed.pop("", {})
  return dataclasses.replace(
    config, **top, **{name: dataclasses.replace(getattr(config, name), **inner) for name, inner in changed.items()}
  )


def check_key(key: str, recipe: str = "") -> None:
  """Raises ConfigError with the nearest key, of those that `recipe` reads first, when there is no setting `key`."""
  known = fields_by_key()
  if key in known:
    return
  inside = [k for k in known if k.startswith(f"{key}.")]
  if inside:
    raise ConfigError(f"{key!r} is a section, not a setting; it holds {', '.join(inside)}")
  for name in (key, key.partition(".")[0]):
    if name in RENAMED:
      raise ConfigError(f"unknown key {key!r}; it is now {RENAMED[name]}")
  raise ConfigError(f"unknown key {key!r}{explained(key, last_parts()) or suggestion(key, known, recipe)}")


def last_parts() -> set[str]:
  """Of all keys: 'beta' of 'loss.beta'."""
  return {key.rpartition(".")[2] for key in fields_by_key()}


def suggestion(name: str, known: Iterable[str], recipe: str = "") -> str:
  """ "; did you mean 'x'?" with the nearest of `known`, or an empty text when none is near.

  A key of another section, or without one, is the one that it names: 'policy_gradient.kl_coef' for 'rollout.kl_coef';
  of several the one that `recipe` reads, roll-outs before the rest. Capitals make no difference.
  """
  known = list(known)
  section, _, last = name.rpartition(".")
  named = [key for key in known if "." in key and key.rpartition(".")[2] == last]
  beside = f"rollout.{last}"  # the other section of those recipes
  if section in ("policy_gradient", "online", "best_of_n", "comparison") and beside in named:
    named = [beside]
  elif recipe in SECTIONS:
    named = [key for key in named if reads_section(recipe, key)] or named
    if beside in named:
      named = [beside] if section else [beside, *(key for key in named if key != beside)]
  spelled = {key.lower(): key for key in reversed(named or known)}
  swapped = [key for key in spelled if sorted(key) == sorted(name.lower())]  # 'dop' is 'dpo' and not 'dpop'
  near = swapped[:1] or difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.0 if named else 0.6)
  near = [spelled[key] for key in near]
  if named and not section:
    near = named[:3]
  return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def not_a_choice(key: str, value: Any, choices: Sequence[str], hint: str) -> ConfigError:
  """The error for a value that is none of the choices; a hint (`; did you mean 'x'?`) stands before a long list."""
  if hint and len(choices) > SHORT:
    stop = "" if hint.endswith("?") else "."
    return ConfigError(f"{key} cannot be {value!r}{hint}{stop} It wants one of {', '.join(choices)}")
  return ConfigError(f"{key} wants one of {', '.join(choices)}, got {value!r}{hint}")


def convert(key: str, value: Any) -> Any:
  """`value` in the type of the setting `key`: an int may stand for a float, None for what may be left open."""
  check_key(key)
  field = fields_by_key()[key]
  wanted = field.metadata["kind"]
  if value is None and field.default is None:
    return None
  if value is None:
    raise ConfigError(f"{key} wants {KINDS[wanted]}, got None")
  if wanted is float and type(value) is int:
    value = float(value)
  if type(value) is not wanted:
    raise ConfigError(f"{key} wants {KINDS[wanted]}, got {value!r}")
  if wanted is float and not math.isfinite(value):
    raise ConfigError(f"{key} wants a finite number, got {value!r}")
  return value


def parse(key: str, text: str) -> Any:
  """The value that `text` (from a command line) means for the setting `key`."""
  check_key(key)
  field = fields_by_key()[key]
  wanted = field.metadata["kind"]
  if wanted is str:
    return text
  if field.default is None and text.strip() == "None":
    return None
  if wanted is bool:
    value = {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower())
  else:
    try:
      value = wanted(text)
    except ValueError:
      value = None
  if value is None:
    raise ConfigError(f"{key} wants {KINDS[wanted]}, got {text!r}")
  return convert(key, value)
