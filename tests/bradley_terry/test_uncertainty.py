"""Standard errors, contrasts and intervals, against derivatives of a likelihood written by itself, and by simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from dpojax.bradley_terry import (
  Comparisons,
  NoEstimate,
  Normal,
  Pseudo,
  contrast,
  covariance,
  fit,
  likelihood,
  parameter_table,
  profile_interval,
  standard_errors,
  uncertainty,
)
from dpojax.bradley_terry.layout import as_rows
from dpojax.errors import DataError

WIN, TIE, LOSS = 2, 1, 0


def draw(seed, *, items=6, games=400, nu=0.0, home=0.0, covariate=0.0, sd=0.7, raters=20):
  """Comparisons of a Davidson model (nu = 0: no ties), as columns."""
  rng = np.random.default_rng(seed)
  theta = rng.normal(size=items) * sd
  a = rng.integers(0, items, games)
  b = (a + rng.integers(1, items, games)) % items
  x = rng.normal(size=games)
  eta = theta[a] - theta[b] + home + covariate * x
  weights = np.stack([np.exp(-eta / 2), np.full(games, nu), np.exp(eta / 2)])
  ends = np.cumsum(weights / weights.sum(axis=0), axis=0)
  outcome = (rng.random(games) > ends[:2]).sum(axis=0)
  return dict(a=a, b=b, outcome=outcome, x=x, rater=rng.integers(0, raters, games)), theta


def read(columns, **options):
  return Comparisons.from_frame(columns, "a", "b", "outcome", {WIN: "a", TIE: "tie", LOSS: "b"}, **options)


def davidson_values(vector, columns, items):
  """Log-likelihood of every comparison: theta, home advantage, coefficient, log nu; plainly, in JAX."""
  theta, home, coefficient, log_nu = vector[:items], vector[items], vector[items + 1], vector[items + 2]
  eta = theta[columns["a"]] - theta[columns["b"]] + home + coefficient * columns["x"]
  scores = jnp.stack([-eta / 2, jnp.broadcast_to(log_nu, eta.shape), eta / 2])
  return jax.nn.log_softmax(scores, axis=0)[columns["outcome"], jnp.arange(eta.size)]


@pytest.fixture
def davidson():
  columns, _ = draw(5, nu=0.6, home=0.3, covariate=0.25)
  data = read(columns, covariates=["x"], cluster="rater")
  return columns, fit(data, ties="davidson", home=True)


def pinned(matrix, against):
  """Inverse of a negative Hessian that is flat along a shift of strengths: of the directions across it."""
  values, vectors = np.linalg.eigh(matrix)
  inverse = (vectors[:, 1:] / values[1:]) @ vectors[:, 1:].T
  return against @ inverse @ against.T


def relative_to_mean(items, size):
  out = np.eye(size)
  out[:items, :items] -= 1 / items
  return out


@pytest.mark.slow
def test_covariances_are_those_of_the_likelihood_written_out(davidson):
  columns, found = davidson
  items = len(found.items)
  with jax.enable_x64(True):
    vector = jnp.asarray(found.vector)
    hessian = -np.asarray(jax.hessian(lambda v: davidson_values(v, columns, items).sum())(vector))
    scores = np.asarray(jax.jacobian(lambda v: davidson_values(v, columns, items))(vector))
  across = relative_to_mean(items, hessian.shape[0])
  bread = pinned(hessian, np.eye(len(hessian)))
  clusters = np.stack([scores[columns["rater"] == r].sum(axis=0) for r in np.unique(columns["rater"])])
  number = len(clusters)
  expected = dict(
    hessian=bread,
    sandwich=bread @ scores.T @ scores @ bread,
    cluster=bread @ clusters.T @ clusters @ bread * number / (number - 1),
  )
  for kind, matrix in expected.items():
    matrix = across @ matrix @ across.T
    np.testing.assert_allclose(covariance(found, kind), matrix[:items, :items], rtol=1e-7, atol=1e-10)
    errors = [row["standard_error"] for row in parameter_table(found, kind)]
    np.testing.assert_allclose(errors, np.sqrt(matrix.diagonal()[items:]), rtol=1e-7)


def test_an_item_as_baseline_moves_the_errors_to_the_others():
  columns, _ = draw(0)
  data = read(columns)
  mean, one = fit(data), fit(data, baseline=2)
  assert one.log_strength[2] == 0 and standard_errors(one)[2] == pytest.approx(0, abs=1e-7)
  np.testing.assert_allclose(one.log_strength, mean.log_strength - mean.log_strength[2], atol=1e-12)
  for i in (0, 1, 3):
    assert standard_errors(one)[i] == pytest.approx(contrast(mean, i, 2).standard_error, rel=1e-9)
    assert contrast(mean, i, 2)[:2] == pytest.approx(contrast(one, i, 2)[:2], rel=1e-9)


@pytest.mark.parametrize("kind", ["hessian", "sandwich", "cluster"])
def test_many_items_are_solved_without_a_matrix_of_all(davidson, monkeypatch, kind):
  _, found = davidson
  dense = contrast(found, 0, 1, kind=kind)
  errors = standard_errors(found, kind)
  monkeypatch.setattr(uncertainty, "DENSE_ITEMS", 3)
  monkeypatch.setattr(uncertainty, "SURE", 0.0)  # no estimate is sure enough
  assert contrast(found, 0, 1, kind=kind) == pytest.approx(dense, rel=1e-6)
  np.testing.assert_allclose(standard_errors(found, kind), errors, rtol=1e-6)
  with pytest.raises(DataError, match="covariance of 6 items would take"):
    covariance(found, kind)


TRUTH = {
  "plain": {},
  "baseline": {},
  "home and ties": dict(home=0.4, nu=0.5),
  "covariate": dict(covariate=0.6),
}
OPTIONS = {"baseline": dict(baseline=7), "home and ties": dict(home=True, ties="davidson")}
PRIORS = {"none": None, "normal": Normal(1.5), "pseudo": Pseudo(2.0)}


@pytest.mark.slow
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("model", TRUTH)
def test_errors_of_many_items_are_estimated(monkeypatch, prior, model):
  """Each within four of its standard deviations of the dense matrix's, and all together as far off as chance puts them."""
  columns, _ = draw(1, items=300, games=9000, **TRUTH[model])
  data = read(columns, **({"covariates": ["x"]} if model == "covariate" else {}))
  found = fit(data, prior=PRIORS[prior], **OPTIONS.get(model, {}))
  dense = standard_errors(found)
  monkeypatch.setattr(uncertainty, "DENSE_ITEMS", 3)
  monkeypatch.setattr(uncertainty, "SURE", np.inf)
  rows = as_rows(found.layout, found.home_fitted)
  curvature = likelihood.derivatives(found.spec, rows, found.prior_terms, found.vector)[1]
  variance, spread = uncertainty.estimated_variances(rows, curvature, found.against, flat=prior == "none")
  estimated = standard_errors(found)
  there = dense > 1e-6
  np.testing.assert_allclose(estimated[there] ** 2, np.maximum(variance, 0)[there], rtol=1e-9)
  off = (estimated[there] / dense[there] - 1) / (spread[there] / 2)
  assert np.abs(off).max() < 5 and 0.7 < np.sqrt(np.mean(off**2)) < 1.3 and (spread[there] < 0.02).all()


