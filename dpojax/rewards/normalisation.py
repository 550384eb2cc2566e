"""Rewards on one scale: mean 0 and standard deviation 1 over answers of the reference policy.

So that weights of a sum, and what reward trades against KL, keep their meaning from one reward to the next.
(Ziegler et al. 2019, section 2.1; lm-human-preference-details)
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.errors import DataError
from dpojax.rewards.combined import Normalised, Sum, SumTerm
from dpojax.rewards.reward import PromptedAnswer, Reward
from dpojax.rewards.scores import scored

Recorded = dict[str, dict[str, Any]]
FLAT = 1e-12  # a standard deviation below this fraction of the values' size is rounding


def measure(reward: Reward, answers: Sequence[PromptedAnswer]) -> Recorded:
  """gain and bias of every term of a reward, such that gain * value + bias has mean 0 and standard deviation 1.

  Args:
    reward: not normalised yet; a sum is measured term by term, before weights.
    answers: what the reference policy wrote, at least one.

  Returns:
    By the term's label, in JSON's types: gain (above 0), bias, mean, sd, answers (how many), and constant: whether all
    values are equal, so that gain is 1 and only the mean is taken away.

  Raises:
    DataError: there are no answers; or an answer cannot be scored.
  """
  if not answers:
    raise DataError(f"reward {reward.name}: there are no answers of the reference to normalise it by")
  found = {}
  for term in _terms(reward):
    values = scored(term.reward, answers)
    mean, sd = float(np.mean(values)), float(np.std(values))
    constant = same_everywhere(values)
    gain = 1.0 if constant else 1.0 / sd
    facts = {"gain": gain, "bias": -gain * mean, "mean": mean, "sd": sd, "answers": len(values), "constant": constant}
    found[term.label] = facts
  return found


def apply(reward: Reward, recorded: Mapping[str, Mapping[str, Any]]) -> Reward:
  """The reward with each term normalised as `measure` recorded it.

  Raises:
    DataError: the record is not of this reward's terms, or a number in it is none.
  """
  terms = _terms(reward)
  labels = [term.label for term in terms]
  if sorted(labels) != sorted(recorded):
    raise DataError(
      f"reward {reward.name}: a normalisation is recorded for {', '.join(recorded) or 'nothing'}, but its terms are "
      f"{', '.join(labels)}; measure it anew"
    )
  made = []
  for term in terms:
    gain, bias = (recorded[term.label].get(name) for name in ("gain", "bias"))
    numbers = all(isinstance(x, int | float) and math.isfinite(x) for x in (gain, bias))
    if not numbers or not isinstance(gain, int | float) or not isinstance(bias, int | float) or gain <= 0:
      raise DataError(
        f"reward {reward.name}: its recorded normalisation of {term.label} has gain {gain} and bias {bias}; a gain is above "
        "0, and both are finite numbers"
      )
    made.append(dataclasses.replace(term, reward=Normalised(term.reward, float(gain), float(bias))))
  return dataclasses.replace(reward, terms=tuple(made)) if isinstance(reward, Sum) else made[0].reward


def same_everywhere(values: np.ndarray) -> bool:
  """Whether all values are equal, but for rounding."""
  return not float(np.std(values)) > FLAT * float(np.max(np.abs(values), initial=0.0))


def constant_terms(recorded: Recorded) -> list[str]:
  """Warnings, one for each term that gave every answer of the reference the same number."""
  return [
    f"warning: the reward {label} gives every answer the same number: {facts['mean']:.6g} for all {facts['answers']:,} "
    "answers of the reference. It is not scaled, only its mean is taken away, and nothing can be learned from it"
    for label, facts in recorded.items()
    if facts.get("constant")
  ]


def with_unnormalised(reward: Reward, answers: Sequence[PromptedAnswer]) -> tuple[np.ndarray, np.ndarray]:
  """f64[N]: what the reward says, and the same before `apply` scaled it.

  Of a sum the latter is the sum of weight * value of terms as they are. No reward is asked twice.
  """
  heard: list[np.ndarray] = []

  def listening(term: SumTerm) -> SumTerm:
    if not isinstance(term.reward, Normalised):
      return dataclasses.replace(term, reward=_Heard(term.reward, term.weight, heard))
    inner = _Heard(term.reward.reward, term.weight, heard)
    return dataclasses.replace(term, reward=dataclasses.replace(term.reward, reward=inner))

  terms = _terms(reward)
  if not any(isinstance(term.reward, Normalised) for term in terms):
    values = scored(reward, answers)
    return values, values
  made = tuple(map(listening, terms))
  asked = dataclasses.replace(reward, terms=made) if isinstance(reward, Sum) else made[0].reward
  values = scored(asked, answers)
  return values, np.sum(heard, axis=0)


@dataclasses.dataclass(frozen=True)
class _Heard:
  """A reward whose values, times a weight, are also put into a list."""

  reward: Reward
  weight: float
  heard: list[np.ndarray]

  @property
  def name(self) -> str:
    return self.reward.name

  @property
  def fingerprint(self) -> str:
    return self.reward.fingerprint

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    values = np.asarray(self.reward(answers), np.float64)
    self.heard.append(self.weight * values)
    return values


def _terms(reward: Reward) -> Sequence[SumTerm]:
  """Those of a sum; any other reward is the one term of itself."""
  return reward.terms if isinstance(reward, Sum) else (SumTerm(reward.name, 1.0, reward),)
