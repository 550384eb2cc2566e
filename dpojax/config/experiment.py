"""An experiment: named stages in order, each the complete settings of one recipe."""

import dataclasses
from collections.abc import Mapping

from dpojax.config.keys import STAGE, is_stage
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError

ALONE = ""  # the name of a stage that is a whole experiment: its folder is the workdir itself
# Where a setting may name an earlier stage, and what that stage must have made.
SOURCES = {
  "model.path": ("sft", "reward_model", "preference"),
  "reference.path": ("sft", "preference"),
  "data.path": ("pairs",),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Stages by name, in the order in which they run.

  Attributes:
    stages: name -> settings; one stage called `ALONE`, or several with names.
  """

  stages: Mapping[str, RunConfig]

  @property
  def alone(self) -> bool:
    """Whether there is one stage, in the workdir itself."""
    return list(self.stages) == [ALONE]

  def sources(self, name: str) -> dict[str, str]:
    """Which earlier stages a stage starts from: dotted key -> name of the stage."""
    return sources(self.stages[name])

  def check(self) -> None:
    """Raises ConfigError where a stage starts from one that is not before it, or that makes something else."""
    before: dict[str, str] = {}
    for name, config in self.stages.items():
      for key, source in sources(config).items():
        place = f"{name}.{key}" if name else key
        if source not in before:
          known = ", ".join(before) or "none"
          raise ConfigError(f"{place}={STAGE}{source}: no such stage before this one; there is {known}")
        if before[source] not in SOURCES[key]:
          fitting = " or ".join(f"recipe={recipe}" for recipe in SOURCES[key])
          raise ConfigError(
            f"{place}={STAGE}{source}: that is a stage of recipe={before[source]}; this setting needs one of {fitting}"
          )
      before[name] = config.recipe


def sources(config: RunConfig) -> dict[str, str]:
  """Dotted key -> name of the stage, of every setting that names one."""
  paths = {
    "model.path": config.model.path,
    "reference.path": config.reference.path,
    "data.path": config.data.path,
  }
  return {key: path.removeprefix(STAGE) for key, path in paths.items() if is_stage(path)}
