"""Advantages of sampled answers: pure functions of NumPy arrays, computed once a roll-out in float64.

A roll-out has A = P * K answers, K to each of P prompts, answers of a prompt side by side; arrays of tokens are [A, T],
0 behind an answer's end. The last token of answer a stands at `length[a]` - 1 and is the EOS where it wrote one.

::

  scores [A], k1 [A, T]  ->  token rewards r_t = -c k1_t, and the score on top at the last token
                         ->  gae:        A_t from r_t and values                     (PPO)
                             rloo, grpo: one number an answer, from its neighbours   (no critic)
                             reinforce:  the answer's return
                         ->  whitened or not
"""

import numpy as np
from jaxtyping import Bool, Float64, Int, Shaped

GROUP_EPSILON = 1e-4  # GRPO divides by sd + this, as TRL does
WHITENING_EPSILON = 1e-8


def token_mask(length: Int[np.ndarray, " A"], tokens: int) -> Bool[np.ndarray, "A T"]:
  """bool[A, T]: which places hold a token."""
  return np.arange(tokens)[None, :] < np.asarray(length)[:, None]


def token_rewards(
  scores: Shaped[np.ndarray, " A"], k1: Shaped[np.ndarray, "A T"], length: Int[np.ndarray, " A"], coef: float
) -> Float64[np.ndarray, "A T"]:
  """f64[A, T]: -coef * k1 of every token, and the answer's score added at its last token.

  The score lands on the last token, where V(T + 1) = 0, also of an answer that was cut. (Stiennon et al. 2020,
  arXiv:2009.01325, section 3.4; summarize_from_feedback_details and TRL add it one step after the EOS.)
  """
  rewards = np.where(token_mask(length, k1.shape[1]), -coef * np.asarray(k1, np.float64), 0.0)
  rewards[np.arange(len(length)), np.asarray(length) - 1] += np.asarray(scores, np.float64)
  return rewards


def gae(
  rewards: Shaped[np.ndarray, "A T"],
  values: Shaped[np.ndarray, "A T"],
  length: Int[np.ndarray, " A"],
  *,
  gamma: float = 1.0,
  lam: float = 0.95,
) -> tuple[Float64[np.ndarray, "A T"], Float64[np.ndarray, "A T"]]:
  """(advantages, value targets), both f64[A, T].

  delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lam A_{t+1}; target_t = A_t + V_t, with V = A = 0 after the
  last token.

  References:
    Schulman et al. 2015, arXiv:1506.02438, Eq. 16; the targets are taken before any whitening.
  """
  mask = token_mask(length, rewards.shape[1])
  rewards, values = (np.where(mask, np.asarray(x, np.float64), 0.0) for x in (rewards, values))
  advantages = np.zeros(mask.shape)
  following, next_value = np.zeros((2, len(mask)))
  for t in reversed(range(mask.shape[1])):
    # Behind the end everything is 0 and stays so, and the last token sees V = A = 0.
    delta = rewards[:, t] + gamma * next_value - values[:, t]
    advantages[:, t] = delta + gamma * lam * following
    following, next_value = advantages[:, t], values[:, t]
  return advantages, advantages + values


def reinforce(returns: Shaped[np.ndarray, "P K"]) -> Float64[np.ndarray, "P K"]:
  """f64[P, K]: the return itself; without a baseline.

  References:
    Williams 1992, Machine Learning 8.
  """
  return np.asarray(returns, np.float64)


def rloo(returns: Shaped[np.ndarray, "P K"]) -> Float64[np.ndarray, "P K"]:
  """f64[P, K]: the return less the mean of the other answers' to the prompt.

  References:
    Ahmadian et al. 2024, arXiv:2402.14740, section 3.2; Kool et al. 2019.
  """
  returns = np.asarray(returns, np.float64)
  others = returns.shape[1] - 1
  return returns - (np.sum(returns, axis=1, keepdims=True) - returns) / others


def grpo(
  scores: Shaped[np.ndarray, "P K"], *, scaled: bool = True, unbiased: bool = True
) -> Float64[np.ndarray, "P K"]:
  """f64[P, K]: (score - mean) / (sd + 1e-4) over the answers to the prompt.

  Args:
    scaled: False: the score less the mean (Dr. GRPO), which is (K - 1) / K of RLOO's advantage, so that the expected
      gradient is along that of the mean score. Divided by sd it is not: every prompt counts as if its scores had sd 1.
    unbiased: the standard deviation divides by K - 1, as TRL's does, and not by K.

  References:
    Shao et al. 2024, arXiv:2402.03300, section 4.1.2; Liu et al. 2025, arXiv:2503.20783, Eq. 3 (Dr. GRPO).
  """
  scores = np.asarray(scores, np.float64)
  centred = scores - np.mean(scores, axis=1, keepdims=True)
  if not scaled:
    return centred
  return centred / (np.std(scores, axis=1, ddof=int(unbiased), keepdims=True) + GROUP_EPSILON)


def whiten(
  values: Shaped[np.ndarray, "*places"], mask: Bool[np.ndarray, "*places"], *, shift_mean: bool = True
) -> Float64[np.ndarray, "*places"]:
  """(x - mean) / sqrt(variance + 1e-8) over the places in `mask`, biased variance; 0 elsewhere.

  Args:
    shift_mean: False: the mean is added again, as whitened rewards keep theirs.
  """
  real = np.asarray(values, np.float64)[mask]
  if not real.size:
    return np.zeros(np.shape(values))
  mean = np.mean(real)
  whitened = (real - mean) / np.sqrt(np.var(real) + WHITENING_EPSILON)
  found = np.zeros(np.shape(values))
  found[mask] = whitened if shift_mean else whitened + mean
  return found
