"""Token-level DPO: the margin corrected by how far the policy has moved along each answer.

K of an answer is the sum over its positions of KL(reference || policy) of the next-token distributions. It takes the
reference's whole distribution, so the reference is live, never a cache of log-probs.
"""

import jax
from jaxtyping import Float

from dpojax.losses.arrays import checked
from dpojax.losses.logits import minus_margin


@checked
def tdpo1(
  chosen, rejected, reference_chosen, reference_rejected, chosen_kl, rejected_kl, *, margin=None, beta=0.1
) -> Float[jax.Array, " B"]:
  """Token-level DPO, first form, one value per pair.

  With the margin m as in `dpo` and the sequential KL of either answer::

    loss = -log sigmoid(beta (m + K_w - K_l))

  Options:
    beta: > 0; larger holds the policy nearer the reference. 0.1 in the paper.

  Value:
    log 2 wherever policy == reference.

  Example::

    >>> value = losses.tdpo1([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], [0.4, 0.5], [0.7, 0.2], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.6349, 0.7549]

  Source:
    Zeng et al. 2024, arXiv:2404.11999. Not in TRL 1.16.
  """
  a, b = chosen - reference_chosen, rejected - reference_rejected
  return jax.nn.softplus(-minus_margin(beta * (a - b + chosen_kl - rejected_kl), margin))


@checked
def tdpo2(
  chosen, rejected, reference_chosen, reference_rejected, chosen_kl, rejected_kl, *, margin=None, beta=0.1, alpha=0.5
) -> Float[jax.Array, " B"]:
  """Token-level DPO, second form, one value per pair.

  With the margin m as in `dpo`, the sequential KL of either answer, and no gradient through the chosen one's::

    loss = -log sigmoid(beta (m + alpha (sg(K_w) - K_l)))

  Options:
    beta: > 0; larger holds the policy nearer the reference. 0.1 in the paper.
    alpha: >= 0, weight of the sequential KL. 0.5 in the paper.

  Value:
    log 2 wherever policy == reference.

  Example::

    >>> value = losses.tdpo2([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], [0.4, 0.5], [0.7, 0.2], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.6279, 0.7629]

  Source:
    Zeng et al. 2024, arXiv:2404.11999. Not in TRL 1.16.
  """
  a, b = chosen - reference_chosen, rejected - reference_rejected
  kl = alpha * (jax.lax.stop_gradient(chosen_kl) - rejected_kl)
  return jax.nn.softplus(-minus_margin(beta * (a - b + kl), margin))
