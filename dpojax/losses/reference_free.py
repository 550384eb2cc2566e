"""Losses without a reference: what they hold the policy to is length, a margin or a likelihood term."""

import jax
import jax.numpy as jnp

from dpojax.losses.divergences import bounded_expm1
from dpojax.losses.logits import minus_margin, per_token, smoothed
from dpojax.losses.logps import PairLogps, RankedLogps
from dpojax.losses.nll import chosen_nll, token_mean_nll


def orpo(policy: PairLogps, *, beta=0.1) -> jax.Array:
  """Odds ratio preference optimisation, one value per pair.

  With length-averaged log-probs p_w = log pi(y_w) / |y_w| and p_l, and odds(p) = e^p / (1 - e^p)::

    loss = NLL - beta log sigmoid(log odds(p_w) - log odds(p_l))

  NLL is the mean over tokens of the global batch of the chosen answers' negative log-prob, with the prompts' where
  `prompt` is given.

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens, with lengths i32[B], and `prompt` f32[B],
      `prompt_length` i32[B] for a likelihood over prompt and answer.
    beta: > 0, weight of the odds ratio, the paper's lambda. 0.1: its setting for Mistral.

  Returns:
    f32[B], unreduced. There is no reference. Equals NLL + beta log 2 where both averages are equal.

  References:
    Hong et al. 2024, arXiv:2403.07691, Eq. 4 and 6 to 7. TRL 1.16: `ORPOTrainer`, whose likelihood is over prompt and
    answer and averaged over a micro-batch.
  """
  chosen, rejected = _average(policy)
  odds_ratio = _log_odds(chosen) - _log_odds(rejected)
  return chosen_nll(policy, with_prompt=True) + beta * jax.nn.softplus(-minus_margin(odds_ratio, policy))


def simpo(policy: PairLogps, *, beta=2.0, gamma=1.0) -> jax.Array:
  """Simple preference optimisation: length-averaged log-probs and a target margin, one value per pair::

    loss = -log sigmoid(beta (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|) - gamma)

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens, with lengths i32[B].
    beta: > 0. With beta 2 and gamma 1 the paper trains Llama-3-Base.
    gamma: >= 0, the target margin in units of beta times nats. TRL 1.16 writes gamma / beta inside the bracket, which
      is the same.

  Returns:
    f32[B], unreduced. There is no reference. Equals log(1 + e^gamma) where both averages are equal.

  References:
    Meng et al. 2024, arXiv:2405.14734, Eq. 6. TRL 1.16: `CPOTrainer` with `simpo` and `cpo_alpha=0`.
  """
  chosen, rejected = _average(policy)
  return jax.nn.softplus(-minus_margin(beta * (chosen - rejected) - gamma, policy))


def alphapo(policy: PairLogps, *, beta=2.5, gamma=0.1, alpha=0.25) -> jax.Array:
  """AlphaPO: SimPO with a power of the probability for its logarithm, one value per pair.

  With the length-averaged log-prob p of an answer and r(p) = (1 - e^(-alpha p)) / alpha, which is p at alpha = 0::

    loss = -log sigmoid(beta (r(p_w) - r(p_l)) - gamma)

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens, with lengths i32[B].
    beta: > 0. 2.5: the paper's Table 3, Mistral-Instruct.
    gamma: >= 0, the target margin in units of beta times r. 0.1: the same table.
    alpha: shape of the reward; 0.25: the same table.

  Returns:
    f32[B], unreduced. There is no reference. Equals log(1 + e^gamma) where both averages are equal.

  References:
    Gupta et al. 2025, arXiv:2501.03884. TRL 1.16: `CPOTrainer` with `alphapo`, which overflows where the probability
    underflows; here the exponent -alpha p is bounded (`divergences.bounded_expm1`).
  """
  small = jnp.abs(alpha) < 1e-6

  def reward(p):
    shape = jnp.where(small, 1.0, alpha).astype(p.dtype)
    return jnp.where(small, p, -bounded_expm1(-shape * p) / shape)

  chosen, rejected = _average(policy)
  return jax.nn.softplus(-minus_margin(beta * (reward(chosen) - reward(rejected)) - gamma, policy))


