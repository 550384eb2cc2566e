"""Negative log-likelihoods, and losses of nothing else."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dpojax.losses.arrays import checked
from dpojax.types import Array


def token_mean_nll(logp: jax.Array, length: Array, weight: Array | None, pairs_per_token) -> jax.Array:
  """f32[B]: -log-probs scaled so that their weighted mean over examples is their mean over tokens.

  Args:
    logp: f32[B] nats, summed over the tokens that count.
    length: i32[B] how many these are.
    weight: f32[B], 0 where empty; None: all 1.
    pairs_per_token: f32[] sum of weights over the sum of weight times length, of the global batch; None: of these.
  """
  if pairs_per_token is None:
    weight = jnp.ones_like(logp) if weight is None else jnp.asarray(weight)
    tokens = jnp.sum(weight * jnp.asarray(length).astype(logp.dtype))
    pairs_per_token = jnp.sum(weight) / jnp.where(tokens > 0, tokens, 1.0)
  return -logp * pairs_per_token


@checked
def sft(chosen, chosen_length, *, weight=None, pairs_per_token=None) -> Float[jax.Array, " B"]:
  """Supervised fine-tuning on the chosen answers, one value per pair::

    loss = -log pi(y_w) * (pairs of the global batch) / (chosen tokens of the global batch)

  so that the mean over pairs is the mean negative log-prob of a chosen token.

  Value:
    There is no reference.

  Example::

    >>> value = losses.sft([-10, -12], [5, 6])
    >>> [round(float(x), 4) for x in value]
    [1.8182, 2.1818]

  Source:
    TRL 1.16: `sft`, a token mean over a micro-batch; here over the global batch.
  """
  return token_mean_nll(chosen, chosen_length, weight, pairs_per_token)


@checked
def preferred_ft(chosen) -> Float[jax.Array, " B"]:
  """Supervised fine-tuning on whole chosen answers, one value per pair::

    loss = -log pi(y_w)

  Value:
    There is no reference.

  Example::

    >>> value = losses.preferred_ft([-10, -12])
    >>> [round(float(x), 4) for x in value]
    [10.0, 12.0]

  Source:
    Rafailov et al. 2023, arXiv:2305.18290, Sec. 6: the baseline Preferred-FT. Not in TRL 1.16.
  """
  return -chosen


@checked
def unlikelihood(chosen, rejected, *, alpha=1.0) -> Float[jax.Array, " B"]:
  """Likelihood of the chosen answer up, of the rejected one down, one value per pair::

    loss = -log pi(y_w) + alpha log pi(y_l)

  Unbounded below: nothing stops the rejected answer's log-prob from falling. The DPO paper reports that it produces
  meaningless text.

  Options:
    alpha: in [0, 1], the weight of the second term. The paper gives the range only.

  Value:
    There is no reference.

  Example::

    >>> value = losses.unlikelihood([-10, -12], [-12, -11])
    >>> [round(float(x), 4) for x in value]
    [-2.0, 1.0]

  Source:
    Rafailov et al. 2023, arXiv:2305.18290, Sec. 6 and App. C. Not in TRL 1.16.
  """
  return alpha * rejected - chosen
