"""Token-level DPO: the margin corrected by how far the policy has moved along each answer.

K of an answer is the sum over its positions of KL(reference || policy) of the next-token distributions. It takes the
reference's whole distribution, so the reference is live, never a cache of log-probs.
"""

import jax
import jax.numpy as jnp

from dpojax.losses.logits import minus_margin
from dpojax.losses.logps import PairLogps, log_ratios


def tdpo1(policy: PairLogps, reference: PairLogps, *, beta=0.1) -> jax.Array:
  """Token-level DPO, first form, one value per pair.

  With the margin m as in `dpo` and the sequential KL of either answer::

    loss = -log sigmoid(beta (m + K_w - K_l))

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens, with `chosen_kl` and `rejected_kl` f32[B].
    reference: the same pairs under the live frozen reference.
    beta: > 0; larger holds the policy nearer the reference. 0.1 in the paper.

  Returns:
    f32[B], unreduced. Equals log 2 wherever policy == reference.

  References:
    Zeng et al. 2024, arXiv:2404.11999. Not in TRL 1.16.
  """
  chosen, rejected = log_ratios(policy, reference)
  chosen_kl, rejected_kl = _sequential_kl(policy)
  return jax.nn.softplus(-minus_margin(beta * (chosen - rejected + chosen_kl - rejected_kl), policy))


def tdpo2(policy: PairLogps, reference: PairLogps, *, beta=0.1, alpha=0.5) -> jax.Array:
  """Token-level DPO, second form, one value per pair.

  With the margin m as in `dpo`, the sequential KL of either answer, and no gradient through the chosen one's::

    loss = -log sigmoid(beta (m + alpha (sg(K_w) - K_l)))

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens, with `chosen_kl` and `rejected_kl` f32[B].
    reference: the same pairs under the live frozen reference.
    beta: > 0; larger holds the policy nearer the reference. 0.1 in the paper.
    alpha: >= 0, weight of the sequential KL. 0.5 in the paper.

  Returns:
    f32[B], unreduced. Equals log 2 wherever policy == reference.

  References:
    Zeng et al. 2024, arXiv:2404.11999. Not in TRL 1.16.
  """
  chosen, rejected = log_ratios(policy, reference)
  chosen_kl, rejected_kl = _sequential_kl(policy)
  kl = alpha * (jax.lax.stop_gradient(chosen_kl) - rejected_kl)
  return jax.nn.softplus(-minus_margin(beta * (chosen - rejected + kl), policy))


def _sequential_kl(policy: PairLogps) -> tuple[jax.Array, jax.Array]:
  assert policy.chosen_kl is not None and policy.rejected_kl is not None, "this loss reads sequential KLs"
  return jnp.asarray(policy.chosen_kl), jnp.asarray(policy.rejected_kl)
