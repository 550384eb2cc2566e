"""Fitting strengths."""

import warnings
from collections.abc import Hashable
from typing import Literal

import numpy as np

from dpojax.bradley_terry import connectivity, problem
from dpojax.bradley_terry.comparisons import TIE, Comparisons
from dpojax.bradley_terry.layout import lay_out
from dpojax.bradley_terry.priors import NoEstimate, Normal, Pseudo
from dpojax.bradley_terry.problem import Spec
from dpojax.bradley_terry.result import BradleyTerryFit
from dpojax.bradley_terry.solver import Solver, solve
from dpojax.bradley_terry.strengths import Disconnected, baseline_place, check_settings, what_to_fit
from dpojax.errors import DataError

Ties = Literal["error", "half", "davidson", "rao_kupper"]


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
) -> BradleyTerryFit:
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
  _check_options(data, ties, home, solver)
  check_settings(prior, on_disconnected, tol, max_iter)
  if ties == "error" and data.has_ties:
    tied = data.outcome == TIE
    number = int(tied.sum() if data.count is None else data.count[tied].sum())
    raise DataError(f"{number:,} comparisons are ties; choose ties='half', 'davidson' or 'rao_kupper'")
  place = baseline_place(data, baseline)
  spec = Spec(len(data.items), int(home) + len(data.covariate_names), "half" if ties == "error" else ties)
  layout = lay_out(data, spec, home)
  connected = connectivity.layout_connected(layout, spec.items)
  chosen, component, kept = what_to_fit(data, connected, place, prior, on_disconnected)
  part = data
  if len(kept) < len(data.items):
    part, spec = data.restricted(kept), spec._replace(items=len(kept))
    layout = lay_out(part, spec, home)
  _check_ties(part, spec)
  if spec.coefficients:
    names = connectivity.parameter_names(part, home, False)
    connectivity.raise_if_confounded(layout, spec.items, names, chosen is not None)
  start = np.zeros(spec.size)
  start[: spec.items] = problem.first_strengths(spec.items, layout)
  if spec.has_tie:
    start[-1] = _first_tie_parameter(part, spec)
  total = part.total_weight
  state, way = solve(spec, layout, chosen, solver, total, tol, max_iter, start)
  largest = float(np.abs(state.gradient).max()) / total
  converged = bool(largest <= tol and np.isfinite(state.step) and state.step <= 1e-4)
  if not converged or connectivity.nearly_certain(spec, layout, state.x):
    connectivity.raise_if_separated(part, spec, home, chosen is not None)
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
    ("solver", solver, ("auto", "newton", "pcg", "numpy")),
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
  """The parameter that explains the share of ties if all were equally strong."""
  share = float(part.row_weight[part.outcome == TIE].sum() / part.total_weight)
  return float(np.log(2 * share / (1 - share)) if spec.model == "davidson" else 2 * np.arctanh(share))
