"""A bandit: one prompt and A answers (arms) of known reward, so that what learning should reach is known exactly.

::

  optimum of E[r] - beta KL(pi || pi_0)       pi*(a) = pi_0(a) exp(r(a) / beta) / Z, of value beta log Z
  and of every policy                         E[r] - beta KL(pi || pi_0) = beta log Z - beta KL(pi || pi*)

No text and no network: `models.tabular.TabularModel` is its policy, `training.bandit_rollouts` draws arms for a roll-out.
Policies are given as logits f64[A], of which log-probs are a case; all numbers are float64 and in nats.
"""

import dataclasses
import itertools

import numpy as np

from dpojax.errors import ShapeError


@dataclasses.dataclass(frozen=True, eq=False)
class Bandit:
  """Arms with rewards, and the policy that learning starts from and is held to.

  Attributes:
    rewards: f64[A], as given, never rounded: a reward of 0.7 is 0.7.
    start: f64[A] log-probs of pi_0; given as any logits.

  Raises:
    ShapeError: they are not two vectors of one length, of two arms at least.
    ValueError: a reward or a logit is not finite.
  """

  rewards: np.ndarray
  start: np.ndarray

  def __post_init__(self):
    rewards, start = np.array(self.rewards, np.float64), np.array(self.start, np.float64)
    if rewards.ndim != 1 or rewards.shape != start.shape or len(rewards) < 2:
      shapes = f"rewards {list(rewards.shape)}, start {list(start.shape)}"
      raise ShapeError(f"a bandit has one reward and one logit an arm, of two arms at least, got {shapes}")
    for name, values in (("rewards", rewards), ("start", start)):
      if not np.all(np.isfinite(values)):
        raise ValueError(f"{name}[{int(np.argmin(np.isfinite(values)))}] is not finite")
    object.__setattr__(self, "rewards", rewards)
    object.__setattr__(self, "start", log_softmax(start))

  @property
  def arms(self) -> int:
    """A."""
    return len(self.rewards)

  def optimum(self, beta: float) -> np.ndarray:
    """f64[A] log-probs of pi*, proportional to pi_0 exp(r / beta), for beta > 0.

    References:
      Rafailov et al. 2023, arXiv:2305.18290, Eq. 4.
    """
    return log_softmax(self.start + self.rewards / beta)

  def objective(self, logits: np.ndarray, beta: float) -> float:
    """E[r] - beta KL(pi || pi_0) of a policy."""
    return float(np.exp(log_softmax(logits)) @ self.rewards) - beta * self.kl(logits)

  def kl(self, logits: np.ndarray, other: np.ndarray | None = None) -> float:
    """KL(pi || other) in nats; other: logits f64[A], pi_0 where None is given."""
    logp, reference = log_softmax(logits), self.start if other is None else log_softmax(other)
    return float(np.exp(logp) @ (logp - reference))

  @property
  def preference(self) -> np.ndarray:
    """f64[A, A]: the Bradley-Terry probability sigmoid(r(a) - r(b)) that arm a is preferred to arm b."""
    difference = self.rewards[:, None] - self.rewards[None, :]
    return np.exp(-np.logaddexp(0.0, -difference))

  def comparisons(self, logits: np.ndarray) -> np.ndarray:
    """f64[A, A]: the probability that of two independent draws a policy's arm a wins and arm b loses; adds up to 1.

    An arm that meets itself wins and loses.
    """
    drawn = np.exp(log_softmax(logits))
    return 2 * np.outer(drawn, drawn) * self.preference  # two orders of drawing; on the diagonal preference is 1/2

  def draw_comparisons(self, n: int, logits: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """i64[A, A]: how often a won against b in n independent comparisons of two draws of a policy."""
    exact = self.comparisons(logits).reshape(-1)
    return draws.multinomial(n, exact / np.sum(exact)).reshape(self.arms, self.arms)

  def best_of_n(self, n: int, logits: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """(f64[A] log-probs, exact KL to it in nats) of the best of n independent draws of a policy; ties drawn at random.

    With F the distribution function of the reward: pi_n / pi = (F(r)^n - F(r-)^n) / (F(r) - F(r-)). The KL is at most
    log n - (n - 1) / n.

    Args:
      n: at least 1.
      logits: of the policy; pi_0 where None is given.

    References:
      Beirami et al. 2024, arXiv:2401.01879: the probabilities, and the bound.
    """
    if n < 1:
      raise ValueError(f"n is {n}; the best of one draw at least")
    logp = self.start if logits is None else log_softmax(logits)
    drawn = np.exp(logp)
    upto = np.asarray([np.sum(drawn[self.rewards <= r]) for r in self.rewards])
    below = np.asarray([np.sum(drawn[self.rewards < r]) for r in self.rewards])
    powers = np.arange(n)
    # The quotient as the sum of F(r)^j F(r-)^(n-1-j): nothing cancels where an arm is rare.
    ratio = np.sum(upto[:, None] ** powers * below[:, None] ** (n - 1 - powers), axis=1)
    best = drawn * ratio
    with np.errstate(divide="ignore"):
      gained = np.log(ratio)  # -inf where the best of n never is so bad, to rounding
    return logp + gained, float(np.sum(best[best > 0] * gained[best > 0]))


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """f64[..., A] log-probs of logits."""
  logits = np.asarray(logits, np.float64)
  shifted = logits - np.max(logits, axis=-1, keepdims=True)
  return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def total_variation(logits: np.ndarray, other: np.ndarray) -> float:
  """Half the sum of |p - q| over arms, in [0, 1]."""
  return 0.5 * float(np.sum(np.abs(np.exp(log_softmax(logits)) - np.exp(log_softmax(other)))))


def groups(arms: int, samples: int) -> np.ndarray:
  """i64[arms ** samples, samples]: every group of `samples` arms, in the order of drawing."""
  return np.asarray(list(itertools.product(range(arms), repeat=samples)), np.int64)


def group_probability(logits: np.ndarray, members: np.ndarray) -> np.ndarray:
  """f64[G]: the probability of each group i64[G, K] of independent draws of a policy."""
  return np.exp(np.sum(log_softmax(logits)[members], axis=-1))
