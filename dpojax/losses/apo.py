"""Anchored preference optimisation: which way the likelihoods move, not only their difference."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dpojax.losses.arrays import checked


@checked
def apo_zero(chosen, rejected, reference_chosen, reference_rejected, *, beta=0.1) -> Float[jax.Array, " B"]:
  """APO-zero: chosen answers up, rejected answers down, one value per pair.

  For answers better than the model's own. With the log-ratios a of the chosen and b of the rejected answer::

    loss = 1 - sigmoid(beta a) + sigmoid(beta b)

  Options:
    beta: > 0. 0.1: the paper's Sec. 5.2.

  Value:
    1 wherever policy == reference.

  Example::

    >>> value = losses.apo_zero([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.9625, 1.0375]

  Source:
    D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 7. TRL 1.16: `apo_zero`.
  """
  a, b = chosen - reference_chosen, rejected - reference_rejected
  return jax.nn.sigmoid(-beta * a) + jax.nn.sigmoid(beta * b)


@checked
def apo_down(chosen, rejected, reference_chosen, reference_rejected, *, beta=0.1) -> Float[jax.Array, " B"]:
  """APO-down: both answers down, the rejected one more, one value per pair.

  For a model whose own answers are better than the chosen ones. With the log-ratios a of the chosen and b of the
  rejected answer::

    loss = sigmoid(beta a) + 1 - sigmoid(beta (a - b))

  Options:
    beta: > 0. 0.1: the paper's Sec. 5.2.

  Value:
    1 wherever policy == reference.

  Example::

    >>> value = losses.apo_down([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.9875, 1.0125]

  Source:
    D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 8. TRL 1.16: `apo_down`.
  """
  a, b = chosen - reference_chosen, rejected - reference_rejected
  return jax.nn.sigmoid(beta * a) + jax.nn.sigmoid(-beta * (a - b))


@checked
def apo_zero_unpaired(
  logp, desirable, reference_logp, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0
) -> Float[jax.Array, " B"]:
  """APO-zero of single answers, one value per answer.

  With the log-ratio a of an answer::

    loss = lambda_D (1 - sigmoid(beta a))   of a desirable answer
    loss = lambda_U sigmoid(beta a)         of an undesirable one

  Options:
    beta: > 0. 0.1: the paper's Sec. 5.2.
    desirable_weight: lambda_D.
    undesirable_weight: lambda_U.

  Value:
    lambda / 2 wherever policy == reference.

  Example::

    >>> value = losses.apo_zero_unpaired([-10, -12], [True, False], [-11, -11], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.475, 0.475]

  Source:
    D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 7 taken apart. TRL 1.16: KTO with `apo_zero_unpaired`.
  """
  x = beta * (logp - reference_logp)
  good, bad = jax.nn.sigmoid(-x), jax.nn.sigmoid(x)
  return jnp.where(desirable, desirable_weight * good, undesirable_weight * bad)
