"""Advantages against plain sums over tokens, and the laws that they obey."""

import itertools

import numpy as np
import pytest

from dpojax.objectives.advantages import gae, grpo, reinforce, rloo, token_mask, token_rewards, whiten

LENGTH = np.array([5, 1, 7, 3, 7, 2])
TOKENS = 7
MASK = token_mask(LENGTH, TOKENS)


def draw(seed=0, behind=0.0):
  """(scores [A], k1 [A, T], values [A, T]), with `behind` in the places behind an answer's end."""
  random = np.random.default_rng(seed)
  scores, k1, values = random.normal(size=6), random.normal(size=(6, TOKENS)), random.normal(size=(6, TOKENS))
  return scores, np.where(MASK, k1, behind), np.where(MASK, values, behind)


def brute_gae(rewards, values, length, gamma, lam):
  """A_t = sum over l >= 0 of (gamma lam)^l delta_{t+l}, every delta from its definition."""
  found = np.zeros(rewards.shape)
  for a, end in enumerate(length):
    deltas = [rewards[a, t] + gamma * (values[a, t + 1] if t + 1 < end else 0.0) - values[a, t] for t in range(end)]
    for t in range(end):
      found[a, t] = sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, end))
  return found


def test_masks_and_rewards_of_tokens():
  rewards = token_rewards(np.array([0.7, -2.0]), np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([3, 1]), 0.1)
  np.testing.assert_array_equal(token_mask(np.array([3, 1]), 3), [[True, True, True], [True, False, False]])
  np.testing.assert_allclose(rewards, [[-0.1, -0.2, -0.3 + 0.7], [-0.4 - 2.0, 0.0, 0.0]], rtol=1e-15)
  assert rewards.dtype == np.float64


def test_a_reward_of_7_tenths_counts_as_7_tenths():
  """Whatever kind of array anything is: a peer that builds rewards like an array of token ids makes 0 of it."""
  length, nothing = np.array([2, 3]), np.zeros((2, 3), np.int32)
  rewards = token_rewards(np.array([0.7, 0.7]), nothing, length, 0.0)
  np.testing.assert_array_equal(rewards.sum(axis=1), [0.7, 0.7])
  advantages, targets = gae(rewards, nothing, length, gamma=1.0, lam=1.0)
  np.testing.assert_array_equal(advantages, [[0.7, 0.7, 0.0], [0.7, 0.7, 0.7]])
  np.testing.assert_array_equal(targets, advantages)
  for function in (reinforce, rloo, grpo):
    assert function(np.array([[0, 1]])).dtype == np.float64
  assert reinforce(np.array([[0.7]]))[0, 0] == 0.7
  np.testing.assert_allclose(rloo(np.array([[0.7, 0.0]])), [[0.7, -0.7]])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 0.0), (0.7, 1.0)])
def test_gae_is_the_sum_of_later_errors(gamma, lam):
  scores, k1, values = draw()
  rewards = token_rewards(scores, k1, LENGTH, 0.3)
  advantages, targets = gae(rewards, values, LENGTH, gamma=gamma, lam=lam)
  expected = brute_gae(rewards, values, LENGTH, gamma, lam)
  np.testing.assert_allclose(advantages, expected, rtol=1e-13, atol=1e-14)
  np.testing.assert_allclose(targets, np.where(MASK, expected + values, 0.0), rtol=1e-13, atol=1e-14)


def test_gae_by_default_has_gamma_1_and_lambda_95():
  scores, k1, values = draw()
  rewards = token_rewards(scores, k1, LENGTH, 0.3)
  np.testing.assert_allclose(gae(rewards, values, LENGTH)[0], brute_gae(rewards, values, LENGTH, 1.0, 0.95), rtol=1e-12)


def test_with_gamma_and_lambda_1_it_is_what_is_still_to_come_less_the_value():
  scores, k1, values = draw()
  rewards = token_rewards(scores, k1, LENGTH, 0.3)
  advantages, targets = gae(rewards, values, LENGTH, gamma=1.0, lam=1.0)
  to_come = np.where(MASK, np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1], 0.0)
  np.testing.assert_allclose(advantages, to_come - values, atol=1e-13)
  np.testing.assert_allclose(targets, to_come, atol=1e-13)
  # At the first token: the whole reward less what was expected of it.
  np.testing.assert_allclose(advantages[:, 0], scores - 0.3 * k1.sum(axis=1) - values[:, 0], atol=1e-13)


