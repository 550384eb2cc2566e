"""Best-of-N against every possible draw of small distributions, and against draws."""

import itertools
import math

import numpy as np
import pytest

from dpojax.errors import ConfigError
from dpojax.evaluation.best_of_n import (
  ANSWERS_FOR_EACH,
  best_of,
  best_of_kl,
  best_of_points,
  best_of_weights,
  kl_bound,
  read_counts,
  standard_error,
)

POLICY = np.asarray([0.3, 0.05, 0.2, 0.25, 0.2])
REWARDS = np.asarray([0.7, -1.0, 0.7, 2.0, 0.1])  # the first and the third tie


def every_draw(policy, rewards, n):
  """Probabilities of best-of-n by all ways of drawing n answers with repetition, a tie shared by the draws."""
  found = np.zeros(len(policy))
  for draw in itertools.product(range(len(policy)), repeat=n):
    best = [i for i in draw if rewards[i] == max(rewards[j] for j in draw)]
    for i in best:
      found[i] += math.prod(policy[j] for j in draw) / len(best)
  return found


def every_choice(rewards, n):
  """Weights of best-of-n by all ways of choosing n different answers."""
  found = np.zeros(len(rewards))
  choices = list(itertools.combinations(range(len(rewards)), n))
  for choice in choices:
    best = [i for i in choice if rewards[i] == max(rewards[j] for j in choice)]
    found[best] += 1 / len(best) / len(choices)
  return found


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_policy_is_that_of_every_draw(n):
  np.testing.assert_allclose(best_of(POLICY, REWARDS, n), every_draw(POLICY, REWARDS, n), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_kl_is_that_of_every_draw(n):
  rewards = np.asarray([[0.0, 1.0, 1.0, -2.0, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
  uniform = np.full(5, 0.2)
  for row, kl in zip(rewards, best_of_kl(rewards, n), strict=True):
    found = every_draw(uniform, row, n)
    assert kl == pytest.approx(np.sum(found * np.log(found / uniform)), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_weights_are_those_of_every_choice(n):
  rewards = np.asarray([[0.0, 1.0, 1.0, -2.0, 3.0, 3.0], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [0.0] * 6])
  np.testing.assert_allclose(
    best_of_weights(rewards, n), [every_choice(row, n) for row in rewards], rtol=1e-10, atol=1e-15
  )  # by log-gamma


def test_means_have_no_bias():
  # All 2^6 samples of 6 answers from two kinds, with their probabilities: the mean estimate is the exact mean.
  p, values, n = 0.3, np.asarray([1.0, 2.5]), 3
  total = 0.0
  for sample in itertools.product((0, 1), repeat=6):
    chance = math.prod((1 - p, p)[kind] for kind in sample)
    rewards = np.asarray([sample], float)
    total += chance * float(np.sum(best_of_weights(rewards, n) * values[list(sample)]))
  exact = np.sum(every_draw([1 - p, p], [0.0, 1.0], n) * values)
  assert total == pytest.approx(exact, rel=1e-12)


def test_it_is_what_is_drawn():
  generator = np.random.default_rng(0)
  n, draws = 4, 200_000
  written = generator.choice(5, size=(draws, n), p=POLICY)
  best = written[np.arange(draws), np.argmax(REWARDS[written], axis=1)]  # the first of ties, which is a random one
  shares = np.bincount(best, minlength=5) / draws
  exact = best_of(POLICY, REWARDS, n)
  assert np.all(np.abs(shares - exact) < 4.5 * np.sqrt(exact * (1 - exact) / draws))


def test_one_of_one_is_the_policy():
  rewards = np.random.default_rng(1).normal(size=(3, 40))
  np.testing.assert_allclose(best_of_kl(rewards, 1), 0, atol=1e-12)
  np.testing.assert_allclose(best_of_weights(rewards, 1), 1 / 40, rtol=1e-10)
  assert kl_bound(1) == 0
  (point,) = best_of_points(rewards, {"reward": rewards}, [1])
  assert point["reward"] == pytest.approx(rewards.mean(), rel=1e-10)
  assert point["reward_error"] == pytest.approx(rewards.mean(axis=1).std(ddof=1) / math.sqrt(3), rel=1e-9)


@pytest.mark.parametrize("n", [2, 8, 32])
def test_without_ties_kl_rises_to_the_bound(n):
  found = [best_of_kl(np.arange(m, dtype=float)[None], n)[0] for m in (n, 4 * n, 64 * n, 4096 * n)]
  assert found == sorted(found) and found[-1] < kl_bound(n)
  assert kl_bound(n) - found[-1] < 1e-6
  assert kl_bound(n) - found[1] < 0.006  # what the least number of answers misses


def test_ties_cost_less():
  ties = np.repeat(np.arange(4.0), 50)[None]
  assert best_of_kl(ties, 8)[0] < 0.9 * kl_bound(8)
  assert best_of_kl(np.zeros((1, 64)), 8)[0] == pytest.approx(0, abs=1e-12)  # nothing to choose by
  np.testing.assert_allclose(best_of_weights(np.zeros((1, 64)), 8), 1 / 64, rtol=1e-10)


def test_only_the_order_counts():
  rewards = np.round(np.random.default_rng(2).normal(size=(4, 60)), 1)
  for other in (np.exp(rewards), 3 * rewards - 100, rewards**3):
    np.testing.assert_array_equal(best_of_kl(rewards, 8), best_of_kl(other, 8))
    np.testing.assert_array_equal(best_of_weights(rewards, 8), best_of_weights(other, 8))


def test_large_n_is_finite():
  rewards = np.random.default_rng(3).normal(size=(2, 4096))
  kl, weights = best_of_kl(rewards, 1024), best_of_weights(rewards, 1024)
  assert np.all(np.abs(kl - kl_bound(1024)) < 0.005) and np.isfinite(weights).all()
  np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-9)


def test_points():
  rewards = np.asarray([[0.0, 1.0, 2.0, 3.0], [4.0, 4.0, 4.0, 4.0]])
  length = np.asarray([[10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]])
  one, two = best_of_points(rewards, {"reward/true": rewards, "length/policy": length}, [1, 2])
  assert [one["n"], two["n"]] == [1, 2]
  best = np.asarray([(1 + 2 + 3 + 2 + 3 + 3) / 6, 4])  # the higher of each pair
  assert two["reward/true"] == pytest.approx(best.mean())
  assert two["reward/true_error"] == pytest.approx(abs(best[0] - best[1]) / 2)
  assert two["length/policy"] == pytest.approx(((best[0] + 1) * 10 + 2.5) / 2)
  assert two["kl/bound"] == pytest.approx(math.log(2) - 0.5) and two["kl/sequence"] < two["kl/bound"]
  (alone,) = best_of_points(rewards[:1], {"reward/true": rewards[:1]}, [2])
  assert alone["reward/true_error"] == alone["kl/sequence_error"] == 0


def test_equal_prompts_count_once_in_the_standard_error():
  draws = np.random.default_rng(4)
  values = draws.normal(size=40)
  usual = np.std(values, ddof=1) / math.sqrt(40)
  assert standard_error(values) == pytest.approx(usual, rel=1e-12)
  assert standard_error(values, draws.permutation(40)) == pytest.approx(usual, rel=1e-12)
  # The same values once more say nothing new of prompts.
  assert standard_error(np.tile(values, 3), np.tile(np.arange(40), 3)) == pytest.approx(usual, rel=1e-12)
  rewards = np.sort(draws.normal(size=(10, 8)), axis=1)
  once, twice = (
    best_of_points(np.tile(rewards, (n, 1)), {"r": np.tile(rewards, (n, 1))}, [2], np.tile(np.arange(10), n))[0]
    for n in (1, 2)
  )
  assert twice["r"] == pytest.approx(once["r"]) and twice["r_error"] == pytest.approx(once["r_error"], rel=1e-12)
  assert standard_error(values, np.zeros(40, np.int64)) == 0


def test_counts():
  assert read_counts("8, 1,2,", 32) == (1, 2, 8)
  assert read_counts("1", 1) == (1,)
  assert ANSWERS_FOR_EACH == 4


@pytest.mark.parametrize(
  "text, samples, message",
  [
    ("1,2,16", 32, r"best_of_n.counts has 16, but rollout.samples is 32: .* set rollout.samples=64 or more"),
    ("1,2,2", 32, "best_of_n.counts wants different whole numbers"),
    ("0,2", 32, "best_of_n.counts wants"),
    ("2.5", 32, "best_of_n.counts wants"),
    ("", 32, "best_of_n.counts wants"),
  ],
)
def test_counts_that_are_refused(text, samples, message):
  with pytest.raises(ConfigError, match=message):
    read_counts(text, samples)
