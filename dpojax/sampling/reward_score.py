"""Rewards of given answers by a reward model, each as if it stood alone with its prompt."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from dpojax.config.schema import BatchSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.models.reward_model import RewardModel
from dpojax.sampling.generate import bucket
from dpojax.sampling.score import EXAMPLES_AT_ONCE, SHORTEST_ROW
from dpojax.types import PackedBatch, Params


def reward_scores(
  model: RewardModel,
  params: Params,
  dataset: TokenDataset,
  *,
  rows: int = 4,
  row_length: int = 0,
  progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
  """Raw rewards of every answer of a data set, packed: not normalised, so that differences are log-odds.

  Args:
    model: its precision decides that of the decoder's matrix products.
    params: its parameters.
    dataset: examples with any number of answers.
    rows: rows of a group that goes through the model at once.
    row_length: tokens of a row; 0: long enough for the longest example.
    progress: called with (examples done, tokens done) after each step.

  Returns:
    f64[H, K] an example, in order: K answers by each of the H heads.

  Raises:
    DataError: an example does not fit a row of the given length, or holds an id that the model has no row for.
  """
  dataset.check_vocabulary(model.config.vocab_size)
  row_length = row_length or bucket(max(SHORTEST_ROW, dataset.longest_segment))
  batches = Batches(dataset, BatchSettings(size=EXAMPLES_AT_ONCE, rows=rows, row_length=row_length))
  params = jax.device_put(params)
  found: list[np.ndarray] = []
  tokens = 0
  for batch in batches.in_order():
    expected = range(len(found), min(len(found) + EXAMPLES_AT_ONCE, len(dataset)))
    rewards: dict[int, np.ndarray] = {}
    for g in range(int(batch.num_groups)):
      values = np.asarray(_rewards(model, params, batch.group(g)), np.float64)
      _place(rewards, values, np.asarray(batch.example_index[g]), batch.answers_per_example)
    for i in expected:
      found.append(rewards[i][: len(dataset[i].answers)].T)
      tokens += dataset[i].row_tokens()
    if progress is not None:
      progress(len(found), tokens)
  return found


def _place(rewards: dict[int, np.ndarray], values: np.ndarray, example_index: np.ndarray, answers: int) -> None:
  """Files the [R, E * K, H] rewards of one group as [K, H] by the number of their example."""
  for row, slot in np.argwhere(example_index >= 0):
    rewards[int(example_index[row, slot])] = values[row, slot * answers : (slot + 1) * answers]


@functools.partial(jax.jit, static_argnames="model")
def _rewards(model: RewardModel, params: Params, rows: PackedBatch) -> jax.Array:
  return model.rewards(params, rows)
