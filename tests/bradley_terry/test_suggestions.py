"""Pairs to compare next: the gain against determinants of Hessians by automatic differentiation, the order by brute force."""

import itertools
import pathlib
import runpy

import bt_oracles as oracles
import numpy as np
import pytest
from bt_games import comparisons_of, league

from dpojax.bradley_terry import Comparisons, Normal, contrast, fit, suggest
from dpojax.errors import DataError

CASES = {
  "none": dict(model="none"),
  "half": dict(model="half", ties=0.2),
  "covariate and home": dict(model="none", home=0.3, neutral=0.4, coefficients=(0.4,)),
  "davidson": dict(model="davidson"),
  "rao_kupper": dict(model="rao_kupper"),
  "prior": dict(model="none", prior=Normal(1.0)),
}


def log_determinant(hessian, items, proper):
  """Without a prior the common shift of strengths is flat: of the directions across it."""
  if proper:
    return np.linalg.slogdet(hessian)[1]
  across = np.linalg.svd(np.concatenate([np.ones(items), np.zeros(len(hessian) - items)])[None])[2][1:]
  return np.linalg.slogdet(across @ hessian @ across.T)[1]


def expected_hessian(found, games, items, options, pairs):
  """Of the games and of one more of each of `pairs`, on average over its outcomes, at the estimate."""
  rows = {name: list(column) for name, column in games.items()}
  for i, j in [*pairs, *[(0, 1)] * (4 - len(pairs))]:  # of one shape, so that JAX compiles one program
    win, tied, loss = found.outcome_probabilities(i, j)
    for outcome, chance in ((oracles.FIRST, win), (oracles.TIE, tied), (oracles.SECOND, loss)):
      for name, value in dict(
        a=i, b=j, outcome=outcome, home=0, weight=chance * (len(rows["a"]) < 90 + 3 * len(pairs))
      ).items():
        rows[name].append(value)
      rows["x"].append(np.zeros(games["x"].shape[1]))
  columns = {name: np.asarray(column) for name, column in rows.items()}
  return oracles.derivatives(found.vector, columns, items, **options)[2]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_each_pair_adds_its_gain_to_the_log_determinant(case):
  """And no pair that is left would have added more."""
  settings = dict(CASES[case])
  prior, model = settings.pop("prior", None), settings.pop("model")
  home = "home" in settings
  items = 5
  games, _ = league(3, items, 90, model=model if model in ("davidson", "rao_kupper") else "none", **settings)
  found = fit(
    comparisons_of(games, items=items, home=home),
    ties="error" if model == "none" else model,
    home=home,
    prior=prior,
  )
  options = dict(model=model, home=home, prior=("none", 0.0) if prior is None else ("normal", prior.sd))
  measure = lambda pairs: log_determinant(  # noqa: E731
    expected_hessian(found, games, items, options, pairs), items, prior is not None
  )
  chosen, everybody = [], set(itertools.combinations(range(items), 2))
  before = measure([])
  for one in suggest(found, 4):
    left = everybody - {tuple(sorted(pair)) for pair in chosen}
    best = max(measure([*chosen, pair]) for pair in left)
    chosen.append((one.first, one.second))
    after = measure(chosen)
    assert after == pytest.approx(best, abs=1e-9)
    assert one.gain == pytest.approx((after - before) / 2, abs=1e-9) and one.gain > 0
    before = after
  assert len({frozenset(pair) for pair in chosen}) == 4


def test_without_ties_the_gain_is_the_formula():
  games, _ = league(1, 8, 200)
  found = fit(comparisons_of(games, items=8, home=False))
  for one in suggest(found, 1):
    p = found.probability(one.first, one.second)
    spread = contrast(found, one.first, one.second).standard_error
    assert one.probability == pytest.approx(p) and p >= 0.5
    assert one.standard_error == pytest.approx(spread)
    assert one.gain == pytest.approx(np.log(1 + p * (1 - p) * spread**2) / 2)
    met = ((games["a"] == one.first) & (games["b"] == one.second)) | (
      (games["a"] == one.second) & (games["b"] == one.first)
    )
    assert one.games == met.sum()


def test_there_are_no_more_than_there_are_pairs_each_once_and_less_and_less_telling():
  games, _ = league(1, 6, 100)
  found = suggest(fit(comparisons_of(games, items=6, home=False)), 99)
  assert {frozenset((one.first, one.second)) for one in found} == {
    frozenset(pair) for pair in itertools.combinations(range(6), 2)
  }
  gains = [one.gain for one in found]
  assert gains == sorted(gains, reverse=True)


def test_items_without_an_estimate_are_not_suggested():
  data = Comparisons.from_pairs(["a", "b", "a", "a"], ["b", "a", "b", "z"])
  assert [(x.first, x.second) for x in suggest(fit(data, on_disconnected="largest"))] == [("a", "b")]


def test_suggested_pairs_narrow_the_widest_interval_faster_than_random_ones():
  """Twelve items that met unevenly in 500 games, five rounds of twenty comparisons, over six seeds."""
  path = pathlib.Path(__file__).parents[2] / "benchmarks" / "bradley_terry_suggestions.py"
  simulate = runpy.run_path(str(path))["simulate"]
  ways = {way: np.array([simulate(seed, way, 12, 500, 5, 20) for seed in range(6)]) for way in ("suggested", "random")}
  np.testing.assert_array_equal(ways["suggested"][:, 0], ways["random"][:, 0])  # the same games to begin with
  widest = {way: found[:, -1, 0].mean() for way, found in ways.items()}
  assert widest["suggested"] < 0.96 * widest["random"]
  assert (ways["suggested"][:, -1, 0] < ways["random"][:, -1, 0]).sum() >= 4


def test_numbers_that_cannot_be_are_named():
  found = fit([("a", "b"), ("b", "a")])
  with pytest.raises(DataError, match="0 suggestions; give 1 or more"):
    suggest(found, 0)
