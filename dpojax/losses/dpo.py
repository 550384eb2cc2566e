"""Direct preference optimisation and losses of the same margin: functions of beta (s(a) - s(b)).

a and b are the log-ratios policy - reference of the chosen and the rejected answer in nats, summed over answer
tokens, s the score of an f-divergence (the identity unless another is chosen).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dpojax.losses.arrays import checked
from dpojax.losses.divergences import FDivergence, reverse_kl
from dpojax.losses.logits import logit, mean_logit, minus_margin, smoothed


@checked
def dpo(
  chosen,
  rejected,
  reference_chosen,
  reference_rejected,
  *,
  margin=None,
  beta=0.1,
  f_divergence: FDivergence = reverse_kl,
) -> Float[jax.Array, " B"]:
  """Direct preference optimisation, one value per pair.

  With the margin m = (chosen - rejected) - (reference_chosen - reference_rejected)::

    loss = -log sigmoid(beta m)

  Options:
    beta: > 0; larger holds the policy nearer the reference. 0.1: the paper's App. B.
    f_divergence: score that takes the place of the log-ratio.

  Value:
    log 2 wherever policy == reference.

  Example::

    >>> value = losses.dpo([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.621, 0.771]

  Source:
    Rafailov et al. 2023, arXiv:2305.18290, Eq. 7. TRL 1.16: `sigmoid`.
  """
  x = logit(chosen - reference_chosen, rejected - reference_rejected, margin, beta, f_divergence)
  return jax.nn.softplus(-x)


@checked
def cdpo(
  chosen,
  rejected,
  reference_chosen,
  reference_rejected,
  *,
  margin=None,
  beta=0.1,
  label_smoothing=0.1,
  f_divergence: FDivergence = reverse_kl,
) -> Float[jax.Array, " B"]:
  """Conservative DPO: the loss expected when a fraction of the labels is swapped, one value per pair.

  With the margin m as in `dpo`::

    loss = -(1 - eps) log sigmoid(beta m) - eps log sigmoid(-beta m)

  Its minimum lies at the finite margin where sigmoid(beta m) = 1 - eps.

  Options:
    beta: > 0; larger holds the policy nearer the reference.
    label_smoothing: eps, assumed fraction of swapped labels, in [0, 0.5].
    f_divergence: score that takes the place of the log-ratio.

  Value:
    log 2 wherever policy == reference.

  Example::

    >>> value = losses.cdpo([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.1, label_smoothing=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.636, 0.756]

  Source:
    Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", Eq. 3. TRL 1.16 has no such loss:
    its `sigmoid` ignores eps.
  """
  x = logit(chosen - reference_chosen, rejected - reference_rejected, margin, beta, f_divergence)
  return smoothed(x, label_smoothing)


@checked
def robust_dpo(
  chosen,
  rejected,
  reference_chosen,
  reference_rejected,
  *,
  margin=None,
  beta=0.1,
  label_smoothing=0.1,
  f_divergence: FDivergence = reverse_kl,
) -> Float[jax.Array, " B"]:
  """Provably robust DPO: its mean over swapped labels is the DPO loss of the true ones, one value per pair.

  With the margin m as in `dpo`::

    loss = (-(1 - eps) log sigmoid(beta m) + eps log sigmoid(-beta m)) / (1 - 2 eps)

  Unbounded below: it falls by eps beta / (1 - 2 eps) a nat as the margin grows, where the DPO loss levels off.

  Options:
    beta: > 0; larger holds the policy nearer the reference.
    label_smoothing: eps, the rate at which labels are swapped, in [0, 0.5).
    f_divergence: score that takes the place of the log-ratio.

  Value:
    log 2 wherever policy == reference.

  Example::

    >>> value = losses.robust_dpo([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.1, label_smoothing=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.6022, 0.7897]

  Source:
    Chowdhury et al. 2024, arXiv:2403.00409. TRL 1.16: `robust`.
  """
  x = logit(chosen - reference_chosen, rejected - reference_rejected, margin, beta, f_divergence)
  right, swapped = jax.nn.softplus(-x), jax.nn.softplus(x)
  return ((1 - label_smoothing) * right - label_smoothing * swapped) / (1 - 2 * label_smoothing)


@checked
def dpo_norm(
  chosen,
  rejected,
  reference_chosen,
  reference_rejected,
  chosen_length,
  rejected_length,
  *,
  margin=None,
  beta=0.1,
  f_divergence: FDivergence = reverse_kl,
) -> Float[jax.Array, " B"]:
  """DPO on length-averaged log-ratios, one value per pair::

    loss = -log sigmoid(beta (s(a) / |y_w| - s(b) / |y_l|))

  Options:
    beta: > 0, of averages, so ten to a hundred times DPO's does as much.
    f_divergence: score that takes the place of the log-ratio.

  Value:
    log 2 wherever policy == reference.

  Example::

    >>> value = losses.dpo_norm([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], [5, 6], [6, 4], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.6791, 0.7078]

  Source:
    TRL 1.16: `sigmoid_norm`; beta is that of its other losses.
  """
  a, b = chosen - reference_chosen, rejected - reference_rejected
  return jax.nn.softplus(-mean_logit(a, b, chosen_length, rejected_length, margin, beta, f_divergence))


@checked
def exo_pair(
  chosen,
  rejected,
  reference_chosen,
  reference_rejected,
  *,
  margin=None,
  beta=0.1,
  label_smoothing=1e-3,
  f_divergence: FDivergence = reverse_kl,
) -> Float[jax.Array, " B"]:
  """Efficient exact optimisation: reverse KL from the policy's preference to the labels', one value per pair.

  With q = sigmoid(beta m), the margin m as in `dpo`::

    loss = q log(q / (1 - eps)) + (1 - q) log((1 - q) / eps)

  Options:
    beta: > 0; larger holds the policy nearer the reference.
    label_smoothing: eps > 0, the chance that the labels give the rejected answer. 1e-3 as TRL quotes the paper.
    f_divergence: score that takes the place of the log-ratio.

  Value:
    -log 2 - (log(1 - eps) + log(eps)) / 2 wherever policy == reference.

  Example::

    >>> value = losses.exo_pair([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.1, label_smoothing=0.001)
    >>> [round(float(x), 4) for x in value]
    [2.5055, 3.0226]

  Source:
    Ji et al. 2024, arXiv:2402.00856, Eq. 16. TRL 1.16: `exo_pair`, which keeps eps in float32.
  """
  x = logit(chosen - reference_chosen, rejected - reference_rejected, margin, beta, f_divergence)
  right = jax.nn.sigmoid(x) * (-jax.nn.softplus(-x) - jnp.log1p(-label_smoothing))
  wrong = jax.nn.sigmoid(-x) * (-jax.nn.softplus(x) - jnp.log(label_smoothing))
  return right + wrong


@checked
def discopop(
  chosen,
  rejected,
  reference_chosen,
  reference_rejected,
  *,
  margin=None,
  beta=0.05,
  tau=0.05,
  f_divergence: FDivergence = reverse_kl,
) -> Float[jax.Array, " B"]:
  """DiscoPOP, a blend of the logistic and the exponential loss found by a language model, one value per pair.

  With x = beta m, the margin m as in `dpo`, and g = sigmoid(x / tau)::

    loss = -(1 - g) log sigmoid(x) + g e^(-x)

  Not convex: there is a local optimum at a small negative margin.

  Options:
    beta: > 0. 0.05: the paper's App. B.1.
    tau: > 0, width of the blend. 0.05: the paper's App. E.
    f_divergence: score that takes the place of the log-ratio.

  Value:
    (1 + log 2) / 2 wherever policy == reference.

  Example::

    >>> value = losses.discopop([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.05)
    >>> [round(float(x), 4) for x in value]
    [0.8782, 0.7946]

  Source:
    Lu et al. 2024, arXiv:2406.08414, Eq. 5. TRL 1.16: `discopop`, whose second term is NaN where e^(-x) overflows.
  """
  x = logit(chosen - reference_chosen, rejected - reference_rejected, margin, beta, f_divergence)
  logistic = jax.nn.sigmoid(-x / tau) * jax.nn.softplus(-x)
  # g e^(-x) in one exponential, because g vanishes faster than e^(-x) overflows.
  return logistic + jnp.exp(-x - jax.nn.softplus(-x / tau))


@checked
def dpop(
  chosen, rejected, reference_chosen, reference_rejected, *, margin=None, beta=0.3, penalty=50.0
) -> Float[jax.Array, " B"]:
  """DPO-Positive: DPO with a penalty for chosen answers that fall below the reference, one value per pair::

    loss = -log sigmoid(beta (a - b - lambda max(0, -a)))

  Options:
    beta: > 0; larger holds the policy nearer the reference.
    penalty: lambda >= 0. 50, and beta 0.3, are the paper's own.

  Value:
    log 2 wherever policy == reference; the penalty has no slope at a = 0.

  Example::

    >>> value = losses.dpop([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.3)
    >>> [round(float(x), 4) for x in value]
    [0.4932, 15.45]

  Source:
    Pal et al. 2024 (Smaug), arXiv:2402.13228. Not in TRL 1.16.
  """
  a, b = chosen - reference_chosen, rejected - reference_rejected
  x = minus_margin(beta * (a - b - penalty * jax.nn.relu(-a)), margin)
  return jax.nn.softplus(-x)


@checked
def xpo(
  chosen,
  rejected,
  reference_chosen,
  reference_rejected,
  opponent,
  *,
  margin=None,
  beta=0.1,
  alpha=1e-5,
  f_divergence: FDivergence = reverse_kl,
) -> Float[jax.Array, " B"]:
  """Exploratory preference optimisation: DPO with a bonus for leaving the reference, one value per pair.

  One answer of each pair was written by the policy and one, y', by the reference; with the margin m as in `dpo`::

    loss = -log sigmoid(beta m) + alpha log pi(y')

  Its second term takes probability from what the reference writes, on average by alpha KL(reference || policy) but for a
  constant: optimism about all other answers. It has no beta, and is unbounded below.

  Options:
    beta: > 0; larger holds the policy nearer the reference.
    alpha: >= 0, the strength of optimism; 0: DPO. 1e-5: that of TRL's `XPOConfig`; the paper gives an order only.
    f_divergence: score that takes the place of the log-ratio.

  Value:
    log 2 + alpha log pi(y') wherever policy == reference.

  Example::

    >>> value = losses.xpo([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], [-10, -11], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.6209, 0.7708]

  Source:
    Xie et al. 2024, arXiv:2405.21046, Algorithm 1: the objective of its direct preference optimisation with global
    optimism, there over the pairs of all iterations so far. Not in TRL 1.16; the `XPOTrainer` of versions before took
    this value over the pairs of a step, as here.
  """
  preference = dpo(
    chosen, rejected, reference_chosen, reference_rejected, margin=margin, beta=beta, f_divergence=f_divergence
  )
  return preference + alpha * opponent
