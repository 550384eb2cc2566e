"""Identity preference optimisation: regression of the margin on 1 / (2 beta)."""

import jax

from dpojax.losses.divergences import FDivergence, reverse_kl
from dpojax.losses.logits import logit, mean_logit
from dpojax.losses.logps import PairLogps


def ipo(policy: PairLogps, reference: PairLogps, *, beta=0.1, f_divergence: FDivergence = reverse_kl) -> jax.Array:
  """IPO on length-averaged log-ratios, one value per pair::

    loss = (s(a) / |y_w| - s(b) / |y_l| - 1 / (2 beta))^2

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens, with `chosen_length` and `rejected_length` i32[B].
    reference: the same pairs under the frozen reference.
    beta: > 0, the regulariser called tau in the paper. A pair's margin is in units of beta times nats and moves the
      target to (1/2 + margin) / beta.
    f_divergence: score that takes the place of the log-ratio.

  Returns:
    f32[B], unreduced. Equals 1 / (4 beta^2) wherever policy == reference.

  References:
    Azar et al. 2023, arXiv:2310.12036, Eq. 17, with per-token averages, which its authors confirmed to TRL. TRL 1.16:
    `ipo`. The equation as printed is `ipo_sum`.
  """
  return ((mean_logit(policy, reference, beta, f_divergence) - 0.5) / beta) ** 2


def ipo_sum(policy: PairLogps, reference: PairLogps, *, beta=0.1, f_divergence: FDivergence = reverse_kl) -> jax.Array:
  """IPO as printed, one value per pair.

  With the summed margin m as in `dpo`::

    loss = (m - 1 / (2 beta))^2

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens.
    reference: the same pairs under the frozen reference.
    beta: > 0, the regulariser called tau in the paper.
    f_divergence: score that takes the place of the log-ratio.

  Returns:
    f32[B], unreduced. Equals 1 / (4 beta^2) wherever policy == reference.

  References:
    Azar et al. 2023, arXiv:2310.12036, Eq. 17. Not in TRL 1.16, which always averages.
  """
  return ((logit(policy, reference, beta, f_divergence) - 0.5) / beta) ** 2
