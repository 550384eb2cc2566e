"""Strengths from rankings: against a likelihood and an iteration written choice by choice, and theorems."""

import itertools

import bt_oracles as oracles
import numpy as np
import pytest
from bt_games import comparisons_of, league, ranked
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.bradley_terry import (
  Comparisons,
  NoEstimate,
  Normal,
  Pseudo,
  connectivity,
  contrast,
  covariance,
  fit,
  plackett_luce,
  rankings,
  standard_errors,
  uncertainty,
)
from dpojax.errors import DataError

quick = settings(max_examples=25)


@pytest.fixture(params=["cholesky", "conjugate gradients"])
def method(request, monkeypatch):
  if request.param != "cholesky":
    monkeypatch.setattr(rankings, "CHOLESKY_ITEMS", 0)


def derivatives(theta, drawn, weights, prior=("none", 0.0)):
  """(gradient, Hessian) of the negative log-likelihood and log prior, choice by choice."""
  n = len(theta)
  kind, size = prior
  gradient, hessian = np.zeros(n), np.zeros((n, n))
  if kind == "normal":
    gradient, hessian = theta / size**2, np.eye(n) / size**2
  if kind == "pseudo":
    p = 1 / (1 + np.exp(-theta))
    gradient, hessian = size * (p - 0.5), size * np.diag(p * (1 - p))
  for ranking, weight in zip(drawn, weights, strict=True):
    for s in range(len(ranking) - 1):
      p = np.zeros(n)
      p[ranking[s:]] = np.exp(theta[ranking[s:]]) / np.exp(theta[ranking[s:]]).sum()
      gradient = gradient + weight * (p - np.eye(n)[ranking[s]])
      hessian = hessian + weight * (np.diag(p) - np.outer(p, p))
  return gradient, hessian


def test_the_oracles_derivatives_are_those_of_its_value():
  drawn, theta = ranked(3, 4, 10, 4)
  weights = np.linspace(0.5, 2, 10)
  value = lambda v: -oracles.rankings_log_likelihood(v, drawn, weights)  # noqa: E731
  gradient, hessian = derivatives(theta, drawn, weights)
  step = 1e-5 * np.eye(4)
  np.testing.assert_allclose([(value(theta + d) - value(theta - d)) / 2e-5 for d in step], gradient, atol=1e-7)
  slopes = [
    (derivatives(theta + d, drawn, weights)[0] - derivatives(theta - d, drawn, weights)[0]) / 2e-5 for d in step
  ]
  np.testing.assert_allclose(slopes, hessian, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("items", "count", "longest"), [(3, 15, 3), (8, 60, 6), (25, 300, 9)])
def test_estimates_are_those_of_hunters_iteration(items, count, longest, method):
  drawn, _ = ranked(2, items, count, longest)
  found = plackett_luce(Comparisons.from_rankings(drawn, items=range(items)))
  assert found.converged and found.gradient_norm <= 1e-10
  assert np.abs(found.log_strength - oracles.rankings_hunter(drawn, items)).max() <= 1e-8
  np.testing.assert_allclose(
    found.log_likelihood, oracles.rankings_log_likelihood(found.log_strength, drawn), rtol=1e-12
  )


@pytest.mark.parametrize("prior", [None, Normal(0.6), Pseudo(1.5)])
def test_gradient_hessian_and_weights(prior, method):
  """At the estimate the gradient is 0 and the covariance is the inverse of the Hessian."""
  drawn, _ = ranked(3, 6, 30, 5)
  weights = np.random.default_rng(1).uniform(0.2, 3, 30)
  weights[4] = 0
  found = plackett_luce(Comparisons.from_rankings(drawn, items=range(6), weight=weights), prior=prior)
  kind = ("none", 0.0) if prior is None else (type(prior).__name__.lower(), float(prior[0]))
  gradient, hessian = derivatives(found.vector, drawn, weights, kind)
  assert np.abs(gradient).max() < 1e-8
  centre = np.eye(6) - 1 / 6
  np.testing.assert_allclose(covariance(found), centre @ np.linalg.pinv(hessian, rcond=1e-12) @ centre, atol=1e-9)
  np.testing.assert_allclose(standard_errors(found) ** 2, np.diagonal(covariance(found)), rtol=1e-12)
  against = plackett_luce(Comparisons.from_rankings(drawn, items=range(6), weight=weights), prior=prior, baseline=2)
  assert against.log_strength[2] == 0 and standard_errors(against)[2] == 0
  np.testing.assert_allclose(standard_errors(against)[4], contrast(against, 4, 2).standard_error, rtol=1e-9)
  np.testing.assert_allclose(contrast(against, 4, 2), contrast(found, 4, 2), rtol=1e-7)


