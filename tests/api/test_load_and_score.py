"""`generate` and `score` of the short door against a loop over single tokens."""

import jax
import numpy as np
import pytest

import dpojax
from dpojax.errors import ConfigError, DataError
from dpojax.models.reward_model import RewardModel
from tests.api.tiny import make_rows, policy  # noqa: F401

ROWS = make_rows(5)


def log_probs(loaded, ids):
  """f64[T - 1] log-prob of every token but the first, by `prefill` of one text alone."""
  tokens = np.asarray([ids], np.int32)
  hidden, _ = loaded.model.prefill(loaded.params, tokens, np.asarray([len(ids)], np.int32))
  logits = np.asarray(loaded.model.logits(loaded.params, hidden))[0].astype(np.float64)
  shifted = logits - logits.max(axis=-1, keepdims=True)
  normalised = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
  return normalised[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.slow
def test_scores_are_sums_of_next_token_log_probs(policy):  # noqa: F811
  found = dpojax.score(policy, ROWS)
  for row, scores in zip(ROWS, found, strict=True):
    for name, score in zip(("chosen", "rejected"), scores, strict=True):
      prompt, answer = (policy.tokenizer.encode_batch([row[key]])[0] for key in ("prompt", name))
      ids = [*prompt, *answer, policy.tokenizer.eos_id]
      np.testing.assert_allclose(score, log_probs(policy, ids)[len(prompt) - 1 :].sum(), atol=5e-5)


def test_a_row_that_cannot_be_scored_is_an_error_and_shifts_nothing(policy):  # noqa: F811
  with pytest.raises(DataError, match=r"rows\[1\].*leave the row out"):
    dpojax.score(policy, [ROWS[0], {"prompt": "word1", "chosen": 3, "rejected": "word2"}, ROWS[1]])


@pytest.mark.slow
def test_a_reward_model_gives_rewards(policy):  # noqa: F811
  model = RewardModel(policy.model, 2)
  params = jax.device_get(model.with_head(policy.params, jax.random.key(1)))
  scored = dpojax.score(dpojax.LoadedModel(model, params, policy.tokenizer), ROWS)
  assert [len(scores) for scores in scored] == [2] * len(ROWS)
  hidden = lambda ids: np.asarray(  # noqa: E731
    policy.model.prefill(policy.params, np.asarray([ids], np.int32), np.asarray([len(ids)], np.int32))[0]
  )[0, -1]
  ids = policy.tokenizer.encode_batch([ROWS[0]["prompt"] + " " + ROWS[0]["chosen"]])[0] + [policy.tokenizer.eos_id]
  np.testing.assert_allclose(scored[0][0], (np.asarray(params["score"]) @ hidden(ids)).mean(), atol=1e-5)
  with pytest.raises(ConfigError, match="writes none"):
    dpojax.generate(dpojax.LoadedModel(model, params, policy.tokenizer), "word1")


@pytest.mark.slow
def test_what_is_generated_has_the_log_probs_that_it_is_scored_with(policy):  # noqa: F811
  answers = dpojax.generate(policy, ["word1 word2", "word3"], samples=2, max_tokens=6, seed=3)
  assert [len(some) for some in answers] == [2, 2]
  for prompt, some in zip(("word1 word2", "word3"), answers, strict=True):
    start = policy.tokenizer.encode_batch([prompt])[0]
    for answer in some:
      np.testing.assert_allclose(answer.logp, log_probs(policy, [*start, *answer.tokens])[len(start) - 1 :], atol=5e-5)
      assert answer.text == policy.tokenizer.decode(answer.tokens, skip_special_tokens=True)
  alone = dpojax.generate(policy, "word1 word2", samples=1, max_tokens=6, seed=3)
  np.testing.assert_array_equal(alone[0][0].tokens, answers[0][0].tokens)
