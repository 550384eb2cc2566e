"""How sure strengths are: covariances, contrasts, and profile-likelihood intervals."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from scipy import linalg, optimize, sparse, stats

from dpojax.bradley_terry import likelihood, problem
from dpojax.bradley_terry.comparisons import FIRST, TIE
from dpojax.bradley_terry.solver import HOST
from dpojax.errors import DataError

if TYPE_CHECKING:
  from dpojax.bradley_terry.result import BradleyTerryFit

DENSE_ITEMS = 6000  # up to which matrices of all items are formed: 288 MB each
Kind = Literal["hessian", "sandwich", "cluster"]
KINDS = get_args(Kind)


class Contrast(NamedTuple):
  """A difference of log-strengths in nats, its standard error and interval, and the p-value of its being 0."""

  estimate: float
  standard_error: float
  low: float
  high: float
  p_value: float


def covariance(fit: "BradleyTerryFit", kind: Kind = "hessian") -> np.ndarray:
  """f64[n, n] covariance of the log-strengths as reported, relative to the baseline. NaN for items not fitted.

  "hessian" is the inverse of the observed information (with a prior: of the posterior's curvature). "sandwich" stays
  right where the model's variance is wrong, "cluster" where comparisons of one cluster depend on each other
  (Huber 1967; Liang and Zeger 1986), with the factor C / (C - 1) for C clusters.

  Raises:
    DataError: there are more than 6,000 items (use `contrast`, which takes any number), or no clusters.
  """
  n = len(fit.items)
  k = fit.spec.items
  if k > DENSE_ITEMS:
    raise DataError(f"the covariance of {k:,} items would take {8e-9 * k * k:.0f} GB; ask for contrasts of pairs")
  found = vector_covariance(fit, kind)
  against = _baseline_vector(fit)[:k]

  def centred(matrix):  # rows relative to the baseline
    return matrix - against @ matrix

  full = np.full((n, n), np.nan)
  full[np.ix_(fit.kept, fit.kept)] = centred(centred(found[:k, :k]).T).T
  return full


def standard_errors(fit: "BradleyTerryFit", kind: Kind = "hessian") -> np.ndarray:
  """f64[n] standard errors of the log-strengths as reported."""
  k = fit.spec.items
  if k <= DENSE_ITEMS:
    return np.sqrt(np.maximum(np.diagonal(covariance(fit, kind)), 0))
  out = np.full(len(fit.items), np.nan)
  against = _baseline_vector(fit)
  for block in np.array_split(np.arange(k), -(-k // 256)):
    directions = -np.repeat(against[:, None], len(block), axis=1)
    directions[block, np.arange(len(block))] += 1
    out[fit.kept[block]] = _spread(fit, directions, kind)
  return out


def vector_covariance(fit: "BradleyTerryFit", kind: Kind) -> np.ndarray:
  """f64[size, size] covariance of the vector, strengths relative to their mean."""
  _check_kind(fit, kind)
  inverse = fit_inverse(fit)
  if kind == "hessian":
    return inverse
  return inverse @ (_score_squares(fit, kind) @ inverse)


def fit_inverse(fit: "BradleyTerryFit") -> np.ndarray:
  """f64[size, size] inverse of the negative Hessian, across the common shift of strengths."""
  cached = fit.__dict__.get("_inverse")
  if cached is None:
    k = fit.spec.items
    _, curvature = problem.derivatives(HOST, fit.spec, fit.layout, _prior(fit), fit.vector)
    matrix = problem.dense(HOST, fit.spec, fit.layout, curvature)
    cached = linalg.cho_solve(linalg.cho_factor(_with_shift(fit, matrix)), np.eye(fit.spec.size))
    if fit.prior is None:  # what was added along the shift is taken out again
      cached[:k, :k] -= 1 / np.trace(matrix[:k, :k])
    fit.__dict__["_inverse"] = cached
  return cached


def contrast(fit: "BradleyTerryFit", i: Hashable, j: Hashable, kind: Kind = "hessian", level: float = 0.95) -> Contrast:
  """log_strength of i less that of j, of any number of items."""
  _check_kind(fit, kind)
  places = [_fitted_place(fit, item) for item in (i, j)]
  direction = np.zeros(fit.spec.size)
  direction[places[0]] += 1
  direction[places[1]] -= 1
  estimate = float(direction @ fit.vector)
  error = float(_spread(fit, direction[:, None], kind)[0])
  z = stats.norm.ppf((1 + level) / 2)
  p = float(2 * stats.norm.sf(abs(estimate) / error)) if error else 1.0
  return Contrast(estimate, error, float(estimate - z * error), float(estimate + z * error), p)


def parameter_table(fit: "BradleyTerryFit", kind: Kind = "hessian", level: float = 0.95) -> list[dict]:
  """Home advantage, coefficients and the tie parameter (log nu or tau), each with its standard error and interval."""
  k = fit.spec.items
  names = (["home advantage"] if fit.home_fitted else []) + list(fit.data.covariate_names)
  names += {"davidson": ["log nu"], "rao_kupper": ["tau"]}.get(fit.spec.model, [])
  if not names:
    return []
  _check_kind(fit, kind)
  errors = _spread(fit, np.eye(fit.spec.size)[:, k:], kind)
  z = stats.norm.ppf((1 + level) / 2)
  return [
    dict(name=name, value=float(v), standard_error=float(e), low=float(v - z * e), high=float(v + z * e))
    for name, v, e in zip(names, fit.vector[k:], errors, strict=True)
  ]


def profile_interval(
  fit: "BradleyTerryFit", i: Hashable, j: Hashable | None = None, level: float = 0.95
) -> tuple[float, float]:
  """Where twice the log-likelihood, the rest refitted, stays within the chi-squared quantile of its maximum.

  Of log_strength of i less that of j, or as reported where j is None.
  """
  direction = np.zeros(fit.spec.size)
  if j is None:
    direction -= _baseline_vector(fit)
  else:
    direction[_fitted_place(fit, j)] -= 1
  direction[_fitted_place(fit, i)] += 1
  if not direction.any():
    return 0.0, 0.0
  prior = _prior(fit)
  best = float(direction @ fit.vector)
  drop = stats.chi2.ppf(level, 1) / 2
  error = float(_spread(fit, direction[:, None], "hessian")[0])
  with np.errstate(all="ignore"):
    top = problem.value(np, fit.spec, fit.layout, prior, fit.vector)
    ends = []
    for sign in (-1, 1):
      state = [fit.vector]  # each profile starts from the last

      def lack(distance, sign=sign, state=state):
        state[0], value = _constrained(fit, prior, direction, best + sign * distance, state[0])
        return top - value - drop

      far = 2 * error
      while lack(far) < 0:
        far *= 2
      distance = optimize.brentq(lack, 0.0, far, xtol=1e-8 * max(far, 1))
      assert isinstance(distance, float)
      ends.append(best + sign * distance)
  return float(ends[0]), float(ends[1])


def _constrained(fit, prior, direction, wanted, start) -> tuple[np.ndarray, float]:
  """(the vector, its value) of the largest value where direction @ vector = wanted, by Newton's method."""
  x = np.asarray(start, float)
  spec, layout = fit.spec, fit.layout
  value = -np.inf
  for step in range(100):
    gradient, curvature = problem.derivatives(HOST, spec, layout, prior, x)
    factor = linalg.cho_factor(_with_shift(fit, problem.dense(HOST, spec, layout, curvature)))
    along = linalg.cho_solve(factor, np.stack([gradient, direction], axis=1))
    short = wanted - direction @ x
    move = along[:, 0] + along[:, 1] * ((short - direction @ along[:, 0]) / (direction @ along[:, 1]))
    length = 1.0
    if step == 0:  # onto the constraint, whatever that does to the value
      x = x + move
      value = problem.value(np, spec, layout, prior, x)
      if np.isfinite(value):
        continue
      return x, -np.inf
    while length > 1e-6:
      trial = x + length * move
      new = problem.value(np, spec, layout, prior, trial)
      if np.isfinite(new) and new >= value - 1e-12 * abs(value):
        break
      length /= 2
    x, value = trial, new
    if np.abs(move).max() < 1e-8:
      break
  return x, float(value)


def _spread(fit, directions: np.ndarray, kind: Kind) -> np.ndarray:
  """Standard deviations of `directions`.T @ vector, f64[r] of f64[size, r], without forming a covariance."""
  if fit.spec.items <= DENSE_ITEMS:
    solved = fit_inverse(fit) @ directions
  else:
    # What remains of a quadratic form is the square of what remains of the solution.
    solved = _conjugate_gradients(fit, directions, 1e-7 if kind == "hessian" else 1e-12)
  if kind == "hessian":
    squares = (directions * solved).sum(axis=0)
  else:
    squares = (solved * (_score_squares(fit, kind) @ solved)).sum(axis=0)
  return np.sqrt(np.maximum(squares, 0))


def _conjugate_gradients(fit, directions: np.ndarray, accuracy: float) -> np.ndarray:
  """Negative Hessian's inverse times every column, to `accuracy` of its squared length in the scaled residual."""
  spec, layout = fit.spec, fit.layout
  _, curvature = problem.derivatives(HOST, spec, layout, _prior(fit), fit.vector)
  half = sparse.csr_array((curvature.weight, (layout.first, layout.second)), shape=(spec.items, spec.items))
  laplacian = sparse.diags_array(curvature.degree + curvature.diagonal) - (half + half.T)
  matrix = sparse.csr_array(
    sparse.block_array(
      [[laplacian, sparse.csr_array(curvature.border)], [sparse.csr_array(curvature.border.T), curvature.corner]]
    )
    if spec.size > spec.items
    else laplacian
  )
  scale = 1 / matrix.diagonal()[:, None]
  found, residual = np.zeros_like(directions), directions.copy()
  along = scale * residual
  energy = (residual * along).sum(axis=0)
  wanted = accuracy * energy
  for _ in range(10_000):
    if (energy <= wanted).all():
      break
    image = matrix @ along
    length = energy / np.maximum((along * image).sum(axis=0), 1e-300)
    found += length * along
    residual -= length * image
    scaled = scale * residual
    new = (residual * scaled).sum(axis=0)
    along = scaled + (new / np.maximum(energy, 1e-300)) * along
    energy = new
  if fit.prior is None:
    found[: spec.items] -= found[: spec.items].mean(axis=0)
  return found


def _score_squares(fit, kind: Kind) -> sparse.csr_array:
  """[size, size] sum over comparisons, or clusters, of the outer square of what each adds to the gradient."""
  cached = fit.__dict__.setdefault("_score_squares", {})
  if kind not in cached:
    part, spec = fit.part, fit.spec
    theta, coefficients, tie = problem.parts(spec, fit.vector)
    slopes = _slopes(fit)
    eta = theta[part.first] - theta[part.second] + slopes @ coefficients
    won, tied = (part.outcome == FIRST).astype(float), (part.outcome == TIE).astype(float)
    lost = 1 - won - tied
    if not spec.has_tie:
      won, lost, tied = won + tied / 2, lost + tied / 2, np.zeros(1)
    terms = likelihood.terms(np, spec.model, eta, tie, won, lost, tied)
    m = len(eta)
    columns = [terms.d_eta, -terms.d_eta, *(terms.d_eta * z for z in slopes.T)]
    places = [part.first, part.second, *(np.full(m, spec.items + k) for k in range(slopes.shape[1]))]
    if spec.has_tie:
      columns.append(terms.d_tie)
      places.append(np.full(m, spec.size - 1))
    if kind == "cluster":
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
    cached[kind] = scores.T @ scores
  return cached[kind]


def _slopes(fit) -> np.ndarray:
  part = fit.part
  columns = [] if not fit.home_fitted else [part.home.astype(float)[:, None]]
  columns += [] if part.covariates is None else [part.covariates]
  return np.concatenate(columns, axis=1) if columns else np.zeros((len(part.first), 0))


def _with_shift(fit, matrix: np.ndarray) -> np.ndarray:
  """The negative Hessian made definite along the common shift of strengths, along which it has no curvature."""
  if fit.prior is None:
    k = fit.spec.items
    matrix = matrix.copy()
    matrix[:k, :k] += np.trace(matrix[:k, :k]) / k**2
  return matrix


def _prior(fit) -> problem.Prior:
  from dpojax.bradley_terry.priors import prior_arrays

  return prior_arrays(fit.prior, fit.spec.items)


def _baseline_vector(fit) -> np.ndarray:
  """f64[size] whose product with the vector is what log-strengths are relative to."""
  out = np.zeros(fit.spec.size)
  if fit.baseline is None:
    out[: fit.spec.items] = 1 / fit.spec.items
  else:
    out[np.flatnonzero(fit.kept == fit.baseline)[0]] = 1
  return out


def _fitted_place(fit, item: Hashable) -> int:
  place = np.flatnonzero(fit.kept == fit.place(item))
  if not len(place):
    raise DataError(f"{item!r} is not in the component that was fitted")
  return int(place[0])


def _check_kind(fit, kind: Kind) -> None:
  if kind not in KINDS:
    raise DataError(f"kind={kind!r} is unknown; it takes {', '.join(map(repr, KINDS))}")
  if kind == "cluster" and fit.part.cluster is None:
    raise DataError("kind='cluster', but the comparisons have no clusters (Comparisons.from_pairs(cluster=...))")