def test_what_an_estimate_cannot_tell_is_solved(monkeypatch):
  """A chain of items, each known through its two neighbours alone: all of them are solved, to the dense matrix's figures."""
  first = np.repeat(np.arange(39), 40)
  found = fit(Comparisons.from_pairs(np.r_[first, first + 1], np.r_[first + 1, first]))
  dense = standard_errors(found)
  monkeypatch.setattr(uncertainty, "DENSE_ITEMS", 3)
  np.testing.assert_allclose(standard_errors(found), dense, rtol=1e-6)


def test_a_newcomer_of_thirty_games_is_as_unsure_as_thirty_games_make():
  """1 / sqrt(30 / 4) = 0.365 against a field that a million games have settled; a ridge on the Hessian would hide it."""
  rng = np.random.default_rng(0)
  field, games = 60, 1_000_000
  a = rng.integers(0, field, games)
  b = (a + rng.integers(1, field, games)) % field
  winner, loser = np.where(rng.random(games) < 0.5, (a, b), (b, a))
  opponents = rng.permutation(field)[:30]
  newcomer = np.full(15, field)
  data = Comparisons.from_pairs(
    np.concatenate([winner, newcomer, opponents[15:]]), np.concatenate([loser, opponents[:15], newcomer])
  )
  found = fit(data, baseline=0)
  assert standard_errors(found)[field] == pytest.approx(0.366, rel=0.02)
  assert contrast(found, field, 0).standard_error == pytest.approx(standard_errors(found)[field])


def test_a_coefficient_is_found_within_its_interval():
  columns, _ = draw(2, items=20, games=20_000, covariate=0.25)
  row = parameter_table(fit(read(columns, covariates=["x"])))[0]
  assert row["name"] == "x" and row["low"] < 0.25 < row["high"] and row["standard_error"] < 0.02
  assert row["high"] - row["low"] == pytest.approx(2 * stats.norm.ppf(0.975) * row["standard_error"])


