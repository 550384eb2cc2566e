"""Scores as a stage reads them: a reward called to its end, and what it says looked at."""

from collections.abc import Sequence

import numpy as np

from dpojax.errors import DataError
from dpojax.rewards.examples import name_of
from dpojax.rewards.reward import PromptedAnswer, Reward

LARGEST = 1e30  # of a score: squares of larger ones overflow in float32, and sums of squares soon in float64


def scored(reward: Reward, answers: Sequence[PromptedAnswer]) -> np.ndarray:
  """f64[N], what the reward says of the answers, every sum and scale in it included.

  Raises:
    DataError: a score is not finite, or larger than anything sensible; names the reward and the prompt. Or whatever the
      reward raises.
  """
  with np.errstate(over="ignore", invalid="ignore"):  # of weights, said below with its name
    values = np.asarray(reward(answers), np.float64)
  wrong = np.flatnonzero(~(np.abs(values) <= LARGEST))
  if wrong.size:
    i = int(wrong[0])
    raise DataError(
      f"reward {reward.name}: {values[i]:g} is no score for {name_of(answers[i], i)}; scores are finite and at most "
      f"{LARGEST:g} in size, weights and normalisation included"
    )
  return values
