"""Priors on strengths, and the error where no estimate exists without one."""

from typing import NamedTuple

import numpy as np

from dpojax.bradley_terry import problem
from dpojax.errors import DataError


class Normal(NamedTuple):
  """A normal prior around 0 on every log-strength. sd: its standard deviation in nats."""

  sd: float


class Pseudo(NamedTuple):
  """A prior of imaginary games: n for every item, half of them won, against an item of strength 1."""

  n: float


class NoEstimate(DataError):
  """The maximum-likelihood estimate does not exist; the message says why and what to do."""


def prior_arrays(prior: Normal | Pseudo | None, items: int) -> problem.Prior:
  """What a prior says of every item."""
  nothing = np.zeros(items)
  if prior is None:
    return problem.Prior(nothing, nothing)
  if isinstance(prior, Normal):
    return problem.Prior(np.full(items, (1 / prior.sd) ** 2), nothing)
  return problem.Prior(nothing, np.full(items, float(prior.n)))
