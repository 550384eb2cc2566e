"""Random inputs for any loss of the registry, and what tests ask of it: values, means, gradients."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpojax.losses import LOSSES
from dpojax.losses.logps import PairLogps, RankedLogps, SingleLogps, arguments, weighted_mean

NAMES = sorted(LOSSES)


def kind_of(name):
  """What a loss reads: pair, triple, ranking or unpaired; pair_rewards or ranking_rewards."""
  return LOSSES[name].answers.value + "_rewards" * LOSSES[name].of_rewards


PAIRED = [name for name in NAMES if kind_of(name) == "pair"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairRewards:
  """Rewards of B pairs, as the reward losses take them, and weights of the pairs."""

  chosen: Any
  rejected: Any
  margin: Any = None
  label: Any = None
  weight: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RankedRewards:
  """Rewards [B, K] of B rankings, and weights of the rankings."""

  reward: Any
  present: Any
  weight: Any = None


def plain(name, args):
  """The arrays that the loss called `name` takes, by name, from a drawn policy and reference, or rewards."""
  given = vars(args[0]) if isinstance(args[0], PairRewards | RankedRewards) else arguments(*args)
  return {key: given[key] for key in LOSSES[name].data if given.get(key) is not None}


def values_of(name, args, **options):
  """The values of the loss called `name`: of packed containers as a training step takes them."""
  if isinstance(args[0], PairRewards | RankedRewards):
    return LOSSES[name].function(**plain(name, args), **options)
  return LOSSES[name].of_packed(*args, **options)


def draw(name, seed=0, size=5, dtype=np.float64, spread=4.0):
  """(policy, reference or nothing) for the loss called `name`; the rewards of a reward loss."""
  generator = np.random.default_rng(seed)

  def logp(*shape):
    return -generator.exponential(spread, shape).astype(dtype)

  def lengths(*shape):
    return generator.integers(1, 9, shape).astype(np.int32)

  kind = kind_of(name)
  weight = generator.uniform(0.5, 2.0, size).astype(dtype)
  if kind == "pair_rewards":
    label = generator.choice([1.0, 0.5, 0.0], size).astype(dtype)
    rewards = generator.normal(0, 1, (2, size)).astype(dtype)
    return (PairRewards(rewards[0], rewards[1], -logp(size) / spread, label, weight),)
  present = np.arange(4) < generator.integers(2, 5, size)[:, None]
  if kind == "ranking_rewards":
    return (RankedRewards(generator.normal(0, 1, (size, 4)).astype(dtype), present, weight),)
  if kind == "ranking":
    length = lengths(size, 4) * present
    return tuple(RankedLogps(logp(size, 4), length.astype(np.int32), weight) for _ in range(2))
  if kind == "triple":
    return (RankedLogps(logp(size, 3), lengths(size, 3), weight),)
  if kind == "unpaired":
    desirable, length = generator.integers(0, 2, size) == 1, lengths(size)
    return tuple(SingleLogps(logp(size), length, desirable, weight, logp(size)) for _ in range(2))
  policy, reference = (
    PairLogps(
      logp(size),
      logp(size),
      lengths(size),
      lengths(size),
      weight=weight,
      margin=-logp(size) / spread,
      chosen_kl=-logp(size),
      rejected_kl=-logp(size),
      prompt=logp(size),
      prompt_length=lengths(size),
    )
    for _ in range(2)
  )
  policy = dataclasses.replace(policy, opponent=np.where(np.arange(size) % 2, policy.chosen, policy.rejected))
  return (policy, reference) if "reference" in LOSSES[name].reads else (policy,)


def loss_of(name, args, **options):
  """The values of the loss called `name`, operation by operation: losses share most of them, and few are compiled."""
  return jnp.asarray(values_of(name, jax.tree.map(jnp.asarray, args), **options))


def mean_of(name, args, **options):
  return weighted_mean(loss_of(name, args, **options), args[0].weight)


def fields(container):
  """The arrays of a container that a gradient can be taken of."""
  values = {f.name: getattr(container, f.name) for f in dataclasses.fields(container)}
  return {
    k: jnp.asarray(v)
    for k, v in values.items()
    if v is not None and k not in ("weight", "label") and np.issubdtype(np.asarray(v).dtype, np.floating)
  }


def gradients_of(name, args, take=None, **options):
  """Gradient of the weighted mean by every float field of the policy (or rewards)."""

  def mean(values):
    model = dataclasses.replace(args[0], **values)
    return (take or mean_of)(name, (model, *args[1:]), **options)

  return jax.grad(mean)(fields(args[0]))


def rows(container, index):
  """The examples `index` of a container."""
  return jax.tree.map(lambda x: np.asarray(x)[index], container)


def pairs(chosen, rejected, **details):
  return PairLogps(np.asarray(chosen, np.float64), np.asarray(rejected, np.float64), **details)


ZERO = pairs([0.0], [0.0])


def at_margin(name, margin, **options):
  """The loss of one pair with log-ratios of half the margin either way, answers of one token each."""
  one = np.ones(1, np.int32)
  half = jnp.reshape(jnp.asarray(margin), (1,)) / 2
  policy = PairLogps(half, -half, one, one)
  return values_of(name, (policy, PairLogps(0 * half, 0 * half, one, one)), **options)[0]


def swapped(pair):
  return dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen)


def defaults(name):
  parameters = inspect.signature(LOSSES[name].function).parameters
  return {k: parameters[k].default for k in LOSSES[name].options}
