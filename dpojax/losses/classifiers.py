"""Losses that classify each answer of a pair by itself: is its reward beta a above a threshold or below?"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dpojax.losses.arrays import checked


@checked
def nca_pair(chosen, rejected, reference_chosen, reference_rejected, *, beta=0.01) -> Float[jax.Array, " B"]:
  """Noise contrastive alignment of a pair, one value per pair.

  With the log-ratios a of the chosen and b of the rejected answer::

    loss = -log sigmoid(beta a) - 1/2 log sigmoid(-beta a) - 1/2 log sigmoid(-beta b)

  The second term keeps the chosen answer from growing without end.

  Options:
    beta: > 0, the paper's alpha. 0.01: its App. C.

  Value:
    2 log 2 wherever policy == reference.

  Example::

    >>> value = losses.nca_pair([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.01)
    >>> [round(float(x), 4) for x in value]
    [1.3826, 1.3901]

  Source:
    Chen et al. 2024, arXiv:2402.05369, Sec. 4.1. TRL 1.16: `nca_pair`.
  """
  a, b = chosen - reference_chosen, rejected - reference_rejected
  a, b = beta * a, beta * b
  kept_down = jax.nn.softplus(a) + jax.nn.softplus(b)
  return jax.nn.softplus(-a) + 0.5 * kept_down


@checked
def bco_pair(chosen, rejected, reference_chosen, reference_rejected, *, beta=0.01) -> Float[jax.Array, " B"]:
  """Binary classifier optimisation of a pair, without the reward shift, one value per pair.

  With the log-ratios a of the chosen and b of the rejected answer::

    loss = -log sigmoid(beta a) - log sigmoid(-beta b)

  Options:
    beta: > 0. 0.01: the paper's App. C.

  Value:
    2 log 2 wherever policy == reference.

  Example::

    >>> value = losses.bco_pair([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.01)
    >>> [round(float(x), 4) for x in value]
    [1.3788, 1.3938]

  Source:
    Jung et al. 2024, arXiv:2404.04656. TRL 1.16: `bco_pair`.
  """
  a, b = chosen - reference_chosen, rejected - reference_rejected
  return jax.nn.softplus(-beta * a) + jax.nn.softplus(beta * b)


@checked
def bco(logp, desirable, reference_logp, *, beta=0.01, shift=0.0) -> Float[jax.Array, " B"]:
  """Binary classifier optimisation of single answers, one value per answer.

  With the log-ratio a of an answer and the reward shift delta::

    loss = -log sigmoid(beta a - delta)   of a desirable answer
    loss = -log sigmoid(delta - beta a)   of an undesirable one

  Options:
    beta: > 0. 0.01: the paper's App. C.
    shift: delta, the running mean over steps of (mean reward of desirable + mean reward of undesirable answers) / 2,
      see `modifiers.reward_shift`. No gradient passes.

  Value:
    log 2 wherever policy == reference and the shift is 0.

  Example::

    >>> value = losses.bco([-10, -12], [True, False], [-11, -11], beta=0.01)
    >>> [round(float(x), 4) for x in value]
    [0.6882, 0.6882]

  Source:
    Jung et al. 2024, arXiv:2404.04656. TRL 1.16 has moved its trainer of single answers out.
  """
  x = beta * (logp - reference_logp) - jax.lax.stop_gradient(shift)
  return jax.nn.softplus(jnp.where(desirable, -x, x))


@checked
def sppo_hard(chosen, rejected, reference_chosen, reference_rejected, *, beta=1e-3) -> Float[jax.Array, " B"]:
  """Self-play preference optimisation with certain labels, one value per pair.

  With the log-ratios a of the chosen and b of the rejected answer::

    loss = (a - 1 / (2 beta))^2 + (b + 1 / (2 beta))^2

  Options:
    beta: > 0, one over the paper's eta = 1000.

  Value:
    1 / (2 beta^2) wherever policy == reference.

  Example::

    >>> value = losses.sppo_hard([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.001)
    >>> [round(float(x), 4) for x in value]
    [498501.25, 501501.25]

  Source:
    Wu et al. 2024, arXiv:2405.00675, Eq. 4.7 with winning probabilities 1 and 0. TRL 1.16: `sppo_hard`.
  """
  a, b = chosen - reference_chosen, rejected - reference_rejected
  target = 0.5 / beta
  return (a - target) ** 2 + (b + target) ** 2
