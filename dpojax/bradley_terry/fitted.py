"""What was estimated and the problem it solves: all that errors, resampling and ratings are computed from."""

import dataclasses
import functools
from typing import Literal

import numpy as np
from scipy import linalg

from dpojax.bradley_terry import problem
from dpojax.bradley_terry.comparisons import Comparisons
from dpojax.bradley_terry.numerics import HOST, grounded
from dpojax.bradley_terry.priors import NoEstimate, Normal, Pseudo, prior_arrays
from dpojax.bradley_terry.problem import Grid, Rows, Spec
from dpojax.bradley_terry.strengths import Strengths

Kind = Literal["hessian", "sandwich", "cluster"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Fitted(Strengths):
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

  @functools.cached_property
  def prior_terms(self) -> problem.Prior:
    """The prior as arrays."""
    return prior_arrays(self.prior, self.spec.items)

  @functools.cached_property
  def inverse(self) -> np.ndarray:
    """f64[size, size] inverse of the negative Hessian, across the common shift of strengths."""
    k = self.spec.items
    _, curvature = problem.derivatives(HOST, self.spec, self.layout, self.prior_terms, self.vector)
    matrix = problem.dense(HOST, self.spec, self.layout, curvature)
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
    """Kept here by kind, because contrasts ask for them again and again; see `uncertainty`."""
    return {}
