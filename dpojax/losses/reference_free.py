"""Losses without a reference: what they hold the policy to is length, a margin or a likelihood term."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dpojax.errors import ShapeError
from dpojax.losses.arrays import checked, checked_rankings
from dpojax.losses.divergences import bounded_expm1
from dpojax.losses.logits import minus_margin, per_token, smoothed
from dpojax.losses.nll import token_mean_nll


@checked
def orpo(
  chosen,
  rejected,
  chosen_length,
  rejected_length,
  *,
  prompt=None,
  prompt_length=None,
  margin=None,
  weight=None,
  pairs_per_token=None,
  beta=0.1,
) -> Float[jax.Array, " B"]:
  """Odds ratio preference optimisation, one value per pair.

  With length-averaged log-probs p_w = log pi(y_w) / |y_w| and p_l, and odds(p) = e^p / (1 - e^p)::

    loss = NLL - beta log sigmoid(log odds(p_w) - log odds(p_l))

  NLL is the mean over tokens of the global batch of the chosen answers' negative log-prob, with the prompts' where
  `prompt` is given.

  Options:
    beta: > 0, weight of the odds ratio, the paper's lambda. 0.1: its setting for Mistral.

  Value:
    NLL + beta log 2 where both averages are equal.

  Example::

    >>> value = losses.orpo([-10, -12], [-12, -11], [5, 6], [6, 4], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [1.8875, 2.218]

  Source:
    Hong et al. 2024, arXiv:2403.07691, Eq. 4 and 6 to 7. TRL 1.16: `ORPOTrainer`, whose likelihood is over prompt and
    answer and averaged over a micro-batch.
  """
  odds_ratio = _log_odds(per_token(chosen, chosen_length)) - _log_odds(per_token(rejected, rejected_length))
  if prompt is not None:
    if prompt_length is None:
      raise ValueError("orpo: prompt is given without prompt_length")
    chosen, chosen_length = chosen + prompt, chosen_length + prompt_length
  nll = token_mean_nll(chosen, chosen_length, weight, pairs_per_token)
  return nll + beta * jax.nn.softplus(-minus_margin(odds_ratio, margin))


@checked
def simpo(
  chosen, rejected, chosen_length, rejected_length, *, margin=None, beta=2.0, gamma=1.0
) -> Float[jax.Array, " B"]:
  """Simple preference optimisation: length-averaged log-probs and a target margin, one value per pair::

    loss = -log sigmoid(beta (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|) - gamma)

  Options:
    beta: > 0. With beta 2 and gamma 1 the paper trains Llama-3-Base.
    gamma: >= 0, the target margin in units of beta times nats. TRL 1.16 writes gamma / beta inside the bracket, which
      is the same.

  Value:
    log(1 + e^gamma) where both averages are equal.

  Example::

    >>> value = losses.simpo([-10, -12], [-12, -11], [5, 6], [6, 4], beta=2.0, gamma=1.0)
    >>> [round(float(x), 4) for x in value]
    [1.3133, 0.4741]

  Source:
    Meng et al. 2024, arXiv:2405.14734, Eq. 6. TRL 1.16: `CPOTrainer` with `simpo` and `cpo_alpha=0`.
  """
  lead = per_token(chosen, chosen_length) - per_token(rejected, rejected_length)
  return jax.nn.softplus(-minus_margin(beta * lead - gamma, margin))


@checked
def alphapo(
  chosen, rejected, chosen_length, rejected_length, *, margin=None, beta=2.5, gamma=0.1, alpha=0.25
) -> Float[jax.Array, " B"]:
  """AlphaPO: SimPO with a power of the probability for its logarithm, one value per pair.

  With the length-averaged log-prob p of an answer and r(p) = (1 - e^(-alpha p)) / alpha, which is p at alpha = 0::

    loss = -log sigmoid(beta (r(p_w) - r(p_l)) - gamma)

  Options:
    beta: > 0. 2.5: the paper's Table 3, Mistral-Instruct.
    gamma: >= 0, the target margin in units of beta times r. 0.1: the same table.
    alpha: shape of the reward; 0.25: the same table.

  Value:
    log(1 + e^gamma) where both averages are equal.

  Example::

    >>> value = losses.alphapo([-10, -12], [-12, -11], [5, 6], [6, 4], beta=2.5, gamma=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.7444, 0.0362]

  Source:
    Gupta et al. 2025, arXiv:2501.03884. TRL 1.16: `CPOTrainer` with `alphapo`, which overflows where the probability
    underflows; here the exponent -alpha p is bounded (`divergences.bounded_expm1`).
  """
  small = jnp.abs(alpha) < 1e-6

  def reward(p):
    shape = jnp.where(small, 1.0, alpha).astype(p.dtype)
    return jnp.where(small, p, -bounded_expm1(-shape * p) / shape)

  lead = reward(per_token(chosen, chosen_length)) - reward(per_token(rejected, rejected_length))
  return jax.nn.softplus(-minus_margin(beta * lead - gamma, margin))


@checked
def cpo(
  chosen,
  rejected,
  chosen_length,
  *,
  margin=None,
  weight=None,
  pairs_per_token=None,
  beta=0.1,
  label_smoothing=0.0,
  alpha=1.0,
) -> Float[jax.Array, " B"]:
  """Contrastive preference optimisation: DPO with a uniform reference and a likelihood term, one value per pair.

  With x = beta (log pi(y_w) - log pi(y_l))::

    loss = -(1 - eps) log sigmoid(x) - eps log sigmoid(-x) + alpha NLL

  NLL is the mean over tokens of the global batch of the chosen answers' negative log-prob.

  Options:
    beta: > 0. 0.1: the paper's setting.
    label_smoothing: eps, assumed fraction of swapped labels, in [0, 0.5].
    alpha: >= 0, weight of the likelihood. 1 in the paper.

  Value:
    log 2 + alpha NLL where both answers are as likely.

  Example::

    >>> value = losses.cpo([-10, -12], [-12, -11], [5, 6], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [2.4163, 2.9262]

  Source:
    Xu et al. 2024, arXiv:2401.08417, which sums the likelihood over an answer. TRL 1.16: `CPOTrainer` with `sigmoid`,
    a token mean over a micro-batch.
  """
  x = minus_margin(beta * (chosen - rejected), margin)
  return smoothed(x, label_smoothing) + alpha * token_mean_nll(chosen, chosen_length, weight, pairs_per_token)


@checked_rankings
def tpo(
  logp, length, *, weight=None, pairs_per_token=None, beta=0.01, label_smoothing=0.0, alpha=1.0
) -> Float[jax.Array, " B"]:
  """Triple preference optimisation on a gold, a chosen and a rejected answer, one value per triple.

  With x = beta (log pi(y_w) - log pi(y_l))::

    loss = -(1 - eps) log sigmoid(x) - eps log sigmoid(-x) + alpha NLL(gold)

  The answers are gold, chosen and rejected, so K = 3. NLL is the mean over tokens of the global batch of the gold
  answers' negative log-prob.

  Options:
    beta: > 0. 0.01: TRL 1.16's default.
    label_smoothing: eps, assumed fraction of swapped labels, in [0, 0.5].
    alpha: >= 0, weight of the likelihood.

  Value:
    log 2 + alpha NLL where both answers are as likely.

  Example::

    >>> value = losses.tpo([[-10, -12, -13]], [[5, 6, 7]], beta=0.01)
    >>> [round(float(x), 4) for x in value]
    [2.6882]

  Source:
    Saeidi et al. 2024, arXiv:2405.16681. TRL 1.16: `TPOTrainer` with `sigmoid`, a token mean over a micro-batch.
  """
  _check_triples("tpo", logp)
  x = beta * (logp[:, 1] - logp[:, 2])
  nll = token_mean_nll(logp[:, 0], length[:, 0], weight, pairs_per_token)
  return smoothed(x, label_smoothing) + alpha * nll


@checked_rankings
def tpo_l(
  logp, length, *, weight=None, pairs_per_token=None, beta=0.01, label_smoothing=0.0, gamma=0.5, alpha=1.0
) -> Float[jax.Array, " B"]:
  """Triple preference optimisation with length-averaged log-probs and a target margin, one value per triple.

  With x = beta (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|) - gamma::

    loss = -(1 - eps) log sigmoid(x) - eps log sigmoid(-x) + alpha NLL(gold)

  The answers are gold, chosen and rejected, so K = 3. NLL is the mean over tokens of the global batch of the gold
  answers' negative log-prob.

  Options:
    beta: > 0. 0.01: TRL 1.16's default.
    label_smoothing: eps, assumed fraction of swapped labels, in [0, 0.5].
    gamma: >= 0, the target margin in units of beta times nats. 0.5: TRL 1.16's default.
    alpha: >= 0, weight of the likelihood.

  Value:
    log(1 + e^gamma) - eps gamma + alpha NLL where both averages are equal.

  Example::

    >>> value = losses.tpo_l([[-10, -12, -13]], [[5, 6, 7]], beta=0.01, gamma=0.5)
    >>> [round(float(x), 4) for x in value]
    [2.975]

  Source:
    Saeidi et al. 2024, arXiv:2405.16681. TRL 1.16: `TPOTrainer` with `tpo-l`, a token mean over a micro-batch.
  """
  _check_triples("tpo_l", logp)
  average = per_token(logp, length)
  x = beta * (average[:, 1] - average[:, 2]) - gamma
  nll = token_mean_nll(logp[:, 0], length[:, 0], weight, pairs_per_token)
  return smoothed(x, label_smoothing) + alpha * nll


def _check_triples(loss: str, logp: jax.Array) -> None:
  if logp.shape[1] != 3:
    raise ShapeError(f"{loss}: logp has shape {list(logp.shape)}; it must be [B, 3]: gold, chosen, rejected")


def _log_odds(p: jax.Array) -> jax.Array:
  """log(e^p / (1 - e^p)) of log-probs p <= 0; a p of 0 stands for the largest below it."""
  p = jnp.minimum(p, -jnp.finfo(p.dtype).tiny)
  return p - jnp.log(-jnp.expm1(p))
