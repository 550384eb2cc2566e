"""Log-probs of packed answers against a float64 model that reads one text at a time."""

import numpy as np
import pytest

from dpojax.data.examples import TokenDataset
from dpojax.errors import DataError
from dpojax.scoring import score_answers, score_tokens
from tests.rollout.toy_model import ToyModel, next_probabilities
from tests.tolerances import assert_sums_close

MODEL = ToyModel(vocab=5)
PARAMS = MODEL.init(seed=0)


def make_dataset(n=45, seed=0) -> TokenDataset:
  """Of many lengths, with one to four answers each."""
  draws = np.random.default_rng(seed)
  ids = lambda longest: draws.integers(0, 5, draws.integers(1, longest)).tolist()  # noqa: E731
  return TokenDataset.from_examples([(ids(12), [ids(9) for _ in range(1 + i % 4)]) for i in range(n)])


def alone(prompt, answer):
  """f64[A] log-probs of the answer's tokens after the prompt, by NumPy."""
  prefixes = [[*prompt, *answer[:t]] for t in range(len(answer))]
  return np.log([next_probabilities(PARAMS, p)[token] for p, token in zip(prefixes, answer, strict=True)])


def test_every_answer_and_token_has_the_log_prob_it_has_alone():
  dataset = make_dataset()
  scores = score_answers(MODEL, PARAMS, dataset, rows=2, row_length=64)
  tokens = score_tokens(MODEL, PARAMS, dataset, rows=2, row_length=64)
  assert len(scores) == len(tokens) == len(dataset)
  for i, (one, vectors) in enumerate(zip(scores, tokens, strict=True)):
    assert one.logps.dtype == np.float64 and one.tokens.tolist() == [len(answer) for answer in dataset[i].answers]
    for answer, logp, vector in zip(dataset[i].answers, one.logps, vectors, strict=True):
      expected = alone(dataset[i].prompt, answer)
      assert vector.dtype == np.float32 and vector.shape == expected.shape
      assert np.max(np.abs(vector - expected)) < 1e-5
      assert_sums_close(logp, expected.sum(), np.abs(expected).sum())


def test_sums_are_those_of_the_tokens_in_float64():
  """Token by token, so that neither packing nor NumPy's order of sums moves the last bit."""
  dataset = make_dataset(3)
  tokens = score_tokens(MODEL, PARAMS, dataset)
  for one, vectors in zip(score_answers(MODEL, PARAMS, dataset), tokens, strict=True):
    for logp, vector in zip(one.logps, vectors, strict=True):
      total = 0.0
      for value in vector.tolist():
        total += value
      assert logp == total


def test_progress_counts_examples_and_tokens():
  dataset, calls = make_dataset(), []
  score_answers(MODEL, PARAMS, dataset, progress=lambda *done: calls.append(done))
  assert [done for done, _ in calls] == [32, 45]
  assert calls[-1][1] == sum(dataset[i].row_tokens() for i in range(45))


def test_an_example_longer_than_a_row_is_named_before_anything_is_scored():
  dataset = TokenDataset.from_examples([([1], [[2]])] * 40 + [([1] * 30, [[2] * 9])])
  calls = []
  with pytest.raises(DataError, match=r"example 40: its 39 tokens do not fit a row of 32"):
    score_answers(MODEL, PARAMS, dataset, row_length=32, progress=lambda *done: calls.append(done))
  assert calls == []
