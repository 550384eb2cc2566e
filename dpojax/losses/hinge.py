"""Hinge losses on the log-ratio margin."""

import jax

from dpojax.losses.divergences import FDivergence, reverse_kl
from dpojax.losses.logits import logit
from dpojax.losses.logps import PairLogps


def hinge(policy: PairLogps, reference: PairLogps, *, beta=0.1, f_divergence: FDivergence = reverse_kl) -> jax.Array:
  """Hinge on the scaled margin (SLiC calibration), one value per pair.

  With the margin m as in `dpo`::

    loss = max(0, 1 - beta m)

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens.
    reference: the same pairs under the frozen reference.
    beta: > 0, the slope; the loss is zero beyond a margin of 1 / beta nats.
    f_divergence: score that takes the place of the log-ratio.

  Returns:
    f32[B], unreduced. Equals 1 wherever policy == reference.

  References:
    Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425; Liu et al. 2023 (RSO), arXiv:2309.06657, Eq. 11. TRL 1.16: `hinge`.
  """
  return jax.nn.relu(1 - logit(policy, reference, beta, f_divergence))
