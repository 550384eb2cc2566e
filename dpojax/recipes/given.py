"""What a Python program gives a stage in the place of paths and settings, under names that stand in these settings."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpojax.data.splits import Splits
from dpojax.rewards.terms import GIVEN
from dpojax.training.model_files import LoadedModel
from dpojax.training.update import GradientTransformation

PREFIX = "python:"  # before the name of a given object, where a path could stand
REWARD = f"python:{GIVEN}:"  # before the name of a given reward, where a setting names rewards


@dataclasses.dataclass(frozen=True)
class Given:
  """Objects in the place of what settings name; by default there are none.

  Attributes:
    models: by what stands in `model.path`, `reference.path`, `policy_gradient.critic_path` or `model:PATH` of a reward.
    rows: in the place of those of `data.path`; None: read them there.
    examples: tokenised, in the place of rows; None: tokenise these.
    rewards: by NAME of `python:given:NAME`: objects with a name and a fingerprint, see `dpojax.rewards.reward`.
    optimizer: in the place of the settings `optimizer`.
    metrics: see `objectives.preference.Preference`.
    monitors: called beside the stage's own, see `dpojax.training.monitors`.
    names: what the program calls its objects that have no fingerprint, by what each is: {"optimizer": "adamw"}.
  """

  models: Mapping[str, LoadedModel] = dataclasses.field(default_factory=dict)
  rows: Sequence[Mapping[str, Any]] | None = None
  examples: Splits | None = None
  rewards: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  optimizer: GradientTransformation | None = None
  metrics: tuple[Callable[..., Any], ...] = ()
  monitors: tuple[Any, ...] = ()
  names: Mapping[str, str] = dataclasses.field(default_factory=dict)


def is_given(path: str) -> bool:
  """Whether a path stands for an object of the program."""
  return path.startswith(PREFIX)
