"""Whether an estimate exists: what cannot be estimated is named, what can be is estimated however near."""

import itertools

import bt_oracles as oracles
import numpy as np
import pytest
from bt_games import comparisons_of

from dpojax.bradley_terry import Comparisons, NoEstimate, Normal, Pseudo, connectivity, existence, fit
from dpojax.errors import DataError

SOLVERS = ("newton", "pcg")
CIRCLE = (["a", "b", "c"], ["b", "c", "a"])  # a > b > c > a


def pairs(text, **more):
  """Comparisons from "a>b b>c a=c"."""
  games = text.split()
  return Comparisons.from_pairs([g[0] for g in games], [g[2] for g in games], tie=[g[1] == "=" for g in games], **more)


def test_a_chain_of_wins_has_no_estimate():
  data = pairs("a>b b>c a>c")
  with pytest.raises(NoEstimate) as error:
    fit(data)
  message = str(error.value)
  assert "{a}, {b}, {c}" in message and "a never lost" in message and "c never won" in message
  assert "on_disconnected='largest'" in message and "prior=Pseudo(1)" in message
  found = connectivity(data)
  assert not found.connected and found.undefeated == ("a",) and found.winless == ("c",)
  assert found.islands == (("a", "b", "c"),)


def test_two_islands_are_named():
  with pytest.raises(NoEstimate, match=r"2 groups of items never met: \{c, d, e\}, \{a, b\}"):
    fit(pairs("a>b b>a c>d d>e e>c"))


def test_an_item_without_games_is_an_island():
  with pytest.raises(NoEstimate, match=r"never met: \{a, b\}, \{z\}"):
    fit(Comparisons.from_pairs(["a", "b"], ["b", "a"], items=["a", "b", "z"]))


def test_games_of_weight_zero_connect_nobody():
  data = pairs("a>b b>c a>c c>a", weight=[1, 1, 1, 0])
  assert not connectivity(data).connected and connectivity(data).undefeated == ("a",)
  with pytest.raises(NoEstimate):
    fit(data)


def test_two_groups_that_met_in_one_direction():
  data = pairs("a>b b>a c>d d>c a>c b>d")
  with pytest.raises(NoEstimate, match=r"have not all beaten each other: \{a, b\}, \{c, d\}"):
    fit(data)
  assert connectivity(data).undefeated == () and connectivity(data).label.tolist() == [0, 0, 1, 1]


def reached(edges, n):
  """bool[n, n] by Warshall's algorithm."""
  found = np.eye(n, dtype=bool) | edges
  for k in range(n):
    found |= found[:, k : k + 1] & found[k : k + 1]
  return found


def test_every_graph_of_three_and_random_ones_of_six():
  """The estimate exists if and only if everybody has beaten everybody, through others."""
  arrows = [(i, j) for i in range(3) for j in range(3) if i != j]
  graphs = [
    np.array([[bit and (i, j) in chosen for j in range(3)] for i, bit in enumerate([1] * 3)])
    for k in range(1, 7)
    for chosen in itertools.combinations(arrows, k)
  ]
  rng = np.random.default_rng(0)
  graphs += [(rng.random((6, 6)) < p) & ~np.eye(6, dtype=bool) for p in (0.15, 0.2, 0.25, 0.3) for _ in range(15)]
  outcomes = set()
  for wins in filter(np.any, graphs):
    exists = bool(reached(wins, len(wins)).all())
    outcomes.add(exists)
    for data in (Comparisons.from_matrix(wins), Comparisons.from_matrix(wins * 1.0).take(np.arange(wins.sum()))):
      assert connectivity(data).connected == exists
      if exists:
        assert fit(data).converged
      else:
        with pytest.raises(NoEstimate):
          fit(data)
  assert outcomes == {True, False}


def test_ties_connect():
  data = pairs("a>b b=c c=a")
  assert connectivity(data).connected
  assert fit(data, ties="half").converged


def test_the_largest_component_is_fitted_as_if_alone():
  data = pairs("a>b b>c c>a a>b a>d b>d e>a e>c")
  found = fit(data, on_disconnected="largest")
  alone = fit(pairs("a>b b>c c>a a>b"))
  np.testing.assert_allclose(found.log_strength[:3], alone.log_strength, atol=1e-10)
  assert np.isnan(found.log_strength[3:]).all() and np.isnan(found.strength[3:]).all()
  assert found.component[:3].tolist() == [0, 0, 0] and 0 not in found.component[3:]
  assert np.isnan(found.probability("a", "d"))
  assert fit(data, on_disconnected="largest", baseline="b").log_strength[1] == 0
  with pytest.raises(DataError, match="baseline 'd' is not in the largest component"):
    fit(data, on_disconnected="largest", baseline="d")
  with pytest.raises(NoEstimate, match="no two items have beaten each other"):
    fit(pairs("a>b b>c"), on_disconnected="largest")


