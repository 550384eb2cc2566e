"""Rewards by rule: the environment's own, sentiment, length, a pattern."""

import dataclasses
import functools
import importlib.metadata
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from dpojax.errors import ConfigError, DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.rewards.examples import name_of
from dpojax.rewards.reward import PromptedAnswer


class Environment(Protocol):
  """What the true reward reads of a `dpojax.environments.Environment`."""

  name: str

  def reward(self, prompt: str, answer: str) -> float: ...


@dataclasses.dataclass(frozen=True)
class TrueReward:
  """The environment's own reward of the answer's text."""

  environment: Environment
  name: str = "true"

  @property
  def fingerprint(self) -> str:
    return f"true {self.environment.name}"

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    """f64[N]; DataError where a prompt is more than one message of the user, which no environment writes."""
    values = [self.environment.reward(_one_text(a, i), a.answer) for i, a in enumerate(answers)]
    return np.asarray(values, np.float64)


def _one_text(answer: PromptedAnswer, number: int) -> str:
  """The text of a prompt, or of the one message of the user that a chat template makes of it."""
  prompt = answer.prompt
  if isinstance(prompt, str):
    return prompt
  if len(prompt) == 1 and prompt[0]["role"] == "user":
    return prompt[0]["content"]
  raise DataError(
    f"{name_of(answer, number)}: the true reward is of a prompt that the environment wrote, not of a conversation of "
    f"{len(prompt)} messages"
  )


@dataclasses.dataclass(frozen=True)
class SentimentReward:
  """VADER's compound score of the answer's text, in [-1, 1]. (Hutto & Gilbert 2014)"""

  name: str = "sentiment"
  key: str = "reward"

  def __post_init__(self):
    """Raises ConfigError where the package is missing."""
    _ = self._analyzer

  @functools.cached_property
  def _analyzer(self) -> Any:
    try:
      from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
      raise ConfigError(
        f"{self.key}: sentiment needs the package vaderSentiment; pip install 'dpojax[sentiment]'"
      ) from error
    return SentimentIntensityAnalyzer()

  @property
  def fingerprint(self) -> str:
    return f"sentiment vaderSentiment {importlib.metadata.version('vaderSentiment')}"

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    return np.asarray([self._analyzer.polarity_scores(a.answer)["compound"] for a in answers], np.float64)


@dataclasses.dataclass(frozen=True)
class LengthReward:
  """Tokens of the answer, its EOS included: those that were written, else those of its text by `tokenizer`."""

  tokenizer: Tokenizer | None = None
  name: str = "length"

  @property
  def fingerprint(self) -> str:
    return f"length {self.tokenizer.fingerprint() if self.tokenizer else ''}"

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    """f64[N]; DataError where an answer has no ids and no tokenizer is known."""
    without = [i for i, a in enumerate(answers) if a.answer_ids is None]
    found = np.asarray([0 if a.answer_ids is None else len(a.answer_ids) for a in answers], np.float64)
    if not without:
      return found
    if self.tokenizer is None:
      raise DataError(
        f"{name_of(answers[without[0]], without[0])}: length counts tokens, but the answer has none and no tokenizer is "
        "known; give the model whose tokens are to be counted (`dpojax score --model=PATH`)"
      )
    encoded = self.tokenizer.encode_batch([answers[i].answer for i in without])
    ends = self.tokenizer.eos_ids
    for i, ids in zip(without, encoded, strict=True):
      found[i] = len(ids) + (answers[i].finished and bool(ends) and ids[-1:] != list(ends[:1]))
    return found


@dataclasses.dataclass(frozen=True)
class RegexReward:
  """1 where `re.search` finds the pattern in the answer's text, else 0; with `count` the number of matches."""

  pattern: str
  count: bool = False
  name: str = "regex"

  @property
  def fingerprint(self) -> str:
    return f"regex {self.count} {self.pattern}"

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    pattern = re.compile(self.pattern)
    if self.count:
      return np.asarray([sum(1 for _ in pattern.finditer(a.answer)) for a in answers], np.float64)
    return np.asarray([pattern.search(a.answer) is not None for a in answers], np.float64)
