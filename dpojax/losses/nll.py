"""Negative log-likelihoods, and losses of nothing else."""

import jax
import jax.numpy as jnp

from dpojax.losses.logps import PairLogps
from dpojax.types import Array


def token_mean_nll(logp: Array, length: Array | None, weight: Array | None, pairs_per_token: Array | None) -> jax.Array:
  """f32[B]: -log-probs scaled so that their weighted mean over examples is their mean over tokens.

  Args:
    logp: f32[B] nats, summed over the tokens that count.
    length: i32[B] how many these are.
    weight: f32[B], 0 where empty; None: all 1.
    pairs_per_token: f32[] sum of weights over the sum of weight times length, of the global batch; None: of these.
  """
  logp = jnp.asarray(logp)
  if pairs_per_token is None:
    assert length is not None, "this loss reads the lengths of answers"
    weight = jnp.ones_like(logp) if weight is None else jnp.asarray(weight)
    tokens = jnp.sum(weight * jnp.asarray(length).astype(logp.dtype))
    pairs_per_token = jnp.sum(weight) / jnp.where(tokens > 0, tokens, 1.0)
  return -logp * pairs_per_token


def chosen_nll(policy: PairLogps, *, with_prompt: bool = False) -> jax.Array:
  """f32[B]: `token_mean_nll` of the chosen answers, and of their prompts where asked for and given."""
  logp, length = jnp.asarray(policy.chosen), policy.chosen_length
  if with_prompt and policy.prompt is not None:
    logp = logp + policy.prompt
    if length is not None and policy.prompt_length is not None:
      length = jnp.asarray(length) + policy.prompt_length
  return token_mean_nll(logp, length, policy.weight, policy.pairs_per_token)


def sft(policy: PairLogps) -> jax.Array:
  """Supervised fine-tuning on the chosen answers, one value per pair::

    loss = -log pi(y_w) * (pairs of the global batch) / (chosen tokens of the global batch)

  so that the mean over pairs is the mean negative log-prob of a chosen token.

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens, with `chosen_length` i32[B] or `pairs_per_token`.

  Returns:
    f32[B], unreduced. There is no reference.

  References:
    TRL 1.16: `sft`, a token mean over a micro-batch; here over the global batch.
  """
  return chosen_nll(policy)


def preferred_ft(policy: PairLogps) -> jax.Array:
  """Supervised fine-tuning on whole chosen answers, one value per pair::

    loss = -log pi(y_w)

  Args:
    policy: f32[B] log-probs in nats, summed (not averaged) over answer tokens.

  Returns:
    f32[B], unreduced. There is no reference.

  References:
    Rafailov et al. 2023, arXiv:2305.18290, Sec. 6: the baseline Preferred-FT. Not in TRL 1.16.
  """
  return -jnp.asarray(policy.chosen)


def unlikelihood(policy: PairLogps, *, alpha=1.0) -> jax.Array:
  """Likelihood of the chosen answer up, of the rejected one down, one value per pair::

    loss = -log pi(y_w) + alpha log pi(y_l)

  Unbounded below: nothing stops the rejected answer's log-prob from falling. The DPO paper reports that it produces
  meaningless text.

  Args:
    policy: f32[B] log-probs in nats, summed (not averaged) over answer tokens.
    alpha: in [0, 1], the weight of the second term. The paper gives the range only.

  Returns:
    f32[B], unreduced. There is no reference.

  References:
    Rafailov et al. 2023, arXiv:2305.18290, Sec. 6 and App. C. Not in TRL 1.16.
  """
  return alpha * jnp.asarray(policy.rejected) - policy.chosen
