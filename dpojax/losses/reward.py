"""Losses of reward models: rewards of compared answers in, one value per comparison out."""

import dataclasses

import jax
import jax.numpy as jnp

from dpojax.losses.ranking import ranking_nll
from dpojax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairRewards:
  """Rewards of B pairs of answers to the same prompt.

  Attributes:
    chosen, rejected: f32[B].
    margin: f32[B] by how much the winner should lead, in units of reward; None: 0. A tie has none.
    label: f32[B] 1 where the chosen answer won, 0 where it lost, 1/2 for a tie; None: all 1.
    weight: f32[B] of each pair, 0 where empty; None: all 1.
  """

  chosen: Array
  rejected: Array
  margin: Array | None = None
  label: Array | None = None
  weight: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RankedRewards:
  """Rewards of B prompts' K answers, best answer first.

  Attributes:
    reward: f32[B, K].
    present: bool[B, K], which answers there are.
    weight: f32[B] of each prompt, 0 where empty; None: all 1.
  """

  reward: Array
  present: Array
  weight: Array | None = None


def bradley_terry(rewards: PairRewards, *, label_smoothing=0.0, centring=0.0) -> jax.Array:
  """Bradley and Terry's model of who wins, one value per pair.

  With the lead d = r_w - r_l - margin::

    loss = -(1 - eps) log sigmoid(d) - eps log sigmoid(-d) + c (r_w + r_l)^2

  It is binary cross-entropy with label 1 and logit d. A tie counts as half a win of each.

  Args:
    rewards: f32[B] each.
    label_smoothing: eps, assumed share of swapped labels, in [0, 0.5].
    centring: c >= 0, pulls rewards to mean 0, of which the rest says nothing. 0.01 in arXiv:2312.09244.

  Returns:
    f32[B], unreduced. Equals log 2 where both rewards and the margin are 0.

  References:
    Bradley & Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, Eq. 1; margin: Touvron et al. 2023, arXiv:2307.09288,
    Eq. 2; c: Eisenstein et al. 2023, arXiv:2312.09244. TRL 1.16: `RewardTrainer`, without ties and smoothing.
  """
  lead, label = _lead(rewards)
  right = label + label_smoothing * (1 - 2 * label)
  loss = right * jax.nn.softplus(-lead) + (1 - right) * jax.nn.softplus(lead)
  return loss + _centre(rewards, centring)


def rao_kupper(rewards: PairRewards, *, tie_strength=1.0, centring=0.0) -> jax.Array:
  """Bradley and Terry's model with ties after Rao and Kupper, one value per pair.

  Who leads by less than a threshold, ties.
  With the lead d = r_w - r_l - margin and the threshold t >= 0::

    P(win) = sigmoid(d - t)    P(loss) = sigmoid(-d - t)    P(tie) = (e^(2t) - 1) P(win) P(loss)
    loss = -log P(what was observed) + c (r_w + r_l)^2

  Args:
    rewards: f32[B] each; `label` says what was observed.
    tie_strength: t, log of the papers' theta, to be fitted or chosen; at 1 equals tie in 46 % of comparisons. 0 is
      Bradley and Terry's model, where a tie is impossible.
    centring: c >= 0, pulls rewards to mean 0.

  Returns:
    f32[B], unreduced. Equals log(1 + e^t) for a win where both rewards and the margin are 0.

  References:
    Rao & Kupper 1967; Liu et al. 2024, arXiv:2410.05328 (BTT). Not in TRL 1.16.
  """
  lead, label = _lead(rewards)
  won, lost = jax.nn.softplus(tie_strength - lead), jax.nn.softplus(tie_strength + lead)
  width = jnp.asarray(2 * tie_strength).astype(lead.dtype)
  tied = won + lost - width - jnp.log(-jnp.expm1(-width))
  return _observed(won, tied, lost, label) + _centre(rewards, centring)


