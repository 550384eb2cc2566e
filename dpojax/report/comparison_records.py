"""What stages of recipe=comparison left: policies that answered the same prompts, the oracle curve, a tournament."""

import dataclasses
import functools
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.errors import CheckpointError
from dpojax.report.comparison import ANSWERS, COMPARISON, SCORES, read_comparison
from dpojax.report.records import Records, check_figures, check_listed, check_prompt, read_lines
from dpojax.report.stages import Stage, readable_stage

RECIPE = "comparison"


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A comparison as read from disk.

  Attributes:
    stage: its folder.
    content: comparison.json.
  """

  stage: Stage
  content: Mapping[str, Any]

  @property
  def reward(self) -> str:
    """The name of the main reward, by which policies are compared."""
    return str(self.content["reward"])

  @property
  def split(self) -> str:
    """The prompts that frontier and oracle are of."""
    return str(self.content["splits"][0])

  @property
  def policies(self) -> Sequence[Mapping[str, Any]]:
    return self.content["policies"]

  def stage_of(self, policy: Mapping[str, Any]) -> Stage | None:
    """The stage that trained a policy; None where it is no longer there."""
    if not policy.get("folder"):
      return None  # it came from outside, such as a transformers folder
    return readable_stage(self.stage.path / str(policy["folder"]))

  @functools.cached_property
  def answers(self) -> Records:
    """A record a prompt of each split: {"split", "prompt", "answers": {policy: {"text", "rewards", "tokens", ...}}}."""
    path = self.stage.path / ANSWERS
    check_listed(path)

    def check(record: Any) -> None:
      check_prompt(record["prompt"])
      for answer in record["answers"].values():
        check_figures(answer)
        if not isinstance(answer["text"], str):
          raise TypeError("an answer's 'text' is no text")

    return read_lines(path, {"prompt": object, "answers": dict}, check) if path.exists() else []

  def prompts_of(self, split: str) -> str:
    """A digest of the prompts of a split, equal where comparisons ask the same; "" where it is not known."""
    known = self.stage.record.fingerprints.get(f"prompts {split}")
    return known.digest if known else ""

  def scores(self) -> dict[str, np.ndarray]:
    """Arrays f64[P] "NAME/SPLIT/kl", "NAME/SPLIT/reward/REWARD"; CheckpointError where they cannot be read."""
    return read_scores(self.stage.path / SCORES)


def comparison_of(stage: Stage) -> Comparison | None:
  """The comparison in a stage's folder; None where it is of another recipe or has not ended.

  Raises:
    CheckpointError: comparison.json is damaged, or lacks what every comparison has.
  """
  if stage.recipe != RECIPE:
    return None
  check_listed(stage.path / COMPARISON)
  if not (stage.path / COMPARISON).exists():
    return None
  return Comparison(stage, read_comparison(stage.path))


def with_compared(stages: Sequence[Stage], comparisons: Sequence[Comparison]) -> list[Stage]:
  """`stages`, and the runs that comparisons measured and that lie elsewhere."""
  found = {stage.path: stage for stage in stages}
  for comparison in comparisons:
    for policy in comparison.policies:
      stage = comparison.stage_of(policy)
      if stage is not None:
        found.setdefault(stage.path, stage)
  return list(found.values())


def read_scores(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of scores.npz by name; CheckpointError where it is missing or damaged."""
  check_listed(path)
  try:
    with np.load(path, allow_pickle=False) as found:
      return {name: np.asarray(found[name], np.float64) for name in found.files}
  except (OSError, ValueError, EOFError, LookupError, zipfile.BadZipFile, zlib.error) as error:
    raise CheckpointError(f"{path}: cannot be read ({error}); run the same command again") from None
