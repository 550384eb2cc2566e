"""What a run's policy is compared with: the model it started from."""

import dataclasses
import pathlib
from collections.abc import Callable

from dpojax.config.keys import STAGE, is_stage
from dpojax.config.record import read_config
from dpojax.errors import CheckpointError, ConfigError, InputError
from dpojax.training.model_files import CHECKPOINTS, LoadedModel, check_model, load, new_model, run_folder
from dpojax.training.stage_record import read_record


@dataclasses.dataclass(frozen=True)
class RunReference:
  """A model to compare with, found but not read.

  Attributes:
    name: in words, where it comes from.
    load: reads it.
  """

  name: str
  load: Callable[[], LoadedModel]


def find_reference(path: str | pathlib.Path, given: str = "", *, precision: str = "float32") -> RunReference:
  """The reference of a policy: the one `given`, else `reference.path` of the run's config, else the start of the run.

  Raises:
    ConfigError: it cannot be known or is no longer there; says that --reference names it.
    WeightsError: the one given is not there.
  """
  if given:
    check_model(given)
    return RunReference(given, lambda: load(given, precision=precision))
  folder = run_folder(path)
  if folder is None:
    raise ConfigError(
      f"--score=implicit compares {path} with its reference, which only a run's folder knows; "
      "name the model it was trained from with --reference=PATH"
    )
  config = read_config(folder)
  if config.reference.kind == "moving":
    raise ConfigError(
      f"{folder}: its reference moved while it was trained and is not the model it started from; "
      "name the one to compare with by --reference=PATH"
    )
  key = "reference.path" if config.reference.path else "model.path"
  source = config.reference.path or config.model.path
  if not source:
    return RunReference(f"the untrained model of {folder}", lambda: new_model(config))
  if is_stage(source):
    source = _earlier_stage(folder, key, source.removeprefix(STAGE))
  try:
    check_model(source)
  except InputError as error:
    raise ConfigError(f"{folder} was trained from {source}: {error}; give its place as --reference=PATH") from None
  return RunReference(source, lambda: load(source, precision=precision))


def _earlier_stage(folder: pathlib.Path, key: str, name: str) -> str:
  """The checkpoint that an earlier stage ended with, where it still is what the run started from."""
  record = read_record(folder)
  source = None if record is None else record.sources.get(key)
  place = None if source is None else folder / source.folder
  try:
    earlier = None if place is None else read_record(place)
  except CheckpointError as error:
    raise ConfigError(f"{folder} was trained from stage {name}: {error}; or name it by --reference=PATH") from None
  if place is None or source is None or earlier is None or earlier.ended is None or earlier.identity != source.identity:
    raise ConfigError(
      f"{folder}: the stage {name!r} where the policy started is no longer there as it was; "
      "name that model with --reference=PATH"
    )
  return str(place / CHECKPOINTS / str(earlier.ended.step))
