"""Fitting strengths: `fit`, and what it found."""

import dataclasses
import functools
import warnings
from collections.abc import Hashable
from typing import Any, Literal, NamedTuple

import numpy as np

from dpojax.bradley_terry import connectivity, likelihood, problem
from dpojax.bradley_terry.comparisons import TIE, Comparisons
from dpojax.bradley_terry.layout import lay_out
from dpojax.bradley_terry.problem import Grid, Rows, Spec
from dpojax.bradley_terry.solver import HOST, State, newton
from dpojax.errors import DataError

Kind = Literal["hessian", "sandwich", "cluster"]
Ties = Literal["error", "half", "davidson", "rao_kupper"]
Solver = Literal["auto", "newton", "pcg", "numpy"]
Disconnected = Literal["raise", "largest", "prior"]
CHOLESKY_ITEMS = 400  # up to which a dense factorisation on the host is quicker than conjugate gradients
COMPILED_CELLS = 250_000  # pairs of a grid from which a compiled fit is quicker, its compilation included
SPARSE_CHOLESKY_ITEMS = 3000  # up to which Cholesky is kept where conjugate gradients would be slow


class Normal(NamedTuple):
  """A normal prior around 0 on every log-strength. sd: its standard deviation in nats."""

  sd: float


class Pseudo(NamedTuple):
  """A prior of imaginary games: n for every item, half of them won, against an item of strength 1."""

  n: float


class NoEstimate(DataError):
  """The maximum-likelihood estimate does not exist; the message says why and what to do."""


def fit(
  data: Comparisons,
  *,
  baseline: Hashable = "mean",
  ties: Ties = "error",
  home: bool = False,
  prior: Normal | Pseudo | None = None,
  on_disconnected: Disconnected = "raise",
  solver: Solver = "auto",
  tol: float = 1e-10,
  max_iter: int = 100,
) -> "BradleyTerryFit":
  """Log-strengths of the largest likelihood (or posterior density, with a prior).

    P(i beats j) = sigmoid(theta_i - theta_j + home advantage + covariates @ coefficients)

  Args:
    data: comparisons; their covariates, where there are some, get coefficients.
    baseline: "mean" makes the mean log-strength 0; an item's label makes its log-strength 0. An item that is itself
      called "mean" cannot be chosen.
    ties: "error" refuses them; "half" counts half a win and half a loss; "davidson" and "rao_kupper" fit a parameter.
    home: whether to fit a home advantage.
    prior: on log-strengths. None is maximum likelihood.
    on_disconnected: where no estimate exists because the wins do not connect all items: "raise"; "largest" fits the
      largest component and leaves the rest NaN; "prior" fits with `prior` there, or with Pseudo(1), and without a
      prior where the estimate exists.
    solver: "newton" (Cholesky) and "pcg" (conjugate gradients) are compiled by JAX, for many games of few items and
      for accelerators; "numpy" computes on the host; "auto" takes the quickest for the size.
    tol: what the largest component of the gradient, divided by the number of comparisons, must not exceed.
    max_iter: Newton steps. A fit that needs more comes back with `converged` false and a warning.

  Raises:
    NoEstimate: strengths, coefficients or the tie parameter would be infinite.
    DataError: there are ties and `ties` is "error", or a baseline or option is unknown.
  """
  _check_options(data, ties, home, on_disconnected, solver)
  check_settings(prior, tol, max_iter)
  if ties == "error" and data.has_ties:
    tied = data.outcome == TIE
    number = int(tied.sum() if data.count is None else data.count[tied].sum())
    raise DataError(f"{number:,} comparisons are ties; choose ties='half', 'davidson' or 'rao_kupper'")
  place = _baseline(data, baseline)
  chosen = None if on_disconnected == "prior" else prior
  component = np.zeros(len(data.items), np.int32)
  kept = np.arange(len(data.items))
  spec = Spec(len(data.items), int(home) + len(data.covariate_names), "half" if ties == "error" else ties)
  layout = lay_out(data, spec, home)
  if chosen is None and not connectivity.layout_connected(layout, spec.items):
    found = connectivity.connectivity(data)
    component = found.label
    if on_disconnected == "prior":
      chosen = prior or Pseudo(1)
    elif on_disconnected == "largest":
      kept = np.flatnonzero(found.label == 0)
      if len(kept) < 2:
        raise NoEstimate(f"no two items have beaten each other, so no component can be fitted: {found.explanation()}")
      if place is not None and place not in kept:
        raise DataError(f"baseline {baseline!r} is not in the largest component, which on_disconnected='largest' fits")
    else:
      raise NoEstimate(
        f"the strengths do not exist: {found.explanation()}. Compare them further, fit the largest component "
        "(on_disconnected='largest'), or choose a prior (prior=Pseudo(1), or on_disconnected='prior')"
      )
  part = data
  if len(kept) < len(data.items):
    part, spec = data.restricted(kept), spec._replace(items=len(kept))
    layout = lay_out(part, spec, home)
  _check_ties(part, spec)
  if spec.coefficients:
    names = connectivity.parameter_names(part, home, False)
    connectivity.raise_if_confounded(layout, spec.items, names, chosen is not None, NoEstimate)
  start = np.zeros(spec.size)
  if spec.has_tie:
    start[-1] = _first_tie_parameter(part, spec)
  total = part.total_weight
  state, way = solve_layout(spec, layout, chosen, solver, total, tol, max_iter, start)
  largest = float(np.abs(state.gradient).max()) / total
  converged = bool(largest <= tol and np.isfinite(state.step) and state.step <= 1e-4)
  if not converged or _nearly_certain(spec, layout, state.x):
    connectivity.raise_if_separated(part, spec, home, chosen is not None, NoEstimate)
  if not converged:
    warnings.warn(
      f"the fit did not converge in {max_iter} steps: the largest gradient a comparison is {largest:.1e}, tol {tol:g}",
      RuntimeWarning,
      stacklevel=2,
    )
  return BradleyTerryFit(
    data=data,
    baseline=place,
    part=part,
    kept=kept,
    component=component,
    spec=spec,
    layout=layout,
    prior=chosen,
    home_fitted=home,
    vector=np.asarray(state.x),
    gradient_norm=largest,
    iterations=int(state.iteration),
    converged=converged,
    solver=way,
  )


