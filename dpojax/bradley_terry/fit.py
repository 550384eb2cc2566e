"""Fitting strengths."""

import warnings
from collections.abc import Hashable
from typing import Literal

import numpy as np

from dpojax.bradley_terry import connectivity, problem
from dpojax.bradley_terry.comparisons import TIE, Comparisons
from dpojax.bradley_terry.layout import lay_out
from dpojax.bradley_terry.priors import NoEstimate, Normal, Pseudo, prior_arrays
from dpojax.bradley_terry.problem import Grid, Rows, Spec
from dpojax.bradley_terry.result import BradleyTerryFit
from dpojax.bradley_terry.solver import HOST, State, newton
from dpojax.errors import DataError

Ties = Literal["error", "half", "davidson", "rao_kupper"]
Solver = Literal["auto", "newton", "pcg", "numpy"]
Disconnected = Literal["raise", "largest", "prior"]
CHOLESKY_ITEMS = 400  # up to which a dense factorisation on the host is quicker than conjugate gradients
COMPILED_CELLS = 250_000  # pairs of a grid from which a compiled fit is quicker, its compilation included
SPARSE_CHOLESKY_ITEMS = 3000  # up to which Cholesky is kept where conjugate gradients would be slow


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
  if not converged or connectivity.nearly_certain(spec, layout, state.x):
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


def _first_tie_parameter(part: Comparisons, spec: Spec) -> float:
  """The parameter that explains the share of ties if all were equally strong."""
  share = float(part.row_weight[part.outcome == TIE].sum() / part.total_weight)
  return float(np.log(2 * share / (1 - share)) if spec.model == "davidson" else 2 * np.arctanh(share))
