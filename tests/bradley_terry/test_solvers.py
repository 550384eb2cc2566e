"""Every solver and layout against the textbook's Newton on a likelihood written apart."""

import functools

import bt_oracles as oracles
import numpy as np
import pytest
from bt_games import comparisons_of, league

from dpojax.bradley_terry import Normal, Pseudo, fit
from dpojax.bradley_terry.layout import Grid, Rows

SOLVERS = ("newton", "pcg")
# name: layout it comes to, tie model, home, prior, what is simulated
CASES = {
  "two items": (Grid, "none", False, None, dict(items=2, games=40)),
  "three items": (Grid, "none", False, None, dict(items=3, games=60)),
  "thirty items": (Grid, "none", False, None, dict(items=30, games=700)),
  "grid of 200": (Grid, "none", False, None, dict(items=200, games=5000)),
  "rows of 200": (Rows, "none", False, None, dict(items=200, games=1900)),
  "half ties": (Grid, "half", False, None, dict(items=20, games=300, ties=0.2)),
  "rows, half ties": (Rows, "half", False, None, dict(items=200, games=1900, ties=0.2)),
  "davidson": (Grid, "davidson", False, None, dict(items=30, games=700)),
  "rao and kupper, home": (Grid, "rao_kupper", True, None, dict(items=30, games=700, home=0.4)),
  "rao and kupper, rows": (Rows, "rao_kupper", False, None, dict(items=200, games=1900)),
  "neutral": (Rows, "none", True, None, dict(items=30, games=700, home=0.4, neutral=0.4)),
  "everything": (
    Rows,
    "davidson",
    True,
    None,
    dict(items=30, games=900, home=0.4, neutral=0.3, coefficients=(0.5, -0.3)),
  ),
  "normal prior": (Grid, "none", False, Normal(0.7), dict(items=30, games=60)),
  "pseudo prior": (Rows, "davidson", True, Pseudo(1.5), dict(items=20, games=60, home=0.3, coefficients=(0.4,))),
}
RUNS = [(name, solver) for name in CASES for solver in SOLVERS]


@functools.cache
def case(name):
  """(comparisons, the oracle's vector)."""
  _, ties, home, prior, settings = CASES[name]
  games, _ = league(11, model=ties if ties in ("davidson", "rao_kupper") else "none", **settings)
  games["weight"] = np.random.default_rng(5).uniform(0.3, 2.5, len(games["a"]))
  kind = ("none", 0.0) if prior is None else (type(prior).__name__.lower(), float(prior[0]))
  exact = oracles.newton(games, settings["items"], model=ties, home=home, prior=kind)
  return comparisons_of(games, items=settings["items"], home=home), exact


@pytest.mark.sampled(7)
@pytest.mark.slow
@pytest.mark.parametrize(("name", "solver"), RUNS)
def test_estimates_are_the_oracles(name, solver):
  layout, ties, home, prior, settings = CASES[name]
  data, exact = case(name)
  found = fit(data, ties="error" if ties == "none" else ties, home=home, prior=prior, solver=solver)
  n = settings["items"]
  assert isinstance(found.layout, layout)
  assert found.converged and found.solver == solver and found.gradient_norm <= 1e-10
  theta = exact[:n] - exact[:n].mean()
  assert np.abs(found.log_strength - theta).max() <= 1e-8
  beside = [found.home] if home else []
  beside += list(found.coefficients.values())
  beside += [np.log(found.tie_parameter)] if ties in ("davidson", "rao_kupper") else []
  np.testing.assert_allclose(beside, exact[n:], atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_ladder_and_strengths_far_apart(solver):
  """Opponents are neighbours only, and the ends are e^12 apart: badly conditioned, still exact."""
  rng = np.random.default_rng(0)
  theta = np.linspace(-6, 6, 40)
  a = rng.integers(0, 39, 6000)
  b = np.minimum(a + rng.integers(1, 3, 6000), 39)
  outcome = np.where(rng.random(6000) < 1 / (1 + np.exp(theta[b] - theta[a])), oracles.FIRST, oracles.SECOND)
  plain = dict(a=a, b=b, outcome=outcome, home=np.ones(6000), x=np.zeros((6000, 0)), weight=np.ones(6000))
  exact = oracles.newton(plain, 40)
  found = fit(comparisons_of(plain, items=40, home=False), solver=solver)
  assert found.converged and np.abs(found.log_strength - exact).max() <= 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("tol", [1e-3, 1e-15])
def test_the_tolerance_bounds_the_gradient_of_a_comparison(solver, tol):
  data, exact = case("grid of 200")
  found = fit(data, solver=solver, tol=tol)
  assert found.converged and found.gradient_norm <= tol
  games, _ = league(11, **CASES["grid of 200"][-1])
  games["weight"] = data.row_weight
  _, gradient, _ = oracles.derivatives(found.vector, games, 200)
  np.testing.assert_allclose(found.gradient_norm, np.abs(gradient).max() / data.total_weight, atol=1e-16)
  assert np.abs(found.log_strength - exact).max() <= 1e-8  # of a loose tolerance too: the last step was small


def test_auto_factors_small_matrices():
  assert fit(case("thirty items")[0]).solver == "newton"


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_too_few_steps_are_said_not_hidden(solver):
  data, _ = case("grid of 200")
  with pytest.warns(RuntimeWarning, match=r"did not converge in 1 steps: .* tol 1e-10"):
    found = fit(data, solver=solver, max_iter=1)
  assert not found.converged and found.gradient_norm > 1e-10
  assert "NOT CONVERGED" in repr(found)
