"""The likelihood of all comparisons as a function of one vector, in two layouts, for NumPy and for JAX.

The vector holds the log-strengths theta [n], the coefficients [q] (home advantage first, then covariates) and, where
ties have a model of their own, its parameter [1]. A `Grid` counts outcomes by ordered pair and serves many games of
few items; `Rows` lists every distinct combination and serves sparse games and covariates.
"""

from typing import Any, NamedTuple

import numpy as np

from dpojax.bradley_terry import likelihood
from dpojax.bradley_terry.likelihood import Array


class Spec(NamedTuple):
  """What is static: numbers of items and of coefficients, and the tie model."""

  items: int
  coefficients: int
  model: str

  @property
  def has_tie(self) -> bool:
    """Whether the last entry of the vector is a tie parameter."""
    return self.model in ("davidson", "rao_kupper")

  @property
  def size(self) -> int:
    """Length of the vector."""
    return self.items + self.coefficients + self.has_tie


class Grid(NamedTuple):
  """Outcomes by ordered pair: f64[n, n] each, row against column; the only coefficient is the row's home advantage.

  `losses` and `ties` are zeros of shape [1, 1] where the other order or nothing needs them.
  """

  wins: Array
  losses: Array
  ties: Array


class Totals(NamedTuple):
  """All that a plain Bradley-Terry likelihood needs of a grid: f64[n] wins of every item, and f64[n, n] games of every
  two, symmetric. A third of the work of a `Grid`."""

  score: Array
  games: Array


class Rows(NamedTuple):
  """Outcomes by combination of two items and coefficients: i32[R] items, f64[R] outcomes, f64[R, q] slopes."""

  first: Array
  second: Array
  wins: Array
  losses: Array
  ties: Array
  slopes: Array


class Prior(NamedTuple):
  """f64[n] each: precisions of normal priors around 0, and imaginary games against an item of strength 1, half won."""

  precision: Array
  pseudo: Array


class Curvature(NamedTuple):
  """The negative Hessian in parts: [[laplacian + diagonal, border], [border', corner]].

  `weight` is the laplacian's: [n, n] symmetric of a grid, [R] of rows.
  """

  weight: Array
  degree: Array
  diagonal: Array
  border: Array
  corner: Array


def parts(spec: Spec, x: Array) -> tuple[Array, Array, Array]:
  """(theta, coefficients, tie parameter or 0) of the vector."""
  n, q = spec.items, spec.coefficients
  return x[:n], x[n : n + q], x[-1] if spec.has_tie else 0.0


def log_odds(spec: Spec, data: Grid | Rows, x: Array) -> Array:
  """eta of every cell or row."""
  theta, coefficients, _ = parts(spec, x)
  if isinstance(data, Grid):
    eta = theta[:, None] - theta[None, :]
    return eta + coefficients[0] if spec.coefficients else eta
  eta = theta[data.first] - theta[data.second]
  return eta + data.slopes @ coefficients if spec.coefficients else eta


def value(xp, spec: Spec, data: Grid | Rows, prior: Prior, x: Array) -> Array:
  """The log-likelihood, with the prior's logarithm up to a constant, in nats."""
  theta, _, tie = parts(spec, x)
  cells = likelihood.log_likelihood(xp, spec.model, log_odds(spec, data, x), tie, data.wins, data.losses, data.ties)
  if isinstance(data, Grid):  # the diagonal holds no games
    cells = xp.where(xp.eye(spec.items, dtype=bool), 0.0, cells)
  imaginary = likelihood.log_likelihood(xp, "none", theta, 0.0, prior.pseudo / 2, prior.pseudo / 2, 0.0)
  return cells.sum() + imaginary.sum() - (prior.precision * theta * theta).sum() / 2


def first_strengths(items: int, data: Grid | Rows) -> Array:
  """f64[items] where to begin: log-odds of each item's share of what it could win, as if all its rivals were alike."""
  wins, losses, ties = data.wins, data.losses, data.ties
  if isinstance(data, Grid):
    won = wins.sum(axis=1) + losses.sum(axis=0) + (ties.sum(axis=1) + ties.sum(axis=0)) / 2
    lost = wins.sum(axis=0) + losses.sum(axis=1) + (ties.sum(axis=1) + ties.sum(axis=0)) / 2
  else:
    at = lambda places, count: np.bincount(places, np.broadcast_to(count, places.shape), items)  # noqa: E731
    won = at(data.first, wins + ties / 2) + at(data.second, losses + ties / 2)
    lost = at(data.second, wins + ties / 2) + at(data.first, losses + ties / 2)
  theta = np.log((won + 0.5) / (lost + 0.5))
  return theta - theta.mean()


def totals(spec: Spec, data: Grid | Rows) -> Grid | Rows | Totals:
  """The grid as `Totals` where there is nothing but strengths."""
  if isinstance(data, Grid) and spec.size == spec.items:
    return Totals(data.wins.sum(axis=1), data.wins + data.wins.T)
  return data


