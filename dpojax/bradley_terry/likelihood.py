"""The likelihood of comparisons and its derivatives, by tie model, and the priors on strengths.

eta is the log-odds of the first item: theta_first - theta_second, and what home advantage and covariates add. With
s = sigmoid, the probabilities of a win of the first, a win of the second, and a tie are

  none, half    s(eta), s(-eta)
  davidson      e^(eta/2), e^(-eta/2) and nu, divided by their sum; the parameter is log nu
  rao_kupper    s(eta - tau), s(-eta - tau), (e^(2 tau) - 1) s(eta - tau) s(-eta - tau); the parameter is tau > 0

Each log-likelihood is concave in (eta, parameter) jointly, so a point without gradient is the maximum. As a function
of one vector (see `Spec`) the likelihood of all comparisons is `value`, its derivatives are `derivatives`.

References: Bradley and Terry 1952; Davidson 1970 (ties by nu, where P(tie) = nu sqrt(p q) / (p + q + nu sqrt(p q)));
Rao and Kupper 1967 (tau = log of their theta).
"""

from typing import Any, NamedTuple

import numpy as np

from dpojax.bradley_terry.layout import Grid, Rows, Spec, Totals

Array = Any  # an array or a number


class Terms(NamedTuple):
  """Sums over the comparisons of a row: derivatives of the log-likelihood by eta and by the tie parameter.

  `ee`, `et`, `tt` are second derivatives with the sign changed, so that they form a positive matrix.
  """

  d_eta: Array
  d_tie: Array
  ee: Array
  et: Array
  tt: Array


def terms(model: str, eta: Array, tie: Array, wins: Array, losses: Array, ties: Array) -> Terms:
  """What rows of `wins`, `losses` and `ties` of the first item (f64, of eta's shape) say at eta and `tie`.

  With the model "half" ties are expected to be counted as half a win and half a loss already.
  """
  if model == "davidson":
    return _davidson(eta, tie, wins, losses, ties)
  if model == "rao_kupper":
    return _rao_kupper(eta, tie, wins, losses, ties)
  win, loss = _sigmoids(eta)
  none = np.zeros(())
  return Terms(wins * loss - losses * win, none, (wins + losses) * win * loss, none, none)


def log_likelihood(model: str, eta: Array, tie: Array, wins: Array, losses: Array, ties: Array) -> Array:
  """The log-likelihood of each row, in nats. Arguments as of `terms`."""
  if model == "davidson":
    top = np.maximum(np.abs(eta) / 2, tie)
    log_total = top + np.log(np.exp(eta / 2 - top) + np.exp(-eta / 2 - top) + np.exp(tie - top))
    return (wins - losses) * eta / 2 + ties * tie - (wins + losses + ties) * log_total
  if model == "rao_kupper":
    up, down = _log_sigmoid(eta - tie), _log_sigmoid(-eta - tie)
    return (wins + ties) * up + (losses + ties) * down + ties * (2 * tie + np.log(-np.expm1(-2 * tie)))
  return wins * _log_sigmoid(eta) + losses * _log_sigmoid(-eta)


def _sigmoids(x: Array) -> tuple[Array, Array]:
  """sigmoid(x) and sigmoid(-x), both to full relative precision, from one exponential."""
  odds = np.exp(np.minimum(x, 700.0))  # e^700 is near float64's end; beyond it sigmoid(-x) stays 1e-304
  against = 1 / (1 + odds)
  return odds * against, against


def _log_sigmoid(x: Array) -> Array:
  return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def _davidson(eta, log_nu, wins, losses, ties) -> Terms:
  top = np.maximum(np.abs(eta) / 2, log_nu)
  a, b, c = np.exp(eta / 2 - top), np.exp(-eta / 2 - top), np.exp(log_nu - top)
  total = a + b + c
  win, loss, tie = a / total, b / total, c / total
  games, decided = wins + losses + ties, win + loss
  # Nothing is subtracted from what it nearly equals, so that the tails keep their digits.
  return Terms(
    d_eta=wins * (loss + tie / 2) - losses * (win + tie / 2) - ties * (win - loss) / 2,
    d_tie=ties * decided - (wins + losses) * tie,
    ee=games * (win * loss + tie * decided / 4),
    et=-games * (win - loss) / 2 * tie,
    tt=games * tie * decided,
  )


