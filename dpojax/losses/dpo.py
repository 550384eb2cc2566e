"""Direct preference optimisation and its nearest relatives."""

import jax

from dpojax.types import PairLogps, log_ratios


def dpo(policy: PairLogps, reference: PairLogps, *, beta, label_smoothing=0.0) -> jax.Array:
  """Direct preference optimisation, one value per pair.

  With margin m = (policy.chosen - policy.rejected) - (reference.chosen - reference.rejected)::

    loss = -(1 - eps) log sigmoid(beta m) - eps log sigmoid(-beta m)

  Args:
    policy: f32[B] log-probs in nats, summed (not averaged) over answer tokens.
    reference: the same pairs under the frozen reference.
    beta: > 0; larger holds the policy nearer the reference.
    label_smoothing: eps, assumed share of swapped labels, in [0, 0.5).

  Returns:
    f32[B], unreduced. Equals log 2 wherever policy == reference.

  References:
    Rafailov et al. 2023, arXiv:2305.18290, Eq. 7; eps: Mitchell 2023 (cDPO), Eq. 3. TRL 1.16 ignores
    eps under the name `sigmoid`.
  """
  chosen, rejected = log_ratios(policy, reference)
  logit = beta * (chosen - rejected)
  return (1 - label_smoothing) * jax.nn.softplus(-logit) + label_smoothing * jax.nn.softplus(logit)