def test_repeated_votes_of_a_rater_do_not_count_as_news():
  """Every vote given three times: clusters see through it, other errors shrink by the root of 3."""
  columns, _ = draw(4, games=900)
  once = fit(read(columns))
  thrice = {name: np.repeat(column, 3) for name, column in columns.items()} | dict(vote=np.repeat(np.arange(900), 3))
  again = fit(read(thrice, cluster="vote"))
  np.testing.assert_allclose(again.log_strength, once.log_strength, atol=1e-9)
  np.testing.assert_allclose(standard_errors(again) * 3**0.5, standard_errors(once), rtol=1e-7)
  np.testing.assert_allclose(standard_errors(again, "sandwich") * 3**0.5, standard_errors(once, "sandwich"), rtol=1e-7)
  factor = (900 / 899) ** 0.5
  np.testing.assert_allclose(standard_errors(again, "cluster"), factor * standard_errors(once, "sandwich"), rtol=1e-7)


def test_raters_with_tastes_of_their_own_are_covered_by_clusters_alone():
  """Raters who each prefer some items: over 200 data sets only the clustered errors match the spread of estimates."""
  items, raters, votes = 4, 40, 30
  found, errors = [], {kind: [] for kind in ("hessian", "cluster")}
  for seed in range(200):
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(raters, items))
    rater = np.repeat(np.arange(raters), votes)
    a = rng.integers(0, items, rater.size)
    b = (a + rng.integers(1, items, rater.size)) % items
    first = rng.random(rater.size) < 1 / (1 + np.exp(taste[rater, b] - taste[rater, a]))
    one = fit(Comparisons.from_pairs(np.where(first, a, b), np.where(first, b, a), cluster=rater))
    found.append(one.log_strength[0])
    for kind, seen in errors.items():
      seen.append(standard_errors(one, kind)[0])
  spread = np.std(found)  # its own relative error is 1 / sqrt(400) = 5 %
  assert np.mean(errors["cluster"]) == pytest.approx(spread, rel=0.15)
  assert np.mean(errors["hessian"]) < 0.7 * spread


def test_a_prior_counts_as_information():
  columns, _ = draw(1, games=60)
  data = read(columns)
  plain, normal, pseudo = fit(data), fit(data, prior=Normal(0.5)), fit(data, prior=Pseudo(4))
  information = np.linalg.inv(covariance(normal) + np.full((6, 6), 1 / 6))  # the shift is fixed apart
  eta = normal.vector[columns["a"]] - normal.vector[columns["b"]]
  p = 1 / (1 + np.exp(-eta))
  differences = np.zeros((60, 6))
  differences[np.arange(60), columns["a"]] += 1
  differences[np.arange(60), columns["b"]] -= 1
  laplacian = (differences.T * (p * (1 - p))) @ differences
  center = np.eye(6) - 1 / 6
  np.testing.assert_allclose(center @ information @ center, laplacian + 4 * center, atol=1e-8)
  assert (standard_errors(normal) < standard_errors(plain)).all()
  assert (standard_errors(pseudo) < standard_errors(plain)).all()


@pytest.mark.parametrize("baseline", ["mean", 1])
def test_a_profile_interval_ends_where_the_likelihood_has_dropped(baseline):
  columns, _ = draw(8, items=4, games=40)
  found = fit(read(columns), baseline=baseline)
  low, high = profile_interval(found, 0)
  drop = stats.chi2.ppf(0.95, 1) / 2

  def loss(free, value):
    """The negative log-likelihood where log-strength 0, relative to the baseline, has a value."""
    theta = np.concatenate([[0.0], free])
    theta[0] = value + theta[1] if baseline == 1 else (4 * value + theta[1:].sum()) / 3
    eta = theta[columns["a"]] - theta[columns["b"]]
    return np.logaddexp(0, np.where(columns["outcome"] == WIN, -eta, eta)).sum()

  for end in (low, high):
    best = optimize.minimize(loss, np.zeros(3), args=(end,), method="BFGS", options=dict(gtol=1e-9)).fun
    assert best == pytest.approx(-found.log_likelihood + drop, abs=1e-5)
  assert low < found.log_strength[0] < high


def test_a_likelihood_beyond_float64_has_no_interval():
  """Everybody beat everybody once, so that all strengths are 0 whatever the prior, whose logarithm is infinite."""
  winner, loser = np.nonzero(~np.eye(4, dtype=bool))
  data = Comparisons.from_pairs(winner, loser, covariates=np.random.default_rng(0).normal(size=12))
  with np.errstate(all="ignore"):
    found = fit(data, prior=Pseudo(1e308))
    with pytest.raises(NoEstimate, match="likelihood is beyond float64; use a weaker prior"):
      profile_interval(found, 0)


def test_what_there_is_not_is_said():
  columns, _ = draw(0)
  found = fit(read(columns))
  with pytest.raises(DataError, match="the comparisons have no clusters"):
    standard_errors(found, "cluster")
  with pytest.raises(DataError, match="kind='hesian' is unknown"):
    covariance(found, "hesian")
  with pytest.raises(DataError, match="77 is not among the 6 items"):
    contrast(found, 0, 77)
