"""How sure strengths are: covariances, contrasts, and profile-likelihood intervals."""

from collections.abc import Hashable
from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy
from scipy import linalg, sparse

from dpojax.bradley_terry import likelihood
from dpojax.bradley_terry.columns import FIRST, TIE
from dpojax.bradley_terry.existence import NoEstimate
from dpojax.bradley_terry.fitting import BradleyTerryFit, Strengths
from dpojax.bradley_terry.layout import Rows, as_rows
from dpojax.bradley_terry.likelihood import Curvature, dense, derivatives
from dpojax.bradley_terry.rankings import PlackettLuceFit
from dpojax.bradley_terry.resampling import Bootstrap
from dpojax.bradley_terry.solver import conjugate_gradients
from dpojax.errors import DataError

Kind = Literal["hessian", "sandwich", "cluster"]
KINDS = get_args(Kind)
DENSE_ITEMS = 6000  # up to which matrices of all items are formed: 288 MB each
SURE = 0.003  # relative standard deviation up to which an estimated standard error is taken
DRAWS = 1024
ENTRIES = 20_000_000  # of the signs that are drawn at once
LOOSE, TIGHT = 1e-4, 1e-9  # accuracies of solves of draws, and of what enters every item's variance


class Contrast(NamedTuple):
  """A difference of log-strengths in nats, its standard error and interval, and the p-value of its being 0."""

  estimate: float
  standard_error: float
  low: float
  high: float
  p_value: float

  @classmethod
  def of(cls, estimate: float, standard_error: float, level: float) -> "Contrast":
    """With Wald's interval and test."""
    z = float(scipy.stats.norm.ppf((1 + level) / 2))
    p = float(2 * scipy.stats.norm.sf(abs(estimate) / standard_error)) if standard_error else 1.0
    return cls(estimate, standard_error, estimate - z * standard_error, estimate + z * standard_error, p)


def check_size(items: int) -> None:
  """Raises DataError where a covariance of so many items would be too large."""
  if items > DENSE_ITEMS:
    size = 8e-9 * items * items
    raise DataError(f"the covariance of {items:,} items would take {size:.0f} GB; ask for contrasts of pairs")


def covariance(fit: Strengths, kind: Kind = "hessian") -> np.ndarray:
  """f64[n, n] covariance of the log-strengths as reported, relative to the baseline. NaN for items not fitted.

  "hessian" is the inverse of the observed information (with a prior: of the posterior's curvature). "sandwich" stays
  right where the model's variance is wrong, "cluster" where comparisons of one cluster depend on each other
  (Huber 1967; Liang and Zeger 1986), with the factor C / (C - 1) for C clusters.

  Raises:
    DataError: there are more than 6,000 items (use `contrast`, which takes any number), or no clusters.
  """
  k = len(fit.kept)
  _check_kind(fit, kind)
  check_size(k)
  found = fit.inverse
  if kind != "hessian":
    found = found @ (_score_squares(fit, kind) @ found)
  return fit.spread_out(found[:k, :k])


