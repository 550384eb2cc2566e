"""Log-probs of given answers, each as if it stood alone with its prompt."""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh

from dpojax.data.examples import TokenDataset
from dpojax.models.language_model import LanguageModel
from dpojax.scoring.packed import Progress, Scorer, score_dataset
from dpojax.types import PackedBatch, Params


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
  mesh: Mesh | None = None,
  progress: Progress | None = None,
) -> list[Scores]:
  """Scores every answer of a data set, packed.

  Args:
    model: its precision decides that of matrix products; token log-probs are float32, their sums float64.
    params: its parameters.
    dataset: examples with any number of answers.
    rows: rows of a group that goes through the model at once.
    row_length: tokens of a row; 0: long enough for the longest example.
    mesh: the devices that share parameters and rows; None: where the parameters are, or the default device.
    progress: called with (examples done, tokens done) after each step.

  Returns:
    One `Scores` an example, in order.

  Raises:
    DataError: an example does not fit a row of the given length, or holds an id that the model has no row for.
    ConfigError: `rows` or the parameters do not divide by the mesh.
  """
  dataset.check_vocabulary(model.config.vocab_size)
  scorer = Scorer(logps_of_rows, model, params, mesh)
  found: list[Scores] = []
  for step in score_dataset(scorer, dataset, rows=rows, row_length=row_length, progress=progress):
    for example, sums in zip(step.examples, step.sums(), strict=True):
      found.append(Scores(sums, np.asarray([len(answer) for answer in example.answers])))
  return found


def score_tokens(
  model: LanguageModel,
  params: Params,
  dataset: TokenDataset,
  *,
  rows: int = 4,
  row_length: int = 0,
  mesh: Mesh | None = None,
  progress: Progress | None = None,
) -> list[list[np.ndarray]]:
  """Log-probs of every token of every answer; arguments and errors as in `score_answers`.

  Returns:
    For each example f32[A] nats of the tokens of each of its answers (f64 of float64 parameters).
  """
  dataset.check_vocabulary(model.config.vocab_size)
  scorer = Scorer(logps_of_rows, model, params, mesh)
  steps = score_dataset(scorer, dataset, rows=rows, row_length=row_length, progress=progress)
  return [answers for step in steps for answers in step.by_token()]


def logps_of_rows(model: LanguageModel, params: Params, rows: PackedBatch) -> jax.Array:
  """f32[R, S] log-probs of the targets of a row group, 0 in empty slots."""
  return model.score(params, rows).logp
