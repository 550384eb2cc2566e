"""Ratings, ranks and goodness of fit against their definitions."""

import numpy as np
import pytest
from scipy import stats

from dpojax.bradley_terry import Comparisons, contrast, fit, goodness_of_fit, leaderboard, profile_interval
from dpojax.errors import DataError


def season(seed=0, *, items=10, games=40, nu=0.4, sd=0.7):
  """`games` of every pair, half at either's home, outcomes of a Davidson model without home advantage."""
  rng = np.random.default_rng(seed)
  theta = np.sort(rng.normal(size=items) * sd)[::-1]
  a, b = np.triu_indices(items, 1)
  a, b = np.repeat(a, games), np.repeat(b, games)
  eta = theta[a] - theta[b]
  weights = np.stack([np.exp(eta / 2), np.full(a.size, nu), np.exp(-eta / 2)])
  outcome = (rng.random(a.size) > np.cumsum(weights / weights.sum(axis=0), axis=0)[:2]).sum(axis=0)
  won = outcome != 2
  names = np.array([f"team {chr(97 + i)}" for i in range(items)])
  winner, loser = names[np.where(won, a, b)], names[np.where(won, b, a)]
  return Comparisons.from_pairs(winner, loser, tie=outcome == 1), theta


def test_400_points_are_odds_of_ten_to_one_and_the_baseline_has_the_offset():
  data, _ = season(nu=0.0)
  found = fit(data, baseline="team c")
  board = leaderboard(found)
  assert board.row("team c")["rating"] == 1000
  for one, other in (("team a", "team f"), ("team j", "team b")):
    points = board.row(one)["rating"] - board.row(other)["rating"]
    p = found.probability(one, other)
    assert 10 ** (points / 400) == pytest.approx(p / (1 - p), rel=1e-9)
  elo = leaderboard(found, scale=1, base=np.e, offset=0)
  assert [row["rating"] for row in elo] == pytest.approx(sorted(found.log_strength, reverse=True))
  wide, narrow = leaderboard(found, 0.99).row("team a"), leaderboard(found, 0.5).row("team a")
  assert (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"]) == pytest.approx(2.5758 / 0.67449, rel=1e-4)


def test_ranks_are_those_that_contrasts_leave_open():
  data, _ = season()
  found = fit(data, ties="davidson")
  board = leaderboard(found, 0.9)
  assert [row["rank"] for row in board] == list(range(1, 11))
  for row in board:
    contrasts = [contrast(found, row["item"], other, level=0.9) for other in found.items if other != row["item"]]
    better = sum(c.high < 0 for c in contrasts)
    worse = sum(c.low > 0 for c in contrasts)
    assert (row["rank_low"], row["rank_high"]) == (1 + better, 10 - worse)
    assert row["rank_low"] <= row["rank"] <= row["rank_high"]


def test_counts_are_those_of_the_games():
  data = Comparisons.from_pairs(["a", "b", "a", "c", "b"], ["b", "a", "c", "a", "c"], tie=[0, 0, 1, 0, 0])
  found = fit(data, ties="half", on_disconnected="prior")
  rows = {row["item"]: row for row in leaderboard(found)}
  assert [rows["a"][key] for key in ("games", "wins", "losses", "ties")] == [4, 1, 2, 1]
  assert [rows["c"][key] for key in ("games", "wins", "losses", "ties")] == [3, 1, 1, 1]


def test_few_games_get_the_interval_of_their_likelihood():
  data = Comparisons.from_pairs(
    ["a"] * 40 + ["b"] * 30 + ["c"] * 3 + ["a"] * 5, ["b"] * 40 + ["a"] * 30 + ["a"] * 3 + ["c"] * 5
  )
  found = fit(data, baseline="a")
  board = leaderboard(found)
  row = board.row("c")
  low, high = (1000 + 400 / np.log(10) * end for end in profile_interval(found, "c"))
  assert row["interval"] == "profile" and (row["low"], row["high"]) == pytest.approx((low, high))
  assert board.row("b")["interval"] == "wald"
  assert "*" in str(board) and "profile likelihood" in str(board)
  assert board.row("a")["low"] == board.row("a")["high"] == 1000


def test_items_that_were_not_fitted_come_last_and_say_so():
  data = Comparisons.from_pairs(["a", "b", "a", "a"], ["b", "a", "b", "z"])
  board = leaderboard(fit(data, on_disconnected="largest"))
  assert board.rows[-1]["item"] == "z" and board.rows[-1]["rank"] is None and np.isnan(board.rows[-1]["rating"])
  assert str(board).splitlines()[-2].split()[:2] == ["-", "z"]
  assert board.rows[0]["rank_high"] <= 2


def test_the_deviance_is_twice_the_lead_of_free_probabilities():
  data, _ = season(items=4, games=30)
  found = fit(data, ties="davidson")
  deviance = pearson = 0.0
  for i in range(4):
    for j in range(i + 1, 4):
      games = ((data.first == i) & (data.second == j)) | ((data.first == j) & (data.second == i))
      tied = games & (data.outcome == 1)
      won = games & ~tied & (data.first == i)
      seen = np.array([won.sum(), tied.sum(), games.sum() - won.sum() - tied.sum()])
      expected = games.sum() * np.array(found.outcome_probabilities(found.items[i], found.items[j]))
      deviance += 2 * (seen[seen > 0] * np.log(seen[seen > 0] / expected[seen > 0])).sum()
      pearson += ((seen - expected) ** 2 / expected).sum()
  checked = goodness_of_fit(found)
  assert (checked.deviance, checked.pearson) == pytest.approx((deviance, pearson), rel=1e-9)
  assert checked.degrees_of_freedom == 6 * 2 - 3 - 1
  assert checked.p_value == pytest.approx(stats.chi2.sf(deviance, 8))


def test_p_values_are_uniform_where_the_model_holds_and_small_where_it_does_not():
  found = [goodness_of_fit(fit(season(seed, items=5, games=60)[0], ties="davidson")) for seed in range(200)]
  assert stats.kstest([one.p_value for one in found], "uniform").pvalue > 0.01
  rock, scissors = ["rock", "scissors", "paper"], ["scissors", "paper", "rock"]
  winners = np.repeat(rock, 80).tolist() + np.repeat(scissors, 20).tolist()
  losers = np.repeat(scissors, 80).tolist() + np.repeat(rock, 20).tolist()
  assert goodness_of_fit(fit(Comparisons.from_pairs(winners, losers))).p_value < 1e-6


def test_goodness_of_fit_is_refused_where_it_has_no_distribution():
  data, _ = season(items=4, games=20)
  with pytest.raises(DataError, match="ties counted as halves"):
    goodness_of_fit(fit(data, ties="half"))
  covered = Comparisons.from_pairs([0, 1, 0, 1], [1, 0, 1, 0], covariates=[0.1, 0.2, -0.3, 0.4])
  with pytest.raises(DataError, match="covariates tell comparisons of a pair apart"):
    goodness_of_fit(fit(covered))
