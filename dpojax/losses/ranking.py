"""Rankings of K answers under Plackett and Luce's model: the best is chosen, then the best of the rest."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dpojax.losses.arrays import checked_rankings
from dpojax.types import Array


@checked_rankings
def plackett_luce_dpo(logp, reference_logp, length, *, beta=0.1) -> Float[jax.Array, " B"]:
  """DPO of a whole ranking, one value per prompt.

  With the log-ratios r_1 ... r_K of the answers, best first::

    loss = sum over k of [log sum over j >= k of e^(beta r_j)] - beta r_k

  It is DPO at K = 2. Answers of length 0 are left out.

  Options:
    beta: > 0; larger holds the policy nearer the reference.

  Value:
    log K! wherever policy == reference.

  Example::

    >>> value = losses.plackett_luce_dpo([[-10, -12, -13]], [[-11, -11.5, -12]], [[5, 6, 7]], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [1.6541]

  Source:
    Rafailov et al. 2023, arXiv:2305.18290, App. A.3. Not in TRL 1.16.
  """
  return ranking_nll(beta * (logp - reference_logp), length > 0)


def ranking_nll(scores: jax.Array, present: Array) -> jax.Array:
  """f32[B]: negative log-probability that answers of these scores [B, K] are ranked in their order.

  Answers that are not `present`, bool[B, K], are left out; an empty ranking has the value 0.
  """
  present = jnp.asarray(present)
  safe = jnp.where(present, scores, 0.0)
  # [B, k, j]: answer j is there and not ranked above answer k. A row is never empty, so that its sum is finite.
  rest = present[:, None, :] & jnp.triu(jnp.ones((scores.shape[1],) * 2, bool))[None]
  rest = rest | ~present[:, :, None]
  # Differences first: a sum less its largest term would round to the size of the scores.
  lead = safe[:, None, :] - safe[:, :, None]
  return jnp.sum(jnp.where(present, jax.nn.logsumexp(lead, axis=2, where=rest), 0.0), axis=1)
