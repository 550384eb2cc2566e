"""Identity preference optimisation: regression of the margin on 1 / (2 beta)."""

import jax
from jaxtyping import Float

from dpojax.losses.arrays import checked
from dpojax.losses.divergences import FDivergence, reverse_kl
from dpojax.losses.logits import logit, mean_logit


@checked
def ipo(
  chosen,
  rejected,
  reference_chosen,
  reference_rejected,
  chosen_length,
  rejected_length,
  *,
  margin=None,
  beta=0.1,
  f_divergence: FDivergence = reverse_kl,
) -> Float[jax.Array, " B"]:
  """IPO on length-averaged log-ratios, one value per pair::

    loss = (s(a) / |y_w| - s(b) / |y_l| - 1 / (2 beta))^2

  Options:
    beta: > 0, the regulariser called tau in the paper. A pair's margin is in units of beta times nats and moves the
      target to (1/2 + margin) / beta.
    f_divergence: score that takes the place of the log-ratio.

  Value:
    1 / (4 beta^2) wherever policy == reference.

  Example::

    >>> value = losses.ipo([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], [5, 6], [6, 4], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [22.2469, 28.0017]

  Source:
    Azar et al. 2023, arXiv:2310.12036, Eq. 17, with per-token averages, which its authors confirmed to TRL. TRL 1.16:
    `ipo`. The equation as printed is `ipo_sum`.
  """
  a, b = chosen - reference_chosen, rejected - reference_rejected
  return ((mean_logit(a, b, chosen_length, rejected_length, margin, beta, f_divergence) - 0.5) / beta) ** 2


@checked
def ipo_sum(
  chosen,
  rejected,
  reference_chosen,
  reference_rejected,
  *,
  margin=None,
  beta=0.1,
  f_divergence: FDivergence = reverse_kl,
) -> Float[jax.Array, " B"]:
  """IPO as printed, one value per pair.

  With the summed margin m as in `dpo`::

    loss = (m - 1 / (2 beta))^2

  Options:
    beta: > 0, the regulariser called tau in the paper.
    f_divergence: score that takes the place of the log-ratio.

  Value:
    1 / (4 beta^2) wherever policy == reference.

  Example::

    >>> value = losses.ipo_sum([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [12.25, 42.25]

  Source:
    Azar et al. 2023, arXiv:2310.12036, Eq. 17. Not in TRL 1.16, which always averages.
  """
  x = logit(chosen - reference_chosen, rejected - reference_rejected, margin, beta, f_divergence)
  return ((x - 0.5) / beta) ** 2
