"""Anchored preference optimisation: which way the likelihoods move, not only their difference."""

import jax
import jax.numpy as jnp

from dpojax.losses.logps import PairLogps, SingleLogps, log_ratios, single_log_ratios


def apo_zero(policy: PairLogps, reference: PairLogps, *, beta=0.1) -> jax.Array:
  """APO-zero: chosen answers up, rejected answers down, one value per pair.

  For answers better than the model's own. With the log-ratios a of the chosen and b of the rejected answer::

    loss = 1 - sigmoid(beta a) + sigmoid(beta b)

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens.
    reference: the same pairs under the frozen reference.
    beta: > 0. 0.1: the paper's Sec. 5.2.

  Returns:
    f32[B], unreduced. Equals 1 wherever policy == reference.

  References:
    D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 7. TRL 1.16: `apo_zero`.
  """
  chosen, rejected = log_ratios(policy, reference)
  return jax.nn.sigmoid(-beta * chosen) + jax.nn.sigmoid(beta * rejected)


def apo_down(policy: PairLogps, reference: PairLogps, *, beta=0.1) -> jax.Array:
  """APO-down: both answers down, the rejected one more, one value per pair.

  For a model whose own answers are better than the chosen ones. With the log-ratios a of the chosen and b of the
  rejected answer::

    loss = sigmoid(beta a) + 1 - sigmoid(beta (a - b))

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens.
    reference: the same pairs under the frozen reference.
    beta: > 0. 0.1: the paper's Sec. 5.2.

  Returns:
    f32[B], unreduced. Equals 1 wherever policy == reference.

  References:
    D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 8. TRL 1.16: `apo_down`.
  """
  chosen, rejected = log_ratios(policy, reference)
  return jax.nn.sigmoid(beta * chosen) + jax.nn.sigmoid(-beta * (chosen - rejected))


def apo_zero_unpaired(
  policy: SingleLogps, reference: SingleLogps, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0
) -> jax.Array:
  """APO-zero of single answers, one value per answer.

  With the log-ratio a of an answer::

    loss = lambda_D (1 - sigmoid(beta a))   of a desirable answer
    loss = lambda_U sigmoid(beta a)         of an undesirable one

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens.
    reference: the same answers under the frozen reference.
    beta: > 0. 0.1: the paper's Sec. 5.2.
    desirable_weight: lambda_D.
    undesirable_weight: lambda_U.

  Returns:
    f32[B], unreduced. Equals lambda / 2 wherever policy == reference.

  References:
    D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 7 taken apart. TRL 1.16: KTO with `apo_zero_unpaired`.
  """
  x = beta * single_log_ratios(policy, reference)
  good, bad = jax.nn.sigmoid(-x), jax.nn.sigmoid(x)
  return jnp.where(policy.desirable, desirable_weight * good, undesirable_weight * bad)
