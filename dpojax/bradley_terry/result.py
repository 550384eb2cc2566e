"""What a fit found."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dpojax.bradley_terry import likelihood
from dpojax.bradley_terry.fitted import Fitted, Kind
from dpojax.errors import DataError

if TYPE_CHECKING:
  from dpojax.bradley_terry.bootstrap import Bootstrap


class BradleyTerryFit(Fitted):
  """What `fit` gives: strengths with all that can be asked of them. Its attributes are those of `Fitted`."""

  def __repr__(self) -> str:
    state = f"converged in {self.iterations} steps" if self.converged else "NOT CONVERGED"
    return f"BradleyTerryFit({len(self.items):,} items, {len(self.data):,} comparisons, {state})"

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
