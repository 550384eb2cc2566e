"""What can be combined with a loss: changed log-probs, weights, margins and a beta that follows the batch."""

import dataclasses

import jax
import jax.numpy as jnp

from dpojax.losses.logps import PairLogps, TokenLogps, weighted_mean
from dpojax.types import Array


def length_desensitised(tokens: TokenLogps, alpha) -> TokenLogps:
  """The same answers with the tail of a pair's longer answer scaled down (LD-DPO).

  A token past the length of the shorter answer counts alpha. To be applied to the policy and to the reference; lengths
  stay what they are. Answers 0 and 1 of an example are the pair; further ones, such as a scored prompt, are untouched.

  Args:
    tokens: f32[R, S] log-probs, the slots of an answer in the order of its tokens.
    alpha: in [0, 1]; 1 changes nothing, 0 forgets the tail.

  References:
    Liu et al. 2024, arXiv:2409.06411. TRL 1.16: `ld_alpha`.
  """
  logp, answer_of = jnp.asarray(tokens.logp), jnp.asarray(tokens.answer_of)
  number, kinds = tokens.num_answers, tokens.answers_per_example
  lengths = tokens.lengths()
  pairs = lengths.reshape(lengths.shape[0], -1, kinds)
  shared = jnp.minimum(pairs[:, :, 0], pairs[:, :, 1])[:, :, None]
  limit = jnp.where(jnp.arange(kinds)[None, None, :] < 2, shared, pairs).reshape(lengths.shape)

  def places(row):
    """Place of each slot among those of its answer."""
    order = jnp.argsort(row, stable=True)
    first = jnp.searchsorted(row[order], jnp.arange(number + 1, dtype=row.dtype))
    place = jnp.arange(row.size, dtype=row.dtype) - first[row[order]].astype(row.dtype)
    return jnp.zeros_like(row).at[order].set(place)

  # Empty slots name an answer past the last one, which gets a limit of its own.
  limit = jnp.pad(limit, ((0, 0), (0, 1)))
  tail = jax.vmap(places)(answer_of) >= jnp.take_along_axis(limit, answer_of, axis=1)
  return dataclasses.replace(tokens, logp=jnp.where(tail, alpha * logp, logp))


def wpo_weights(tokens: TokenLogps, collision: Array) -> jax.Array:
  """f32[B] by how much each pair's loss counts: how likely the policy is to write its two answers (WPO).

  Of each answer, exp(mean over its tokens of (log p_t - log sum_v p_v^2)); the product over the answers 0 and 1 of
  an example. No gradient passes. It multiplies the values of a loss, not the weights of their mean: TRL 1.16
  (`use_weighting`) and the paper do not divide by its sum.

  Args:
    tokens: f32[R, S] log-probs under the policy.
    collision: f32[R, S] log of the sum of squared next-token probabilities at the same slots.

  References:
    Zhou et al. 2024, arXiv:2406.11827, Eq. 2, with its alignment of weights.
  """
  aligned = dataclasses.replace(tokens, logp=jnp.asarray(tokens.logp) - collision)
  lengths = jnp.maximum(tokens.lengths(), 1).astype(jnp.asarray(aligned.logp).dtype)
  means = tokens.by_example(aligned.sums() / lengths)
  return jax.lax.stop_gradient(jnp.exp(means[:, 0] + means[:, 1]))


def dynamic_beta(beta, reward_gap: jax.Array, running_gap, *, strength=0.6) -> jax.Array:
  """f32[]: beta for this batch, larger where its answers are already told apart better than usual (beta-DPO)::

    beta (1 + strength (mean reward gap - running mean of it)), at least beta / 100

  No gradient passes.

  Args:
    beta: f32[], the base.
    reward_gap: f32[], mean over the global batch of beta (a - b), with the base (`mean_reward_gap`).
    running_gap: f32[], its running mean over earlier batches (`running_mean`).
    strength: the paper's alpha. 0.6 in the paper.

  References:
    Wu et al. 2024, arXiv:2407.08639. The lower bound is ours: the paper lets beta change its sign.
  """
  moved = beta * (1 + strength * (reward_gap - running_gap))
  return jax.lax.stop_gradient(jnp.maximum(moved, 0.01 * beta))


def mean_reward_gap(chosen: jax.Array, rejected: jax.Array, weight: Array | None, beta) -> jax.Array:
  """f32[]: mean over pairs of beta (a - b), from log-ratios f32[B] and weights."""
  return jax.lax.stop_gradient(weighted_mean(beta * (chosen - rejected), weight))


def running_mean(old, new, *, keep=0.9):
  """f32[]: exponential moving average; 0.9 is what beta-DPO keeps of the old one (arXiv:2407.08639)."""
  return keep * old + (1 - keep) * new


def reward_shift(log_ratio: jax.Array, desirable: Array, weight: Array | None, beta) -> jax.Array:
  """f32[]: BCO's shift of one batch, half the sum of the mean rewards beta a of either kind of answer.

  A kind of which there is none has mean 0.

  References:
    Jung et al. 2024, arXiv:2404.04656.
  """
  weight = jnp.ones_like(log_ratio) if weight is None else jnp.asarray(weight)
  rewards = jax.lax.stop_gradient(beta * log_ratio)
  good = weighted_mean(rewards, jnp.where(desirable, weight, 0.0))
  bad = weighted_mean(rewards, jnp.where(desirable, 0.0, weight))
  return 0.5 * (good + bad)


def with_margin(policy: PairLogps, margin: Array) -> PairLogps:
  """The same pairs with `margin` f32[B], in units of beta times nats, added to the one they have."""
  old = policy.margin
  return dataclasses.replace(policy, margin=margin if old is None else jnp.asarray(old) + margin)