def test_a_prior_helps_where_it_must_and_only_there():
  data = pairs("a>b b>c")
  helped = fit(data, on_disconnected="prior")
  assert helped.converged and helped.prior == Pseudo(1)
  np.testing.assert_allclose(helped.log_strength, fit(data, prior=Pseudo(1)).log_strength, atol=1e-9)
  own = fit(data, on_disconnected="prior", prior=Normal(2.0))
  np.testing.assert_allclose(own.log_strength, fit(data, prior=Normal(2.0)).log_strength, atol=1e-9)
  connected = fit(Comparisons.from_pairs(*CIRCLE), on_disconnected="prior", prior=Normal(2.0))
  assert connected.prior is None


# --- with home advantage, covariates and ties

ROUND = [(0, 1), (1, 2), (2, 0)]


def columns(rows, x=None):
  """Rows (a, b, outcome) as columns; `a` is at home."""
  a, b, outcome = (np.array(column) for column in zip(*rows, strict=True))
  m = len(a)
  x = np.zeros((m, 0)) if x is None else np.asarray(x, float).reshape(m, -1)
  return dict(a=a, b=b, outcome=outcome, home=np.ones(m, int), x=x, weight=np.ones(m))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_covariate_that_decides_everything(solver):
  """Everybody beat everybody, always with the greater covariate."""
  rows = [(i, j, o) for i, j in ROUND for o in (2, 0)]
  x = [1.0 if o == 2 else -1.0 for _, _, o in rows]
  data = comparisons_of(columns(rows, x), items=3, home=False)
  assert connectivity(data).connected
  with pytest.raises(NoEstimate, match=r"separated, so these grow without end: coefficient of 'covariate_0'"):
    fit(data, solver=solver)
  with pytest.raises(NoEstimate, match="coefficient of 'covariate_0'"):
    fit(data, solver=solver, prior=Normal(1.0))  # which holds strengths only


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_covariate_that_decides_what_it_touches(solver):
  """Quasi-separation: it is 0 in most games, where either won, and always right in the others."""
  rows = [(i, j, o) for i, j in ROUND for o in (2, 0, 2)] + [(0, 1, 2), (1, 2, 0)]
  x = [0.0] * 9 + [0.4, -1.5]
  with pytest.raises(NoEstimate, match="coefficient of 'covariate_0'"):
    fit(comparisons_of(columns(rows, x), items=3, home=False), solver=solver)


@pytest.mark.parametrize("solver", SOLVERS)
def test_home_advantage_that_decides_everything(solver):
  rows = [(i, j, 2) for i, j in ROUND] + [(j, i, 2) for i, j in ROUND]
  data = comparisons_of(columns(rows), items=3, home=True)
  with pytest.raises(NoEstimate, match="grow without end: home advantage"):
    fit(data, home=True, solver=solver)
  assert fit(data, solver=solver).converged


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("ties", ["davidson", "rao_kupper"])
def test_ties_that_decide_everything(ties, solver):
  """Every tie between equals and every win over the next but one: as the tie parameter grows with the steps of the
  ladder, all of it becomes certain."""
  data = pairs("a=b b=c c=d a>c b>d a>d")
  assert connectivity(data).connected
  with pytest.raises(NoEstimate, match="grow without end: tie parameter, strength of"):
    fit(data, ties=ties, solver=solver)
  assert fit(pairs("a=b b=c c=d a>c b>d a>d d>a"), ties=ties, solver=solver).converged


@pytest.mark.parametrize("ties", ["davidson", "rao_kupper"])
def test_no_ties_and_nothing_but_ties(ties):
  with pytest.raises(NoEstimate, match="there are no ties, so a tie parameter has no estimate"):
    fit(Comparisons.from_pairs(*CIRCLE), ties=ties)
  with pytest.raises(NoEstimate, match="all comparisons are ties"):
    fit(pairs("a=b b=c"), ties=ties)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("few", [1e-2, 1e-6])