def test_the_sandwich_is_of_the_scores(monkeypatch):
  drawn, _ = ranked(5, 5, 40, 5, shortest=3)
  found = plackett_luce(Comparisons.from_rankings(drawn, items=range(5)))
  one = np.ones(1)
  scores = np.stack([derivatives(found.vector, [ranking], one)[0] for ranking in drawn])
  _, hessian = derivatives(found.vector, drawn, np.ones(40))
  inverse = np.linalg.pinv(hessian, rcond=1e-12)
  expected = inverse @ scores.T @ scores @ inverse
  np.testing.assert_allclose(covariance(found, "sandwich"), expected, atol=1e-9)
  dense = contrast(found, 0, 3, kind="sandwich")
  difference = np.array([1.0, 0, 0, -1, 0])
  np.testing.assert_allclose(dense.standard_error, np.sqrt(difference @ expected @ difference), rtol=1e-8)
  monkeypatch.setattr(uncertainty, "DENSE_ITEMS", 0)
  for kind in ("hessian", "sandwich"):
    by_gradients = contrast(found, 0, 3, kind=kind)
    monkeypatch.setattr(uncertainty, "DENSE_ITEMS", 6000)
    np.testing.assert_allclose(by_gradients, contrast(found, 0, 3, kind=kind), rtol=1e-7)
    monkeypatch.setattr(uncertainty, "DENSE_ITEMS", 0)
  with pytest.raises(DataError, match="ask for contrasts of pairs"):
    covariance(found)


@pytest.mark.slow
def test_intervals_cover_at_their_level():
  """Of 300 simulated data sets the truth lies in about 95 % of the intervals: the errors have the right size."""
  truth = np.array([0.8, 0.1, -0.4, -0.5])
  inside = []
  for seed in range(300):
    rng = np.random.default_rng(seed)
    drawn = np.argsort(-(truth + rng.gumbel(size=(60, 4))), axis=1)
    one = contrast(plackett_luce(Comparisons.from_rankings(drawn, items=range(4))), 0, 2)
    inside.append(one.low < truth[0] - truth[2] < one.high)
  assert 0.92 < np.mean(inside) < 0.98


def test_rankings_of_two_are_bradley_and_terry():
  games, _ = league(6, 15, 400)
  games["weight"] = np.random.default_rng(0).uniform(0.2, 2, 400)
  pairs = comparisons_of(games, items=15, home=False)
  expected = fit(pairs, baseline=3)
  won = games["outcome"] == oracles.FIRST
  listed = np.stack([np.where(won, games["a"], games["b"]), np.where(won, games["b"], games["a"])], axis=1)
  for data in (pairs, Comparisons.from_rankings(listed, items=range(15), weight=games["weight"])):
    found = plackett_luce(data, baseline=3)
    assert np.abs(found.log_strength - expected.log_strength).max() <= 1e-9
    np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(covariance(found), covariance(expected), atol=1e-9)
    np.testing.assert_allclose(contrast(found, 0, 1), contrast(expected, 0, 1), rtol=1e-7)
    assert found.probability(4, 5) == pytest.approx(expected.probability(4, 5), abs=1e-9)


def test_pairs_of_matrices_are_rankings_with_counts():
  wins = np.array([[0, 5, 1], [2, 0, 4], [1, 1, 0]])
  found = plackett_luce(Comparisons.from_matrix(wins))
  np.testing.assert_allclose(found.log_strength, fit(Comparisons.from_matrix(wins)).log_strength, atol=1e-9)


