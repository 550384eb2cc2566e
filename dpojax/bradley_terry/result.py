"""What a fit found."""

import dataclasses
import functools
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dpojax.bradley_terry import likelihood, problem
from dpojax.bradley_terry.comparisons import Comparisons
from dpojax.bradley_terry.priors import Normal, Pseudo, prior_arrays
from dpojax.bradley_terry.problem import Grid, Rows, Spec
from dpojax.bradley_terry.strengths import Strengths
from dpojax.errors import DataError

if TYPE_CHECKING:
  from dpojax.bradley_terry.bootstrap import Bootstrap

Kind = Literal["hessian", "sandwich", "cluster"]


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
      return float(problem.value(np, self.spec, self.layout, none, self.vector))

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

  @functools.cached_property
  def inverse(self) -> np.ndarray:
    """f64[size, size]; see `uncertainty.inverse`."""
    from dpojax.bradley_terry import uncertainty

    return uncertainty.inverse(self)

  @functools.cached_property
  def score_squares(self) -> dict:
    """Kept here by kind, because contrasts ask for them again and again; see `uncertainty`."""
    return {}

  def covariance(self, kind: Kind = "hessian") -> np.ndarray:
    """f64[n, n] covariance of `log_strength`; see `uncertainty.covariance`."""
    from dpojax.bradley_terry import uncertainty

    return uncertainty.covariance(self, kind)

  def standard_errors(self, kind: Kind = "hessian") -> np.ndarray:
    """f64[n] standard errors of `log_strength`; 0 for an item that is the baseline."""
    from dpojax.bradley_terry import uncertainty

    return uncertainty.standard_errors(self, kind)

  def parameter_table(
    self, kind: Kind = "hessian", level: float = 0.95, resampled: "Bootstrap | None" = None
  ) -> list[dict]:
    """Home advantage, coefficients and tie parameter with standard errors and intervals."""
    from dpojax.bradley_terry import uncertainty

    return uncertainty.parameter_table(self, kind, level, resampled)

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
    self,
    level: float = 0.95,
    scale: float = 400,
    base: float = 10,
    offset: float = 1000,
    kind: Kind = "hessian",
    resampled: "Bootstrap | None" = None,
  ):
    """Ratings with intervals and ranks, from `kind` or from what `bootstrap` gave; see `leaderboard.leaderboard`."""
    from dpojax.bradley_terry.leaderboard import leaderboard

    return leaderboard(self, level, scale, base, offset, kind, resampled)
