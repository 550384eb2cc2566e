"""Best of N: the policy that writes N answers and keeps the one with the highest reward, from M >> N answers a prompt.

With F the distribution function of the reward under the policy that writes, pi_ref, and ties decided at random,

  pi_N(y) / pi_ref(y) = (F(r)^N - F(r-)^N) / (F(r) - F(r-)),  r the reward of y, F(r-) = P(reward < r)

which depends on the reward's order alone. KL(pi_N || pi_ref) is at most log N - (N - 1) / N, and comes close to it where no
value of the reward has much probability of its own (Beirami et al. 2024, arXiv 2401.01879; as an equality in Gao et al.
2022, arXiv 2210.10760).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

from dpojax.errors import ConfigError

# Answers a prompt for each of N. At 4, log N - (N - 1) / N is missed by 0.0026 to 0.0057 nats without ties (N 2 to 32), and
# KL of the complaint desk's SFT model, taken from 512 answers a prompt as the truth, by at most 0.0062 nats; at 2 by 0.020,
# at 1 by 0.064. Always too low.
ANSWERS_FOR_EACH = 4


def read_counts(text: str, samples: int) -> tuple[int, ...]:
  """The N of `best_of_n.counts`, rising.

  Raises:
    ConfigError: they are not different whole numbers above 0, or one is too large for `rollout.samples`.
  """
  words = [word.strip() for word in text.split(",") if word.strip()]
  if (
    not words or not all(word.isdecimal() and int(word) > 0 for word in words) or len(set(map(int, words))) < len(words)
  ):
    raise ConfigError(
      f"best_of_n.counts wants different whole numbers above 0, by commas, such as 1,2,4,8, got {text!r}"
    )
  counts = tuple(sorted(map(int, words)))
  if counts[-1] > 1 and ANSWERS_FOR_EACH * counts[-1] > samples:
    raise ConfigError(
      f"best_of_n.counts has {counts[-1]}, but rollout.samples is {samples}: KL is taken from the distribution of the "
      f"rewards of a prompt's answers, and {ANSWERS_FOR_EACH} N of them are the least; set "
      f"rollout.samples={ANSWERS_FOR_EACH * counts[-1]} or more, or lower best_of_n.counts"
    )
  return counts


def best_of(policy: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
  """The probabilities of best-of-`n`, exact where all answers are known.

  Args:
    policy: f64[..., A] probabilities of A different answers, the same answer standing once, all above 0.
    rewards: f64[..., A] theirs.
    n: N >= 1.

  Returns:
    f64[..., A], sums to 1.
  """
  policy, rewards = np.broadcast_arrays(np.asarray(policy, np.float64), np.asarray(rewards, np.float64))
  order = np.argsort(rewards, axis=-1, kind="stable")
  below, upto = tie_ranks(rewards)
  total = np.cumsum(np.take_along_axis(policy, order, axis=-1), axis=-1)
  total = np.concatenate([np.zeros((*total.shape[:-1], 1)), total], axis=-1)
  low, high = (np.take_along_axis(total, rank, axis=-1) for rank in (below, upto))
  return policy * (high**n - low**n) / (high - low)


def tie_ranks(rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """i64[..., A] how many of the rewards f64[..., A] are lower than each, and how many no higher."""
  flat = rewards.reshape(-1, rewards.shape[-1])
  ordered = np.sort(flat, axis=-1)
  found = [
    [np.searchsorted(row, values, side) for row, values in zip(ordered, flat, strict=True)]
    for side in ("left", "right")
  ]
  below, upto = (np.asarray(ranks, np.int64).reshape(rewards.shape) for ranks in found)
  return below, upto


def best_of_kl(rewards: np.ndarray, n: int) -> np.ndarray:
  """f64[P] nats: KL of best-of-`n` to the policy that writes, from rewards f64[P, M] of M answers to each prompt.

  F is the empirical distribution function; `ANSWERS_FOR_EACH` says how close that comes.
  """
  count = rewards.shape[-1]
  found = best_of(np.full(count, 1 / count), rewards, n)
  # Of the worst answers 0 is left in float64, and 0 log 0 = 0.
  return np.sum(found * np.log(np.where(found > 0, count * found, 1.0)), axis=-1)


def kl_bound(n: int) -> float:
  """log N - (N - 1) / N nats."""
  return math.log(n) - (n - 1) / n


def best_of_weights(rewards: np.ndarray, n: int) -> np.ndarray:
  """How often each of M answers is the best of `n` different ones of them, drawn at random, ties decided at random.

  Sums of weight * value are means over all choices of N of the M answers, so they have no bias as estimates of the mean
  under best-of-N, whatever M >= N is. (The empirical F would draw N with repetition: at M = 4 N that made rewards of the
  complaint desk 0.04 to 0.11 too low, where best-of-N gains 0.7 to 2.5.)

  Args:
    rewards: f64[P, M].
    n: 1 to M.

  Returns:
    f64[P, M], sums to 1 over a prompt's.
  """
  below, upto = tie_ranks(rewards)
  count = rewards.shape[-1]
  ranks = np.arange(count + 1)
  # log of C(rank, n) / C(M, n): choices of n among the lowest `rank`
  log_gamma = scipy.special.gammaln
  others = np.maximum(ranks - n, 0)
  log_probability = log_gamma(ranks + 1) - log_gamma(others + 1) - log_gamma(count + 1) + log_gamma(count - n + 1)
  probability = np.where(ranks >= n, np.exp(log_probability), 0.0)
  return (probability[upto] - probability[below]) / (upto - below)


def best_of_points(
  rewards: np.ndarray, values: Mapping[str, np.ndarray], counts: Sequence[int], same: np.ndarray | None = None
) -> list[dict[str, float | int]]:
  """What best-of-N gains and costs, for each N.

  Args:
    rewards: f64[P, M] that choose.
    values: by name, f64[P, M] of the same answers: rewards, lengths, whatever has a mean.
    counts: of N, each at most M.
    same: i64[P], equal for equal prompts, which are no independent draws; None: all differ.

  Returns:
    {"n", "kl/sequence" (nats an answer), "kl/bound" and the mean of each value by its name} and, as "NAME_error", standard
    errors over different prompts (0 of one, which has none).
  """
  points = []
  for n in counts:
    weights = best_of_weights(rewards, n)
    by_prompt = {name: np.sum(weights * each, axis=1) for name, each in values.items()}
    by_prompt = {"kl/sequence": best_of_kl(rewards, n)} | by_prompt
    point: dict[str, float | int] = {"n": n, "kl/bound": kl_bound(n)}
    for name, each in by_prompt.items():
      point |= {name: float(np.mean(each)), f"{name}_error": standard_error(each, same)}
    points.append(point)
  return points


def standard_error(values: np.ndarray, same: np.ndarray | None = None) -> float:
  """That of the mean of f64[P] values, of which those with equal `same` i64[P] may depend on one another; 0 of one group.

  Sums of deviations within a group are independent of one another. With groups of one it is the usual one.

  >>> round(standard_error(np.asarray([1.0, 2.0, 3.0, 4.0])), 4)
  0.6455
  >>> round(standard_error(np.asarray([1.0, 1.0, 4.0, 4.0]), np.asarray([0, 0, 1, 1])), 4)
  1.5
  """
  groups = np.arange(len(values)) if same is None else np.unique(same, return_inverse=True)[1]
  sums = np.bincount(groups, weights=values - np.mean(values))
  if len(sums) < 2:
    return 0.0
  return float(math.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2)) / len(values))