@quick
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_orders_of_all_items_have_probabilities_that_sum_to_one(seed, items):
  drawn, _ = ranked(seed, items, 6 * items, items)
  found = plackett_luce(Comparisons.from_rankings(drawn, items=range(items)), prior=Normal(1.5))
  orders = {order: found.probability_of(order) for order in itertools.permutations(range(items))}
  assert sum(orders.values()) == pytest.approx(1, abs=1e-12)
  above = sum(p for order, p in orders.items() if order.index(0) < order.index(1))
  assert found.probability(0, 1) == pytest.approx(above, abs=1e-12) == found.probability_of((0, 1))
  first = [found.probability_of(order[:1]) for order in orders]
  assert first == [1.0] * len(first)


@quick
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_names_order_and_copies_do_not_matter(seed, random):
  drawn, _ = ranked(seed, 5, 40, 5)
  data = Comparisons.from_rankings(drawn, items=range(5))
  if not connectivity(data).connected:
    return
  found = plackett_luce(data)
  names = random.sample("pqrst", 5)
  renamed = [[names[i] for i in ranking] for ranking in random.sample(drawn, len(drawn))]
  again = plackett_luce(Comparisons.from_rankings(renamed * 3))
  np.testing.assert_allclose([again.log_strength[again.place(name)] for name in names], found.log_strength, atol=1e-7)
  np.testing.assert_allclose(again.log_likelihood, 3 * found.log_likelihood, rtol=1e-9)


def test_strengths_are_relative():
  drawn, _ = ranked(1, 6, 50, 5)
  data = Comparisons.from_rankings(drawn, items=range(6))
  mean, based = plackett_luce(data), plackett_luce(data, baseline=4)
  assert based.strength[4] == 1 and abs(mean.log_strength.mean()) < 1e-12
  np.testing.assert_allclose(based.strength / mean.strength, based.strength[0] / mean.strength[0], rtol=1e-12)
  np.testing.assert_allclose(based.probability_of((3, 1, 5)), mean.probability_of((3, 1, 5)), rtol=1e-12)


# --- existence

CHAIN = [["a", "b", "c"], ["a", "c"], ["b", "c"]]


def test_what_has_no_estimate_is_named():
  with pytest.raises(NoEstimate, match=r"\{a\}, \{b\}, \{c\}; a never lost; c never won\. Compare them further"):
    plackett_luce(Comparisons.from_rankings(CHAIN))
  with pytest.raises(NoEstimate, match=r"2 groups of items never met: \{c, d, e\}, \{a, b\}"):
    plackett_luce(Comparisons.from_rankings(["ab", "ba", "cde", "ec"]))
  with pytest.raises(NoEstimate, match="b never lost"):  # the other order has no weight
    plackett_luce(Comparisons.from_rankings(["ab", "ba"], weight=[0, 1]))
  # Everybody is above and below somebody, but {a, b} always above {c, d}.
  with pytest.raises(NoEstimate, match=r"have not all beaten each other: \{a, b\}, \{c, d\}"):
    plackett_luce(Comparisons.from_rankings(["abcd", "bacd", "badc"]))
  assert plackett_luce(Comparisons.from_rankings(["abcd", "bacd", "badc", "dcab"])).converged


def test_every_set_of_two_rankings_of_four():
  """An estimate exists if and only if no group always comes before the others (Hunter's Assumption 1)."""
  found = []
  for other in itertools.permutations("abcd"):
    data = Comparisons.from_rankings(["abcd", other])
    groups = [set("abcd"[:k]) for k in (1, 2, 3)]  # of the first ranking, the only ones that come first there
    exists = not any(set(other[: len(group)]) == group for group in groups)
    found.append(exists)
    if exists:
      assert plackett_luce(data).converged
    else:
      with pytest.raises(NoEstimate):
        plackett_luce(data)
  assert 0 < sum(found) < len(found)


