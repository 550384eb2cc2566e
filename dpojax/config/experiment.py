"""An experiment: named stages in order, each the complete settings of one recipe."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

from dpojax.config.keys import STAGE, is_stage, reads_section, value_at
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError
from dpojax.rewards.spec import read_judge, read_rewards
from dpojax.rewards.terms import JudgeSpec, RewardSpec

ALONE = ""  # the name of a stage that is a whole experiment: its folder is the workdir itself
TRAINED = ("preference", "policy_gradient", "online")  # stages whose policy has a reference
# Where a setting may be an earlier stage, and what that stage must have made.
PATHS = {
  "model.path": ("sft", "reward_model", *TRAINED),
  "reference.path": ("sft", *TRAINED),
  "data.path": ("pairs",),
  "policy_gradient.critic_path": ("reward_model", "policy_gradient"),
}
# Settings that name several by commas.
LISTS = {"comparison.policies": ("sft", *TRAINED), "comparison.best_of_n": ("best_of_n",)}
# Settings that name rewards, which may be of earlier stages: model:stage:NAME, implicit:stage:NAME?reference=stage:NAME.
REWARDS = {
  "pairs.reward": read_rewards,
  "rollout.reward": read_rewards,
  "monitor.rewards": read_rewards,
  "monitor.judge": read_judge,
}
REWARD_KINDS = {"model": ("reward_model",), "implicit": ("sft", *TRAINED)}


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
      for key, said, source, fitting in _named(config):
        place = f"{name}.{key}" if name else key
        if source not in before:
          known = ", ".join(before) or "none"
          raise ConfigError(f"{place}={said}: no such stage before this one; there is {known}")
        if before[source] not in fitting:
          wanted = " or ".join(f"recipe={recipe}" for recipe in fitting)
          raise ConfigError(
            f"{place}={said}: that is a stage of recipe={before[source]}; this setting needs one of {wanted}"
          )
      before[name] = config.recipe


def sources(config: RunConfig) -> dict[str, str]:
  """Key -> name of the stage, of every setting that names one: "model.path", "monitor.rewards", and for a further stage
  that the same setting names "monitor.rewards[2]".
  """
  found: dict[str, str] = {}
  for key, _, stage, _ in _named(config):
    known = [name for name, other in found.items() if name.partition("[")[0] == key and other == stage]
    if not known:
      count = sum(name.partition("[")[0] == key for name in found)
      found[f"{key}[{count + 1}]" if count else key] = stage
  return found


def _named(config: RunConfig) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
  """(key, what it says, name of the stage, recipes that it may have) of every earlier stage that a setting names."""
  for key, recipes in PATHS.items():
    path = value_at(config, key)
    if is_stage(path):
      yield key, path, path.removeprefix(STAGE), recipes
  for key, recipes in LISTS.items():
    for path in names_in(value_at(config, key)) if reads_section(config.recipe, key) else ():
      if is_stage(path):
        yield key, path, path.removeprefix(STAGE), recipes
  for key, spec in reward_specs(config):
    for term in spec.terms if isinstance(spec, RewardSpec) else ():
      for path in term.paths:
        if is_stage(path):
          yield key, str(term), path.removeprefix(STAGE), REWARD_KINDS[term.kind]


def names_in(text: str) -> list[str]:
  """What a setting names by commas."""
  return [name.strip() for name in text.split(",") if name.strip()]


def name_of(path: str) -> str:
  """How what a path leads to is called: by its stage, or the last part of the path."""
  return path.removeprefix(STAGE) if is_stage(path) else pathlib.PurePath(path).name


def reward_specs(config: RunConfig) -> Iterator[tuple[str, RewardSpec | JudgeSpec]]:
  """(key, what it names) of every reward and judge that the stage's settings name.

  Raises:
    ConfigError: one cannot be read; names the key.
  """
  for key, read in REWARDS.items():
    text = value_at(config, key)
    if text and reads_section(config.recipe, key):
      found = read(text, key, environment=config.data.source == "world")
      yield from ((key, spec) for spec in (found if isinstance(found, tuple) else (found,)))
