"""Rewards of given answers by a reward model, each as if it stood alone with its prompt."""

import jax
import numpy as np
from jax.sharding import Mesh

from dpojax.data.examples import TokenDataset
from dpojax.models.reward_model import Normalisation, RewardModel
from dpojax.scoring.packed import Progress, Scorer, score_dataset
from dpojax.types import PackedBatch, Params


def reward_scores(
  model: RewardModel,
  params: Params,
  dataset: TokenDataset,
  *,
  rows: int = 4,
  row_length: int = 0,
  mesh: Mesh | None = None,
  progress: Progress | None = None,
) -> list[np.ndarray]:
  """Raw rewards of every answer of a data set, packed: not normalised, so that differences are log-odds.

  Args:
    model: its precision decides that of the decoder's matrix products.
    params: its parameters.
    dataset: examples with any number of answers.
    rows: rows of a group that goes through the model at once.
    row_length: tokens of a row; 0: long enough for the longest example.
    mesh: the devices that share parameters and rows; None: where the parameters are, or the default device.
    progress: called with (examples done, tokens done) after each step.

  Returns:
    f64[H, K] an example, in order: K answers by each of the H heads.

  Raises:
    DataError: an example does not fit a row of the given length, or holds an id that the model has no row for.
    ConfigError: `rows` or the parameters do not divide by the mesh.
  """
  dataset.check_vocabulary(model.config.vocab_size)
  scorer = Scorer(rewards_of_rows, model, params, mesh)
  steps = score_dataset(scorer, dataset, rows=rows, row_length=row_length, progress=progress)
  return [rewards.T for step in steps for rewards in step.by_answer()]


def measure_normalisation(
  model: RewardModel,
  params: Params,
  dataset: TokenDataset,
  *,
  rows: int = 4,
  row_length: int = 0,
  mesh: Mesh | None = None,
) -> Normalisation:
  """Mean and standard deviation of the raw rewards of a data set's answers; arguments and errors as in `reward_scores`."""
  scores = reward_scores(model, params, dataset, rows=rows, row_length=row_length, mesh=mesh)
  return Normalisation.of(np.concatenate([rewards.T for rewards in scores]))


def rewards_of_rows(model: RewardModel, params: Params, rows: PackedBatch) -> jax.Array:
  """f32[R, E * K, H] raw rewards of the answer slots of a row group."""
  return model.rewards(params, rows)