def test_nearly_separated_is_estimated(solver, few):
  """As where a covariate decides everything, but for upsets of weight `few` round the circle: by symmetry everybody is
  as strong, and of 2 + few decisions the covariate is right in 2."""
  rows = [(i, j, o) for i, j in ROUND for o in (2, 0)] + [(i, j, 0) for i, j in ROUND]
  games = columns(rows, [1.0 if o == 2 else -1.0 for _, _, o in rows[:6]] + [1.0] * 3)
  games["weight"] = np.array([1.0] * 6 + [few] * 3)
  found = fit(comparisons_of(games, items=3, home=False), solver=solver, tol=1e-12)
  assert found.converged
  np.testing.assert_allclose(found.log_strength, 0, atol=1e-8)
  np.testing.assert_allclose(found.coefficients["covariate_0"], np.log(2 / few), rtol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_upset_in_a_million_is_estimated(solver):
  wins = np.array([[0, 1e6, 0], [1, 0, 1e6], [0, 1, 0]])
  found = fit(Comparisons.from_matrix(wins), solver=solver, tol=1e-13)
  np.testing.assert_allclose(np.diff(found.log_strength), [-np.log(1e6)] * 2, rtol=1e-8)


def random_design(rng, scale):
  rows = [(i, j, int(o)) for i, j in itertools.combinations(range(3), 2) for o in rng.integers(0, 3, 3)]
  games = columns(rows, rng.normal(size=(9, 1)).round(1))
  games["weight"] = np.full(9, scale)
  return games


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize("solver", ["newton", "pcg"])
@pytest.mark.parametrize("ties", ["half", "davidson"])
def test_small_designs_either_converge_or_run_away(ties, solver, scale):
  """What is estimated is a maximum with curvature in every direction but the common shift. What is refused runs away
  from another optimiser too: as a ridge vanishes, its estimate grows without end."""
  rng = np.random.default_rng(1)
  seen = []
  for _ in range(25):
    games = random_design(rng, scale)
    data = comparisons_of(games, items=3, home=True)
    if not data.has_ties:
      continue
    try:
      found = fit(data, ties=ties, home=True, solver=solver)
    except NoEstimate:
      seen.append("none")
      if scale == 1 and solver == "newton":
        sizes = [ridge_size(games, ties, ridge) for ridge in (1e-3, 1e-6)]
        assert sizes[1] > sizes[0] + 1.5
      continue
    seen.append("estimate")
    assert found.converged
    _, gradient, hessian = oracles.derivatives(found.vector, games, 3, model=ties, home=True)
    existence.raise_if_separated(data, found.spec, True, False)  # does not
    assert np.abs(gradient).max() < 1e-8 * scale and np.linalg.eigvalsh(hessian)[1] > 1e-4 * scale
  assert 3 < seen.count("none") < len(seen) - 3


def ridge_size(games, ties, ridge):
  """The largest parameter of the minimum with a ridge on all of them."""

  def derivatives(v):
    value, gradient, hessian = oracles.derivatives(v, games, 3, model=ties, home=True)
    return value + ridge * v @ v / 2, gradient + ridge * v, hessian + ridge * np.eye(len(v))

  vector = np.zeros(4 + games["x"].shape[1] + (ties == "davidson"))
  for _ in range(300):
    value, gradient, hessian = derivatives(vector)
    step = np.linalg.solve(hessian, gradient)
    if np.abs(step).max() < 1e-6:
      return np.abs(vector).max()
    while not derivatives(vector - step)[0] <= value + 1e-12 * abs(value):
      step = step / 2
    vector = vector - step
  raise AssertionError("the ridge did not converge")


# --- values that cannot be told apart


@pytest.mark.parametrize("solver", SOLVERS)
def test_home_advantage_that_strengths_can_replace(solver):
  """Two items, one of them always at home."""
  data = Comparisons.from_pairs([0, 1, 0], [1, 0, 1], home=[1, -1, 1])
  with pytest.raises(NoEstimate, match="home advantage: there is no single estimate"):
    fit(data, home=True, solver=solver)
  assert fit(data, home=True, solver=solver, prior=Normal(1.0)).converged


def test_covariates_that_strengths_or_others_can_replace():
  rng = np.random.default_rng(0)
  rows = [(int(i), int(j), int(o)) for i, j in ROUND * 4 for o in (0, 2)]
  value = np.array([0.3, -1.0, 2.0])  # of the items themselves
  own = np.array([value[a] - value[b] for a, b, _ in rows])
  free = rng.normal(size=len(rows))
  with pytest.raises(NoEstimate, match=r"^coefficient of 'covariate_1': there is no single estimate"):
    fit(comparisons_of(columns(rows, np.stack([free, own], axis=1)), items=3, home=False))
  with pytest.raises(NoEstimate, match=r"^coefficient of 'covariate_0', coefficient of 'covariate_1'"):
    fit(comparisons_of(columns(rows, np.stack([free, 2 * free + own], axis=1)), items=3, home=False))
  with pytest.raises(NoEstimate, match=r"^coefficient of 'covariate_0'"):
    fit(comparisons_of(columns(rows, 0 * free), items=3, home=False))
  assert fit(
    comparisons_of(columns(rows, np.stack([free, own + 1e-3 * free**2], axis=1)), items=3, home=False)
  ).converged
