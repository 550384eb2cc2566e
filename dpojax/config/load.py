"""From a config file and command-line overrides to checked settings: the only reader of a ConfigDict."""

import contextlib
import dataclasses
import pathlib
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_dict, config_flags

from dpojax.config.check import check, check_value
from dpojax.config.experiment import ALONE, Experiment
from dpojax.config.foreign_keys import explained
from dpojax.config.keys import (
  KINDS,
  RENAMED,
  SHARED,
  check_key,
  fields_by_key,
  is_stage,
  last_parts,
  reads_section,
  replace_values,
  suggestion,
)
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError, InputError


def base() -> ml_collections.ConfigDict:
  """Every setting of one stage at its default, locked: a config file starts here and states only its differences."""
  config = ml_collections.ConfigDict(dataclasses.asdict(RunConfig()))
  for key, field in fields_by_key().items():
    if field.default is None:
      section, _, name = key.rpartition(".")
      getattr(config, section)[name] = config_dict.placeholder(field.metadata["kind"])
  return config.lock()


FOLDERS = ("jobs", "report")  # beside the stages' own: logs of `--jobs`, a page


def stages(**recipes: str) -> ml_collections.ConfigDict:
  """The settings of several stages in order, name=recipe, locked: what an experiment's config file starts from.

  `config.NAME` holds all settings of a stage. `config.model`, `.data`, `.batch`, `.parallel`, `.logging` and `.seed`
  are shared: every stage takes them from there unless it is given its own, such as `config.dpo.batch.size = 16`.

  >>> config = stages(sft="sft", pairs="pairs", dpo="preference")
  >>> config.batch.size = 16
  >>> config.dpo.batch.size, config.dpo.recipe
  (16, 'preference')

  Raises:
    ConfigError: no such recipe, or a name that a setting has.
  """
  shared = base()
  # Stages run in the order in which they stand here.
  config = ml_collections.ConfigDict({name: shared[name] for name in (*SHARED, "seed")}, sort_keys=False)
  for name, recipe in recipes.items():
    if name in (*SHARED, "seed", "recipe"):
      raise ConfigError(
        f"a stage cannot be called {name!r}, as the settings that stages share are; choose another name"
      )
    if name in FOLDERS:
      raise ConfigError(f"a stage cannot be called {name!r}, as a folder beside the stages' is; choose another name")
    stage = base()
    stage.recipe = recipe
    check_value("recipe", recipe)
    with stage.unlocked():
      for section in SHARED:
        own, common = _section(stage, section), _section(config, section)
        for key in own:
          own[key] = common.get_oneway_ref(key)
      stage.seed = config.get_oneway_ref("seed")
    config[name] = stage
  return config.lock()


def resolve(config: ml_collections.ConfigDict) -> RunConfig:
  """The checked settings of one stage.

  A file given as `data.path` means `data.source=file`, whatever the source was.

  Raises:
    ConfigError: an unknown key, a wrong type, a value out of range, or options that contradict.
  """
  values: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      values.update({f"{name}.{inner}": v for inner, v in value.items()})
    else:
      values[name] = value
  if values.get("data.path") and not is_stage(values["data.path"]):
    values["data.source"] = "file"
  resolved = replace_values(RunConfig(), values)
  check(resolved)
  return resolved


def resolve_experiment(config: ml_collections.ConfigDict) -> Experiment:
  """The checked stages of a config that `base` or `stages` began.

  Raises:
    ConfigError: as `resolve`, with the name of the stage; or a stage starts from one that is not before it.
  """
  if "recipe" in config:
    experiment = Experiment({ALONE: resolve(config)})
  else:
    resolved = {}
    for name in _stage_names(config):
      try:
        resolved[name] = resolve(_section(config, name))
      except ConfigError as error:
        raise ConfigError(f"stage {name}: {error}") from None
    experiment = Experiment(resolved)
  experiment.check()
  return experiment