def cpo(policy: PairLogps, *, beta=0.1, label_smoothing=0.0, alpha=1.0) -> jax.Array:
  """Contrastive preference optimisation: DPO with a uniform reference and a likelihood term, one value per pair.

  With x = beta (log pi(y_w) - log pi(y_l))::

    loss = -(1 - eps) log sigmoid(x) - eps log sigmoid(-x) + alpha NLL

  NLL is the mean over tokens of the global batch of the chosen answers' negative log-prob.

  Args:
    policy: f32[B] log-probs in nats, summed over answer tokens, with `chosen_length` i32[B] or `pairs_per_token`.
    beta: > 0. 0.1: the paper's setting.
    label_smoothing: eps, assumed share of swapped labels, in [0, 0.5].
    alpha: >= 0, weight of the likelihood. 1 in the paper.

  Returns:
    f32[B], unreduced. There is no reference. Equals log 2 + alpha NLL where both answers are as likely.

  References:
    Xu et al. 2024, arXiv:2401.08417, which sums the likelihood over an answer. TRL 1.16: `CPOTrainer` with `sigmoid`,
    a token mean over a micro-batch.
  """
  x = minus_margin(beta * (jnp.asarray(policy.chosen) - policy.rejected), policy)
  return smoothed(x, label_smoothing) + alpha * chosen_nll(policy)


def tpo(policy: RankedLogps, *, beta=0.01, label_smoothing=0.0, alpha=1.0) -> jax.Array:
  """Triple preference optimisation on a gold, a chosen and a rejected answer, one value per triple.

  With x = beta (log pi(y_w) - log pi(y_l))::

    loss = -(1 - eps) log sigmoid(x) - eps log sigmoid(-x) + alpha NLL(gold)

  NLL is the mean over tokens of the global batch of the gold answers' negative log-prob.

  Args:
    policy: f32[B, 3] log-probs in nats, summed over answer tokens: gold, chosen, rejected.
    beta: > 0. 0.01: TRL 1.16's default.
    label_smoothing: eps, assumed share of swapped labels, in [0, 0.5].
    alpha: >= 0, weight of the likelihood.

  Returns:
    f32[B], unreduced. There is no reference. Equals log 2 + alpha NLL where both answers are as likely.

  References:
    Saeidi et al. 2024, arXiv:2405.16681. TRL 1.16: `TPOTrainer` with `sigmoid`, a token mean over a micro-batch.
  """
  logp = jnp.asarray(policy.logp)
  return smoothed(beta * (logp[:, 1] - logp[:, 2]), label_smoothing) + alpha * _gold_nll(policy)


def tpo_l(policy: RankedLogps, *, beta=0.01, label_smoothing=0.0, gamma=0.5, alpha=1.0) -> jax.Array:
  """Triple preference optimisation with length-averaged log-probs and a target margin, one value per triple.

  With x = beta (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|) - gamma::

    loss = -(1 - eps) log sigmoid(x) - eps log sigmoid(-x) + alpha NLL(gold)

  NLL is the mean over tokens of the global batch of the gold answers' negative log-prob.

  Args:
    policy: f32[B, 3] log-probs in nats, summed over answer tokens, with lengths i32[B, 3]: gold, chosen, rejected.
    beta: > 0. 0.01: TRL 1.16's default.
    label_smoothing: eps, assumed share of swapped labels, in [0, 0.5].
    gamma: >= 0, the target margin in units of beta times nats. 0.5: TRL 1.16's default.
    alpha: >= 0, weight of the likelihood.

  Returns:
    f32[B], unreduced. There is no reference. Equals log(1 + e^gamma) - eps gamma + alpha NLL where both averages are
    equal.

  References:
    Saeidi et al. 2024, arXiv:2405.16681. TRL 1.16: `TPOTrainer` with `tpo-l`, a token mean over a micro-batch.
  """
  average = per_token(policy.logp, policy.length)
  x = beta * (average[:, 1] - average[:, 2]) - gamma
  return smoothed(x, label_smoothing) + alpha * _gold_nll(policy)


def _average(policy: PairLogps) -> tuple[jax.Array, jax.Array]:
  return per_token(policy.chosen, policy.chosen_length), per_token(policy.rejected, policy.rejected_length)


def _gold_nll(policy: RankedLogps) -> jax.Array:
  logp, length = jnp.asarray(policy.logp)[:, 0], jnp.asarray(policy.length)[:, 0]
  return token_mean_nll(logp, length, policy.weight, policy.pairs_per_token)


def _log_odds(p: jax.Array) -> jax.Array:
  """log(e^p / (1 - e^p)) of log-probs p <= 0; a p of 0 stands for the largest below it."""
  p = jnp.minimum(p, -jnp.finfo(p.dtype).tiny)
  return p - jnp.log(-jnp.expm1(p))
