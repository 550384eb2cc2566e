"""The JSON form of a run's settings: `config.json` is data, read and compared, never executed."""

import json
import pathlib
from typing import Any

from dpojax import digests
from dpojax.config.keys import fields_by_key, flatten, reads_section, replace_values
from dpojax.config.schema import RunConfig
from dpojax.errors import CheckpointError, ConfigError
from dpojax.files import parse_json

FILE = "config.json"
LOSSES = "losses.json"  # of a run with losses of the user's: what is known of them without their code


def to_json(config: RunConfig) -> dict[str, Any]:
  """{section: {setting: value}}, made of JSON's types only."""
  tree: dict[str, Any] = {}
  for key, value in flatten(config).items():
    section, _, name = key.rpartition(".")
    (tree.setdefault(section, {}) if section else tree)[name] = value
  return tree


def from_json(tree: dict[str, Any], *, source: str = "the saved config") -> RunConfig:
  """The settings of `tree`; a setting it does not name has its default. ConfigError names `source`."""
  if not isinstance(tree, dict):
    raise ConfigError(f"{source}: wants a JSON object of settings, got {type(tree).__name__}")
  values = {}
  for name, value in tree.items():
    values.update({f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value})
  try:
    return replace_values(RunConfig(), values)
  except ConfigError as error:
    raise ConfigError(f"{source}: {error}") from None


def write_config(config: RunConfig, folder: str | pathlib.Path) -> None:
  """Writes `folder`/config.json, and what is to be known of the user's own losses."""
  digests.write_json(folder, FILE, to_json(config))
  if config.recipe in ("preference", "reward_model", "online") and config.loss_spec.own:
    from dpojax.losses.own import described

    digests.write_json(folder, LOSSES, described(config.loss_spec.names))


def read_config(folder: str | pathlib.Path) -> RunConfig:
  """Reads `folder`/config.json; CheckpointError when it is missing or damaged, ConfigError when it is not settings."""
  path = pathlib.Path(folder, FILE)
  try:
    tree = parse_json(digests.read(folder, FILE).decode())
  except FileNotFoundError:
    raise CheckpointError(f"{path}: no such file; is {folder} the workdir of a run?") from None
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ConfigError(f"{path}: not JSON ({error}); restore it or start in a new workdir") from None
  if path.with_name(LOSSES).is_file():
    from dpojax.losses.own import register_absent  # JAX

    try:
      register_absent(parse_json(digests.read(folder, LOSSES).decode()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise CheckpointError(f"{path.with_name(LOSSES)}: damaged ({error}); restore it") from None
  return from_json(tree, source=str(path))


def difference(old: RunConfig, new: RunConfig) -> list[str]:
  """What changed, a line a setting: 'loss.beta: 0.1 -> 0.2'."""
  before, after = flatten(old), flatten(new)
  return [f"{key}: {said(before[key])} -> {said(after[key])}" for key in before if before[key] != after[key]]


def identity_settings(config: RunConfig) -> dict[str, Any]:
  """What of the settings decides what the stage makes, by dotted key.

  Left out: settings of `execution`, those of sections that the recipe does not read, and under a constant learning
  rate the number of steps, because a run that goes on then is the longer run.
  """
  fields = fields_by_key()
  steps = ("train.steps", "train.epochs") if config.optimizer.schedule == "constant" else ()
  return {
    key: value
    for key, value in flatten(config).items()
    if not fields[key].metadata["execution"] and reads_section(config.recipe, key) and key not in steps
  }


def said(value: Any) -> str:
  """A setting's value as messages show it."""
  return "its default" if value is None else json.dumps(value, ensure_ascii=False)
