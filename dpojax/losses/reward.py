"""Losses of reward models: rewards of compared answers in, one value per comparison out."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dpojax.losses.arrays import checked, checked_rankings
from dpojax.losses.ranking import ranking_nll


@checked
def bradley_terry(
  chosen, rejected, *, margin=None, label=None, label_smoothing=0.0, centring=0.0
) -> Float[jax.Array, " B"]:
  """Bradley and Terry's model of who wins, one value per pair.

  With the lead d = r_w - r_l - margin::

    loss = -(1 - eps) log sigmoid(d) - eps log sigmoid(-d) + c (r_w + r_l)^2

  It is binary cross-entropy with label 1 and logit d. A tie counts as half a win of each.

  Options:
    label_smoothing: eps, assumed fraction of swapped labels, in [0, 0.5].
    centring: c >= 0, pulls rewards to mean 0, of which the rest says nothing. 0.01 in arXiv:2312.09244.

  Value:
    log 2 where both rewards and the margin are 0.

  Example::

    >>> value = losses.bradley_terry([1.5, 0.2], [0.5, 0.7])
    >>> [round(float(x), 4) for x in value]
    [0.3133, 0.9741]

  Source:
    Bradley & Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, Eq. 1; margin: Touvron et al. 2023, arXiv:2307.09288,
    Eq. 2; c: Eisenstein et al. 2023, arXiv:2312.09244. TRL 1.16: `RewardTrainer`, without ties and smoothing.
  """
  lead, label = _lead(chosen, rejected, margin, label)
  right = label + label_smoothing * (1 - 2 * label)
  loss = right * jax.nn.softplus(-lead) + (1 - right) * jax.nn.softplus(lead)
  return loss + centring * (chosen + rejected) ** 2


@checked
def rao_kupper(chosen, rejected, *, margin=None, label=None, tie_strength=1.0, centring=0.0) -> Float[jax.Array, " B"]:
  """Bradley and Terry's model with ties after Rao and Kupper, one value per pair.

  Who leads by less than a threshold, ties.
  With the lead d = r_w - r_l - margin and the threshold t >= 0::

    P(win) = sigmoid(d - t)    P(loss) = sigmoid(-d - t)    P(tie) = (e^(2t) - 1) P(win) P(loss)
    loss = -log P(what was observed) + c (r_w + r_l)^2

  Options:
    tie_strength: t, log of the papers' theta, to be fitted or chosen; at 1 equals tie in 46 % of comparisons. 0 is
      Bradley and Terry's model, where a tie is impossible.
    centring: c >= 0, pulls rewards to mean 0.

  Value:
    log(1 + e^t) for a win where both rewards and the margin are 0.

  Example::

    >>> value = losses.rao_kupper([1.5, 0.2], [0.5, 0.7], tie_strength=1.0)
    >>> [round(float(x), 4) for x in value]
    [0.6931, 1.7014]

  Source:
    Rao & Kupper 1967; Liu et al. 2024, arXiv:2410.05328 (BTT). Not in TRL 1.16.
  """
  lead, label = _lead(chosen, rejected, margin, label)
  won, lost = jax.nn.softplus(tie_strength - lead), jax.nn.softplus(tie_strength + lead)
  width = jnp.asarray(2 * tie_strength).astype(lead.dtype)
  tied = won + lost - width - jnp.log(-jnp.expm1(-width))
  return _observed(won, tied, lost, label) + centring * (chosen + rejected) ** 2


@checked
def davidson(chosen, rejected, *, margin=None, label=None, tie_strength=1.0, centring=0.0) -> Float[jax.Array, " B"]:
  """Bradley and Terry's model with ties after Davidson, one value per pair.

  A tie is a third outcome with a strength of its own.
  With the lead d = r_w - r_l - margin and the strength v >= 0, the outcomes are as likely as the terms of::

    total = e^(d/2) (win) + v (tie) + e^(-d/2) (loss)
    loss = log total - log(term of what was observed) + c (r_w + r_l)^2

  Options:
    tie_strength: v, to be fitted or chosen; at 1 equals tie in a third of comparisons. 0 is Bradley and Terry's
      model, where a tie is impossible.
    centring: c >= 0, pulls rewards to mean 0.

  Value:
    log(2 + v) for a win where both rewards and the margin are 0.

  Example::

    >>> value = losses.davidson([1.5, 0.2], [0.5, 0.7], tie_strength=1.0)
    >>> [round(float(x), 4) for x in value]
    [0.6803, 1.3693]

  Source:
    Davidson 1970. Not in TRL 1.16.
  """
  lead, label = _lead(chosen, rejected, margin, label)
  tie = jnp.broadcast_to(jnp.log(jnp.asarray(tie_strength).astype(lead.dtype)), lead.shape)
  total = jax.nn.logsumexp(jnp.stack([lead / 2, tie, -lead / 2]), axis=0)
  return _observed(total - lead / 2, total - tie, total + lead / 2, label) + centring * (chosen + rejected) ** 2


@checked_rankings
def plackett_luce(reward, *, present=None) -> Float[jax.Array, " B"]:
  """Plackett and Luce's model of a ranking: negative log-probability of the order, one value per prompt.

  With the rewards r_1 ... r_K, best first::

    loss = sum over k of [log sum over j >= k of e^(r_j)] - r_k

  It is Bradley and Terry's at K = 2. A prompt weighs as one, however many answers it has; those that are not `present`
  are left out.

  Value:
    log K! where all rewards are equal.

  Example::

    >>> value = losses.plackett_luce([[1.5, 0.2, -1]])
    >>> [round(float(x), 4) for x in value]
    [0.5668]

  Source:
    Luce 1959; Plackett 1975. Not in TRL 1.16.
  """
  return ranking_nll(reward, _all_present(reward) if present is None else present)


@checked_rankings
def all_pairs(reward, *, present=None) -> Float[jax.Array, " B"]:
  """Bradley and Terry's loss averaged over all pairs of a ranking, one value per prompt.

  With the rewards r_1 ... r_K, best first::

    loss = mean over j < k of -log sigmoid(r_j - r_k)

  A prompt weighs as one, however many answers it has; those that are not `present` are left out.

  Value:
    log 2 where all rewards are equal, 0 where there are fewer than two answers.

  Example::

    >>> value = losses.all_pairs([[1.5, 0.2, -1]])
    >>> [round(float(x), 4) for x in value]
    [0.1944]

  Source:
    Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, Eq. 1. Not in TRL 1.16.
  """
  present = _all_present(reward) if present is None else present
  reward = jnp.where(present, reward, 0.0)
  above = jnp.triu(jnp.ones((reward.shape[1],) * 2, bool), 1)[None]
  compared = present[:, :, None] & present[:, None, :] & above
  losses = jnp.where(compared, jax.nn.softplus(reward[:, None, :] - reward[:, :, None]), 0.0)
  pairs = jnp.sum(compared, axis=(1, 2)).astype(losses.dtype)
  return jnp.sum(losses, axis=(1, 2)) / jnp.maximum(pairs, 1.0)


def _lead(chosen, rejected, margin, label) -> tuple[jax.Array, jax.Array]:
  """(lead of the chosen answer with the margin taken from the winner's side, label), f32[B]."""
  lead = chosen - rejected
  label = jnp.ones_like(lead) if label is None else label.astype(lead.dtype)
  return (lead if margin is None else lead - (2 * label - 1) * margin), label


def _observed(won, tied, lost, label) -> jax.Array:
  return jnp.where(label == 1, won, jnp.where(label == 0, lost, tied))


def _all_present(reward: jax.Array) -> jax.Array:
  return jnp.ones(reward.shape, bool)
