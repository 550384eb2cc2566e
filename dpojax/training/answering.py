"""Answers to prompts, as roll-outs and looks share them: which prompts, who writes, and what the answers score."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from dpojax.config.schema import RolloutSettings
from dpojax.data.batches import shuffled
from dpojax.data.prompts import PromptRow
from dpojax.rewards.normalisation import same_everywhere, with_unnormalised
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
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """f64[A]: what the reward says, that with what a missing EOS does to it, and the first before it was normalised."""
  if settings.normalise:
    raw, unnormalised = with_unnormalised(reward, answers)
  else:
    raw = unnormalised = scored(reward, answers)
  return raw, _without_eos(raw, answers, settings), unnormalised


def constant_words(reward: Reward, raw: np.ndarray, learned: str) -> str:
  """A warning where f64[A] rewards are all the same, else ""; `learned` says what is made of them."""
  if len(raw) < 2 or not same_everywhere(raw):
    return ""
  return (
    f"warning: the reward gives every answer the same number: {reward.name} says {np.mean(raw):.6g} of all {len(raw):,} "
    f"answers of a roll-out. {learned}. Look at rollout.reward, and at what it says of answers that differ: dpojax score"
  )


def _without_eos(raw: np.ndarray, answers: Sequence[PromptedAnswer], settings: RolloutSettings) -> np.ndarray:
  cut = np.asarray([not answer.finished for answer in answers])
  if settings.missing_eos == "replace":
    return np.where(cut, -settings.eos_penalty, raw)
  if settings.missing_eos == "subtract":
    return np.where(cut, raw - settings.eos_penalty, raw)
  return raw


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