def test_what_stands_behind_an_answer_s_end_is_not_seen():
  scores, k1, values = draw()
  _, k1_behind, values_behind = draw(behind=np.nan)
  rewards = token_rewards(scores, k1, LENGTH, 0.3)
  np.testing.assert_array_equal(token_rewards(scores, k1_behind, LENGTH, 0.3), rewards)
  expected = gae(rewards, values, LENGTH)
  for found, want in zip(gae(np.where(MASK, rewards, np.nan), values_behind, LENGTH), expected, strict=True):
    np.testing.assert_array_equal(found, want)
    assert np.all(found[~MASK] == 0)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.8)])
def test_a_constant_added_to_all_scores_shifts_by_its_discounted_self(gamma, lam):
  """A_t moves by c (gamma lam)^(T - t), T the answer's last token."""
  scores, k1, values = draw()
  before, _ = gae(token_rewards(scores, k1, LENGTH, 0.3), values, LENGTH, gamma=gamma, lam=lam)
  after, _ = gae(token_rewards(scores + 2.5, k1, LENGTH, 0.3), values, LENGTH, gamma=gamma, lam=lam)
  shift = 2.5 * (gamma * lam) ** (LENGTH[:, None] - 1 - np.arange(TOKENS))
  np.testing.assert_allclose(after - before, np.where(MASK, shift, 0.0), atol=1e-13)
  whitened = whiten(before, MASK), whiten(after, MASK)
  if gamma * lam == 1:
    np.testing.assert_allclose(*whitened, atol=1e-13)
  else:
    assert np.max(np.abs(whitened[0] - whitened[1])) > 0.05


def test_a_constant_added_to_all_scores_leaves_groups_alone_and_not_reinforce():
  returns = np.random.default_rng(1).normal(size=(5, 4))
  for function in (rloo, grpo, lambda x: grpo(x, scaled=False), lambda x: grpo(x, unbiased=False)):
    np.testing.assert_allclose(function(returns + 100.0), function(returns), atol=1e-12)
  np.testing.assert_allclose(reinforce(returns + 100.0), returns + 100.0)


def test_groups_against_loops():
  returns = np.random.default_rng(2).normal(size=(5, 4)) * np.array([[0.01], [1.0], [1.0], [1.0], [50.0]])
  for p, k in itertools.product(range(5), range(4)):
    mine, others = returns[p, k], [returns[p, j] for j in range(4) if j != k]
    mean = sum(returns[p]) / 4
    squares = sum((r - mean) ** 2 for r in returns[p])
    np.testing.assert_allclose(rloo(returns)[p, k], mine - sum(others) / 3, atol=1e-13)
    np.testing.assert_allclose(grpo(returns)[p, k], (mine - mean) / ((squares / 3) ** 0.5 + 1e-4), rtol=1e-10)
    np.testing.assert_allclose(
      grpo(returns, unbiased=False)[p, k], (mine - mean) / ((squares / 4) ** 0.5 + 1e-4), rtol=1e-10
    )
    np.testing.assert_allclose(grpo(returns, scaled=False)[p, k], mine - mean, atol=1e-13)
    assert reinforce(returns)[p, k] == mine


@pytest.mark.parametrize("samples", [2, 3, 8])
def test_dr_grpo_is_rloo_up_to_a_factor(samples):
  returns = np.random.default_rng(3).normal(size=(5, samples))
  np.testing.assert_allclose(grpo(returns, scaled=False), (samples - 1) / samples * rloo(returns), atol=1e-13)
  np.testing.assert_allclose(np.sum(rloo(returns), axis=1), 0.0, atol=1e-12)


def test_equal_answers_have_no_advantage():
  for function in (rloo, grpo, lambda x: grpo(x, scaled=False)):
    # A mean of three rounds by 1e-16, which GRPO divides by 1e-4.
    np.testing.assert_allclose(function(np.full((2, 3), 0.7)), np.zeros((2, 3)), atol=1e-11)


