"""Log-likelihood of one comparison and its derivatives, by tie model; the same code for NumPy and JAX arrays.

eta is the log-odds of the first item: theta_first - theta_second, and what home advantage and covariates add. With
s = sigmoid, the probabilities of a win of the first, a win of the second, and a tie are

  none, half    s(eta), s(-eta)
  davidson      e^(eta/2), e^(-eta/2) and nu, divided by their sum; the parameter is log nu
  rao_kupper    s(eta - tau), s(-eta - tau), (e^(2 tau) - 1) s(eta - tau) s(-eta - tau); the parameter is tau > 0

Each log-likelihood is concave in (eta, parameter) jointly, so a point without gradient is the maximum.

References: Bradley and Terry 1952; Davidson 1970 (ties by nu, where P(tie) = nu sqrt(p q) / (p + q + nu sqrt(p q)));
Rao and Kupper 1967 (tau = log of their theta).
"""

from typing import Any, NamedTuple

import numpy as np

Array = Any  # of NumPy or JAX


class Terms(NamedTuple):
  """Sums over the comparisons of a row: derivatives of the log-likelihood by eta and by the tie parameter.

  `ee`, `et`, `tt` are second derivatives with the sign changed, so that they form a positive matrix.
  """

  d_eta: Array
  d_tie: Array
  ee: Array
  et: Array
  tt: Array


def terms(xp, model: str, eta: Array, tie: Array, wins: Array, losses: Array, ties: Array) -> Terms:
  """What rows of `wins`, `losses` and `ties` of the first item (f64, of eta's shape) say at eta and `tie`.

  With the model "half" ties are expected to be counted as half a win and half a loss already.
  """
  if model == "davidson":
    return _davidson(xp, eta, tie, wins, losses, ties)
  if model == "rao_kupper":
    return _rao_kupper(xp, eta, tie, wins, losses, ties)
  win, loss = _sigmoids(xp, eta)
  none = xp.zeros(())
  return Terms(wins * loss - losses * win, none, (wins + losses) * win * loss, none, none)


def log_likelihood(xp, model: str, eta: Array, tie: Array, wins: Array, losses: Array, ties: Array) -> Array:
  """The log-likelihood of each row, in nats. Arguments as of `terms`."""
  if model == "davidson":
    top = xp.maximum(xp.abs(eta) / 2, tie)
    log_total = top + xp.log(xp.exp(eta / 2 - top) + xp.exp(-eta / 2 - top) + xp.exp(tie - top))
    return (wins - losses) * eta / 2 + ties * tie - (wins + losses + ties) * log_total
  if model == "rao_kupper":
    up, down = _log_sigmoid(xp, eta - tie), _log_sigmoid(xp, -eta - tie)
    return (wins + ties) * up + (losses + ties) * down + ties * (2 * tie + xp.log(-xp.expm1(-2 * tie)))
  return wins * _log_sigmoid(xp, eta) + losses * _log_sigmoid(xp, -eta)


def _sigmoids(xp, x: Array) -> tuple[Array, Array]:
  """sigmoid(x) and sigmoid(-x), both to full relative precision, from one exponential."""
  odds = xp.exp(xp.minimum(x, 700.0))  # e^700 is near float64's end; beyond it sigmoid(-x) stays 1e-304
  against = 1 / (1 + odds)
  return odds * against, against


def _log_sigmoid(xp, x: Array) -> Array:
  return xp.minimum(x, 0) - xp.log1p(xp.exp(-xp.abs(x)))


def _davidson(xp, eta, log_nu, wins, losses, ties) -> Terms:
  top = xp.maximum(xp.abs(eta) / 2, log_nu)
  a, b, c = xp.exp(eta / 2 - top), xp.exp(-eta / 2 - top), xp.exp(log_nu - top)
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


def _rao_kupper(xp, eta, tau, wins, losses, ties) -> Terms:
  up, not_up = _sigmoids(xp, eta - tau)
  down, not_down = _sigmoids(xp, -eta - tau)
  first, second = wins + ties, losses + ties  # every tie has both factors
  curved = -xp.expm1(-2 * tau)  # 1 - e^(-2 tau)
  bend_up, bend_down = first * up * not_up, second * down * not_down
  return Terms(
    d_eta=wins * not_up - losses * not_down + ties * (down - up),
    d_tie=ties * (2 * xp.exp(-2 * tau) / curved + up + down) - wins * not_up - losses * not_down,
    ee=bend_up + bend_down,
    et=bend_down - bend_up,
    tt=bend_up + bend_down + ties * 4 * xp.exp(-2 * tau) / (curved * curved),
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
    up, down = _sigmoids(np, eta - tie)[0], _sigmoids(np, -eta - tie)[0]
    return up, np.expm1(2 * tie) * up * down, down
  win, loss = _sigmoids(np, eta)
  return win, np.zeros_like(win), loss
