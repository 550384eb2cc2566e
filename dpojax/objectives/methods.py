"""What each method of policy gradients makes of a roll-out's scores, by the settings of a run."""

import numpy as np

from dpojax.config.schema import PolicyGradientSettings
from dpojax.objectives import advantages


def advantages_of(
  settings: PolicyGradientSettings,
  samples: int,
  score: np.ndarray,
  k1: np.ndarray,
  value: np.ndarray,
  length: np.ndarray,
  *,
  coef: float,
) -> tuple[np.ndarray, np.ndarray]:
  """f64[A, T] advantages, not whitened by minibatch, and value targets; those of methods without a critic are 0.

  Args:
    settings: with every "auto" resolved.
    samples: K, answers a prompt, which stand side by side.
    score: f64[A].
    k1: f64[A, T] log-prob of the policy less the reference's.
    value: [A, T] of the critic, or 0.
    length: i64[A].
    coef: weight of k1 where KL enters the reward.
  """
  mask = advantages.token_mask(length, k1.shape[1])
  penalised = coef if settings.kl == "reward" else 0.0
  target = np.zeros(k1.shape)
  if settings.method == "ppo":
    rewards = advantages.token_rewards(score, k1, length, penalised)
    if settings.whiten_rewards:
      rewards = advantages.whiten(rewards, mask, shift_mean=False)
    found, target = advantages.gae(rewards, value, length, gamma=settings.gamma, lam=settings.gae_lambda)
  else:
    returns = score - penalised * np.sum(np.where(mask, k1, 0.0), axis=1)
    grouped = returns.reshape(-1, samples)
    by_answer = {
      "rloo": advantages.rloo,
      "reinforce": advantages.reinforce,
      "grpo": lambda x: advantages.grpo(x, unbiased=settings.group_std == "unbiased"),
      "dr_grpo": lambda x: advantages.grpo(x, scaled=False),
    }[settings.method](grouped)
    found = np.where(mask, by_answer.reshape(-1)[:, None], 0.0)
  if settings.whiten == "rollout":
    found = advantages.whiten(found, mask)
  return found, target