def davidson(rewards: PairRewards, *, tie_strength=1.0, centring=0.0) -> jax.Array:
  """Bradley and Terry's model with ties after Davidson, one value per pair.

  A tie is a third outcome with a strength of its own.
  With the lead d = r_w - r_l - margin and the strength v >= 0, the outcomes are as likely as the terms of::

    total = e^(d/2) (win) + v (tie) + e^(-d/2) (loss)
    loss = log total - log(term of what was observed) + c (r_w + r_l)^2

  Args:
    rewards: f32[B] each; `label` says what was observed.
    tie_strength: v, to be fitted or chosen; at 1 equals tie in a third of comparisons. 0 is Bradley and Terry's
      model, where a tie is impossible.
    centring: c >= 0, pulls rewards to mean 0.

  Returns:
    f32[B], unreduced. Equals log(2 + v) for a win where both rewards and the margin are 0.

  References:
    Davidson 1970. Not in TRL 1.16.
  """
  lead, label = _lead(rewards)
  tie = jnp.broadcast_to(jnp.log(jnp.asarray(tie_strength).astype(lead.dtype)), lead.shape)
  total = jax.nn.logsumexp(jnp.stack([lead / 2, tie, -lead / 2]), axis=0)
  return _observed(total - lead / 2, total - tie, total + lead / 2, label) + _centre(rewards, centring)


def plackett_luce(rewards: RankedRewards) -> jax.Array:
  """Plackett and Luce's model of a ranking: negative log-probability of the order, one value per prompt.

  With the rewards r_1 ... r_K, best first::

    loss = sum over k of [log sum over j >= k of e^(r_j)] - r_k

  It is Bradley and Terry's at K = 2.

  Args:
    rewards: f32[B, K], answers that are not present left out.

  Returns:
    f32[B], unreduced: a prompt weighs as one, however many answers it has. Equals log K! where all rewards are equal.

  References:
    Luce 1959; Plackett 1975. Not in TRL 1.16.
  """
  return ranking_nll(jnp.asarray(rewards.reward), rewards.present)


def all_pairs(rewards: RankedRewards) -> jax.Array:
  """Bradley and Terry's loss averaged over all pairs of a ranking, one value per prompt.

  With the rewards r_1 ... r_K, best first::

    loss = mean over j < k of -log sigmoid(r_j - r_k)

  Args:
    rewards: f32[B, K], answers that are not present left out.

  Returns:
    f32[B], unreduced: a prompt weighs as one, however many answers it has. Equals log 2 where all rewards are equal,
    0 where there are fewer than two answers.

  References:
    Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, Eq. 1. Not in TRL 1.16.
  """
  present = jnp.asarray(rewards.present)
  reward = jnp.where(present, jnp.asarray(rewards.reward), 0.0)
  above = jnp.triu(jnp.ones((reward.shape[1],) * 2, bool), 1)[None]
  compared = present[:, :, None] & present[:, None, :] & above
  losses = jnp.where(compared, jax.nn.softplus(reward[:, None, :] - reward[:, :, None]), 0.0)
  pairs = jnp.sum(compared, axis=(1, 2)).astype(losses.dtype)
  return jnp.sum(losses, axis=(1, 2)) / jnp.maximum(pairs, 1.0)


def _lead(rewards: PairRewards) -> tuple[jax.Array, jax.Array]:
  """(lead of the chosen answer with the margin taken from the winner's side, label), f32[B]."""
  lead = jnp.asarray(rewards.chosen) - rewards.rejected
  label = jnp.ones_like(lead) if rewards.label is None else jnp.asarray(rewards.label).astype(lead.dtype)
  return (lead if rewards.margin is None else lead - (2 * label - 1) * rewards.margin), label


def _observed(won, tied, lost, label) -> jax.Array:
  return jnp.where(label == 1, won, jnp.where(label == 0, lost, tied))


def _centre(rewards: PairRewards, centring) -> jax.Array:
  return centring * (jnp.asarray(rewards.chosen) + rewards.rejected) ** 2
