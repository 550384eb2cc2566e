"""What a fit says: options, a second algorithm, and properties that hold of any data."""

import bt_oracles as oracles
import numpy as np
import pytest
from bt_games import comparisons_of, league
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dpojax.bradley_terry import Comparisons, NoEstimate, Normal, Pseudo, fit
from dpojax.errors import DataError


@pytest.mark.parametrize(("items", "games", "sd"), [(2, 20, 0.5), (5, 60, 1.0), (30, 900, 1.0), (60, 6000, 0.8)])
def test_minorise_maximise_comes_to_the_same(items, games, sd):
  columns, _ = league(4, items, games, sd=sd)
  wins = np.zeros((items, items))
  won = columns["outcome"] == oracles.FIRST
  np.add.at(wins, (np.where(won, columns["a"], columns["b"]), np.where(won, columns["b"], columns["a"])), 1)
  expected = oracles.minorise_maximise(wins)
  for data in (Comparisons.from_matrix(wins), comparisons_of(columns, items=items, home=False)):
    assert np.abs(fit(data).log_strength - expected).max() <= 1e-8


def test_two_items_by_hand():
  """30 wins to 10: log 3; with ties by Davidson's and Rao and Kupper's own probabilities."""
  found = fit(Comparisons.from_matrix([[0, 30], [10, 0]], items="ab"), baseline="b")
  np.testing.assert_allclose(found.log_strength, [np.log(3), 0], atol=1e-12)
  np.testing.assert_allclose(found.strength, [3, 1], rtol=1e-12)
  assert found.probability("a", "b") == pytest.approx(0.75, abs=1e-12)
  np.testing.assert_allclose(found.log_likelihood, 30 * np.log(0.75) + 10 * np.log(0.25), rtol=1e-13)
  data = Comparisons.from_matrix([[0, 30], [10, 0]], [[0, 20], [20, 0]])
  for ties in ("davidson", "rao_kupper"):  # two free probabilities, two parameters
    found = fit(data, ties=ties)
    np.testing.assert_allclose(found.outcome_probabilities(0, 1), [0.5, 1 / 3, 1 / 6], rtol=1e-9)
    np.testing.assert_allclose(found.probability(0, 1) + found.probability(1, 0), 2 / 3, rtol=1e-9)
  assert fit(data, ties="davidson").tie_parameter == pytest.approx(20 / np.sqrt(300), rel=1e-9)
  assert fit(data, ties="half").probability(0, 1) == pytest.approx(40 / 60, rel=1e-9)


@pytest.mark.parametrize("ties", ["half", "davidson", "rao_kupper"])
def test_the_log_likelihood_is_the_sum_over_comparisons(ties):
  games, _ = league(2, 6, 150, model="davidson", home=0.3, neutral=0.4, coefficients=(0.5,))
  games["weight"] = np.random.default_rng(0).uniform(0.1, 2, 150)
  found = fit(comparisons_of(games, items=6, home=True), ties=ties, home=True, prior=Normal(0.8))
  tie = np.log(found.tie_parameter) if found.tie_parameter else 0.0
  expected = oracles.log_likelihood_of_each(
    games, found.log_strength, model=ties, home=found.home, coefficients=found.coefficients.values(), tie=tie
  )
  np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-12)


def test_probabilities_with_home_advantage_covariates_and_ties():
  games, _ = league(2, 6, 300, model="davidson", home=0.3, neutral=0.4, coefficients=(0.5, -0.1))
  found = fit(comparisons_of(games, items=6, home=True), ties="davidson", home=True)
  eta = found.log_strength[1] - found.log_strength[4] - found.home + found.coefficients["covariate_0"] * 0.7
  lost, tied, won = oracles.probabilities("davidson", eta, np.log(found.tie_parameter))
  probabilities = found.outcome_probabilities(1, 4, at_home=-1, covariates=[0.7, 0])
  np.testing.assert_allclose(probabilities, [won, tied, lost], rtol=1e-12)
  mirrored = found.outcome_probabilities(4, 1, at_home=1, covariates=[-0.7, 0])
  np.testing.assert_allclose(mirrored, probabilities[::-1], rtol=1e-12)
  matrix = found.probability_matrix()
  np.testing.assert_allclose(matrix[2, 5], found.probability(2, 5), rtol=1e-14)
  assert np.isnan(np.diagonal(matrix)).all()


@pytest.mark.parametrize("prior", [Normal(0.5), Pseudo(2.0)])
def test_a_prior_pulls_towards_the_middle_and_vanishes(prior):
  games, _ = league(1, 8, 120)
  data = comparisons_of(games, items=8, home=False)
  free = fit(data)
  assert np.ptp(fit(data, prior=prior).log_strength) < 0.95 * np.ptp(free.log_strength)
  weak = type(prior)(1e6 if isinstance(prior, Normal) else 1e-9)
  np.testing.assert_allclose(fit(data, prior=weak).log_strength, free.log_strength, atol=1e-7)


