"""From a config file and command-line overrides to checked settings: the only reader of a ConfigDict."""

import dataclasses
import pathlib
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_dict, config_flags

from dpojax.config.check import check
from dpojax.config.keys import KINDS, check_key, fields_by_key, replace_values
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError, InputError


def base() -> ml_collections.ConfigDict:
  """Every setting at its default, locked: a config file starts here and states only its differences."""
  config = ml_collections.ConfigDict(dataclasses.asdict(RunConfig()))
  for key, field in fields_by_key().items():
    if field.default is None:
      section, _, name = key.rpartition(".")
      getattr(config, section)[name] = config_dict.placeholder(field.metadata["kind"])
  return config.lock()


def resolve(config: ml_collections.ConfigDict) -> RunConfig:
  """The checked settings of `config`.

  A given `data.path` means `data.source=file`, whatever the source was.

  Raises:
    ConfigError: an unknown key, a wrong type, a value out of range, or options that contradict.
  """
  values: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      values.update({f"{name}.{inner}": v for inner, v in value.items()})
    else:
      values[name] = value
  if values.get("data.path"):
    values["data.source"] = "file"
  resolved = replace_values(RunConfig(), values)
  check(resolved)
  return resolved


def load_config(path: str, overrides: Mapping[str, Any] | Sequence[str] = ()) -> RunConfig:
  """The checked settings of a config file.

  Args:
    path: a Python file with `get_config()`, or `FILE:ARG` for `get_config(ARG)`.
    overrides: dotted keys and values such as {"loss.beta": 0.2}, or command-line words such as
      "--config.loss.beta=0.2".

  Raises:
    ConfigError: as `resolve`, or a missing or broken file, with the line at fault.
  """
  config = _read_file(path)
  if isinstance(overrides, Mapping):
    for key, value in overrides.items():
      check_key(key)
      try:
        config.update_from_flattened_dict({key: value})
      except TypeError:
        replace_values(RunConfig(), {key: value})  # says what the key wants
        raise
  else:
    config = _override(config, list(overrides))
  return resolve(config)


def _read_file(path: str) -> ml_collections.ConfigDict:
  name, _, argument = path.partition(":")
  file = pathlib.Path(name)
  if not file.is_file():
    raise ConfigError(f"--config={path}: no such file: {name}")
  namespace: dict[str, Any] = {"__name__": "dpojax_config", "__file__": str(file)}
  try:
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), namespace)
    if not callable(namespace.get("get_config")):
      raise ConfigError("has no function get_config()")
    config = namespace["get_config"](*([argument] if argument else []))
  except Exception as error:
    raise ConfigError(f"{_location(file, error)}: {_reason(error)}") from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise ConfigError(f"{file}: get_config() must return a ConfigDict, got {type(config).__name__}")
  return config.lock()


def _location(file: pathlib.Path, error: Exception) -> str:
  if isinstance(error, SyntaxError) and error.filename == str(file):
    return f"{file}:{error.lineno}"
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
  return f"{file}:{lines[-1]}" if lines else str(file)


def _reason(error: Exception) -> str:
  """What went wrong in a config file, without the wrapping that ml_collections gives it."""
  if isinstance(error, InputError):
    return str(error)
  text = " ".join(str(error).replace("\\n", " ").split())
  if isinstance(error, (KeyError, AttributeError)):
    # It names one part of the key only; the nearest keys tell which section was meant.
    near = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
    name = near or re.search(r'(Key) "(\w+)" does not exist', text)
    if name:
      keys = [
        key for key in fields_by_key() if near and near.group(1) in (key.rpartition(".")[2], key.partition(".")[0])
      ]
      meant = near.group(1) if near and len(keys) != 1 else "".join(keys)
      return f"unknown key {name.group(2)!r}" + (f"; did you mean {meant!r}?" if meant else "")
  wrong = re.search(r"override field '(\w+)'.*?\. (.*) is of original type .* type <class '(\w+)'>", text)
  if wrong:
    name, value, wanted = wrong.groups()
    return f"{name} wants {next(words for kind, words in KINDS.items() if kind.__name__ == wanted)}, got {value!r}"
  return f"{type(error).__name__}: {text}"


def _override(config: ml_collections.ConfigDict, words: list[str]) -> ml_collections.ConfigDict:
  """Applies `--config.KEY=VALUE`, `--config.KEY VALUE` and `--noconfig.KEY` through config_flags."""
  for word in words:
    key = re.match(r"--?(?:no)?config\.([^=]*)", word)
    if key:
      check_key(key.group(1))
  command = ["dpojax", *words]
  values = flags.FlagValues()
  config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
  try:
    rest = values(command)[1:]
  except flags.IllegalFlagValueError as error:
    wrong = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if wrong is None:
      raise ConfigError(str(error)) from None
    key, text = wrong.groups()
    kind = fields_by_key()[key].metadata["kind"]
    raise ConfigError(f"{key} wants {KINDS[kind]}, got {text!r}") from None
  except flags.Error as error:
    raise ConfigError(str(error)) from None
  if rest:
    raise ConfigError(f"unexpected argument {rest[0]!r}; settings are given as --config.KEY=VALUE")
  return values.config
