"""Whether strengths explain the outcomes of every pair."""

import dataclasses

import numpy as np
from scipy import stats

from dpojax.bradley_terry import likelihood, problem
from dpojax.bradley_terry.fitted import Fitted
from dpojax.bradley_terry.layout import row_cells
from dpojax.errors import DataError


@dataclasses.dataclass(frozen=True)
class GoodnessOfFit:
  """Deviance (G squared) and Pearson's chi squared against free probabilities for every pair that met.

  Attributes:
    deviance, pearson: both chi-squared with `degrees_of_freedom` if the model holds and pairs met often.
    p_value, pearson_p_value: of a deviance, and a Pearson statistic, at least as large.
    pairs: pairs that met (in each arrangement of home and away, where home counts).
    sparse_share: share of expected counts below 5; where it is large, neither p-value can be relied on.
  """

  deviance: float
  pearson: float
  degrees_of_freedom: int
  p_value: float
  pearson_p_value: float
  pairs: int
  sparse_share: float


def goodness_of_fit(fit: Fitted) -> GoodnessOfFit:
  """Compares outcomes with what the fit expects, pair by pair.

  Raises:
    DataError: covariates make every comparison its own, or ties were counted as halves, which no multinomial has.
  """
  if fit.data.covariate_names:
    raise DataError("goodness of fit compares pairs, and covariates tell comparisons of a pair apart")
  if fit.spec.model == "half" and fit.part.has_ties:
    raise DataError("ties counted as halves have no distribution; fit ties='davidson' or 'rao_kupper'")
  spec = fit.spec
  _, rows = row_cells(fit.part, spec, fit.home_fitted)
  _, coefficients, tie = problem.parts(spec, fit.vector)
  eta = fit.vector[rows.first] - fit.vector[rows.second] + rows.slopes @ coefficients
  expected = np.stack(likelihood.probabilities(spec.model, eta, float(tie) if spec.has_tie else None))
  observed = np.stack([rows.wins, np.broadcast_to(rows.ties, rows.wins.shape), rows.losses])
  if not spec.has_tie:
    expected, observed = expected[::2], observed[::2]
  expected = expected * observed.sum(axis=0)
  with np.errstate(divide="ignore", invalid="ignore"):
    terms = np.where(observed > 0, observed * np.log(observed / expected), 0.0)
  deviance = float(2 * terms.sum())
  pearson = float(((observed - expected) ** 2 / expected).sum())
  pairs = expected.shape[1]
  freedom = pairs * (len(expected) - 1) - (spec.size - 1)
  return GoodnessOfFit(
    deviance,
    pearson,
    freedom,
    float(stats.chi2.sf(deviance, freedom)) if freedom > 0 else float("nan"),
    float(stats.chi2.sf(pearson, freedom)) if freedom > 0 else float("nan"),
    pairs,
    float((expected < 5).mean()),
  )
