"""Theorems that reward losses obey."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from loss_draws import (
  PairRewards,
  RankedRewards,
  draw,
  gradients_of,
  loss_of,
)

pytestmark = pytest.mark.usefixtures("float64")


LN2 = math.log(2)


@pytest.mark.parametrize("name", ["rao_kupper", "davidson"])
def test_win_tie_and_loss_have_probabilities_that_sum_to_one(name):
  rewards = np.random.default_rng(6).normal(0, 2, (2, 5))
  for strength in (0.2, 1.0, 3.0):
    outcomes = [
      loss_of(name, (PairRewards(*rewards, label=np.full(5, label)),), tie_strength=strength)
      for label in (1.0, 0.5, 0.0)
    ]
    np.testing.assert_allclose(np.exp(-np.asarray(outcomes)).sum(0), 1.0, rtol=1e-12)
    swapped_outcome = loss_of(name, (PairRewards(*rewards[::-1], label=np.ones(5)),), tie_strength=strength)
    np.testing.assert_allclose(swapped_outcome, outcomes[2], rtol=1e-12)


@pytest.mark.parametrize("name", ["rao_kupper", "davidson"])
def test_ties_that_cannot_be_leave_bradley_terry(name):
  (rewards,) = draw("bradley_terry")
  rewards = dataclasses.replace(rewards, label=np.array([1.0, 0.0, 1.0, 0.0, 1.0]))
  for centring in (0.0, 0.1):
    want = loss_of("bradley_terry", (rewards,), centring=centring)
    np.testing.assert_allclose(loss_of(name, (rewards,), tie_strength=0.0, centring=centring), want, rtol=1e-12)
  assert np.isfinite(gradients_of(name, (rewards,), tie_strength=0.0)["chosen"]).all()


def test_a_lost_pair_is_a_won_one_the_other_way_round_and_a_tie_half_of_each():
  (rewards,) = draw("bradley_terry")
  by_label = [dataclasses.replace(rewards, label=np.full(5, label)) for label in (1.0, 0.0)]
  other_way = dataclasses.replace(by_label[0], chosen=rewards.rejected, rejected=rewards.chosen)
  for name in ("bradley_terry", "rao_kupper", "davidson"):
    np.testing.assert_allclose(loss_of(name, (by_label[1],)), loss_of(name, (other_way,)), rtol=1e-12)
  plain = [dataclasses.replace(x, margin=None) for x in by_label]
  tie = dataclasses.replace(rewards, label=np.full(5, 0.5))
  half = sum(np.asarray(loss_of("bradley_terry", (x,))) for x in plain) / 2
  np.testing.assert_allclose(loss_of("bradley_terry", (tie,)), half, rtol=1e-12)


def test_centring_pulls_the_pair_to_mean_0_and_nothing_else():
  rewards = PairRewards(jnp.array([5.0]), jnp.array([4.0]))
  slope = gradients_of("bradley_terry", (rewards,), centring=0.5)
  plain = gradients_of("bradley_terry", (rewards,))
  for side in ("chosen", "rejected"):
    np.testing.assert_allclose(slope[side] - plain[side], 2 * 0.5 * 9.0, rtol=1e-12)


@pytest.mark.slow
def test_a_prompt_weighs_as_one_however_many_answers_it_has():
  # Equal rewards: log 2 for every prompt, and a gradient that does not grow with the number of pairs.
  present = np.arange(4) < np.array([2, 3, 4])[:, None]
  rewards = RankedRewards(jnp.zeros((3, 4)), present)
  np.testing.assert_allclose(loss_of("all_pairs", (rewards,)), LN2, rtol=1e-12)
  top = gradients_of("all_pairs", (rewards,))["reward"][:, 0]
  np.testing.assert_allclose(3 * top, -0.5 * np.array([1.0, 2 / 3, 1 / 2]), rtol=1e-12)


@pytest.mark.slow
def test_answers_that_are_not_there_may_hold_anything():
  (rewards,) = draw("plackett_luce")
  other = dataclasses.replace(rewards, reward=np.where(rewards.present, rewards.reward, 1e30))
  for name in ("plackett_luce", "all_pairs"):
    np.testing.assert_array_equal(loss_of(name, (other,)), loss_of(name, (rewards,)))
    slope = gradients_of(name, (other,))["reward"]
    assert np.isfinite(slope).all() and not np.any(slope[~rewards.present])
