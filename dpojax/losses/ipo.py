"""Identity preference optimisation: regression of the margin on 1 / (2 beta)."""

import jax
import jax.numpy as jnp

from dpojax.types import PairLogps, log_ratios


def ipo(policy: PairLogps, reference: PairLogps, *, beta) -> jax.Array:
  """IPO on length-averaged log-ratios, one value per pair: (a / |y_w| - b / |y_l| - 1 / (2 beta))^2.

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens, with `chosen_length` and
      `rejected_length` i32[B].
    reference: the same pairs under the frozen reference.
    beta: > 0, the regulariser called tau in the paper.

  Returns:
    f32[B], unreduced. Equals 1 / (4 beta^2) wherever policy == reference.

  References:
    Azar et al. 2023, arXiv:2310.12036, Eq. 17, with the per-token averages its authors recommend and
    TRL uses; `ipo_sum` is the equation as printed.
  """
  chosen, rejected = log_ratios(policy, reference)
  chosen = chosen / _at_least_one(policy.chosen_length, chosen)
  rejected = rejected / _at_least_one(policy.rejected_length, rejected)
  return (chosen - rejected - 1 / (2 * beta)) ** 2


def ipo_sum(policy: PairLogps, reference: PairLogps, *, beta) -> jax.Array:
  """IPO as printed, one value per pair: (m - 1 / (2 beta))^2 with the summed margin m in nats.

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens.
    reference: the same pairs under the frozen reference.
    beta: > 0, the regulariser called tau in the paper.

  Returns:
    f32[B], unreduced. Equals 1 / (4 beta^2) wherever policy == reference.

  References:
    Azar et al. 2023, arXiv:2310.12036, Eq. 17.
  """
  chosen, rejected = log_ratios(policy, reference)
  return (chosen - rejected - 1 / (2 * beta)) ** 2


def _at_least_one(length, like) -> jax.Array:
  # Empty example slots have length 0; their loss has weight 0, but 0 * NaN would still be NaN.
  return jnp.maximum(length, 1).astype(like.dtype)