def test_pseudo_games_are_games():
  """Pseudo(2) is one win and one loss of everybody against an item that stays at strength 1."""
  data = Comparisons.from_matrix([[0, 5, 1], [2, 0, 4], [1, 1, 0]])
  found = fit(data, prior=Pseudo(2.0))
  theta = found.vector
  plain = Comparisons.from_matrix([[0, 5, 1, 1], [2, 0, 4, 1], [1, 1, 0, 1], [1, 1, 1, 0]])
  gradient = np.zeros(4)
  at = np.append(theta, 0.0)
  for i, j, weight in zip(plain.first, plain.second, plain.row_weight, strict=True):
    missing = weight / (1 + np.exp(at[i] - at[j]))
    gradient[i] += missing
    gradient[j] -= missing
  assert np.abs(gradient[:3]).max() < 1e-8


# --- properties


@st.composite
def tournaments(draw):
  """Comparisons of 2 to 6 items, in which a circle of wins makes sure that strengths exist."""
  n = draw(st.integers(2, 6))
  game = st.tuples(st.integers(0, n - 1), st.integers(1, n - 1), st.sampled_from(["win", "loss", "tie"]))
  games = [(i, (i + step) % n, what) for i, step, what in draw(st.lists(game, max_size=25))]
  return n, [(i, (i + 1) % n, "win") for i in range(n)] + games


def read(n, games, *, labels=None, turned=False, swap=False, **more):
  labels = list(range(n)) if labels is None else labels
  lost = lambda what: (what == "loss") != swap  # noqa: E731
  winner = [labels[j] if lost(what) else labels[i] for i, j, what in games]
  loser = [labels[i] if lost(what) else labels[j] for i, j, what in games]
  if turned:  # of a tie the order does not matter
    winner, loser = zip(
      *[(b, a) if g[2] == "tie" else (a, b) for a, b, g in zip(winner, loser, games, strict=True)], strict=True
    )
  return Comparisons.from_pairs(list(winner), list(loser), tie=[g[2] == "tie" for g in games], items=labels, **more)


def close(a, b, tolerance=1e-7):
  np.testing.assert_allclose(a, b, atol=tolerance)


quick = settings(max_examples=30)


@quick
@given(tournaments(), st.randoms(use_true_random=False))
def test_names_and_order_do_not_matter(tournament, random):
  n, games = tournament
  found = fit(read(n, games), ties="half")
  labels = [f"item {i}" for i in range(n)]
  shuffled = random.sample(games, len(games))
  listed = random.sample(labels, n)
  again = fit(
    Comparisons.from_pairs(
      [labels[j if what == "loss" else i] for i, j, what in shuffled],
      [labels[i if what == "loss" else j] for i, j, what in shuffled],
      tie=[what == "tie" for _, _, what in shuffled],
      items=listed,
    ),
    ties="half",
  )
  close([again.log_strength[again.place(label)] for label in labels], found.log_strength)
  close(fit(read(n, games, turned=True), ties="half").log_strength, found.log_strength)


@quick
@given(tournaments(), st.integers(2, 5))
def test_copies_of_the_data_change_nothing_but_certainty(tournament, copies):
  n, games = tournament
  once, more = (fit(read(n, games * k), ties="half") for k in (1, copies))
  close(more.log_strength, once.log_strength)
  np.testing.assert_allclose(more.log_likelihood, copies * once.log_likelihood, rtol=1e-9)
  weighted = fit(read(n, games, weight=[float(copies)] * len(games)), ties="half")
  close(weighted.log_strength, once.log_strength)


@quick
@given(tournaments())
def test_copies_of_the_data_outweigh_a_prior(tournament):
  n, games = tournament
  once, twice = (fit(read(n, games * k), ties="half", prior=Normal(1.0)) for k in (1, 2))
  assume(np.ptp(once.log_strength) > 1e-3)
  assert twice.log_likelihood / 2 > once.log_likelihood - 1e-9
  assert np.abs(twice.log_strength - once.log_strength).max() > 1e-6


@quick
@given(tournaments(), st.sampled_from(["half", "davidson", "rao_kupper"]))
def test_counted_is_listed(tournament, ties):
  n, games = tournament
  wins, tied = np.zeros((n, n)), np.zeros((n, n))
  for i, j, what in games:
    if what == "tie":
      tied[i, j] += 1
      tied[j, i] += 1
    else:
      wins[(i, j) if what == "win" else (j, i)] += 1
  if ties != "half":
    assume(tied.any())
  close(fit(Comparisons.from_matrix(wins, tied), ties=ties).vector, fit(read(n, games), ties=ties).vector)


