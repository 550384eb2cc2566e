"""Weighted sums of rewards, and rewards on another scale."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from dpojax.rewards.reward import PromptedAnswer, Reward


@dataclasses.dataclass(frozen=True)
class Normalised:
  """gain * reward + bias, gain above 0: no two answers change their order."""

  reward: Reward
  gain: float
  bias: float

  @property
  def name(self) -> str:
    return self.reward.name

  @property
  def fingerprint(self) -> str:
    return joined([self.reward.fingerprint], [self.gain, self.bias])

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    return self.gain * self.reward(answers) + self.bias


@dataclasses.dataclass(frozen=True)
class SumTerm:
  """A reward in a sum, what its values are multiplied with, and what it is called among the others."""

  label: str
  weight: float
  reward: Reward


@dataclasses.dataclass(frozen=True)
class Sum:
  """The sum of weight * reward over its terms."""

  name: str
  terms: tuple[SumTerm, ...]

  @property
  def fingerprint(self) -> str:
    return joined([term.reward.fingerprint for term in self.terms], [term.weight for term in self.terms])

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    values = np.zeros(len(answers), np.float64)
    for term in self.terms:
      values = values + term.weight * term.reward(answers)
    return values


def joined(fingerprints: Sequence[str], numbers: Sequence[float]) -> str:
  """Of rewards and the numbers that join them; "" where a part is not known."""
  if not all(fingerprints):
    return ""
  return hashlib.sha256(json.dumps([*fingerprints, *map(repr, numbers)]).encode()).hexdigest()
