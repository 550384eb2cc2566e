"""Resampled refits against refits one by one, and their spread against standard errors."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from dpojax.bradley_terry import (
  Comparisons,
  NoEstimate,
  Pseudo,
  bootstrap,
  connectivity,
  fit,
  parameter_table,
  standard_errors,
)
from dpojax.bradley_terry import resampling as module
from dpojax.bradley_terry.layout import Grid, grid_cells, row_cells
from dpojax.errors import DataError


def games(seed=0, *, items=8, number=900, ties=0.0, raters=30):
  rng = np.random.default_rng(seed)
  theta = rng.normal(size=items) * 0.8
  a = rng.integers(0, items, number)
  b = (a + rng.integers(1, items, number)) % items
  first = rng.random(number) < 1 / (1 + np.exp(theta[b] - theta[a]))
  return Comparisons.from_pairs(
    np.where(first, a, b),
    np.where(first, b, a),
    tie=rng.random(number) < ties,
    cluster=rng.integers(0, raters, number),
    home=np.where(first, 1, -1),
  )


def rows_drawn(found, seed, r):
  """The comparisons that resample r of a fit is made of; they are drawn from all in the order of their cells."""
  if isinstance(found.layout, Grid):
    cells = grid_cells(found.part, found.spec, found.home_fitted)
  else:
    cells, _ = row_cells(found.part, found.spec, found.home_fitted, codes=True)
  rng = np.random.default_rng([seed, r])
  return np.argsort(cells.code, kind="stable")[module.draw_places(rng, len(found.part))]


def by_hand(data, rows, **options):
  return fit(data.take(rows), **options).log_strength


@pytest.mark.parametrize("grid", [True, False])
@pytest.mark.parametrize("options", [{}, dict(ties="davidson"), dict(ties="rao_kupper", home=True), dict(ties="half")])
def test_each_resample_is_fitted_as_if_alone(options, grid, monkeypatch):
  """The first draws are repeated outside, and fitted from the comparisons that were drawn."""
  data = games(ties=0.2 if options else 0.0)
  monkeypatch.setattr("dpojax.bradley_terry.layout.GRID_ITEMS", 2048 if grid else 0)
  found = fit(data, **options)
  assert type(found.layout).__name__ == ("Grid" if grid else "Rows")
  resampled = bootstrap(found, 5, seed=3)
  assert resampled.failed == 0
  for r in range(5):
    rows = rows_drawn(found, 3, r)
    np.testing.assert_allclose(resampled.log_strength[r], by_hand(data, rows, **options), atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 7, 64, 100, 70_000, 200_001])
def test_places_are_drawn_with_equal_probability(number):
  """Counts against their multinomial distribution: mean and variance of every place, and the whole by chi-squared."""
  repeats = max(3, 60_000 // number)
  rngs = [np.random.default_rng([7, r]) for r in range(repeats)]
  drawn = [module.draw_places(rng, number) for rng in rngs]
  assert all(len(places) == number and places.min() >= 0 and places.max() < number for places in drawn)
  counts = np.stack([np.bincount(places, minlength=number) for places in drawn])
  if number == 1:
    return
  chance = 1 / number
  statistic = ((counts.sum(axis=0) - repeats) ** 2 / repeats).sum()
  assert stats.chi2.ppf(1e-4, number - 1) < statistic < stats.chi2.isf(1e-4, number - 1)
  variance = number * chance * (1 - chance)
  assert counts.var(axis=0).mean() * repeats / (repeats - 1) == pytest.approx(variance, rel=0.1)


def test_clusters_are_drawn_whole():
  data = games()
  resampled = bootstrap(fit(data), 4, seed=1, unit="cluster")
  for r in range(4):
    drawn = np.random.default_rng([1, r]).integers(0, 30, 30)
    rows = np.concatenate([np.flatnonzero(data.cluster == c) for c in drawn])
    np.testing.assert_allclose(resampled.log_strength[r], by_hand(data, rows), atol=1e-7)


def test_counts_are_drawn_like_the_comparisons_they_stand_for(monkeypatch):
  data = games()
  counts = np.zeros((8, 8))
  np.add.at(counts, (data.first, data.second), 1)
  listed = bootstrap(fit(Comparisons.from_matrix(counts)), 400, seed=0)
  monkeypatch.setattr(module, "LISTED", 100)
  drawn = bootstrap(fit(Comparisons.from_matrix(counts)), 400, seed=0)
  one_by_one = bootstrap(fit(data), 400, seed=0)
  assert not np.array_equal(listed.log_strength, drawn.log_strength)
  for other in (listed, drawn):  # 400 draws: relative error of a standard deviation 3.5 %
    np.testing.assert_allclose(other.standard_errors(), one_by_one.standard_errors(), rtol=0.2)
  assert drawn.log_strength.mean(axis=0) == pytest.approx(one_by_one.log_strength.mean(axis=0), abs=0.03)


def test_the_spread_is_that_of_the_sandwich_and_of_clusters():
  data = dataclasses.replace(games(number=4000))
  found = fit(data, home=True)
  resampled = bootstrap(found, 600, seed=0)
  np.testing.assert_allclose(resampled.standard_errors(), standard_errors(found, "sandwich"), rtol=0.15)
  spread = resampled.parameters.std(axis=0)
  np.testing.assert_allclose(spread, parameter_table(found, "sandwich")[0]["standard_error"], rtol=0.15)
  low, high = resampled.interval(0.95)
  np.testing.assert_allclose(high - low, 2 * 1.96 * standard_errors(found, "sandwich"), rtol=0.2)
  raters = bootstrap(found, 600, seed=0, unit="cluster")
  np.testing.assert_allclose(raters.standard_errors(), standard_errors(found, "cluster"), rtol=0.25)


@pytest.mark.slow
def test_resamples_without_an_estimate_are_counted():
  """Item 2 won one game in twelve: without it, in a share (11/12)^12 or so of resamples, there is no estimate."""
  winner = np.array([0, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 2])
  loser = np.array([1, 1, 2, 0, 0, 2, 2, 2, 1, 0, 2, 0])
  data = Comparisons.from_pairs(winner, loser)
  found = fit(data)
  resampled = bootstrap(found, 2000, seed=0)
  failed = sum(not connectivity(data.take(rows_drawn(found, 0, r))).connected for r in range(2000))
  assert resampled.failed == failed > 600
  assert np.isnan(resampled.log_strength).all(axis=1).sum() == failed
  assert bootstrap(fit(data, prior=Pseudo(1)), 200, seed=0).failed == 0


@pytest.mark.slow
def test_resamples_whose_home_advantage_runs_away_are_counted():
  """Three losses at home among eighteen games: without them the home advantage has no end."""
  winner = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 1, 2, 0, 0, 1, 2])
  loser = np.array([1, 2, 0, 2, 0, 1, 1, 2, 0, 2, 0, 1, 0, 1, 2, 1, 2, 0])
  data = Comparisons.from_pairs(winner, loser, home=np.where(np.arange(18) < 15, 1, -1))
  found = fit(data, home=True)
  resampled = bootstrap(found, 300, seed=0)
  failed = 0
  for r in range(300):
    drawn = data.take(rows_drawn(found, 0, r))
    try:
      alone = fit(drawn, home=True)
    except NoEstimate:
      failed += 1
      assert np.isnan(resampled.log_strength[r]).all()
    else:
      np.testing.assert_allclose(resampled.parameters[r], alone.home, atol=1e-6)
  assert resampled.failed == failed > 10


def test_the_seed_decides_and_the_baseline_holds():
  found = fit(games(), baseline=3)
  first, again, other = (bootstrap(found, 20, seed=seed) for seed in (5, 5, 6))
  np.testing.assert_array_equal(first.log_strength, again.log_strength)
  assert np.abs(first.log_strength - other.log_strength).max() > 0.01
  assert (first.log_strength[:, 3] == 0).all()


def test_ranks_hold_the_share_of_resamples_they_name():
  resampled = bootstrap(fit(games()), 300, seed=0)
  low, high = resampled.ranks(0.9)
  rank = 1 + (resampled.log_strength[:, None, :] > resampled.log_strength[:, :, None]).sum(axis=2)
  assert ((rank >= low) & (rank <= high)).mean(axis=0).min() >= 0.89
  assert (low >= 1).all() and (high <= 8).all() and (low <= high).all()


def test_an_unknown_unit_is_refused():
  found = fit(Comparisons.from_pairs([0, 1], [1, 0]))
  with pytest.raises(DataError, match="unit='rater' is unknown"):
    bootstrap(found, 1, unit="rater")
  with pytest.raises(DataError, match="have no clusters"):
    bootstrap(found, 1, unit="cluster")
