"""Which pairs to compare next: those whose outcome says most of all strengths.

One more comparison of i and j adds w e e' to the negative Hessian, where e = e_i - e_j and w = p (1 - p) is the variance
of its outcome. So the logarithm of the determinant grows by log(1 + w e' Sigma e), Sigma being its inverse, and half of
that is the expected gain of information in nats: D-optimal design (Fedorov 1972; for paired comparisons Grasshoff and
Schwabe 2008). With a tie parameter a comparison adds a matrix J of two rows, and the gain is log det(I + J S) / 2, S
being the covariance of eta and the parameter.
"""

import dataclasses
from collections.abc import Hashable

import numpy as np

from dpojax.bradley_terry import likelihood, uncertainty
from dpojax.bradley_terry.fitting import BradleyTerryFit
from dpojax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Suggestion:
  """A pair to compare.

  Attributes:
    first, second: the items, the stronger first.
    probability: of a win of the first, on neutral ground.
    standard_error: of the difference of their log-strengths, in nats, before any comparison that is suggested.
    games: how often they have met, weighted.
    gain: half of what their comparison, after those suggested before it, adds to the log-determinant of the
      information, in nats.
  """

  first: Hashable
  second: Hashable
  probability: float
  standard_error: float
  games: float
  gain: float


def suggest(fit: BradleyTerryFit, number: int = 10) -> list[Suggestion]:
  """The `number` pairs to compare next, each at most once, the most telling first.

  Each is the best after those before it are compared, so that they make a good round together: what a comparison will
  say of the covariance does not depend on its outcome, to first order. Items without an estimate are not among them.

  Time is O(number * n^2), memory some n^2 numbers.

  Raises:
    DataError: `number` is below 1, or there are more than 6,000 items.
  """
  if number < 1:
    raise DataError(f"{number} suggestions; give 1 or more")
  n, spec = len(fit.kept), fit.spec
  uncertainty.check_size(n)
  theta, tie = fit.vector[:n], float(fit.vector[-1]) if spec.has_tie else 0.0
  first, second = np.triu_indices(n, 1)
  eta = theta[first] - theta[second]
  chances = likelihood.probabilities(spec.model, eta, tie)
  won, tied, lost = chances
  one = likelihood.terms(spec.model, eta, tie, won, lost, tied)  # what a comparison adds, on average over its outcomes
  # The covariance of every strength and, in the last row, of the tie parameter.
  kept = [*range(n), *([spec.size - 1] if spec.has_tie else [])]
  sigma = fit.inverse[np.ix_(kept, kept)].copy()
  open_ = np.ones(len(first), bool)
  before, found = None, []
  for _ in range(min(number, len(first))):
    diagonal = np.diagonal(sigma)
    spread = np.maximum(diagonal[first] + diagonal[second] - 2 * sigma[first, second], 0)
    before = spread if before is None else before
    if spec.has_tie:
      crossed, own = sigma[first, -1] - sigma[second, -1], sigma[-1, -1]
      gains = _log_determinant(one, spread, crossed, own) / 2
    else:
      gains = np.log1p(one.ee * spread) / 2
    best = int(np.argmax(np.where(open_, gains, -1.0)))
    open_[best] = False
    found.append((best, float(gains[best])))
    sigma = _after(sigma, first[best], second[best], one, best, spec.has_tie)
  met = _met(fit)
  places = []
  for best, gain in found:
    i, j = int(first[best]), int(second[best])
    p = float(won[best])
    if eta[best] < 0:
      i, j, p = j, i, float(lost[best])
    assert before is not None
    error = float(np.sqrt(before[best]))
    places.append(
      Suggestion(fit.items[fit.kept[i]], fit.items[fit.kept[j]], p, error, met.get((min(i, j), max(i, j)), 0.0), gain)
    )
  return places


def _log_determinant(one: likelihood.Terms, ee, et, tt) -> np.ndarray:
  """log det(I + J S) of J = [[one.ee, one.et], [one.et, one.tt]] and S = [[ee, et], [et, tt]]."""
  trace = one.ee * ee + 2 * one.et * et + one.tt * tt
  return np.log1p(np.maximum(trace + (one.ee * one.tt - one.et**2) * (ee * tt - et**2), 0))


def _after(sigma, i, j, one: likelihood.Terms, place: int, has_tie: bool) -> np.ndarray:
  """The covariance once the pair has been compared (Sherman, Morrison and Woodbury)."""
  along = (sigma[i] - sigma[j])[:, None]
  information = np.array([[one.ee[place]]])
  if has_tie:
    along = np.concatenate([along, sigma[-1][:, None]], axis=1)
    information = np.array([[one.ee[place], one.et[place]], [one.et[place], one.tt[place]]])
  inner = np.array([[along[i, 0] - along[j, 0]]])
  if has_tie:
    inner = np.array([[inner[0, 0], along[-1, 0]], [along[-1, 0], along[-1, 1]]])
  return sigma - along @ np.linalg.solve(np.eye(len(inner)) + information @ inner, information) @ along.T


def _met(fit: BradleyTerryFit) -> dict[tuple[int, int], float]:
  """How often the items at two places, the smaller first, have met."""
  part, n = fit.part, len(fit.kept)
  code = np.minimum(part.first, part.second).astype(np.int64) * n + np.maximum(part.first, part.second)
  codes, place = np.unique(code, return_inverse=True)
  counts = np.bincount(place, part.row_weight)
  return {(int(c) // n, int(c) % n): float(w) for c, w in zip(codes, counts, strict=True)}
