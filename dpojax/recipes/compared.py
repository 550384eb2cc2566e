"""The policies of a stage of recipe=comparison: each with its name, where it lies and what made it."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from dpojax.config.describe import described, method
from dpojax.config.experiment import name_of, names_in
from dpojax.config.record import read_config
from dpojax.config.schema import ModelSettings
from dpojax.errors import ConfigError
from dpojax.models.reward_model import RewardModel
from dpojax.recipes.inputs import Inputs
from dpojax.training.model_files import LoadedModel, run_folder
from dpojax.training.stage_record import read_record


@dataclasses.dataclass(frozen=True)
class Compared:
  """A policy that is compared.

  Attributes:
    name: of its stage, or the last part of its path.
    loaded: the model.
    folder: of the run that made it; None of a model from elsewhere.
  """

  name: str
  loaded: LoadedModel
  folder: pathlib.Path | None

  def facts(self, relative_to: pathlib.Path) -> dict[str, Any]:
    """{"name", "folder", "recipe", "method", "label", "seed", "step"} for comparison.json; None where nothing is known."""
    found: dict[str, Any] = {"name": self.name}
    if self.folder is None:
      return found | dict.fromkeys(("folder", "recipe", "method", "seed", "step")) | {"label": self.name}
    config, record = read_config(self.folder), read_record(self.folder)
    return found | {
      "folder": pathlib.Path(os.path.relpath(self.folder, relative_to)).as_posix(),
      "recipe": config.recipe,
      "method": method(config),
      "label": described(config),
      "seed": config.seed,
      "step": record.ended.step if record is not None and record.ended is not None else None,
    }


def compared_policies(inputs: Inputs, reference: LoadedModel) -> Iterator[Compared]:
  """The model that all are compared with, `reference` of model.path, then those of comparison.policies.

  Each is read when it is asked for.

  Raises:
    ConfigError: one has another shape or tokenizer than the reference, or its name.
    CheckpointError: an earlier stage no longer holds the weights that it ended with.
  """
  config = inputs.config
  known = name_of(config.model.path)
  yield Compared(known, reference, _folder(inputs, config.model.path))
  for path in names_in(config.comparison.policies):
    name = name_of(path)
    if name == known:
      raise ConfigError(f"comparison.policies: {path} is called {known}, as model.path is, which is compared anyway")
    loaded = inputs.load(path, ModelSettings())
    if isinstance(loaded.model, RewardModel):
      raise ConfigError(f"comparison.policies: {path} is a reward model, which writes no answers")
    same = loaded.tokenizer.with_template(None).fingerprint() == reference.tokenizer.with_template(None).fingerprint()
    if loaded.model.config != reference.model.config or not same:
      raise ConfigError(
        f"comparison.policies: {path} has another shape or tokenizer than model.path={config.model.path}, so no KL is "
        "defined between them"
      )
    yield Compared(name, loaded, _folder(inputs, path))


def _folder(inputs: Inputs, path: str) -> pathlib.Path | None:
  return run_folder(inputs.place(path))
