"""Hinge losses on the log-ratio margin."""

import jax
from jaxtyping import Float

from dpojax.losses.arrays import checked
from dpojax.losses.divergences import FDivergence, reverse_kl
from dpojax.losses.logits import logit


@checked
def hinge(
  chosen,
  rejected,
  reference_chosen,
  reference_rejected,
  *,
  margin=None,
  beta=0.1,
  f_divergence: FDivergence = reverse_kl,
) -> Float[jax.Array, " B"]:
  """Hinge on the scaled margin (SLiC calibration), one value per pair.

  With the margin m as in `dpo`::

    loss = max(0, 1 - beta m)

  Options:
    beta: > 0, the slope; the loss is zero beyond a margin of 1 / beta nats.
    f_divergence: score that takes the place of the log-ratio.

  Value:
    1 wherever policy == reference.

  Example::

    >>> value = losses.hinge([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.85, 1.15]

  Source:
    Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425; Liu et al. 2023 (RSO), arXiv:2309.06657, Eq. 11. TRL 1.16: `hinge`.
  """
  return jax.nn.relu(1 - logit(chosen - reference_chosen, rejected - reference_rejected, margin, beta, f_divergence))
