"""Losses that judge each answer of a pair by itself: is its reward beta a above a threshold or below?"""

import jax
import jax.numpy as jnp

from dpojax.losses.logps import PairLogps, SingleLogps, log_ratios, single_log_ratios


def nca_pair(policy: PairLogps, reference: PairLogps, *, beta=0.01) -> jax.Array:
  """Noise contrastive alignment of a pair, one value per pair.

  With the log-ratios a of the chosen and b of the rejected answer::

    loss = -log sigmoid(beta a) - 1/2 log sigmoid(-beta a) - 1/2 log sigmoid(-beta b)

  The second term keeps the chosen answer from growing without end.

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens.
    reference: the same pairs under the frozen reference.
    beta: > 0, the paper's alpha. 0.01: its App. C.

  Returns:
    f32[B], unreduced. Equals 2 log 2 wherever policy == reference.

  References:
    Chen et al. 2024, arXiv:2402.05369, Sec. 4.1. TRL 1.16: `nca_pair`.
  """
  chosen, rejected = (beta * x for x in log_ratios(policy, reference))
  kept_down = jax.nn.softplus(chosen) + jax.nn.softplus(rejected)
  return jax.nn.softplus(-chosen) + 0.5 * kept_down


def bco_pair(policy: PairLogps, reference: PairLogps, *, beta=0.01) -> jax.Array:
  """Binary classifier optimisation of a pair, without the reward shift, one value per pair.

  With the log-ratios a of the chosen and b of the rejected answer::

    loss = -log sigmoid(beta a) - log sigmoid(-beta b)

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens.
    reference: the same pairs under the frozen reference.
    beta: > 0. 0.01: the paper's App. C.

  Returns:
    f32[B], unreduced. Equals 2 log 2 wherever policy == reference.

  References:
    Jung et al. 2024, arXiv:2404.04656. TRL 1.16: `bco_pair`.
  """
  chosen, rejected = log_ratios(policy, reference)
  return jax.nn.softplus(-beta * chosen) + jax.nn.softplus(beta * rejected)


def bco(policy: SingleLogps, reference: SingleLogps, *, beta=0.01, shift=0.0) -> jax.Array:
  """Binary classifier optimisation of single answers, one value per answer.

  With the log-ratio a of an answer and the reward shift delta::

    loss = -log sigmoid(beta a - delta)   of a desirable answer
    loss = -log sigmoid(delta - beta a)   of an undesirable one

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens.
    reference: the same answers under the frozen reference.
    beta: > 0. 0.01: the paper's App. C.
    shift: delta, the running mean over steps of (mean reward of desirable + mean reward of undesirable answers) / 2,
      see `modifiers.reward_shift`. No gradient passes.

  Returns:
    f32[B], unreduced. Equals log 2 wherever policy == reference and the shift is 0.

  References:
    Jung et al. 2024, arXiv:2404.04656. TRL 1.16 has moved its trainer of single answers out.
  """
  x = beta * single_log_ratios(policy, reference) - jax.lax.stop_gradient(shift)
  return jax.nn.softplus(jnp.where(policy.desirable, -x, x))


def sppo_hard(policy: PairLogps, reference: PairLogps, *, beta=1e-3) -> jax.Array:
  """Self-play preference optimisation with certain labels, one value per pair.

  With the log-ratios a of the chosen and b of the rejected answer::

    loss = (a - 1 / (2 beta))^2 + (b + 1 / (2 beta))^2

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens.
    reference: the same pairs under the frozen reference.
    beta: > 0, one over the paper's eta = 1000.

  Returns:
    f32[B], unreduced. Equals 1 / (2 beta^2) wherever policy == reference.

  References:
    Wu et al. 2024, arXiv:2405.00675, Eq. 4.7 with winning probabilities 1 and 0. TRL 1.16: `sppo_hard`.
  """
  chosen, rejected = log_ratios(policy, reference)
  target = 0.5 / beta
  return (chosen - target) ** 2 + (rejected + target) ** 2
