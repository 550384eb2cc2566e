"""Controllers of the KL coefficient: what it is for the next roll-out, from the KL of this one. Pure functions."""

import math

ADAPTIVE_CLIP = 0.2
EXPONENTIAL_RATE = 0.15


def fixed(coef: float, kl: float, target: float, episodes: int, horizon: float) -> float:
  """The coefficient as it is."""
  del kl, target, episodes, horizon
  return coef


def adaptive(coef: float, kl: float, target: float, episodes: int, horizon: float) -> float:
  """c (1 + e n / horizon), with e = KL / target - 1 clipped to [-0.2, 0.2] and n episodes.

  Args:
    coef: c >= 0.
    kl: mean over answers of the sum of k1, nats an answer.
    target: nats an answer.
    episodes: answers of the roll-out.
    horizon: 10,000 in the source.

  References:
    Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
  """
  error = min(max(kl / target - 1, -ADAPTIVE_CLIP), ADAPTIVE_CLIP)
  return coef * (1 + error * episodes / horizon)


def exponential(coef: float, kl: float, target: float, episodes: int, horizon: float) -> float:
  """c exp(0.15 e), with e = KL / target - 1 clipped to [-1, 1]: some ten roll-outs change it by a factor of 4."""
  del episodes, horizon
  return coef * math.exp(EXPONENTIAL_RATE * min(max(kl / target - 1, -1.0), 1.0))


CONTROLLERS = {"fixed": fixed, "adaptive": adaptive, "exponential": exponential}
