"""Log-probs of given answers, each as if it stood alone with its prompt."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dpojax.config.schema import BatchSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.models.language_model import LanguageModel
from dpojax.sampling.generate import bucket
from dpojax.types import PackedBatch, Params

SHORTEST_ROW = 512
EXAMPLES_AT_ONCE = 32


@dataclasses.dataclass(frozen=True)
class Scores:
  """Scores of one example's answers, in their order.

  Attributes:
    logps: f64[K] nats, summed over answer tokens (EOS included).
    tokens: i64[K] answer tokens.
  """

  logps: np.ndarray
  tokens: np.ndarray


def score_answers(
  model: LanguageModel,
  params: Params,
  dataset: TokenDataset,
  *,
  rows: int = 4,
  row_length: int = 0,
  progress: Callable[[int, int], None] | None = None,
) -> list[Scores]:
  """Scores every answer of a data set, packed.

  Args:
    model: its precision decides that of matrix products; token log-probs are float32, their sums float64.
    params: its parameters.
    dataset: examples with any number of answers.
    rows: rows of a group that goes through the model at once.
    row_length: tokens of a row; 0: long enough for the longest example.
    progress: called with (examples done, tokens done) after each step.

  Returns:
    One `Scores` an example, in order.

  Raises:
    DataError: an example does not fit a row of the given length, or holds an id that the model has no row for.
  """
  dataset.check_vocabulary(model.config.vocab_size)
  row_length = row_length or bucket(max(SHORTEST_ROW, dataset.longest_segment))
  batches = Batches(dataset, BatchSettings(size=EXAMPLES_AT_ONCE, rows=rows, row_length=row_length))
  params = jax.device_put(params)
  scores: list[Scores] = []
  tokens = 0
  for batch in batches.in_order():
    expected = range(len(scores), min(len(scores) + EXAMPLES_AT_ONCE, len(dataset)))
    sums = {i: np.zeros(len(dataset[i].answers)) for i in expected}
    for g in range(int(batch.num_groups)):
      _add(sums, batch, g, np.asarray(_logps(model, params, batch.group(g)), np.float64))
    for i in expected:
      scores.append(Scores(sums[i], np.asarray([len(answer) for answer in dataset[i].answers])))
      tokens += dataset[i].row_tokens()
    if progress is not None:
      progress(len(scores), tokens)
  return scores


def _add(sums: dict[int, np.ndarray], batch: PackedBatch, group: int, logps: np.ndarray) -> None:
  """Adds the token log-probs [R, S] of one group to the sums of their answers."""
  for row, slot in np.argwhere(batch.filled[group]):
    example, answer = divmod(int(batch.answer_of[group, row, slot]), batch.answers_per_example)
    sums[int(batch.example_index[group, row, example])][answer] += logps[row, slot]


@functools.partial(jax.jit, static_argnames="model")
def _logps(model: LanguageModel, params: Params, rows: PackedBatch) -> jax.Array:
  return jnp.asarray(model.logps(params, rows).logp)
