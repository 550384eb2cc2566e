"""Strengths of counted comparisons: which way to solve for them."""

from typing import Literal

import numpy as np

from dpojax.bradley_terry import compiled, problem
from dpojax.bradley_terry.newton import newton
from dpojax.bradley_terry.numerics import HOST, State
from dpojax.bradley_terry.priors import Normal, Pseudo, prior_arrays
from dpojax.bradley_terry.problem import Grid, Rows, Spec

Solver = Literal["auto", "newton", "pcg", "numpy"]
CHOLESKY_ITEMS = (
  800  # up to which a dense factorisation on the host is about as quick as conjugate gradients, or quicker
)
COMPILED_CELLS = 2_250_000  # pairs of a grid from which a compiled fit is quicker, its compilation included
SPARSE_CHOLESKY_ITEMS = 3000  # up to which Cholesky is kept where conjugate gradients would be slow


def solve(
  spec: Spec,
  layout: Grid | Rows,
  prior: Normal | Pseudo | None,
  solver: Solver,
  total: float,
  tol: float,
  max_iter: int,
  start: np.ndarray,
) -> tuple[State, str]:
  """(the final state, on NumPy arrays; which solver ran)."""
  if solver == "auto":
    solver = "numpy"
    if isinstance(layout, Grid) and spec.items**2 >= COMPILED_CELLS:
      solver = "pcg"
  settings = (prior_arrays(prior, spec.items), start, total, tol, max_iter)
  counts = problem.totals(spec, layout)
  if solver != "numpy":
    return compiled.solve("cholesky" if solver == "newton" else "cg", spec, counts, *settings), solver
  method = "cholesky" if spec.items <= CHOLESKY_ITEMS else "cg"
  if isinstance(layout, Rows) and spec.items <= SPARSE_CHOLESKY_ITEMS and len(layout.first) < 20 * spec.items:
    method = "cholesky"  # few games an item connect badly
  with np.errstate(all="ignore"):
    return newton(HOST, method, spec, counts, np.ones(spec.items), *settings), "numpy"
