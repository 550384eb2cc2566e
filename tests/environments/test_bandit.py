"""The bandit's closed forms against enumeration, identities and counts."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dpojax.environments.bandit import Bandit, group_probability, groups, log_softmax, total_variation
from dpojax.errors import ShapeError

BANDIT = Bandit([1.0, -0.5, 0.7, 1.0], np.log([0.2, 0.4, 0.3, 0.1]))  # the best two tie
numbers = st.floats(-3, 3)
arms = st.integers(2, 5).flatmap(lambda n: st.tuples(*[st.lists(numbers, min_size=n, max_size=n)] * 3))


@hypothesis.given(arms, st.floats(0.1, 10))
def test_every_policy_falls_short_of_the_optimum_by_its_divergence_from_it(drawn, beta):
  rewards, start, logits = (np.asarray(x) for x in drawn)
  bandit = Bandit(rewards, start)
  prior = np.exp(start) / np.sum(np.exp(start))
  value = beta * np.log(np.sum(prior * np.exp(rewards / beta)))
  optimum = bandit.optimum(beta)
  assert bandit.objective(optimum, beta) == pytest.approx(value, abs=1e-11 * (1 + beta))
  gap = beta * bandit.kl(logits, optimum)
  assert bandit.objective(logits, beta) == pytest.approx(value - gap, abs=1e-11 * (1 + beta))


def test_the_optimum_by_hand():
  bandit = Bandit([0.7, 0.0], [0.0, 0.0])
  odds = np.exp(0.7 / 0.5)
  np.testing.assert_allclose(np.exp(bandit.optimum(0.5)), [odds / (1 + odds), 1 / (1 + odds)], rtol=1e-14)


def test_logits_are_read_up_to_a_constant_and_integers_as_numbers():
  bandit = Bandit([1, 0, 2], [3, 1, 2])
  assert bandit.rewards.dtype == bandit.start.dtype == np.float64
  np.testing.assert_allclose(np.sum(np.exp(bandit.start)), 1.0, rtol=1e-14)
  logits = np.array([0.3, 900.0, -2.0])
  assert bandit.kl(logits) == pytest.approx(bandit.kl(logits - 900.0), abs=1e-12)
  assert total_variation(logits, logits + 5.0) <= 1e-12
  assert total_variation([0.0, -np.inf], [-np.inf, 0.0]) == 1.0


def test_preferences_are_those_of_bradley_and_terry():
  difference = BANDIT.rewards[:, None] - BANDIT.rewards
  np.testing.assert_allclose(BANDIT.preference, 1 / (1 + np.exp(-difference)), rtol=1e-14)
  np.testing.assert_allclose(BANDIT.preference + BANDIT.preference.T, 1.0, rtol=1e-14)
  assert np.array_equal(Bandit([2000.0, 0.0], [0.0, 0.0]).preference, [[0.5, 1.0], [0.0, 0.5]])


def test_comparisons_are_two_draws_and_a_verdict():
  prior = np.exp(BANDIT.start)
  expected = np.zeros((4, 4))
  for first, second in itertools.product(range(4), repeat=2):
    both, wins = prior[first] * prior[second], 1 / (1 + np.exp(BANDIT.rewards[second] - BANDIT.rewards[first]))
    expected[first, second] += both * wins
    expected[second, first] += both * (1 - wins)
  np.testing.assert_allclose(BANDIT.comparisons(BANDIT.start), expected, rtol=1e-13)
  assert np.sum(expected) == pytest.approx(1.0, abs=1e-14)


def test_drawn_comparisons_have_the_exact_frequencies():
  n, logits = 200_000, np.array([0.5, 0.0, -1.0, 1.0])
  counts = BANDIT.draw_comparisons(n, logits, np.random.default_rng(0))
  exact = BANDIT.comparisons(logits)
  assert np.sum(counts) == n
  # Twelve numbers within 4.5 binomial standard deviations: fails by chance once in 10,000 seeds.
  assert np.all(np.abs(counts - n * exact) <= 4.5 * np.sqrt(n * exact * (1 - exact)))


def enumerated_best(bandit, logits, n):
  """Draws all groups, and one of the group's best draws at random."""
  probability = np.exp(logits) / np.sum(np.exp(logits))
  best = np.zeros(bandit.arms)
  for group in itertools.product(range(bandit.arms), repeat=n):
    top = max(bandit.rewards[arm] for arm in group)
    winners = [arm for arm in group if bandit.rewards[arm] == top]
    for arm in winners:
      best[arm] += np.prod(probability[list(group)]) / len(winners)
  return best, float(np.sum(best * np.log(best / probability)))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("logits", [None, np.array([0.0, 1.0, -1.0, 0.5])])
def test_best_of_n_by_enumeration(n, logits):
  found, kl = BANDIT.best_of_n(n, logits)
  expected, expected_kl = enumerated_best(BANDIT, BANDIT.start if logits is None else logits, n)
  np.testing.assert_allclose(np.exp(found), expected, rtol=1e-12)
  assert kl == pytest.approx(expected_kl, abs=1e-13)


@pytest.mark.parametrize("n", [1, 2, 16, 4096])
def test_kl_of_best_of_n_stays_below_its_bound_and_reaches_it_among_many_arms(n):
  bound = np.log(n) - (n - 1) / n
  assert BANDIT.best_of_n(n)[1] <= bound + 1e-13
  if n <= 16:
    many = Bandit(np.arange(2000.0), np.zeros(2000))
    assert many.best_of_n(n)[1] == pytest.approx(bound, abs=n * 2e-4)


def test_best_of_many_keeps_the_rarest_arm_exact():
  rare = Bandit([1.0, 0.0], np.log([1e-18, 1.0]))  # F(r) - F(r-) rounds to 0
  found, _ = rare.best_of_n(8)
  assert np.exp(found[0]) == pytest.approx(8e-18, rel=1e-12, abs=0.0)


def test_groups_are_all_groups_once():
  members = groups(3, 4)
  assert len({tuple(group) for group in members.tolist()}) == len(members) == 81
  logits = np.array([0.2, -1.0, 0.4])
  p = np.exp(log_softmax(logits))
  found = group_probability(logits, members)
  assert found[5] == pytest.approx(np.prod([p[arm] for arm in members[5]]), rel=1e-13)
  assert np.sum(found) == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize(
  "rewards, start, words",
  [
    ([1.0, 2.0], [0.0], r"rewards \[2\], start \[1\]"),
    ([1.0], [0.0], "two arms at least"),
    ([1.0, np.nan], [0.0, 0.0], r"rewards\[1\] is not finite"),
    ([1.0, 0.0], [-np.inf, 0.0], r"start\[0\] is not finite"),
  ],
)
def test_what_is_no_bandit_is_refused(rewards, start, words):
  with pytest.raises((ShapeError, ValueError), match=words):
    Bandit(rewards, start)


def test_the_best_of_nothing_is_refused():
  with pytest.raises(ValueError, match="n is 0"):
    BANDIT.best_of_n(0)
