"""Rewards of packed answers against each answer alone, computed without packing."""

import functools

import jax
import numpy as np
import pytest

from dpojax.data.examples import TokenDataset
from dpojax.errors import DataError
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.reward_model import Normalisation, RewardModel
from dpojax.scoring import measure_normalisation, reward_scores

CONFIG = ModelConfig(vocab_size=11, hidden=16, layers=2, heads=2, kv_heads=1, ffn=24, max_positions=32, eos_ids=(0,))


@pytest.fixture(scope="module")
def reward_model():
  model = RewardModel(LanguageModel(CONFIG), heads=3)
  return model, jax.device_get(model.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def dataset():
  draws = np.random.default_rng(0)
  ids = lambda low, high: draws.integers(0, 11, draws.integers(low, high)).tolist()  # noqa: E731
  return TokenDataset.from_examples([(ids(1, 8), [ids(1, 9) for _ in range(1 + i % 4)]) for i in range(45)])


@functools.partial(jax.jit, static_argnames="model")
def hidden_states(model, params, text, count):
  return model.trunk.prefill(params, text, count[None])[0][0]


def alone(model, params, prompt, answer):
  """f64[H] rewards by the cached decoder, one text in its batch."""
  count = len(prompt) + len(answer)
  text = np.zeros((1, 32), np.int32)  # one length, so that one program serves all
  text[0, :count] = np.concatenate([prompt, answer])
  decoder = {name: value for name, value in params.items() if name != "score"}
  hidden = hidden_states(model, decoder, text, np.int32(count))
  return np.asarray(params["score"], np.float64) @ np.asarray(hidden[count - 1], np.float64)


@pytest.mark.slow
def test_every_answer_has_the_reward_it_has_alone(reward_model, dataset):
  model, params = reward_model
  found = reward_scores(model, params, dataset)
  assert [row.shape for row in found] == [(3, len(dataset[i].answers)) for i in range(len(dataset))]
  for i in range(0, len(dataset), 6):
    for k, answer in enumerate(dataset[i].answers):
      np.testing.assert_allclose(found[i][:, k], alone(model, params, dataset[i].prompt, answer), atol=1e-4)


@pytest.mark.slow
def test_rows_and_their_length_change_nothing(reward_model, dataset):
  model, params = reward_model
  wide, narrow = reward_scores(model, params, dataset), reward_scores(model, params, dataset, rows=1, row_length=64)
  for one, other in zip(wide, narrow, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_rewards_are_raw(reward_model, dataset):
  """A reward model that carries a normalisation is still scored in log-odds."""
  model, params = reward_model
  some = dataset.subset(range(4))
  measured = RewardModel(model.model, 3, Normalisation((1.0,) * 3, (5.0,) * 3, 5.0))
  for one, other in zip(reward_scores(measured, params, some), reward_scores(model, params, some), strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_normalisation_is_of_every_answer(reward_model, dataset):
  model, params = reward_model
  measured = measure_normalisation(model, params, dataset, rows=2, row_length=64)
  answers = [alone(model, params, dataset[i].prompt, a) for i in range(len(dataset)) for a in dataset[i].answers]
  np.testing.assert_allclose(measured.mean, np.mean(answers, axis=0), atol=1e-4)
  np.testing.assert_allclose(measured.std, np.std(answers, axis=0), atol=1e-4)


def test_progress_counts_examples_and_tokens(reward_model, dataset):
  model, params = reward_model
  calls = []
  reward_scores(model, params, dataset, progress=lambda *done: calls.append(done))
  assert [done for done, _ in calls] == [32, 45]
  assert calls[-1][1] == sum(dataset[i].row_tokens() for i in range(45))


def test_an_example_longer_than_a_row_is_named(reward_model, dataset):
  model, params = reward_model
  with pytest.raises(DataError, match="row"):
    reward_scores(model, params, dataset, row_length=8)
