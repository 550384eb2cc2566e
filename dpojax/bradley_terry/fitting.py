"""Fitting strengths, and what a fit holds."""

import dataclasses
import functools
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import linalg

from dpojax.bradley_terry import existence, likelihood
from dpojax.bradley_terry.columns import TIE
from dpojax.bradley_terry.comparisons import Comparisons
from dpojax.bradley_terry.existence import Disconnected, NoEstimate
from dpojax.bradley_terry.layout import Grid, Rows, Spec, lay_out
from dpojax.bradley_terry.likelihood import Normal, Prior, Pseudo, prior_arrays
from dpojax.bradley_terry.solver import Solver, conjugate_gradients, grounded, negative_hessian, solve
from dpojax.errors import DataError

Ties = Literal["error", "half", "davidson", "rao_kupper"]


def fit(
  data: Comparisons | Sequence[tuple] | Mapping[tuple, float],
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

  >>> round(fit([("a", "b"), ("a", "b"), ("b", "a")]).probability("a", "b"), 6)
  0.666667

  Args:
    data: a list of games (winner, loser) or (one, other, "tie"), or a mapping of them to how often they came: see
      `Comparisons.from_games`. Or comparisons; their covariates, where there are some, get coefficients.
    baseline: "mean" makes the mean log-strength 0; an item's label makes its log-strength 0. An item that is itself
      called "mean" cannot be chosen.
    ties: "error" refuses them; "half" counts half a win and half a loss; "davidson" and "rao_kupper" fit a parameter.
    home: whether to fit a home advantage.
    prior: on log-strengths. None is maximum likelihood.
    on_disconnected: where no estimate exists because the wins do not connect all items: "raise"; "largest" fits the
      largest component and leaves the rest NaN; "prior" fits with `prior` there, or with Pseudo(1), and without a
      prior where the estimate exists.
    solver: "newton" (Cholesky), "pcg" (conjugate gradients), or "auto", the quicker of them for the size.
    tol: what the largest component of the gradient, divided by the number of comparisons, must not exceed.
    max_iter: Newton steps. A fit that needs more comes back with `converged` false and a warning.

  Raises:
    NoEstimate: strengths, coefficients or the tie parameter would be infinite.
    DataError: there are ties and `ties` is "error", or a baseline or option is unknown.
  """
  if not isinstance(data, Comparisons):
    data = Comparisons.from_games(data)
  _check_options(data, ties, home, solver)
  check_settings(prior, on_disconnected, tol, max_iter)
  if ties == "error" and data.has_ties:
    tied = data.outcome == TIE
    number = int(tied.sum() if data.count is None else data.count[tied].sum())
    raise DataError(f"{number:,} comparisons are ties; choose ties='half', ties='davidson' or ties='rao_kupper'")
  place = baseline_place(data, baseline)
  spec = Spec(len(data.items), int(home) + len(data.covariate_names), "half" if ties == "error" else ties)
  layout = lay_out(data, spec, home)
  connected = existence.layout_connected(layout, spec.items)
  chosen, component, kept = existence.what_to_fit(data, connected, place, prior, on_disconnected)
  part = data
  if len(kept) < len(data.items):
    part, spec = data.restricted(kept), spec._replace(items=len(kept))
    layout = lay_out(part, spec, home)
  _check_ties(part, spec)
  if spec.coefficients:
    names = existence.parameter_names(part, home, False)
    existence.raise_if_confounded(layout, spec.items, names, chosen is not None)
  start = np.zeros(spec.size)
  start[: spec.items] = likelihood.first_strengths(spec.items, layout)
  if spec.has_tie:
    start[-1] = _first_tie_parameter(part, spec)
  total = part.total_weight
  state, way = solve(spec, layout, chosen, solver, total, tol, max_iter, start)
  largest = float(np.abs(state.gradient).max()) / total
  converged = bool(largest <= tol and np.isfinite(state.step) and state.step <= 1e-4)
  if not converged or existence.nearly_certain(spec, layout, state.x):
    existence.raise_if_separated(part, spec, home, chosen is not None)
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


def _check_options(data, ties, home, solver) -> None:
  for name, given, known in (
    ("ties", ties, ("error", "half", "davidson", "rao_kupper")),
    ("solver", solver, ("auto", "newton", "pcg")),
  ):
    if given not in known:
      raise DataError(f"{name}={given!r} is unknown; it takes {', '.join(map(repr, known))}")
  if home and (data.home is None or not data.home.any()):
    raise DataError("home=True, but no comparison says who was at home (Comparisons.from_pairs(home=...))")


def _check_ties(part: Comparisons, spec: Spec) -> None:
  """Raises NoEstimate where the tie parameter would run away."""
  if not spec.has_tie:
    return
  tied = part.row_weight[part.outcome == TIE].sum()
  if tied == 0:
    raise NoEstimate(f"there are no ties, so a tie parameter has no estimate: use ties='error', not {spec.model!r}")
  if tied == part.total_weight:
    raise NoEstimate("all comparisons are ties, so the tie parameter has no estimate")


def _first_tie_parameter(part: Comparisons, spec: Spec) -> float:
  """The parameter that explains the fraction of ties if all were equally strong."""
  fraction = float(part.row_weight[part.outcome == TIE].sum() / part.total_weight)
  return float(np.log(2 * fraction / (1 - fraction)) if spec.model == "davidson" else 2 * np.arctanh(fraction))


class Strengths:
  """Log-strengths of all items of `data`; those that were not fitted are NaN.

  `data`, `baseline` (a place, or None for the mean), `kept` (i[k] places that were fitted) and `vector` (f64[>= k],
  their log-strengths first, up to a shift) come from the fit.
  """

  data: Comparisons
  baseline: int | None
  kept: np.ndarray
  vector: np.ndarray
  prior: Normal | Pseudo | None

  @functools.cached_property
  def inverse(self) -> np.ndarray:
    """f64[size, size] inverse of the negative Hessian, across the common shift of strengths."""
    raise NotImplementedError

  def solve(self, directions: np.ndarray, accuracy: float) -> np.ndarray:
    """The negative Hessian's inverse times f64[size, r], without forming either."""
    raise NotImplementedError

  @property
  def items(self) -> tuple[Hashable, ...]:
    """Labels, in the order of all arrays."""
    return self.data.items

  @functools.cached_property
  def log_strength(self) -> np.ndarray:
    """f64[n] theta in nats."""
    theta = self.vector[: len(self.kept)]
    out = np.full(len(self.items), np.nan)
    out[self.kept] = theta - self.against @ theta
    return out

  @property
  def strength(self) -> np.ndarray:
    """f64[n] exp(theta): 1 for the baseline (for the geometric mean, where that is it)."""
    return np.exp(self.log_strength)

  @functools.cached_property
  def against(self) -> np.ndarray:
    """f64[k] whose product with log-strengths is what they are relative to: their mean, or the baseline's."""
    k = len(self.kept)
    return np.full(k, 1 / k) if self.baseline is None else (self.kept == self.baseline).astype(float)

  def place(self, item: Hashable) -> int:
    """The place of an item. Raises DataError where it is unknown."""
    try:
      return self._places[item]
    except KeyError:
      raise DataError(f"{item!r} is not among the {len(self.items)} items") from None

  def fitted_place(self, item: Hashable) -> int:
    """The place of an item among those fitted. Raises DataError where it is unknown or was not fitted."""
    place = np.flatnonzero(self.kept == self.place(item))
    if not len(place):
      raise DataError(f"{item!r} was not fitted: it is not in the largest component")
    return int(place[0])

  def spread_out(self, matrix: np.ndarray) -> np.ndarray:
    """f64[n, n], relative to the baseline, of a covariance f64[k, k] of fitted log-strengths; NaN for other items."""
    matrix = matrix - self.against @ matrix
    full = np.full((len(self.items),) * 2, np.nan)
    full[np.ix_(self.kept, self.kept)] = matrix - (matrix @ self.against)[:, None]
    return full

  @functools.cached_property
  def _places(self) -> dict[Hashable, int]:
    return {item: i for i, item in enumerate(self.items)}


def baseline_place(data: Comparisons, baseline: Hashable) -> int | None:
  """The place of the item whose log-strength is to be 0, or None for "mean"."""
  if baseline == "mean":
    return None
  if baseline not in data.items:
    raise DataError(f"baseline {baseline!r} is not among the {len(data.items)} items; it takes one of them or 'mean'")
  return data.items.index(baseline)


def check_settings(prior, on_disconnected: str, tol: float, max_iter: int) -> None:
  """Raises DataError where an option that all fits have is not what it should be."""
  if on_disconnected not in ("raise", "largest", "prior"):
    raise DataError(f"on_disconnected={on_disconnected!r} is unknown; it takes 'raise', 'largest', 'prior'")
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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BradleyTerryFit(Strengths):
  """Strengths and what else was estimated. All of `data`'s items are here; NaN marks those that were not fitted.

  Attributes:
    data: the comparisons.
    baseline: place of the item whose log-strength is 0, or None where the mean is 0.
    component: i32[n] strong component of every item, 0 the largest; all 0 where all are connected or a prior holds.
    gradient_norm: largest component of the gradient, divided by the number of comparisons.
    iterations: Newton steps.
    converged: whether gradient_norm <= tol, at a point that no longer moves.
    solver: "newton" or "pcg".
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
    none = prior_arrays(None, self.spec.items)
    with np.errstate(all="ignore"):
      return likelihood.value(self.spec, self.layout, none, self.vector)

  @functools.cached_property
  def prior_terms(self) -> Prior:
    """The prior as arrays."""
    return prior_arrays(self.prior, self.spec.items)

  @functools.cached_property
  def inverse(self) -> np.ndarray:
    """f64[size, size] inverse of the negative Hessian, across the common shift of strengths."""
    k = self.spec.items
    _, curvature = likelihood.derivatives(self.spec, self.layout, self.prior_terms, self.vector)
    matrix = likelihood.dense(self.spec, self.layout, curvature)
    found = linalg.cho_solve(self.factor(matrix), np.eye(self.spec.size))
    if self.prior is None:  # what was added along the shift is taken out again
      found[:k, :k] -= 1 / np.trace(matrix[:k, :k])
    return found

  def factor(self, matrix: np.ndarray) -> tuple[np.ndarray, bool]:
    """SciPy's Cholesky factor of the negative Hessian f64[size, size], made definite where no prior does that.

    Raises:
      NoEstimate: it is not definite in float64, so that there are no errors and no intervals.
    """
    definite = matrix if self.prior else grounded(matrix, self.spec.items)
    try:
      return linalg.cho_factor(definite)
    except (linalg.LinAlgError, ValueError) as error:  # ValueError: it holds NaN
      raise NoEstimate(
        "strengths have no standard errors: their curvature is lost to rounding, as some weights are far larger than "
        "others, or the prior far weaker than the comparisons; scale the weights, or use a stronger prior, such as "
        "prior=Pseudo(1)"
      ) from error

  @functools.cached_property
  def score_squares(self) -> dict:
    """Kept here by kind, for `uncertainty`."""
    return {}

  def solve(self, directions: np.ndarray, accuracy: float) -> np.ndarray:
    """The negative Hessian's inverse times f64[size, r], without forming either."""
    k = self.spec.items
    _, curvature = likelihood.derivatives(self.spec, self.layout, self.prior_terms, self.vector)
    multiply, diagonal = negative_hessian(self.spec, self.layout, curvature)

    def centred(v):
      return v if self.prior else np.concatenate([v[:k] - v[:k].mean(axis=0), v[k:]])

    return conjugate_gradients(multiply, diagonal, directions, accuracy, centred)

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