def solve_layout(
  spec: Spec, layout: Grid | Rows, prior, solver: Solver, total: float, tol: float, max_iter: int, start: np.ndarray
) -> tuple[State, str]:
  """(the final state, on NumPy arrays; which solver ran)."""
  if solver == "auto":
    solver = "numpy"
    if isinstance(layout, Grid) and spec.items**2 >= COMPILED_CELLS:
      solver = "pcg"
  settings = (total, tol, max_iter)
  counts = problem.totals(spec, layout)
  if solver != "numpy":
    from dpojax.bradley_terry import compiled

    method = "cholesky" if solver == "newton" else "cg"
    return compiled.solve(method, spec, counts, prior_arrays(prior, spec.items), start, *settings), solver
  method = "cholesky" if spec.items <= CHOLESKY_ITEMS else "cg"
  if isinstance(layout, Rows) and spec.items <= SPARSE_CHOLESKY_ITEMS and len(layout.first) < 20 * spec.items:
    method = "cholesky"  # few games an item connect badly
  with np.errstate(all="ignore"):
    state = newton(HOST, method, spec, counts, prior_arrays(prior, spec.items), np.ones(spec.items), start, *settings)
  return state, "numpy"


def prior_arrays(prior: Normal | Pseudo | None, items: int) -> problem.Prior:
  """What a prior says of every item."""
  nothing = np.zeros(items)
  if prior is None:
    return problem.Prior(nothing, nothing)
  if isinstance(prior, Normal):
    return problem.Prior(np.full(items, 1 / prior.sd**2), nothing)
  return problem.Prior(nothing, np.full(items, float(prior.n)))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BradleyTerryFit:
  """Strengths and what else was estimated. All of `data`'s items are here; NaN marks those that were not fitted.

  Attributes:
    data: the comparisons.
    baseline: place of the item whose log-strength is 0, or None where the mean is 0.
    component: i32[n] strong component of every item, 0 the largest; all 0 where all are connected or a prior holds.
    gradient_norm: largest component of the gradient, divided by the number of comparisons.
    iterations: Newton steps.
    converged: whether gradient_norm <= tol, at a point that no longer moves.
    solver: "newton", "pcg" or "numpy".
    part, kept, spec, layout, prior, home_fitted, vector: the problem as it was solved (of the items `kept`).
  """

  data: Comparisons
  baseline: int | None
  component: np.ndarray
  gradient_norm: float
  iterations: int
  converged: bool
  solver: str
  part: Comparisons
  kept: np.ndarray
  spec: Spec
  layout: Grid | Rows
  prior: Normal | Pseudo | None
  home_fitted: bool
  vector: np.ndarray

  def __repr__(self) -> str:
    state = f"converged in {self.iterations} steps" if self.converged else "NOT CONVERGED"
    return f"BradleyTerryFit({len(self.items):,} items, {len(self.data):,} comparisons, {state})"

  @property
  def items(self) -> tuple[Hashable, ...]:
    """Labels, in the order of all arrays."""
    return self.data.items

  @functools.cached_property
  def log_strength(self) -> np.ndarray:
    """f64[n] theta in nats."""
    theta = self.vector[: self.spec.items]
    shift = theta.mean() if self.baseline is None else theta[np.flatnonzero(self.kept == self.baseline)[0]]
    out = np.full(len(self.items), np.nan)
    out[self.kept] = theta - shift
    return out

  @property
  def strength(self) -> np.ndarray:
    """f64[n] exp(theta): 1 for the baseline (for the geometric mean, where that is it)."""
    return np.exp(self.log_strength)

  @property
  def home(self) -> float | None:
    """The home advantage in nats of log-odds, or None."""
    return float(self.vector[self.spec.items]) if self.home_fitted else None

  @property
  def coefficients(self) -> dict[str, float]:
    """Coefficients of the covariates, by name."""
    start = self.spec.items + int(self.home_fitted)
    values = self.vector[start : start + len(self.data.covariate_names)]
    return dict(zip(self.data.covariate_names, values.tolist(), strict=True))

  @property
  def tie_parameter(self) -> float | None:
    """Davidson's nu (equals tie with probability nu / (2 + nu)) or Rao and Kupper's exp(tau) >= 1; None without."""
    return float(np.exp(self.vector[-1])) if self.spec.has_tie else None

  @functools.cached_property
  def log_likelihood(self) -> float:
    """Of the outcomes, without the prior, in nats."""
    none = problem.no_prior(self.spec.items)
    with np.errstate(all="ignore"):
      return float(problem.value(np, self.spec, self.layout, none, self.vector))

  def place(self, item: Hashable) -> int:
    """The place of an item. Raises DataError where it is unknown."""
    try:
      return self._places[item]
    except KeyError:
      raise DataError(f"{item!r} is not among the {len(self.items)} items") from None

  @functools.cached_property
  def _places(self) -> dict[Hashable, int]:
    return {item: i for i, item in enumerate(self.items)}

  def outcome_probabilities(
    self, i: Hashable, j: Hashable, *, at_home: int = 0, covariates: Any = None
  ) -> tuple[float, float, float]:
    """(P(i wins), P(tie), P(j wins)).

    Args:
      at_home: 1 where i plays at home, -1 where j does, 0 on neutral ground.
      covariates: f[p] what favours i over j; nothing does by default.
    """
    theta = self.log_strength
    eta = theta[self.place(i)] - theta[self.place(j)]
    if at_home:
      if self.home is None:
        raise DataError("no home advantage was fitted; call fit(home=True)")
      eta += at_home * self.home
    if covariates is not None:
      eta += float(np.asarray(covariates, float) @ np.asarray(list(self.coefficients.values())))
    tie = float(self.vector[-1]) if self.spec.has_tie else None
    win, tied, loss = likelihood.probabilities(self.spec.model, eta, tie)
    return float(win), float(tied), float(loss)

  def probability(self, i: Hashable, j: Hashable, **where) -> float:
    """P(i beats j) on neutral ground; options as of `outcome_probabilities`."""
    return self.outcome_probabilities(i, j, **where)[0]

  def probability_matrix(self) -> np.ndarray:
    """f64[n, n] P(row beats column) on neutral ground; the diagonal is NaN."""
    theta = self.log_strength
    tie = float(self.vector[-1]) if self.spec.has_tie else None
    found = likelihood.probabilities(self.spec.model, theta[:, None] - theta[None, :], tie)[0]
    np.fill_diagonal(found, np.nan)
    return found

  # --- uncertainty

  def covariance(self, kind: Kind = "hessian") -> np.ndarray:
    """f64[n, n] covariance of `log_strength`; see `uncertainty.covariance`."""
    from dpojax.bradley_terry import uncertainty

    return uncertainty.covariance(self, kind)

  def standard_errors(self, kind: Kind = "hessian") -> np.ndarray:
    """f64[n] standard errors of `log_strength`; 0 for an item that is the baseline."""
    from dpojax.bradley_terry import uncertainty

    return uncertainty.standard_errors(self, kind)

  def parameter_table(self, kind: Kind = "hessian", level: float = 0.95) -> list[dict]:
    """Home advantage, coefficients and tie parameter with standard errors and intervals."""
    from dpojax.bradley_terry import uncertainty

    return uncertainty.parameter_table(self, kind, level)

  def contrast(self, i: Hashable, j: Hashable, *, kind: Kind = "hessian", level: float = 0.95):
    """log_strength of i less that of j: estimate, standard error, interval, two-sided p-value of equality."""
    from dpojax.bradley_terry import uncertainty

    return uncertainty.contrast(self, i, j, kind, level)

  def profile_interval(self, i: Hashable, j: Hashable | None = None, *, level: float = 0.95) -> tuple[float, float]:
    """Profile-likelihood interval of log_strength of i (less that of j): right where games are few."""
    from dpojax.bradley_terry import uncertainty

    return uncertainty.profile_interval(self, i, j, level)

  def bootstrap(self, n: int = 1000, seed: int = 0, unit: Literal["comparison", "cluster"] = "comparison"):
    """Refits of resampled comparisons; see `bootstrap.bootstrap`."""
    from dpojax.bradley_terry.bootstrap import bootstrap

    return bootstrap(self, n, seed, unit)

  def goodness_of_fit(self):
    """How well strengths explain the outcomes of every pair; see `goodness.goodness_of_fit`."""
    from dpojax.bradley_terry.goodness import goodness_of_fit

    return goodness_of_fit(self)

  def leaderboard(
    self, level: float = 0.95, scale: float = 400, base: float = 10, offset: float = 1000, kind: Kind = "hessian"
  ):
    """Ratings with intervals and ranks; see `leaderboard.leaderboard`."""
    from dpojax.bradley_terry.leaderboard import leaderboard

    return leaderboard(self, level, scale, base, offset, kind)


