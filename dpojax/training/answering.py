"""Answers to prompts, as roll-outs and looks share them: which prompts, who writes, and what the answers score."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from dpojax.config.schema import RolloutSettings
from dpojax.data.batches import shuffled
from dpojax.data.prompts import PromptRow
from dpojax.rewards.reward import PromptedAnswer, Reward
from dpojax.rewards.scores import scored
from dpojax.rollout.text import answer_text
from dpojax.rollout.writing import Ended, Sample
from dpojax.types import Params

ENDED: tuple[Ended, ...] = ("eos", "stop", "length")


class Write(Protocol):
  """Writes answers: the sampler with its settings, or whatever else a test puts in its place."""

  def __call__(
    self, params: Params, prompts: Sequence[np.ndarray], numbers: Sequence[int], progress: Callable[[int, int], None]
  ) -> list[list[Sample]]: ...


def prompted(
  prompts: Sequence[PromptRow], samples: Sequence[Sequence[Sample]], decode: Callable[[Sample], str]
) -> list[PromptedAnswer]:
  """Answers as rewards read them, those of a prompt side by side."""
  return [
    PromptedAnswer(row.given, decode(sample), row.ids, sample.tokens, sample.finished, row.details)
    for row, several in zip(prompts, samples, strict=True)
    for sample in several
  ]


def score_answers(
  reward: Reward, answers: Sequence[PromptedAnswer], settings: RolloutSettings
) -> tuple[np.ndarray, np.ndarray]:
  """f64[A]: what the reward says, and that with what a missing EOS does to it."""
  raw = scored(reward, answers)
  cut = np.asarray([not answer.finished for answer in answers])
  if settings.missing_eos == "replace":
    return raw, np.where(cut, -settings.eos_penalty, raw)
  if settings.missing_eos == "subtract":
    return raw, np.where(cut, raw - settings.eos_penalty, raw)
  return raw, raw


def chosen_prompts(count: int, size: int, number: int, seed: int) -> np.ndarray:
  """i64[size]: which of `count` prompts roll-out `number` answers: the next of one permutation after another."""
  epochs, places = np.divmod(np.arange(number * size, (number + 1) * size), count)
  orders = {epoch: permutation(count, seed, epoch) for epoch in np.unique(epochs).tolist()}
  return np.asarray([orders[e][p] for e, p in zip(epochs.tolist(), places.tolist(), strict=True)])


def permutation(count: int, *names: int) -> np.ndarray:
  """i64[count]: a permutation that the names decide."""
  return shuffled(count, np.random.SeedSequence([len(names), *names]).generate_state(2, np.uint64))


def text_of(tokenizer: Any, stop: Sequence[str]) -> Callable[[Sample], str]:
  """Decodes an answer without special tokens and without the text that stopped it."""
  return lambda sample: answer_text(sample, tokenizer, stop)
