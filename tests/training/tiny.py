"""A model of a few thousand parameters and data for it: enough to train, quick to compile."""

import dataclasses

import jax
import numpy as np

from dpojax.config.schema import BatchSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.training.trainer import one_step_late

CONFIG = ModelConfig(vocab_size=32, hidden=16, layers=2, heads=4, kv_heads=2, ffn=32, max_positions=64)
MODEL = LanguageModel(CONFIG, chunk=16)


def tiny_params(seed=0):
  return MODEL.init(jax.random.key(seed))


def tiny_dataset(examples=24, answers=2, seed=0):
  draws = np.random.default_rng(seed)
  ids = lambda low, high: draws.integers(1, CONFIG.vocab_size, draws.integers(low, high))  # noqa: E731
  return TokenDataset.from_examples([(ids(3, 9), [ids(2, 8) for _ in range(answers)]) for _ in range(examples)])


def tiny_batches(dataset=None, **changes):
  settings = dict(size=8, rows=2, row_length=32) | changes
  return Batches(tiny_dataset() if dataset is None else dataset, BatchSettings(**settings))


def with_opponents(batch):
  """The packed pairs, of which now the chosen and now the rejected answer is marked as written by the reference."""
  index = np.asarray(batch.example_index)
  return dataclasses.replace(batch, example_opponent=np.where(index < 0, -1, index % 2).astype(np.int32))


def train(trainer, batches, steps):
  """[(step, metrics as numbers)] of `steps` further steps."""
  return list(one_step_late(trainer.steps(batches, int(trainer.state.step) + steps)))