def check_settings(prior, tol: float, max_iter: int) -> None:
  """Raises DataError where a prior, `tol` or `max_iter` is not what it should be."""
  if prior is not None and not isinstance(prior, Normal | Pseudo):
    raise DataError(f"prior={prior!r} is unknown; it takes Normal(sd), Pseudo(n) and None")
  if isinstance(prior, Normal) and not 0 < prior.sd < np.inf:
    raise DataError(f"Normal(sd={prior.sd}): the standard deviation must be above 0 and finite")
  if isinstance(prior, Pseudo) and not 0 < prior.n < np.inf:
    raise DataError(f"Pseudo(n={prior.n}): the number of imaginary games must be above 0 and finite")
  if not tol > 0:
    raise DataError(f"tol={tol} must be above 0")
  if not max_iter >= 1:
    raise DataError(f"max_iter={max_iter} must be 1 or more")


def _check_options(data, ties, home, on_disconnected, solver) -> None:
  for name, given, known in (
    ("ties", ties, ("error", "half", "davidson", "rao_kupper")),
    ("on_disconnected", on_disconnected, ("raise", "largest", "prior")),
    ("solver", solver, ("auto", "newton", "pcg", "numpy")),
  ):
    if given not in known:
      raise DataError(f"{name}={given!r} is unknown; it takes {', '.join(map(repr, known))}")
  if home and (data.home is None or not data.home.any()):
    raise DataError("home=True, but no comparison says who was at home (Comparisons.from_pairs(home=...))")


