"""Intervals hold what they promise: coverage over simulated seasons, with ties, newcomers, and seasons without an
estimate counted."""

import numpy as np
import pytest

from dpojax.bradley_terry import Comparisons, NoEstimate, fit, profile_interval, standard_errors

THETA = np.array([0.9, 0.5, 0.3, 0.0, -0.2, -0.4, -0.5, -0.6])
NU = 0.5
REGULAR, NEWCOMERS = np.arange(6), np.array([6, 7])


def season(rng):
  """Eight games of every two regulars (40 each), and nine of each newcomer against regulars drawn at random."""
  a, b = np.triu_indices(6, 1)
  a, b = np.repeat(a, 8), np.repeat(b, 8)
  a = np.concatenate([a, np.repeat(NEWCOMERS, 9)])
  b = np.concatenate([b, rng.integers(0, 6, 18)])
  eta = THETA[a] - THETA[b]
  weights = np.stack([np.exp(eta / 2), np.full(a.size, NU), np.exp(-eta / 2)])
  outcome = (rng.random(a.size) > np.cumsum(weights / weights.sum(axis=0), axis=0)[:2]).sum(axis=0)
  won = outcome != 2
  return Comparisons.from_pairs(np.where(won, a, b), np.where(won, b, a), tie=outcome == 1)


@pytest.mark.slow
def test_wald_intervals_of_twenty_games_and_more_cover():
  rng = np.random.default_rng(0)
  truth = THETA - THETA.mean()
  inside, without = [], 0
  for _ in range(1000):
    try:
      found = fit(season(rng), ties="davidson")
    except NoEstimate:
      without += 1
      continue
    inside.append(np.abs(found.log_strength - truth)[REGULAR] <= 1.959964 * standard_errors(found)[REGULAR])
  assert without + len(inside) == 1000 and without < 100
  assert 0.93 <= np.mean(inside) <= 0.97


@pytest.mark.long
def test_profile_intervals_of_newcomers_cover():
  rng = np.random.default_rng(1)
  inside, without = [], 0
  for _ in range(300):
    try:
      found = fit(season(rng), ties="davidson", baseline=0)
    except NoEstimate:
      without += 1
      continue
    for i in NEWCOMERS:
      low, high = profile_interval(found, i)
      inside.append(low <= THETA[i] - THETA[0] <= high)
  assert without + len(inside) // 2 == 300 and without < 40
  assert 0.92 <= np.mean(inside) <= 0.98  # 600 intervals: a standard error of 0.9 %