def standard_errors(fit: Strengths, kind: Kind = "hessian") -> np.ndarray:
  """f64[n] standard errors of the log-strengths as reported.

  Of more than 6,000 items those of "hessian" are estimated within 0.3 % (a standard deviation), or
  solved one by one where an estimate is not as sure; the same each time. The other kinds are solved one by one.
  """
  _check_kind(fit, kind)
  k = len(fit.kept)
  if k <= DENSE_ITEMS:
    return np.sqrt(np.maximum(np.diagonal(covariance(fit, kind)), 0))
  out, unsure = np.full(len(fit.items), np.nan), np.arange(k)
  against = np.concatenate([fit.against, np.zeros(len(fit.vector) - k)])
  if kind == "hessian" and isinstance(fit, BradleyTerryFit):
    data = as_rows(fit.layout, fit.home_fitted)
    _, curvature = derivatives(fit.spec, data, fit.prior_terms, fit.vector)
    variance, spread = estimated_variances(data, curvature, fit.against, flat=fit.prior is None)
    out[fit.kept] = np.sqrt(np.maximum(variance, 0))
    unsure = np.flatnonzero(spread / 2 > SURE)
  for block in np.array_split(unsure, -(-len(unsure) // 256) or 1):
    directions = -np.repeat(against[:, None], len(block), axis=1)
    directions[block, np.arange(len(block))] += 1
    out[fit.kept[block]] = _spread(fit, directions, kind)
  return out


def contrast(fit: Strengths, i: Hashable, j: Hashable, kind: Kind = "hessian", level: float = 0.95) -> Contrast:
  """log_strength of i less that of j, of any number of items."""
  _check_kind(fit, kind)
  direction = np.zeros(len(fit.vector))
  direction[fit.fitted_place(i)] += 1
  direction[fit.fitted_place(j)] -= 1
  return Contrast.of(float(direction @ fit.vector), float(_spread(fit, direction[:, None], kind)[0]), level)


def parameter_table(
  fit: BradleyTerryFit, kind: Kind = "hessian", level: float = 0.95, resampled: Bootstrap | None = None
) -> list[dict]:
  """Home advantage, coefficients and the tie parameter (log nu or tau), each with its standard error and interval."""
  k, size = fit.spec.items, fit.spec.size
  names = (["home advantage"] if fit.home_fitted else []) + list(fit.data.covariate_names)
  names += {"davidson": ["log nu"], "rao_kupper": ["tau"]}.get(fit.spec.model, [])
  if not names:
    return []
  values = fit.vector[k:]
  if resampled is None:
    _check_kind(fit, kind)
    errors = _spread(fit, np.eye(size, size - k, -k), kind)
    z = float(scipy.stats.norm.ppf((1 + level) / 2))
    low, high = values - z * errors, values + z * errors
  else:
    errors = np.nanstd(resampled.parameters, axis=0, ddof=1)
    low, high = np.nanquantile(resampled.parameters, [(1 - level) / 2, (1 + level) / 2], axis=0)
  rows = zip(names, values.tolist(), errors.tolist(), low.tolist(), high.tolist(), strict=True)
  return [dict(name=n, value=v, standard_error=e, low=lo, high=hi) for n, v, e, lo, hi in rows]


def profile_interval(
  fit: BradleyTerryFit, i: Hashable, j: Hashable | None = None, level: float = 0.95
) -> tuple[float, float]:
  """Where twice the log-likelihood, the rest refitted, stays within the chi-squared quantile of its maximum.

  Of log_strength of i less that of j, or as reported where j is None.
  """
  direction = np.zeros(fit.spec.size)
  if j is None:
    direction[: fit.spec.items] -= fit.against
  else:
    direction[fit.fitted_place(j)] -= 1
  direction[fit.fitted_place(i)] += 1
  if not direction.any():
    return 0.0, 0.0
  prior = fit.prior_terms
  best = float(direction @ fit.vector)
  drop = scipy.stats.chi2.ppf(level, 1) / 2
  error = float(_spread(fit, direction[:, None], "hessian")[0])
  with np.errstate(all="ignore"):
    top = likelihood.value(fit.spec, fit.layout, prior, fit.vector)
    if not np.isfinite([top, error]).all():
      raise NoEstimate(
        "strengths have no intervals: the likelihood is beyond float64; use a weaker prior, or scale weights"
      )
    ends = []
    for sign in (-1, 1):
      state = [fit.vector]  # each profile starts from the last

      def lack(distance, sign=sign, state=state):
        state[0], value = _constrained(fit, prior, direction, best + sign * distance, state[0])
        return top - value - drop

      far = 2 * error
      while lack(far) < 0:
        far *= 2
      distance = scipy.optimize.brentq(lack, 0.0, far, xtol=1e-8 * max(far, 1))
      assert isinstance(distance, float)
      ends.append(best + sign * distance)
  return float(ends[0]), float(ends[1])


def _constrained(fit: BradleyTerryFit, prior, direction, wanted, start) -> tuple[np.ndarray, float]:
  """(the vector, its value) of the largest value where direction @ vector = wanted, by Newton's method."""
  x = np.asarray(start, float)
  spec, layout = fit.spec, fit.layout
  value = -np.inf
  for step in range(100):
    gradient, curvature = derivatives(spec, layout, prior, x)
    factor = fit.factor(dense(spec, layout, curvature))
    along = linalg.cho_solve(factor, np.stack([gradient, direction], axis=1))
    short = wanted - direction @ x
    move = along[:, 0] + along[:, 1] * ((short - direction @ along[:, 0]) / (direction @ along[:, 1]))
    length = 1.0
    if step == 0:  # onto the constraint, whatever that does to the value
      x = x + move
      value = likelihood.value(spec, layout, prior, x)
      if np.isfinite(value):
        continue
      return x, -np.inf
    while length > 1e-6:
      trial = x + length * move
      new = likelihood.value(spec, layout, prior, trial)
      if np.isfinite(new) and new >= value - 1e-12 * abs(value):
        break
      length /= 2
    x, value = trial, new
    if np.abs(move).max() < 1e-8:
      break
  return x, float(value)


def _spread(fit: Strengths, directions: np.ndarray, kind: Kind) -> np.ndarray:
  """Standard deviations of `directions`.T @ vector, f64[r] of f64[size, r], without forming a covariance."""
  if len(fit.kept) <= DENSE_ITEMS:
    solved = fit.inverse @ directions
  else:
    # What remains of a quadratic form is the square of what remains of the solution.
    solved = fit.solve(directions, 3e-4 if kind == "hessian" else 1e-6)
  if kind == "hessian":
    squares = (directions * solved).sum(axis=0)
  else:
    squares = (solved * (_score_squares(fit, kind) @ solved)).sum(axis=0)
  return np.sqrt(np.maximum(squares, 0))


def _score_squares(fit: Strengths, kind: Kind) -> sparse.csr_array:
  """[size, size] sum over comparisons, or clusters, of the outer square of what each adds to the gradient."""
  if isinstance(fit, PlackettLuceFit):
    return fit.score_squares
  assert isinstance(fit, BradleyTerryFit)
  if kind in fit.score_squares:  # contrasts ask for them again and again
    return fit.score_squares[kind]
  part, spec = fit.part, fit.spec
  theta, coefficients, tie = likelihood.parts(spec, fit.vector)
  slopes = _slopes(fit)
  eta = theta[part.first] - theta[part.second] + slopes @ coefficients
  won, tied = (part.outcome == FIRST).astype(float), (part.outcome == TIE).astype(float)
  lost = 1 - won - tied
  if not spec.has_tie:
    won, lost, tied = won + tied / 2, lost + tied / 2, np.zeros(1)
  terms = likelihood.terms(spec.model, eta, tie, won, lost, tied)
  m = len(eta)
  columns = [terms.d_eta, -terms.d_eta, *(terms.d_eta * z for z in slopes.T)]
  places = [part.first, part.second, *(np.full(m, spec.items + k) for k in range(slopes.shape[1]))]
  if spec.has_tie:
    columns.append(terms.d_tie)
    places.append(np.full(m, spec.size - 1))
  if kind == "cluster":
    assert part.cluster is not None
    each = part.row_weight
    unit = np.unique(part.cluster, return_inverse=True)[1]
    factor = np.sqrt((unit.max() + 1) / unit.max()) if unit.max() else np.nan
  else:  # a row of count c stands for c comparisons of this score
    count = np.ones(m) if part.count is None else part.count
    each = np.sqrt(count) * (1.0 if part.weight is None else part.weight)
    unit, factor = np.arange(m), 1.0
  values = np.concatenate([factor * each * column for column in columns])
  rows = np.tile(unit, len(columns))
  scores = sparse.csr_array((values, (rows, np.concatenate(places))), shape=(int(unit.max()) + 1, spec.size))
  fit.score_squares[kind] = scores.T @ scores
  return fit.score_squares[kind]


def _slopes(fit: BradleyTerryFit) -> np.ndarray:
  part, columns = fit.part, []
  if fit.home_fitted:
    assert part.home is not None
    columns.append(part.home.astype(float)[:, None])
  columns += [] if part.covariates is None else [part.covariates]
  return np.concatenate(columns, axis=1) if columns else np.zeros((len(part.first), 0))


def _check_kind(fit: Strengths, kind: Kind) -> None:
  known = KINDS[:2] if isinstance(fit, PlackettLuceFit) else KINDS
  if kind not in known:
    raise DataError(f"kind={kind!r} is unknown; it takes {', '.join(map(repr, known))}")
  if kind == "cluster" and isinstance(fit, BradleyTerryFit) and fit.part.cluster is None:
    raise DataError("kind='cluster', but the comparisons have no clusters (Comparisons.from_pairs(cluster=...))")


# --- more strengths than a matrix can be formed for


def estimated_variances(
  data: Rows, curvature: Curvature, against: np.ndarray, *, flat: bool
) -> tuple[np.ndarray, np.ndarray]:
  """(variance of each strength less `against` @ strengths, its relative standard deviation over draws), f64[n] each.

  Let M be the block of the negative Hessian that belongs to the strengths, D its diagonal, and M = D^1/2 (I - A) D^1/2.
  The inverse's diagonal is

    (M^-1)_ii = (1 + r_i) / D_i,  r = diag(A (I - A)^-1 A),

  where r_i, what opponents' own uncertainty adds, is small wherever these have several games. Only r is estimated: a draw y
  of covariance M (a random sign a comparison) is solved once, x = M^-1 y has covariance M^-1, and r_i is the mean square
  of (A D^1/2 x)_i (Spielman and Srivastava 2011, arXiv:0803.0929, on effective resistances). Without a prior M is flat
  along the common shift u = D^1/2 1 / |D^1/2 1|: (I - A)^+ stands for the inverse, and u_i^2 is taken off twice.

  Args:
    data: whose places and coefficients the curvature is of.
    curvature: the negative Hessian at the estimate.
    against: f64[n], of sum 1.
    flat: no prior holds the common shift.
  """
  n, weight = len(against), np.asarray(curvature.weight)
  degree = np.asarray(curvature.degree + curvature.diagonal)
  half = sparse.csr_array((weight, (data.first, data.second)), shape=(n, n))
  adjacent = sparse.csr_array(half + half.T)
  total = degree.sum()

  def grounded(values: np.ndarray) -> np.ndarray:
    """Without the part along the common shift, as seen by the degrees."""
    return values - degree @ values / total if flat else values

  def solve(right: np.ndarray, accuracy: float) -> np.ndarray:
    multiply = lambda v: (v.T * degree).T - adjacent @ v  # noqa: E731
    centred = (lambda v: v - v.mean(axis=0)) if flat else (lambda v: v)
    return grounded(conjugate_gradients(multiply, degree, right, accuracy, centred))

  def balanced(right: np.ndarray) -> np.ndarray:
    """Of sum 0 where only such a right side has a solution."""
    return right - degree * (right.sum() / total) if flat else right

  added = _added_by_opponents(data, curvature, adjacent, degree, solve)
  own = 1 - 2 * degree / total if flat else np.ones(n)
  from_baseline = solve(balanced(against), TIGHT)
  found = (own + added) / degree - 2 * from_baseline + against @ from_baseline
  border = np.asarray(curvature.border)
  if border.shape[1]:
    slopes = np.stack([solve(column, TIGHT) for column in border.T], axis=1)
    rest = linalg.cho_factor(np.asarray(curvature.corner) - border.T @ slopes)
    seen = slopes - against @ slopes
    found += (seen.T * linalg.cho_solve(rest, seen.T)).sum(axis=0)
  with np.errstate(divide="ignore", invalid="ignore"):
    spread = np.where(found > 0, np.sqrt(2 / DRAWS) * added / degree / np.maximum(found, 0), np.inf)
  return found, spread


def _added_by_opponents(data: Rows, curvature: Curvature, adjacent, degree: np.ndarray, solve) -> np.ndarray:
  """r of `estimated_variances`, f64[n], from `DRAWS` draws."""
  n, rows = len(degree), len(data.first)
  root = np.sqrt(np.asarray(curvature.weight))
  comparisons = np.arange(rows)
  places, signed = np.concatenate([data.first, data.second]), np.concatenate([root, -root])
  spread = sparse.csr_array((signed, (places, np.tile(comparisons, 2))), shape=(n, rows))
  held = np.sqrt(np.asarray(curvature.diagonal) * np.ones(n))
  rng, squares = np.random.default_rng(0), np.zeros(n)
  block = int(np.clip(ENTRIES // (rows + n), 1, 64))
  for start in range(0, DRAWS, block):
    columns = min(block, DRAWS - start)
    signs = 2.0 * rng.integers(0, 2, (rows + n, columns), dtype=np.int8) - 1
    drawn = spread @ signs[:rows] + held[:, None] * signs[rows:]
    seen = adjacent @ solve(drawn, LOOSE)  # D^1/2 A D^1/2 x
    squares += (seen**2).sum(axis=1)
  return squares / DRAWS / degree