def _rao_kupper(eta, tau, wins, losses, ties) -> Terms:
  up, not_up = _sigmoids(eta - tau)
  down, not_down = _sigmoids(-eta - tau)
  first, second = wins + ties, losses + ties  # every tie has both factors
  curved = -np.expm1(-2 * tau)  # 1 - e^(-2 tau)
  bend_up, bend_down = first * up * not_up, second * down * not_down
  return Terms(
    d_eta=wins * not_up - losses * not_down + ties * (down - up),
    d_tie=ties * (2 * np.exp(-2 * tau) / curved + up + down) - wins * not_up - losses * not_down,
    ee=bend_up + bend_down,
    et=bend_down - bend_up,
    tt=bend_up + bend_down + ties * 4 * np.exp(-2 * tau) / (curved * curved),
  )


def probabilities(model: str, eta: Array, tie: float | None) -> tuple[Array, Array, Array]:
  """P(first wins), P(tie), P(second wins) as float64 NumPy arrays."""
  eta = np.asarray(eta, float)
  if model == "davidson":
    assert tie is not None
    top = np.maximum(np.abs(eta) / 2, tie)
    weights = np.exp([eta / 2 - top, tie - top, -eta / 2 - top])
    return tuple(weights / weights.sum(axis=0))
  if model == "rao_kupper":
    assert tie is not None
    up, down = _sigmoids(eta - tie)[0], _sigmoids(-eta - tie)[0]
    return up, np.expm1(2 * tie) * up * down, down
  win, loss = _sigmoids(eta)
  return win, np.zeros_like(win), loss


# --- priors


class Normal(NamedTuple):
  """A normal prior around 0 on every log-strength. sd: its standard deviation in nats."""

  sd: float


class Pseudo(NamedTuple):
  """A prior of imaginary games: n for every item, half of them won, against an item of strength 1."""

  n: float


class Prior(NamedTuple):
  """f64[n] each: precisions of normal priors around 0, and imaginary games against an item of strength 1, half won."""

  precision: np.ndarray
  pseudo: np.ndarray


def prior_arrays(prior: Normal | Pseudo | None, items: int) -> Prior:
  """What a prior says of every item."""
  nothing = np.zeros(items)
  if prior is None:
    return Prior(nothing, nothing)
  if isinstance(prior, Normal):
    return Prior(np.full(items, (1 / prior.sd) ** 2), nothing)
  return Prior(nothing, np.full(items, float(prior.n)))