def test_the_largest_component_is_fitted_as_if_alone(method):
  """The other items leave the rankings, which are rankings of the rest still."""
  drawn = [list("abcz"), list("zcab"), list("zbca"), list("yac"), list("xyab"), list("cyb")[::-1], list("xz")]
  drawn[5] = list("ycb")
  data = Comparisons.from_rankings(drawn)
  found = plackett_luce(data, on_disconnected="largest")
  kept = [i for i, label in enumerate(data.items) if label in "abcz"]
  alone = [[label for label in ranking if label in "abcz"] for ranking in drawn]
  expected = plackett_luce(Comparisons.from_rankings([ranking for ranking in alone if len(ranking) > 1]))
  np.testing.assert_allclose(found.log_strength[kept], expected.log_strength, atol=1e-9)
  np.testing.assert_allclose(covariance(found)[np.ix_(kept, kept)], covariance(expected), atol=1e-9)
  assert np.isnan(found.log_strength[data.items.index("x")]) and found.component[data.items.index("x")] > 0
  with pytest.raises(DataError, match="'x' was not fitted"):
    contrast(found, "a", "x")
  with pytest.raises(DataError, match="baseline 'x' is not in the largest component"):
    plackett_luce(data, on_disconnected="largest", baseline="x")
  with pytest.raises(NoEstimate, match="no two items have beaten each other"):
    plackett_luce(Comparisons.from_rankings(CHAIN), on_disconnected="largest")


def test_a_prior_helps_where_it_must_and_only_there():
  data = Comparisons.from_rankings(CHAIN)
  helped = plackett_luce(data, on_disconnected="prior")
  assert helped.converged and helped.prior == Pseudo(1)
  assert np.array_equal(helped.log_strength, plackett_luce(data, prior=Pseudo(1)).log_strength)
  drawn = ["abc", "cab", "bca"]
  assert plackett_luce(Comparisons.from_rankings(drawn), on_disconnected="prior", prior=Normal(1)).prior is None


def test_strengths_far_apart(method):
  """A ladder of neighbours of which one in e^5 is the other way round: 40 nats from end to end."""
  n = 9
  drawn = [[i, i + 1] for i in range(n - 1)] + [[i + 1, i] for i in range(n - 1)] + [list(range(n))]
  weights = [np.exp(5)] * (n - 1) + [1.0] * (n - 1) + [1e-300]
  found = plackett_luce(Comparisons.from_rankings(drawn, items=range(n), weight=weights), tol=1e-13)
  assert found.converged
  np.testing.assert_allclose(np.diff(found.log_strength), -5, rtol=1e-9)


def test_too_few_steps_are_said_not_hidden():
  drawn, _ = ranked(1, 10, 60, 6)
  with pytest.warns(RuntimeWarning, match="did not converge in 2 steps"):
    found = plackett_luce(Comparisons.from_rankings(drawn, items=range(10)), max_iter=2, prior=Normal(1.0))
  assert not found.converged and "NOT CONVERGED" in repr(found)


DATA = Comparisons.from_rankings(["abc", "cab"])
BAD = {
  r"row 1 is a tie": lambda: plackett_luce(Comparisons.from_pairs([1, 2], [2, 1], tie=[False, True])),
  r"takes no covariates": lambda: plackett_luce(Comparisons.from_pairs([1, 2], [2, 1], covariates=[1, 2])),
  r"baseline 'd' is not among the 3 items": lambda: plackett_luce(DATA, baseline="d"),
  r"on_disconnected='drop' is unknown": lambda: plackett_luce(DATA, on_disconnected="drop"),
  r"prior=1 is unknown": lambda: plackett_luce(DATA, prior=1),
  r"tol=-1 must be above 0": lambda: plackett_luce(DATA, tol=-1),
  r"kind='cluster' is unknown; it takes 'hessian', 'sandwich'": lambda: covariance(found_of(DATA), "cluster"),
  r"'d' is not among the 3 items": lambda: found_of(DATA).probability("a", "d"),
  r"the ordering names an item twice": lambda: found_of(DATA).probability_of("aba"),
}


def found_of(data):
  return plackett_luce(data, prior=Normal(1.0))


@pytest.mark.parametrize("message", BAD)
def test_options_that_cannot_be_are_named(message):
  with pytest.raises(DataError, match=message):
    BAD[message]()