@quick
@given(tournaments(), st.sampled_from(["half", "davidson", "rao_kupper"]))
def test_swapping_winners_and_losers_negates(tournament, ties):
  n, games = tournament
  assume(ties == "half" or any(what == "tie" for _, _, what in games))
  found, swapped = (fit(read(n, games, swap=swap), ties=ties) for swap in (False, True))
  close(swapped.log_strength, -found.log_strength)
  close(swapped.log_likelihood, found.log_likelihood)
  if ties != "half":
    close(np.log(swapped.tie_parameter), np.log(found.tie_parameter))


@quick
@given(tournaments(), st.integers(0, 5))
def test_the_baseline_scales_strengths_and_leaves_probabilities(tournament, place):
  n, games = tournament
  place %= n
  mean, based = (fit(read(n, games), ties="half", baseline=baseline) for baseline in ("mean", place))
  assert based.strength[place] == 1 and abs(mean.log_strength.mean()) < 1e-12
  np.testing.assert_allclose(based.strength / mean.strength, based.strength[0] / mean.strength[0], rtol=1e-12)
  off = ~np.eye(n, dtype=bool)
  np.testing.assert_allclose(based.probability_matrix()[off], mean.probability_matrix()[off], rtol=1e-12)
  scaled = 1e5 * mean.strength
  np.testing.assert_allclose(
    (scaled[:, None] / (scaled[:, None] + scaled))[off], based.probability_matrix()[off], rtol=1e-9
  )


@quick
@given(tournaments())
def test_expected_wins_are_the_wins(tournament):
  """The likelihood equations: at the maximum everybody is expected to win as often as they did."""
  n, games = tournament
  found = fit(read(n, games), ties="half")
  expected, won = np.zeros(n), np.zeros(n)
  for i, j, what in games:
    p = found.probability(i, j)
    expected += p * np.eye(n)[i] + (1 - p) * np.eye(n)[j]
    share = dict(win=1.0, tie=0.5, loss=0.0)[what]
    won += share * np.eye(n)[i] + (1 - share) * np.eye(n)[j]
  close(expected, won)


@quick
@given(tournaments(), st.floats(-1.5, 1.5))
def test_moving_an_items_covariate_moves_its_strength(tournament, value):
  """A covariate shifted by a constant of an item is only another name for its strength."""
  n, games = tournament
  rng = np.random.default_rng(len(games))
  games = games * 2
  x = rng.normal(size=len(games))
  shift = np.array(
    [value * ((j if what == "loss" else i) == 0) - value * ((i if what == "loss" else j) == 0) for i, j, what in games]
  )
  try:
    found = fit(read(n, games, covariates=x), ties="half", baseline=1)
    moved = fit(read(n, games, covariates=x + shift), ties="half", baseline=1)
  except NoEstimate:
    assume(False)
    return
  slope = found.coefficients["covariate_0"]
  assume(np.abs(found.vector).max() < 10)
  np.testing.assert_allclose(moved.coefficients["covariate_0"], slope, atol=1e-6)
  expected = found.log_strength - slope * value * (np.arange(n) == 0)
  close(moved.log_strength, expected, 1e-6)


# --- bad options

DATA = Comparisons.from_pairs(["a", "b"], ["b", "a"])
TIED = Comparisons.from_pairs(["a", "b"], ["b", "a"], tie=[True, False])
BAD = {
  r"1 comparisons are ties; choose ties='half', ties='davidson' or ties='rao_kupper'": lambda: fit(TIED),
  r"ties='tie' is unknown; it takes 'error', 'half', 'davidson', 'rao_kupper'": lambda: fit(DATA, ties="tie"),
  r"solver='lbfgs' is unknown; it takes 'auto', 'newton', 'pcg'": lambda: fit(DATA, solver="lbfgs"),
  r"on_disconnected='drop' is unknown": lambda: fit(DATA, on_disconnected="drop"),
  r"baseline 'c' is not among the 2 items": lambda: fit(DATA, baseline="c"),
  r"home=True, but no comparison says who was at home": lambda: fit(DATA, home=True),
  r"Normal\(sd=0\): the standard deviation must be above 0": lambda: fit(DATA, prior=Normal(0)),
  r"Pseudo\(n=-1\): the number of imaginary games must be": lambda: fit(DATA, prior=Pseudo(-1)),
  r"prior=2.0 is unknown; it takes Normal\(sd\), Pseudo\(n\) and None": lambda: fit(DATA, prior=2.0),
  r"tol=0 must be above 0": lambda: fit(DATA, tol=0),
  r"max_iter=0 must be 1 or more": lambda: fit(DATA, max_iter=0),
  r"'c' is not among the 2 items": lambda: fit(DATA).probability("a", "c"),
  r"no home advantage was fitted; call fit\(home=True\)": lambda: fit(DATA).outcome_probabilities("a", "b", at_home=1),
}


@pytest.mark.parametrize("message", BAD)
def test_options_that_cannot_be_are_named(message):
  with pytest.raises(DataError, match=message):
    BAD[message]()