def derivatives(backend, spec: Spec, data: Grid | Rows | Totals, prior: Prior, x: Array) -> tuple[Array, Curvature]:
  """The gradient f64[size] of `value` and its negative Hessian."""
  xp = backend.xp
  theta, _, tie = parts(spec, x)
  if isinstance(data, Totals):
    # A division an entry, of n exponentials: a third of the time of an exponential an entry.
    alpha = xp.exp(theta - (theta.max() + theta.min()) / 2)
    shared = data.games / (alpha[:, None] + alpha[None, :])
    gradient = data.score - alpha * shared.sum(axis=1)
    weight = shared * (alpha[:, None] * alpha[None, :]) / (alpha[:, None] + alpha[None, :])
    none = xp.zeros((spec.items, 0))
    return _with_prior(xp, prior, theta, gradient, xp.zeros(0), weight, weight.sum(axis=1), none, none[:0])
  terms = likelihood.terms(xp, spec.model, log_odds(spec, data, x), tie, data.wins, data.losses, data.ties)
  n = spec.items
  slopes: list[Array] = []
  columns: list[Array] = []
  rest: list[list[Array]] = []
  if isinstance(data, Grid):
    net = lambda cells: cells.sum(axis=1) - cells.sum(axis=0)  # noqa: E731
    weight = terms.ee + terms.ee.T
    degree = weight.sum(axis=1)
    gradient = net(terms.d_eta)
    if spec.coefficients:
      slopes.append(terms.d_eta.sum())
      columns.append(net(terms.ee))
      rest.append([terms.ee.sum()])
    if spec.has_tie:
      slopes.append(terms.d_tie.sum())
      columns.append(net(terms.et))
      crossed = [terms.et.sum()] if spec.coefficients else []
      rest = [[*row, c] for row, c in zip(rest, crossed, strict=True)] + [[*crossed, terms.tt.sum()]]
    border = xp.stack(columns, axis=1) if columns else xp.zeros((n, 0))
    corner = xp.stack([xp.stack(row) for row in rest]) if rest else xp.zeros((0, 0))
    beside = xp.stack(slopes) if slopes else xp.zeros(0)
  else:
    net = lambda rows: backend.scatter(data.first, rows, n) - backend.scatter(data.second, rows, n)  # noqa: E731
    weight = terms.ee
    degree = backend.scatter(data.first, weight, n) + backend.scatter(data.second, weight, n)
    gradient = net(terms.d_eta)
    z = data.slopes
    columns = [net(terms.ee * z[:, k]) for k in range(spec.coefficients)]
    beside = z.T @ terms.d_eta
    corner = z.T @ (terms.ee[:, None] * z)
    if spec.has_tie:
      columns.append(net(terms.et))
      crossed = z.T @ terms.et
      corner = xp.concatenate(
        [
          xp.concatenate([corner, crossed[:, None]], axis=1),
          xp.concatenate([crossed, terms.tt.sum()[None]])[None],
        ]
      )
      beside = xp.concatenate([beside, terms.d_tie.sum()[None]])
    border = xp.stack(columns, axis=1) if columns else xp.zeros((n, 0))
  return _with_prior(xp, prior, theta, gradient, beside, weight, degree, border, corner)


def _with_prior(xp, prior, theta, gradient, beside, weight, degree, border, corner) -> tuple[Array, Curvature]:
  slope, bend = prior_terms(prior, theta, xp)
  return xp.concatenate([gradient + slope, beside]), Curvature(weight, degree, bend, border, corner)


def prior_terms(prior: Prior, theta: Array, xp: Any = np) -> tuple[Array, Array]:
  """(gradient f64[n], diagonal f64[n] of the negative Hessian) of the prior's logarithm."""
  imaginary = likelihood.terms(xp, "none", theta, 0.0, prior.pseudo / 2, prior.pseudo / 2, 0.0)
  return imaginary.d_eta - prior.precision * theta, imaginary.ee + prior.precision


def dense(
  backend, spec: Spec, data: Grid | Rows | Totals, curvature: Curvature, *, diagonal: Array = 0.0, ground: Array = 0.0
) -> Array:
  """The negative Hessian f64[size, size], plus `diagonal` f64[n] and `ground` (f64[n, n] or a number) on strengths."""
  xp, n = backend.xp, spec.items
  weight = curvature.weight
  if isinstance(data, Rows):
    half = backend.scatter(data.first.astype(xp.int64) * n + data.second.astype(xp.int64), weight, n * n).reshape(n, n)
    weight = half + half.T
  laplacian = backend.add_diagonal(ground - weight, curvature.degree + curvature.diagonal + diagonal)
  if spec.size == n:
    return laplacian
  lower = xp.concatenate([curvature.border.T, curvature.corner], axis=1)
  return xp.concatenate([xp.concatenate([laplacian, curvature.border], axis=1), lower])
