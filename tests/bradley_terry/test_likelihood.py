"""The likelihood and its derivatives: against the papers' formulas, other derivatives, and 120 digits."""

import decimal

import bt_oracles as oracles
import numpy as np
import pytest
from bt_games import comparisons_of, league

from dpojax.bradley_terry import Normal, Pseudo, likelihood
from dpojax.bradley_terry.layout import Grid, Rows, Spec, Totals, lay_out, totals
from dpojax.bradley_terry.likelihood import dense, derivatives, prior_arrays, strength_gradients, value

MODELS = [("none", 0.0), ("half", 0.0), ("davidson", -0.7), ("davidson", 0.9), ("rao_kupper", 0.2), ("rao_kupper", 1.5)]
ETAS = np.array([-8.0, -1.3, -1e-9, 0.0, 0.4, 2.2, 9.0])


@pytest.mark.parametrize(("model", "tie"), MODELS)
@pytest.mark.parametrize("eta", ETAS.tolist())
def test_log_likelihood_is_the_logarithm_of_the_papers_probabilities(model, tie, eta):
  lost, tied, won = oracles.probabilities(model, eta, tie)
  for counts, expected in [((1, 0, 0), won), ((0, 1, 0), lost), ((0, 0, 1), tied)]:
    if expected is not None:
      found = likelihood.log_likelihood(model, np.array(eta), tie, *map(float, counts))
      np.testing.assert_allclose(found, np.log(expected), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("model", "tie"), MODELS)
def test_probabilities_are_the_papers_and_sum_to_one(model, tie):
  won, tied, lost = likelihood.probabilities(model, ETAS, tie)
  expected = np.array([[p or 0.0 for p in oracles.probabilities(model, eta, tie)] for eta in ETAS])
  np.testing.assert_allclose(np.stack([lost, tied, won], axis=1), expected, rtol=1e-13)
  np.testing.assert_allclose(won + tied + lost, 1, rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "tie"), MODELS)
