"""What a run's policy is compared with: the model it started from."""

import dataclasses
import pathlib
from collections.abc import Callable

from dpojax.assemble.pieces import Loaded, build_model, load_model
from dpojax.assemble.stages import sft_config
from dpojax.config.record import difference, read_config
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError, InputError
from dpojax.interop.files import open_model_files


def run_folder(path: str | pathlib.Path) -> pathlib.Path | None:
  """The working directory behind the path of a run or of one of its checkpoints; None for any other model."""
  folder = pathlib.Path(path)
  if folder.parent.name == "checkpoints" and folder.name.isdigit():
    folder = folder.parent.parent
  return folder if (folder / "model.json").is_file() and (folder / "config.json").is_file() else None


@dataclasses.dataclass(frozen=True)
class Reference:
  """A model to compare with, found but not read.

  Attributes:
    name: in words, where it comes from.
    load: reads it.
  """

  name: str
  load: Callable[[], Loaded]


def find_reference(path: str | pathlib.Path, given: str = "", *, precision: str = "float32") -> Reference:
  """The reference of a policy: the one `given`, else `reference.path` of the run's config, else the start of the run.

  Raises:
    ConfigError: it cannot be known or is no longer there; says that --reference names it.
    WeightsError: the one given is not there.
  """
  if given:
    check_model(given)
    return Reference(given, lambda: Loaded(*load_model(given, precision=precision)))
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
  source = config.reference.path or (_sft_folder(config, folder) if config.sft.steps else config.model.path)
  if not source:
    return Reference(f"the untrained model of {folder}", lambda: build_model(config))
  try:
    check_model(source)
  except InputError as error:
    raise ConfigError(f"{folder} was trained from {source}: {error}; give its place as --reference=PATH") from None
  return Reference(source, lambda: Loaded(*load_model(source, precision=precision)))


def check_model(path: str) -> None:
  """Raises WeightsError if there is no model at `path`; its weights are not read."""
  if run_folder(path) is None:
    open_model_files(path)


def _sft_folder(config: RunConfig, folder: pathlib.Path) -> str:
  """Where the supervised stage of the run lies: in its folder, or in the one that the points of a sweep share."""
  wanted = sft_config(config)
  for place in (folder / "sft", folder.parent / "shared" / "sft"):
    if run_folder(place) is not None and not difference(read_config(place), wanted):
      return str(place)
  raise ConfigError(
    f"{folder}: the folder 'sft' of its supervised stage, where the policy started, is not there; "
    "name that model with --reference=PATH"
  )