def prior_terms(prior: Prior, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(gradient f64[n], diagonal f64[n] of the negative Hessian) of the prior's logarithm."""
  imaginary = terms("none", theta, 0.0, prior.pseudo / 2, prior.pseudo / 2, 0.0)
  return imaginary.d_eta - prior.precision * theta, imaginary.ee + prior.precision


# --- all comparisons


class Curvature(NamedTuple):
  """The negative Hessian in parts: [[laplacian + diagonal, border], [border', corner]].

  `weight` is the laplacian's: [n, n] symmetric of a grid, [R] of rows.
  """

  weight: np.ndarray
  degree: np.ndarray
  diagonal: np.ndarray
  border: np.ndarray
  corner: np.ndarray


def parts(spec: Spec, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | float]:
  """(theta, coefficients, tie parameter or 0) of the vector."""
  n, q = spec.items, spec.coefficients
  return x[:n], x[n : n + q], x[-1] if spec.has_tie else 0.0


def log_odds(spec: Spec, data: Grid | Rows, x: np.ndarray) -> np.ndarray:
  """eta of every cell or row."""
  theta, coefficients, _ = parts(spec, x)
  if isinstance(data, Grid):
    eta = theta[:, None] - theta[None, :]
    return eta + coefficients[0] if spec.coefficients else eta
  eta = theta[data.first] - theta[data.second]
  return eta + data.slopes @ coefficients if spec.coefficients else eta


def value(spec: Spec, data: Grid | Rows, prior: Prior, x: np.ndarray) -> float:
  """The log-likelihood, with the prior's logarithm up to a constant, in nats."""
  theta, _, tie = parts(spec, x)
  cells = log_likelihood(spec.model, log_odds(spec, data, x), tie, data.wins, data.losses, data.ties)
  if isinstance(data, Grid):  # the diagonal holds no games
    cells = np.where(np.eye(spec.items, dtype=bool), 0.0, cells)
  imaginary = log_likelihood("none", theta, 0.0, prior.pseudo / 2, prior.pseudo / 2, 0.0)
  return float(cells.sum() + imaginary.sum() - (prior.precision * theta * theta).sum() / 2)


def first_strengths(items: int, data: Grid | Rows) -> np.ndarray:
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


def derivatives(spec: Spec, data: Grid | Rows | Totals, prior: Prior, x: np.ndarray) -> tuple[np.ndarray, Curvature]:
  """The gradient f64[size] of `value` and its negative Hessian."""
  theta, _, tie = parts(spec, x)
  if isinstance(data, Totals):
    # A division an entry, of n exponentials: a third of the time of an exponential an entry.
    alpha = np.exp(theta - (theta.max() + theta.min()) / 2)
    shared = data.games / (alpha[:, None] + alpha[None, :])
    gradient = data.score - alpha * shared.sum(axis=1)
    weight = shared * (alpha[:, None] * alpha[None, :]) / (alpha[:, None] + alpha[None, :])
    none = np.zeros((spec.items, 0))
    return _with_prior(prior, theta, gradient, np.zeros(0), weight, weight.sum(axis=1), none, none[:0])
  n = spec.items
  each = terms(spec.model, log_odds(spec, data, x), tie, data.wins, data.losses, data.ties)
  if isinstance(data, Grid):
    net = lambda cells: cells.sum(axis=1) - cells.sum(axis=0)  # noqa: E731
    weight = each.ee + each.ee.T
    degree = weight.sum(axis=1)
    slopes = [(each.d_eta.sum(), net(each.ee), [each.ee.sum()], each.et.sum())][: spec.coefficients]
  else:
    net = lambda rows: np.bincount(data.first, rows, n) - np.bincount(data.second, rows, n)  # noqa: E731
    weight = each.ee
    degree = np.bincount(data.first, weight, n) + np.bincount(data.second, weight, n)
    slopes = [
      (z @ each.d_eta, net(each.ee * z), (each.ee * z) @ data.slopes, z @ np.broadcast_to(each.et, z.shape))
      for z in data.slopes.T
    ]
  beside, columns = [slope for slope, *_ in slopes], [column for _, column, *_ in slopes]
  corner = [list(row) for *_, row, _ in slopes]
  if spec.has_tie:
    crossed = [with_tie for *_, with_tie in slopes]
    beside.append(each.d_tie.sum())
    columns.append(net(each.et))
    corner = [[*row, c] for row, c in zip(corner, crossed, strict=True)] + [[*crossed, each.tt.sum()]]
  q = len(beside)
  return _with_prior(
    prior,
    theta,
    net(each.d_eta),
    np.asarray(beside, float),
    weight,
    degree,
    np.stack(columns, axis=1) if q else np.zeros((n, 0)),
    np.asarray(corner, float).reshape(q, q),
  )


def _with_prior(prior, theta, gradient, beside, weight, degree, border, corner) -> tuple[np.ndarray, Curvature]:
  slope, bend = prior_terms(prior, theta)
  return np.concatenate([gradient + slope, beside]), Curvature(weight, degree, bend, border, corner)


def strength_gradients(data: Totals, theta: np.ndarray, work: np.ndarray) -> np.ndarray:
  """f64[n] the gradient alone, without a prior, in bands of rows that stay in a processor's cache.

  Args:
    work: f64[b, n], overwritten.
  """
  alpha = np.exp(theta - (theta.max() + theta.min()) / 2)
  against = np.empty(len(theta))
  for start in range(0, len(theta), len(work)):
    rows = slice(start, start + len(work))
    part = np.add(alpha[rows, None], alpha, out=work[: len(alpha[rows])])
    np.divide(data.games[rows], part, out=part)
    part.sum(axis=1, out=against[rows])
  return data.score - alpha * against


def dense(
  spec: Spec, data: Grid | Rows | Totals, curvature: Curvature, *, ground: float | np.ndarray = 0.0
) -> np.ndarray:
  """The negative Hessian f64[size, size], plus `ground` (f64[n, n] or a number) on strengths."""
  n = spec.items
  weight = curvature.weight
  if isinstance(data, Rows):
    half = np.bincount(data.first.astype(np.int64) * n + data.second, weight, n * n).reshape(n, n)
    weight = half + half.T
  laplacian = ground - weight
  laplacian.flat[:: n + 1] += curvature.degree + curvature.diagonal
  if spec.size == n:
    return laplacian
  lower = np.concatenate([curvature.border.T, curvature.corner], axis=1)
  return np.concatenate([np.concatenate([laplacian, curvature.border], axis=1), lower])
