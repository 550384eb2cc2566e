"""Which of two answers to a prompt is better: by a reward, or by a user's function."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from dpojax.errors import DataError
from dpojax.rewards.examples import name_of
from dpojax.rewards.reward import Judge, PromptedAnswer, Reward
from dpojax.rewards.scores import scored
from dpojax.rewards.terms import JudgeSpec, RewardSpec
from dpojax.rewards.user import UserFunction, load_function, prompts_of


def preferences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """f64[N] 1 where the first of two rewards [N] is higher, 0 where it is lower, 1/2 where they are equal."""
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  return (np.sign(first - second) + 1) / 2


@dataclasses.dataclass(frozen=True)
class RewardJudge:
  """The answer with the higher reward is better."""

  reward: Reward

  @property
  def name(self) -> str:
    return self.reward.name

  @property
  def fingerprint(self) -> str:
    return self.reward.fingerprint

  def __call__(self, first: Sequence[PromptedAnswer], second: Sequence[PromptedAnswer]) -> np.ndarray:
    """f64[N], scored in one call, so that equal answers to a prompt tie."""
    _check(first, second)
    values = scored(self.reward, [*first, *second])
    return preferences(values[: len(first)], values[len(first) :])


@dataclasses.dataclass(frozen=True)
class Judged:
  """What a judge says when it is asked in both orders.

  Attributes:
    preference: f64[N] probability that the first answer is better, the mean of both orders.
    position_bias: f64[N] by how much the place of an answer raised its probability: 0 where both orders agree, 1/2
      where whichever stands first always wins.
  """

  preference: np.ndarray
  position_bias: np.ndarray


@dataclasses.dataclass(frozen=True)
class FunctionJudge:
  """A user's `function(prompts, first, second)` -> N probabilities that the first answer is better.

  It is called in both orders, and p = (f(first, second) + 1 - f(second, first)) / 2.
  """

  name: str
  function: UserFunction

  @property
  def fingerprint(self) -> str:
    return self.function.fingerprint

  def __call__(self, first: Sequence[PromptedAnswer], second: Sequence[PromptedAnswer]) -> np.ndarray:
    """f64[N]; errors as of `compare`."""
    return self.compare(first, second).preference

  def compare(self, first: Sequence[PromptedAnswer], second: Sequence[PromptedAnswer]) -> Judged:
    """Preferences, and how much the order decided.

    Raises:
      DataError: the function fails or returns anything but N numbers in [0, 1]; names it.
    """
    _check(first, second)
    if not first:
      return Judged(np.zeros(0), np.zeros(0))
    ahead, behind = self._ask(first, second), self._ask(second, first)
    return Judged((ahead + 1 - behind) / 2, (ahead + behind - 1) / 2)

  def _ask(self, first: Sequence[PromptedAnswer], second: Sequence[PromptedAnswer]) -> np.ndarray:
    found = self.function.call(first, prompts_of(first), [a.answer for a in first], [a.answer for a in second])
    wrong = np.flatnonzero((found < 0) | (found > 1))
    if wrong.size:
      i = int(wrong[0])
      raise DataError(
        f"{self.function.where} returns {found[i]:g} for {name_of(first[i], i)}; a judge returns the probability that the "
        "first answer is better, from 0 to 1"
      )
    return found


def build_judge(spec: RewardSpec | JudgeSpec, make: Callable[[RewardSpec], Reward]) -> Judge:
  """The judge that a spec of `rewards.spec.read_judge` means; `make` builds a reward, or finds one that is there already.

  Raises:
    ConfigError: the judge's file or function is missing; or whatever `make` raises.
  """
  if isinstance(spec, RewardSpec):
    return RewardJudge(make(spec))
  return FunctionJudge(spec.label, load_function(*spec.function, spec.key or "judge"))


def _check(first: Sequence[PromptedAnswer], second: Sequence[PromptedAnswer]) -> None:
  if len(first) != len(second):
    raise ValueError(f"{len(first)} first answers and {len(second)} second ones; a judge compares them one by one")
  for i, (one, other) in enumerate(zip(first, second, strict=True)):
    if one.prompt != other.prompt:
      raise ValueError(f"answers {i} are to different prompts, {one.prompt!r} and {other.prompt!r}")