def test_terms_are_the_derivatives_of_the_log_likelihood(model, tie):
  """First and second ones, against automatic differentiation of the papers' formulas."""
  rng = np.random.default_rng(0)
  wins, losses, ties = rng.uniform(0, 5, (3, len(ETAS)))
  if model == "none":
    ties = np.zeros(len(ETAS))
  if model == "half":
    wins, losses = wins + ties / 2, losses + ties / 2
  found = [np.broadcast_to(part, len(ETAS)) for part in likelihood.terms(model, ETAS, tie, wins, losses, ties)]
  for row, eta in enumerate(ETAS):
    sides = dict(a=[0, 0, 0], b=[1, 1, 1], outcome=[2, 0, 1], home=[1, 1, 1], x=np.zeros((3, 0)))
    games = {name: np.asarray(column) for name, column in sides.items()}
    games["weight"] = np.array([wins[row], losses[row], ties[row] if model != "half" else 0.0])
    vector = np.array([eta, 0.0, tie]) if model in ("davidson", "rao_kupper") else np.array([eta, 0.0])
    _, gradient, hessian = oracles.derivatives(vector, games, 2, model=model)
    np.testing.assert_allclose(found[0][row], -gradient[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[2][row], hessian[0, 0], rtol=1e-8, atol=1e-12)
    if len(vector) == 3:
      np.testing.assert_allclose(found[1][row], -gradient[2], rtol=1e-9, atol=1e-12)
      np.testing.assert_allclose(found[3][row], hessian[0, 2], rtol=1e-8, atol=1e-12)
      np.testing.assert_allclose(found[4][row], hessian[2, 2], rtol=1e-8, atol=1e-12)


def exact(model, eta, tie, outcome):
  """(derivatives by eta and the tie parameter, the negative second ones) of one outcome, in 120 digits by central
  differences."""
  with decimal.localcontext() as context:
    context.prec = 120

    def log_p(eta, tie):
      one, two, threshold = (x.exp() for x in (eta / 2, -eta / 2, tie))
      if model == "davidson":
        return ({"won": one, "lost": two, "tied": threshold}[outcome] / (one + two + threshold)).ln()
      if model == "rao_kupper":
        won, lost = one / (one + threshold * two), two / (two + threshold * one)
        return {"won": won, "lost": lost, "tied": (threshold**2 - 1) * won * lost}[outcome].ln()
      return {"won": one / (one + two), "lost": two / (one + two)}[outcome].ln()

    eta, tie, h = decimal.Decimal(eta), decimal.Decimal(tie), decimal.Decimal("1e-25")
    at = log_p(eta, tie)
    sides = [(log_p(eta + h, tie), log_p(eta - h, tie)), (log_p(eta, tie + h), log_p(eta, tie - h))]
    first = [float((up - down) / (2 * h)) for up, down in sides]
    return first + [float(-(up - 2 * at + down) / (h * h)) for up, down in sides]


@pytest.mark.parametrize("outcome", ["won", "lost", "tied"])
@pytest.mark.parametrize(
  ("model", "tie", "eta"),
  [(*model, eta) for model in MODELS for eta in (-50.0, 30.0, 45.0)]
  + [("davidson", 45.0, 0.3), ("davidson", -30.0, 0.3), ("rao_kupper", 20.0, 0.3), ("rao_kupper", 1e-9, 0.3)],
)
def test_derivatives_keep_their_digits_where_the_outcome_is_all_but_certain(model, tie, outcome, eta):
  if outcome == "tied" and model in ("none", "half"):
    return
  counts = dict(won=(1.0, 0.0, 0.0), lost=(0.0, 1.0, 0.0), tied=(0.0, 0.0, 1.0))[outcome]
  terms = likelihood.terms(model, np.array(eta), tie, *counts)
  found = (terms.d_eta, terms.d_tie, terms.ee, terms.tt)
  np.testing.assert_allclose(found, exact(model, eta, tie, outcome), rtol=1e-11, atol=1e-60)


@pytest.mark.parametrize(("model", "tie"), MODELS)
@pytest.mark.parametrize("eta", [-1e4, 1e4])
def test_extreme_log_odds_stay_finite(model, tie, eta):
  ties = 1.0 if model in ("davidson", "rao_kupper") else 0.0
  assert np.isfinite(likelihood.log_likelihood(model, np.array(eta), tie, 1.0, 1.0, ties))
  assert np.isfinite(
    np.stack([np.broadcast_to(t, ()) for t in likelihood.terms(model, eta, tie, 1.0, 1.0, ties)])
  ).all()
  assert np.isfinite(likelihood.probabilities(model, eta, tie)).all()


PRIORS = {"half": ("none", None), "davidson": ("normal", Normal(1.3)), "rao_kupper": ("pseudo", Pseudo(0.8))}
SHAPES = {
  "grid": dict(),
  "grid, home": dict(home=0.3),
  "rows": dict(grid=False),
  "rows, home, neutral": dict(home=0.3, neutral=0.3),
  "rows, covariates": dict(coefficients=(0.4, -0.2)),
  "rows, home, covariates": dict(home=0.2, neutral=0.5, coefficients=(0.4, -0.2)),
}


@pytest.mark.sampled(9)
@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", ["half", "davidson", "rao_kupper"])
def test_layouts_hold_the_likelihood_and_its_derivatives(shape, model):
  """Value, gradient and Hessian at a point that is not the maximum, of every layout, with weights and priors."""
  settings = dict(SHAPES[shape])
  grid = settings.pop("grid", None)
  games, _ = league(1, 5, 60, model="davidson", **settings)
  rng = np.random.default_rng(2)
  games["weight"] = rng.uniform(0.2, 3, 60)
  home = "home" in settings
  data = comparisons_of(games, items=5, home=home)
  spec = Spec(5, home + games["x"].shape[1], model)
  layout = lay_out(data, spec, home, grid=grid)
  assert isinstance(layout, Grid if shape.startswith("grid") else Rows)
  vector = rng.normal(size=spec.size) * 0.5
  vector[-1] = abs(vector[-1]) + 0.2
  name, prior = PRIORS[model]
  size = 0.0 if prior is None else float(prior[0])
  cost, gradient, hessian = oracles.derivatives(vector, games, 5, model=model, home=home, prior=(name, size))
  given = prior_arrays(prior, 5)
  np.testing.assert_allclose(value(spec, layout, given, vector), -cost, rtol=1e-12)
  for held in (layout, totals(spec, layout)):
    slope, curvature = derivatives(spec, held, given, vector)
    np.testing.assert_allclose(slope, -gradient, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(dense(spec, held, curvature), hessian, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_gradients_in_bands_are_those_of_the_whole(rows):
  """Of strengths alone, at a point that is not the maximum, whatever the height of a band."""
  games, _ = league(1, 7, 60)
  games["weight"] = np.random.default_rng(2).uniform(0.2, 3, 60)
  spec = Spec(7, 0, "none")
  data = totals(spec, lay_out(comparisons_of(games, items=7, home=False), spec, False, grid=True))
  assert isinstance(data, Totals)
  vector = np.linspace(-1, 1.5, 7)
  _, expected, _ = oracles.derivatives(vector, games, 7)
  found = strength_gradients(data, vector, np.full((rows, 7), np.nan))
  np.testing.assert_allclose(found, -expected, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_the_oracle_itself_is_the_sum_over_comparisons():
  games, theta = league(3, 4, 40, model="davidson", home=0.3, neutral=0.4, coefficients=(0.5,))
  games["weight"] = np.random.default_rng(0).uniform(0.1, 2, 40)
  for model, tie in MODELS[1:]:
    with_tie = [tie] if model in ("davidson", "rao_kupper") else []
    plain = oracles.log_likelihood_of_each(games, theta, model=model, home=0.25, coefficients=(0.4,), tie=tie)
    vector = np.array([*theta, 0.25, 0.4, *with_tie])
    np.testing.assert_allclose(-oracles.derivatives(vector, games, 4, model=model, home=True)[0], plain, rtol=1e-12)
