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


@dataclasses.dataclass(frozen=True)
class Asked:
  """How a message calls what asks for a policy's implicit reward, and what names reference and beta there."""

  what: str = "--score=implicit"
  reference: str = "--reference=PATH"
  beta: str = "--beta=B"


EVAL = Asked()


def compared_with(
  path: str, reference: str = "", beta: float | None = None, *, precision: str = "float32"
) -> tuple[Callable[[], LoadedModel], float]:
  """What `implicit:PATH` of a reward compares with: a function that reads the reference, and beta.

  Raises:
    ConfigError: one is not given, and the folder does not say it.
    WeightsError: the reference given is not there.
  """
  asked = Asked(f"implicit:{path}", "?reference=PATH", "?beta=B")
  found = find_reference(path, reference, precision=precision, asked=asked)
  return found.load, beta_of_run(path, asked) if beta is None else beta


def beta_of_run(path: str | pathlib.Path, asked: Asked = EVAL) -> float:
  """The beta that a policy was trained with: that of its loss, or the weight of KL in a policy gradient.

  The latter has its optimum at pi ~ pi_ref exp(score / kl_coef), the score as it was normalised, where the weight is fixed
  and the method weighs score and KL alike; GRPO does not, it divides by the spread of a prompt's scores.

  Raises:
    ConfigError: the folder does not say it.
  """
  folder = run_folder(path)
  config = None if folder is None else read_config(folder)
  why = f", the one {path} was trained with, which its folder does not say"
  if config is not None and config.recipe in ("preference", "online"):
    return config.loss_spec.hyper["beta"]
  if config is not None and config.recipe == "policy_gradient":
    settings = config.policy_gradient
    if settings.kl_controller != "fixed":
      changed = f"policy_gradient.kl_controller={settings.kl_controller}"
      why = f": {path} was trained with {changed}, so the weight of KL changed on the way"
    elif settings.kl_coef == 0:
      why = f": {path} was trained with policy_gradient.kl_coef=0, so no KL weighed against its reward"
    elif settings.method == "grpo":
      grpo = "policy_gradient.method=grpo, which divides by the spread of a prompt's scores"
      why = f": {path} was trained with {grpo}, so no one beta fits"
    else:
      return settings.kl_coef
  raise ConfigError(f"{asked.what} needs {asked.beta}{why}")


def find_reference(
  path: str | pathlib.Path, given: str = "", *, precision: str = "float32", asked: Asked = EVAL
) -> RunReference:
  """The reference of a policy: the one `given`, else `reference.path` of the run's config, else the start of the run.

  Raises:
    ConfigError: it cannot be known or is no longer there; says what names it.
    WeightsError: the one given is not there.
  """
  if given:
    check_model(given)
    return RunReference(given, lambda: load(given, precision=precision))
  folder = run_folder(path)
  if folder is None:
    raise ConfigError(
      f"{asked.what} compares {path} with its reference, which only a run's folder knows; "
      f"name the model it was trained from with {asked.reference}"
    )
  config = read_config(folder)
  if config.reference.kind == "moving":
    raise ConfigError(
      f"{folder}: its reference moved while it was trained and is not the model it started from; "
      f"name the one to compare with by {asked.reference}"
    )
  key = "reference.path" if config.reference.path else "model.path"
  source = config.reference.path or config.model.path
  if not source:
    return RunReference(f"the untrained model of {folder}", lambda: new_model(config))
  if is_stage(source):
    source = _earlier_stage(folder, key, source.removeprefix(STAGE), asked)
  try:
    check_model(source)
  except InputError as error:
    raise ConfigError(f"{folder} was trained from {source}: {error}; give its place as {asked.reference}") from None
  return RunReference(source, lambda: load(source, precision=precision))


def _earlier_stage(folder: pathlib.Path, key: str, name: str, asked: Asked) -> str:
  """The checkpoint that an earlier stage ended with, where it still is what the run started from."""
  record = read_record(folder)
  source = None if record is None else record.sources.get(key)
  place = None if source is None else folder / source.folder
  try:
    earlier = None if place is None else read_record(place)
  except CheckpointError as error:
    raise ConfigError(f"{folder} was trained from stage {name}: {error}; or name it by {asked.reference}") from None
  if place is None or source is None or earlier is None or earlier.ended is None or earlier.identity != source.identity:
    raise ConfigError(
      f"{folder}: the stage {name!r} where the policy started is no longer there as it was; "
      f"name that model with {asked.reference}"
    )
  return str(place / CHECKPOINTS / str(earlier.ended.step))