def load_experiment(path: str, words: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> Experiment:
  """The checked stages of a config file.

  Args:
    path: a Python file with `get_config()`, or `FILE:ARG` for `get_config(ARG)`.
    words: command-line words such as "--config.loss.beta=0.2" or, of several stages, "--config.dpo.loss.beta=0.2".
    values: dotted keys and values such as {"loss.beta": 0.2}.

  Raises:
    ConfigError: as `resolve_experiment`; a missing or broken file, with the line at fault; or a shared setting is
      changed that every stage has a value of its own for.
  """
  config = _override(_read_file(path), list(words))
  for key, value in (values or {}).items():
    name, inner = _in_stage(config, key)
    try:
      config.update_from_flattened_dict({key: value})
    except TypeError:
      replace_values(RunConfig(), {inner: value})  # says what the key wants
      raise
    _check_is_taken(config, name, inner)
  return resolve_experiment(config)


def load_config(path: str, overrides: Mapping[str, Any] | Sequence[str] = ()) -> RunConfig:
  """The checked settings of a config file of one stage. Arguments and errors as `load_experiment`.

  Raises:
    ConfigError: also where the file has several stages.
  """
  by_key = isinstance(overrides, Mapping)
  experiment = load_experiment(path, () if by_key else overrides, overrides if by_key else None)
  if not experiment.alone:
    raise ConfigError(f"{path} has several stages ({', '.join(experiment.stages)}); read it with load_experiment")
  return experiment.stages[ALONE]


def load_points(path: str) -> list[dict[str, Any]]:
  """What `get_points()` of a config file returns: a list of {dotted key: value}; [] where it has no such function.

  Raises:
    ConfigError: the file is missing or broken, or returns something else.
  """
  file, namespace, _ = _execute(path)
  if "get_points" not in namespace:
    return []
  with _running(file):
    points = namespace["get_points"]()
  if not isinstance(points, list) or not all(
    isinstance(point, dict) and point and _has_texts(point) for point in points
  ):
    raise ConfigError(f"{file}: get_points() must return a list of {{'KEY': value}} dicts, got {points!r:.80}")
  return points


def _stage_names(config: ml_collections.ConfigDict) -> list[str]:
  """Names of the stages, in their order; none where the config is one stage."""
  return [name for name, value in config.items() if isinstance(value, ml_collections.ConfigDict) and "recipe" in value]


def _in_stage(config: ml_collections.ConfigDict, key: str) -> tuple[str, str]:
  """(name of the stage or "" for what is shared or stands alone, key of the setting).

  Raises:
    ConfigError: no such stage or setting; says what would be right.
  """
  if "recipe" in config:
    check_key(key, config.recipe)
    return ALONE, key
  names = _stage_names(config)
  first, _, inner = key.partition(".")
  if first in names:
    try:
      check_key(inner, _section(config, first).recipe)
    except ConfigError as error:
      raise ConfigError(f"stage {first}: {error}") from None
    return first, inner
  known = [*(f"{name}.{k}" for name in names for k in fields_by_key()), *shared_keys()]
  if key in fields_by_key() and key not in shared_keys():
    readers = [n for n in names if reads_section(_section(config, n).recipe, key)]
    meant = " or ".join(f"{name}.{key}" for name in readers or names)
    raise ConfigError(f"{key!r} belongs to a stage; this experiment has {', '.join(names)}: write {meant}")
  if key not in shared_keys():
    raise ConfigError(f"unknown key {key!r}{explained(key, last_parts()) or suggestion(key, known)}")
  return ALONE, key


def shared_keys() -> list[str]:
  """Keys that stand at the root of an experiment of several stages."""
  return [key for key in fields_by_key() if key == "seed" or key.partition(".")[0] in SHARED]


def _check_is_taken(config: ml_collections.ConfigDict, name: str, key: str) -> None:
  """Raises ConfigError where a shared setting was changed and no stage takes it."""
  if name or "recipe" in config:
    return
  value = _value(config, key)
  own = [name for name in _stage_names(config) if _value(_section(config, name), key) != value]
  if len(own) == len(_stage_names(config)):
    raise ConfigError(f"{key} has no effect: every stage has its own; write {' and '.join(f'{n}.{key}' for n in own)}")


def _value(config: ml_collections.ConfigDict, key: str) -> Any:
  section, _, name = key.rpartition(".")
  return (_section(config, section) if section else config)[name]


def _section(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
  section = config[name]
  assert isinstance(section, ml_collections.ConfigDict)
  return section


def _read_file(path: str) -> ml_collections.ConfigDict:
  file, namespace, argument = _execute(path)
  with _running(file):
    if not callable(namespace.get("get_config")):
      raise ConfigError("has no function get_config()")
    config = namespace["get_config"](*([argument] if argument else []))
  if not isinstance(config, ml_collections.ConfigDict):
    raise ConfigError(f"{file}: get_config() must return a ConfigDict, got {type(config).__name__}")
  if "recipe" not in config and not _stage_names(config):
    raise ConfigError(f"{file}: get_config() must return what base() or stages(...) made, with its settings changed")
  return config.lock()


def _execute(path: str) -> tuple[pathlib.Path, dict[str, Any], str]:
  """(the file, what it defines, the argument after the colon)."""
  name, _, argument = path.partition(":")
  file = pathlib.Path(name)
  if not file.is_file():
    raise ConfigError(f"--config={path}: no such file: {name}")
  namespace: dict[str, Any] = {"__name__": "dpojax_config", "__file__": str(file)}
  with _running(file):
    exec(compile(file.read_text(encoding="utf-8-sig"), str(file), "exec"), namespace)
  return file, namespace, argument


@contextlib.contextmanager
def _running(file: pathlib.Path) -> Iterator[None]:
  """Whatever the file's own code raises, `sys.exit` too, as a ConfigError with the line; a request to stop stays one."""
  try:
    yield
  except KeyboardInterrupt:
    raise
  except BaseException as error:
    raise ConfigError(f"{_location(file, error)}: {_reason(error, file)}") from error


def _has_texts(point: dict[Any, Any]) -> bool:
  return all(isinstance(key, str) for key in point)


def _location(file: pathlib.Path, error: BaseException) -> str:
  if isinstance(error, SyntaxError) and error.filename == str(file):
    return f"{file}:{error.lineno}"
  line = _last_line(file, error)
  return f"{file}:{line}" if line else str(file)


def _last_line(file: pathlib.Path, error: BaseException) -> int:
  """The line of the file that an error passed last; 0 where none did."""
  frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
  return (frames[-1].lineno or 0) if frames else 0


def _key_at(file: pathlib.Path, error: BaseException, name: str) -> str:
  """`rollout.top_k` where the line at fault sets or reads `....rollout.top_k`, else the name alone."""
  line = _last_line(file, error)
  text = file.read_text(encoding="utf-8-sig").split("\n")[line - 1] if line else ""
  found = re.search(rf"(\w+)\.{re.escape(name)}\b", text)
  sections = {key.partition(".")[0] for key in fields_by_key() if "." in key}
  return f"{found.group(1)}.{name}" if found and found.group(1) in sections else name


def _reason(error: BaseException, file: pathlib.Path) -> str:
  """What went wrong in a config file, without the wrapping that ml_collections gives it."""
  if isinstance(error, InputError):
    return str(error)
  text = " ".join(str(error).replace("\\n", " ").split())
  if isinstance(error, (KeyError, AttributeError)):
    # It names one part of the key only; the nearest keys tell which section was meant.
    near = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
    name = near or re.search(r'(Key) "(\w+)" does not exist', text)
    key = "" if name is None else _key_at(file, error, name.group(2))
    if key in RENAMED or (key and (explained(key, last_parts()) or key.rpartition(".")[2] in last_parts())):
      try:
        check_key(key)
      except ConfigError as known:
        return str(known)
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
  changed = []
  for word in words:
    key = re.match(r"--?(?:no)?config\.([^=]*)", word)
    if key:
      changed.append(_in_stage(config, key.group(1)))
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
    kind = fields_by_key()[_in_stage(config, key)[1]].metadata["kind"]
    raise ConfigError(f"{key} wants {KINDS[kind]}, got {text!r}") from None
  except flags.Error as error:
    raise ConfigError(str(error)) from None
  if rest:
    raise ConfigError(f"unexpected argument {rest[0]!r}; settings are given as --config.KEY=VALUE")
  for name, key in changed:
    _check_is_taken(values.config, name, key)
  return values.config
