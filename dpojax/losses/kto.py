"""Kahneman-Tversky optimisation: gains and losses of single answers against how far the policy has moved."""

import jax
import jax.numpy as jnp

from dpojax.losses.logps import SingleLogps, mismatched_log_ratios, single_log_ratios, weighted_mean


def kto(
  policy: SingleLogps, reference: SingleLogps, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0
) -> jax.Array:
  """Kahneman-Tversky optimisation, one value per answer, coupled over the batch.

  With the log-ratio a of an answer and z = max(0, mean over the batch of mismatched log-ratios), of which no gradient
  is taken::

    loss = lambda_D (1 - sigmoid(beta (a - z)))   of a desirable answer
    loss = lambda_U (1 - sigmoid(beta (z - a)))   of an undesirable one

  A mismatched log-ratio is of another prompt's answer after this prompt. It stands for the KL of the policy from its
  reference.

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens, with `mismatched` f32[B]; all of the global batch.
      Answers of `weight` 0 have no part in z.
    reference: the same answers under the frozen reference.
    beta: > 0. 0.1: the paper's default.
    desirable_weight: lambda_D.
    undesirable_weight: lambda_U.

  Returns:
    f32[B], unreduced. Equals lambda / 2 wherever policy == reference.

  References:
    Ethayarajh et al. 2024, arXiv:2402.01306. TRL 1.16: `kto`, whose z is the mean over a micro-batch
    and its devices, and not over accumulated micro-batches.
  """
  moved = weighted_mean(mismatched_log_ratios(policy, reference), policy.weight)
  moved = jax.lax.stop_gradient(jax.nn.relu(moved))
  x = beta * (single_log_ratios(policy, reference) - moved)
  good, bad = jax.nn.sigmoid(-x), jax.nn.sigmoid(x)
  return jnp.where(policy.desirable, desirable_weight * good, undesirable_weight * bad)