def test_rloo_is_right_on_average_and_grpo_is_that_of_another_reward():
  """All draws of two answers from three arms: RLOO's expected gradient is that of the mean reward; GRPO's is not along it."""
  p, reward = np.array([0.45, 0.45, 0.1]), np.array([0.0, 1.0, -30.0])
  score = np.eye(3) - p  # gradient of log p_arm by the logits
  expected = {name: np.zeros(3) for name in ("rloo", "dr_grpo", "grpo")}
  for i, j in itertools.product(range(3), repeat=2):
    pair = reward[[i, j]][None]
    for name, advantage in (("rloo", rloo(pair)), ("dr_grpo", grpo(pair, scaled=False)), ("grpo", grpo(pair))):
      expected[name] += p[i] * p[j] * (advantage[0, 0] * score[i] + advantage[0, 1] * score[j]) / 2
  gradient = p * (reward - p @ reward)
  np.testing.assert_allclose(expected["rloo"], gradient, atol=1e-14)
  np.testing.assert_allclose(expected["dr_grpo"], gradient / 2, atol=1e-14)
  cosine = expected["grpo"] @ gradient / np.linalg.norm(expected["grpo"]) / np.linalg.norm(gradient)
  assert cosine < 0.9  # parallel: 1


@pytest.mark.parametrize("factor", [2.0, 0.25])
def test_scaling_rewards_and_coefficient_together_scales_advantages_only(factor):
  scores, k1, values = draw()
  one, targets = gae(token_rewards(scores, k1, LENGTH, 0.3), values, LENGTH)
  other, other_targets = gae(token_rewards(factor * scores, k1, LENGTH, factor * 0.3), factor * values, LENGTH)
  np.testing.assert_allclose(other, factor * one, rtol=1e-14)
  np.testing.assert_allclose(other_targets, factor * targets, rtol=1e-14)
  returns = (scores - 0.3 * k1.sum(axis=1)).reshape(2, 3)
  scaled = (factor * scores - factor * 0.3 * k1.sum(axis=1)).reshape(2, 3)
  for function in (rloo, reinforce, lambda x: grpo(x, scaled=False)):
    np.testing.assert_allclose(function(scaled), factor * function(returns), rtol=1e-13, atol=1e-15)
  # Whitening forgets the factor, and so does GRPO's division but for its 1e-4.
  np.testing.assert_allclose(whiten(other, MASK), whiten(one, MASK), rtol=1e-6)
  np.testing.assert_allclose(grpo(scaled), grpo(returns), rtol=2e-3)


def test_whitening_has_a_biased_variance_over_real_tokens():
  values = np.where(MASK, np.random.default_rng(4).normal(3, 2, (6, TOKENS)), np.nan)
  real = [values[a, t] for a, end in enumerate(LENGTH) for t in range(end)]
  mean = sum(real) / len(real)
  variance = sum((x - mean) ** 2 for x in real) / len(real)
  found = whiten(values, MASK)
  np.testing.assert_allclose(found[MASK], (np.array(real) - mean) / (variance + 1e-8) ** 0.5, rtol=1e-12)
  np.testing.assert_array_equal(found[~MASK], 0.0)
  # With its mean kept it is shifted, and only where a token stands.
  np.testing.assert_allclose(whiten(values, MASK, shift_mean=False), np.where(MASK, found + mean, 0.0), rtol=1e-12)


def test_whitening_of_equal_or_no_numbers_is_0():
  np.testing.assert_array_equal(whiten(np.full((2, 2), 0.5), np.ones((2, 2), bool)), np.zeros((2, 2)))
  np.testing.assert_array_equal(whiten(np.full((2, 2), 0.5), np.zeros((2, 2), bool)), np.zeros((2, 2)))
  # 1e-8 is added to the variance: a spread of 1e-4 is halved in square.
  np.testing.assert_allclose(
    whiten(np.array([[1e-4, -1e-4]]), np.ones((1, 2), bool)), [[2**-0.5, -(2**-0.5)]], rtol=1e-12
  )