def _baseline(data: Comparisons, baseline: Hashable) -> int | None:
  if baseline == "mean":
    return None
  if baseline not in data.items:
    raise DataError(f"baseline {baseline!r} is not among the {len(data.items)} items; it takes one of them or 'mean'")
  return data.items.index(baseline)


def _check_ties(part: Comparisons, spec: Spec) -> None:
  """Raises NoEstimate where the tie parameter would run away."""
  if not spec.has_tie:
    return
  tied = part.row_weight[part.outcome == TIE].sum()
  if tied == 0:
    raise NoEstimate(f"there are no ties, so a tie parameter has no estimate: use ties='error', not {spec.model!r}")
  if tied == part.total_weight:
    raise NoEstimate("all comparisons are ties, so the tie parameter has no estimate")


def _nearly_certain(spec: Spec, layout: Grid | Rows, x: np.ndarray) -> bool:
  """Whether some outcome of a comparison has become all but impossible, so that coefficients may have run away.

  A parameter that runs away stops where the curvature along it drowns in rounding, and looks as if it had converged.
  """
  if spec.size == spec.items:
    return False  # strengths alone: the graph of wins decides
  tie = float(x[-1]) if spec.has_tie else None
  with np.errstate(all="ignore"):
    won, tied, lost = likelihood.probabilities(spec.model, problem.log_odds(spec, layout, x), tie)
  least = np.minimum(np.minimum(won, lost), tied) if spec.has_tie else np.minimum(won, lost)
  return bool(((least < 1e-7) & (layout.wins + layout.losses + layout.ties > 0)).any())


def _first_tie_parameter(part: Comparisons, spec: Spec) -> float:
  """The parameter that explains the share of ties if all were equally strong."""
  share = float(part.row_weight[part.outcome == TIE].sum() / part.total_weight)
  return float(np.log(2 * share / (1 - share)) if spec.model == "davidson" else 2 * np.arctanh(share))
