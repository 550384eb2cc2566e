"""The oracle curve: the most reward that any policy has at each KL to a reference, by importance sampling.

Of all policies with KL(pi || pi_ref) <= d, averaged over prompts, pi_lambda ∝ pi_ref e^(r / lambda) of one lambda for
all prompts has the highest reward. Nobody can sample it, but answers of the reference and of trained policies, weighted
by pi_ref e^(r / lambda) over the density of their balance mixture, stand for its own (Veach and Guibas 1995, the
balance heuristic; Owen 2013, chapter 9).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dpojax.evaluation.estimates import number

LEAST_ESS = 200  # effective answers of a point that is shown, all prompts together
LEAST_ESS_A_PROMPT = 8  # and of each prompt in the harmonic mean, see `Curve`
DRAWS = 2000  # of a bootstrap over prompts
INTERVAL = (2.5, 97.5)  # percentiles
LAMBDAS = tuple(np.geomspace(20, 0.05, 81).tolist())  # steps of 8 %: between neighbours the curve is straight


@dataclasses.dataclass(frozen=True)
class Curve:
  """Estimates for each of P prompts and L values of lambda, largest first.

  Weights are normalised within a prompt, which biases reward and KL downwards in proportion to 1 / ess. Most of that
  moves a point along the curve, not off it: at 12, 7 and 4 effective answers a prompt the curve lay 0.012, 0.022 and
  0.049 too low where its reward was 4.2 to 5.0 and the reference's 0.7 (a made-up environment of 4,000 answers that can be
  enumerated).

  Attributes:
    lambdas: f64[L].
    log_z: f64[P, L] log of the estimate of Z = E_ref[e^(r / lambda)], which itself has no bias.
    reward: f64[P, L] expected reward under pi_lambda.
    kl: f64[P, L] nats, KL(pi_lambda || pi_ref) = reward / lambda - log Z, with Z over the estimate of 1 by the same
      answers, Z at lambda = infinity: so it is that of the answers weighted for pi_lambda to those weighted for pi_ref.
      It is never negative and rises as lambda falls, as the reward does.
    ess: f64[P, L] effective sample size (Kish 1965), 1 / sum of the squared weights: 1 to the number of answers.
  """

  lambdas: np.ndarray
  log_z: np.ndarray
  reward: np.ndarray
  kl: np.ndarray
  ess: np.ndarray

  @property
  def pooled_ess(self) -> np.ndarray:
    """f64[L] Kish's effective size of all answers, each weighted as in the mean over prompts: P^2 / sum of 1 / ess.

    At least the number of prompts, whatever the weights are, so that it says little where there are many prompts with
    few answers: see `shown`.
    """
    return len(self.ess) ** 2 / np.sum(1 / self.ess, axis=0)

  @property
  def shown(self) -> int:
    """How many lambdas, from the largest on, have at least `LEAST_ESS` effective answers, `LEAST_ESS_A_PROMPT` of each
    prompt in the harmonic mean. No claim is made beyond.
    """
    pooled = self.pooled_ess
    short = (pooled < LEAST_ESS) | (pooled / len(self.ess) < LEAST_ESS_A_PROMPT)
    return int(np.argmax(short)) if short.any() else len(pooled)


def oracle_curve(
  rewards: np.ndarray,
  reference_logps: np.ndarray,
  logps: np.ndarray,
  counts: Sequence[int],
  lambdas: Sequence[float] = LAMBDAS,
) -> Curve:
  """The curve from answers of a mixture of policies.

  Args:
    rewards: f64[P, K] of K answers to each of P prompts.
    reference_logps: f64[P, K] nats, log-probs of the whole answers under the reference.
    logps: f64[P, K, J] the same under each of the J policies that wrote them; the reference may be one.
    counts: how many of the K answers to every prompt each policy wrote.
    lambdas: above 0, in the unit of the reward; sorted from the largest.

  Raises:
    ValueError: shapes or counts that do not agree, a lambda that is not above 0, or a number that is not finite.
  """
  rewards, reference_logps, logps = (np.asarray(x, np.float64) for x in (rewards, reference_logps, logps))
  written = np.asarray(counts, np.float64)
  if rewards.ndim != 2 or reference_logps.shape != rewards.shape or logps.shape != (*rewards.shape, len(written)):
    raise ValueError(
      f"rewards {rewards.shape} must be [P, K], reference_logps {reference_logps.shape} too and logps {logps.shape} "
      f"[P, K, {len(written)}], a policy for each of counts"
    )
  if np.any(written <= 0) or written.sum() != rewards.shape[1]:
    raise ValueError(f"counts {list(counts)} must be above 0 and add up to the {rewards.shape[1]} answers of a prompt")
  if not all(np.isfinite(x).all() for x in (rewards, reference_logps, logps)):
    raise ValueError("rewards and log-probs must be finite")
  falling = np.sort(np.asarray(lambdas, np.float64))[::-1]
  if not len(falling) or not np.all(falling > 0):
    raise ValueError(f"lambdas must be above 0, got {list(lambdas)}")

  log_ratio = reference_logps - log_sum_exp(logps + np.log(written / written.sum()))
  log_one = log_sum_exp(log_ratio)
  found = []
  for value in falling:
    log_weights = log_ratio + rewards / value
    log_total = log_sum_exp(log_weights)
    weights = np.exp(log_weights - log_total[:, None])
    reward = np.sum(weights * rewards, axis=1)
    kl = np.maximum(reward / value - (log_total - log_one), 0)  # rounding can leave less than 0 of nothing
    found.append((log_total - math.log(rewards.shape[1]), reward, kl, 1 / np.sum(weights**2, axis=1)))
  return Curve(falling, *(np.stack(x, axis=1) for x in zip(*found, strict=True)))


def log_sum_exp(values: np.ndarray) -> np.ndarray:
  """log of the sum of e^values over the last axis."""
  largest = np.max(values, axis=-1)
  return largest + np.log(np.sum(np.exp(values - largest[..., None]), axis=-1))


def bootstrap_weights(prompts: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
  """f64[B, P] how often each prompt is drawn in a sample of as many, over their number: weights of a mean."""
  return np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=draws) / prompts


def curve_points(curve: Curve, weights: np.ndarray) -> list[dict[str, float]]:
  """The points that are shown, as records have them.

  Args:
    curve: of `oracle_curve`.
    weights: of `bootstrap_weights`.

  Returns:
    {"lambda", "kl" (nats an answer), "reward", "ess" (all prompts together), "ess_a_prompt" (harmonic mean)} and, as
    "kl_low", "kl_high", "reward_low", "reward_high", 95 % bootstrap intervals over prompts. KL rises.
  """
  kl, reward = np.mean(curve.kl, axis=0), np.mean(curve.reward, axis=0)
  (kl_low, kl_high), (reward_low, reward_high) = (
    np.percentile(weights @ values, INTERVAL, axis=0) for values in (curve.kl, curve.reward)
  )
  ess = curve.pooled_ess
  return [
    {
      "lambda": float(curve.lambdas[i]),
      "kl": float(kl[i]),
      "reward": float(reward[i]),
      "ess": float(ess[i]),
      "ess_a_prompt": float(ess[i] / len(curve.ess)),
      "kl_low": float(kl_low[i]),
      "kl_high": float(kl_high[i]),
      "reward_low": float(reward_low[i]),
      "reward_high": float(reward_high[i]),
    }
    for i in range(curve.shown)
  ]


def fraction_of_oracle(
  curve: Curve, kl: np.ndarray, reward: np.ndarray, reference_reward: np.ndarray, weights: np.ndarray
) -> dict[str, float | None]:
  """What a policy gains over the reference, as a fraction of what the oracle gains at the policy's KL.

  Args:
    curve: of the same P prompts.
    kl: f64[P] nats, KL of the policy to the reference for each prompt.
    reward, reference_reward: f64[P] mean rewards of the policy's and of the reference's answers.
    weights: of `bootstrap_weights`: policy, reference and curve are drawn together, prompt by prompt.

  Returns:
    {"oracle": its reward at the policy's KL, "share", "share_low", "share_high": the bootstrap's 95 % interval}; all
    None where the policy's KL lies beyond the points that are shown, or the interval of the oracle's gain reaches 0.
  """
  nothing: dict[str, float | None] = dict.fromkeys(("oracle", "share", "share_low", "share_high"))
  every = np.concatenate([np.full((1, len(kl)), 1 / len(kl)), weights])
  shown, before = curve.shown, every @ reference_reward
  if not shown or np.mean(kl) > np.mean(curve.kl[:, shown - 1]):
    return nothing
  kls, rewards, slope = every @ curve.kl[:, :shown], every @ curve.reward[:, :shown], curve.lambdas[shown - 1]
  points = zip(every @ kl, before, kls, rewards, strict=True)
  oracle = np.asarray([_reward_at(*point, slope=slope) for point in points])
  gains = oracle - before
  if min(gains[0], np.percentile(gains[1:], INTERVAL[0])) <= 0:
    return nothing
  with np.errstate(divide="ignore", invalid="ignore"):  # of single draws without a gain
    fractions = (every @ reward - before) / gains
  low, high = np.percentile(fractions[1:], INTERVAL)
  return {
    "oracle": float(oracle[0]),
    "share": float(fractions[0]),
    "share_low": number(low),
    "share_high": number(high),
  }


def _reward_at(kl: float, start: float, kls: np.ndarray, rewards: np.ndarray, slope: float) -> float:
  """The reward of the curve at `kl`, between (0, start) and its points.

  A bootstrap draw may lie beyond its end, where it goes on with its slope, d reward / d KL = lambda.
  """
  if kl > kls[-1]:
    return rewards[-1] + slope * (kl - kls[-1])
  return float(np.interp(kl, np.concatenate([[0.0], kls]), np.concatenate([[start], rewards])))
