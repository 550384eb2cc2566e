"""Hinge losses on the log-ratio margin."""

import jax
import jax.numpy as jnp

from dpojax.types import PairLogps, log_ratios


def hinge(policy: PairLogps, reference: PairLogps, *, beta) -> jax.Array:
  """Hinge on the scaled margin (SLiC calibration), one value per pair: max(0, 1 - beta m).

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens.
    reference: the same pairs under the frozen reference.
    beta: > 0, the slope; the loss is zero beyond a margin of 1 / beta nats.

  Returns:
    f32[B], unreduced. Equals 1 wherever policy == reference.

  References:
    Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425; Liu et al. 2023 (RSO), arXiv:2309.06657, Eq. 11.
  """
  chosen, rejected = log_ratios(policy, reference)
  return jnp.maximum(0.0, 1.0 - beta * (chosen - rejected))
