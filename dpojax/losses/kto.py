"""Kahneman-Tversky optimisation: gains and losses of single answers against how far the policy has moved."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dpojax.losses.arrays import checked
from dpojax.losses.logps import weighted_mean


@checked
def kto(
  logp,
  desirable,
  reference_logp,
  mismatched,
  reference_mismatched,
  *,
  weight=None,
  beta=0.1,
  desirable_weight=1.0,
  undesirable_weight=1.0,
) -> Float[jax.Array, " B"]:
  """Kahneman-Tversky optimisation, one value per answer, coupled over the batch.

  With the log-ratio a of an answer and z = max(0, mean over the batch of mismatched log-ratios), of which no gradient
  is taken::

    loss = lambda_D (1 - sigmoid(beta (a - z)))   of a desirable answer
    loss = lambda_U (1 - sigmoid(beta (z - a)))   of an undesirable one

  A mismatched log-ratio is of another prompt's answer after this prompt. It stands for the KL of the policy from its
  reference. Answers of weight 0 have no part in z.

  Options:
    beta: > 0. 0.1: the paper's default.
    desirable_weight: lambda_D.
    undesirable_weight: lambda_U.

  Value:
    lambda / 2 wherever policy == reference.

  Example::

    >>> value = losses.kto([-10, -12], [True, False], [-11, -11], [-13, -12], [-12.5, -12.5], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.475, 0.475]

  Source:
    Ethayarajh et al. 2024, arXiv:2402.01306. TRL 1.16: `kto`, whose z is the mean over a micro-batch
    and its devices, and not over accumulated micro-batches.
  """
  moved = weighted_mean(mismatched - reference_mismatched, weight)
  moved = jax.lax.stop_gradient(jax.nn.relu(moved))
  x = beta * (logp - reference_logp - moved)
  good, bad = jax.nn.sigmoid(-x), jax.nn.sigmoid(x)
  return jnp.where(desirable, desirable_weight * good, undesirable_weight * bad)
