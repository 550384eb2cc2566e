"""Alignment via optimal transport: the margins' distribution, not each margin, should lie above the reference's.

In one dimension the best transport plan joins equal quantiles, so both sides are sorted. Weights are masses: a pair of
weight 2 counts as two, one of weight 0 not at all.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dpojax.losses.arrays import checked
from dpojax.losses.logits import smoothed


@checked
def aot(
  chosen, rejected, reference_chosen, reference_rejected, *, weight=None, beta=0.1, label_smoothing=0.0
) -> Float[jax.Array, " B"]:
  """AOT on pairs, one value per pair, coupled over the batch.

  With d_i the difference of the i-th smallest chosen - rejected margin of the policy and that of the reference::

    loss = -(1 - eps) log sigmoid(beta d_i) - eps log sigmoid(-beta d_i)

  Options:
    beta: > 0; larger holds the policy nearer the reference.
    label_smoothing: eps, assumed fraction of swapped labels, in [0, 0.5].

  Value:
    log 2 wherever policy == reference. Value i is that of the quantile where the policy's margin of pair i lies, 0
    where its weight is 0.

  Example::

    >>> value = losses.aot([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.621, 0.771]

  Source:
    Melnyk et al. 2024, arXiv:2406.05882. TRL 1.16: `aot`, which sorts each micro-batch by itself.
  """
  of_policy, of_reference = chosen - rejected, reference_chosen - reference_rejected
  return _transport(of_policy, of_reference, weight, beta, label_smoothing)


@checked
def aot_unpaired(
  chosen, rejected, reference_chosen, reference_rejected, *, weight=None, beta=0.1, label_smoothing=0.0
) -> Float[jax.Array, " B"]:
  """AOT between all chosen and all rejected answers, one value per pair, coupled over the batch.

  With d_i the difference of the i-th smallest log-ratio of the chosen answers and that of the rejected ones::

    loss = -(1 - eps) log sigmoid(beta d_i) - eps log sigmoid(-beta d_i)

  Options:
    beta: > 0; larger holds the policy nearer the reference.
    label_smoothing: eps, assumed fraction of swapped labels, in [0, 0.5].

  Value:
    log 2 wherever policy == reference. Value i is that of the quantile where the log-ratio of the chosen answer i lies,
    0 where its weight is 0.

  Example::

    >>> value = losses.aot_unpaired([-10, -12], [-12, -11], [-11, -11], [-11.5, -11.5], beta=0.1)
    >>> [round(float(x), 4) for x in value]
    [0.6685, 0.7185]

  Source:
    Melnyk et al. 2024, arXiv:2406.05882. TRL 1.16: `aot_unpaired`, which sorts each micro-batch by itself.
  """
  a, b = chosen - reference_chosen, rejected - reference_rejected
  return _transport(a, b, weight, beta, label_smoothing)


def _transport(above, below, weight, beta, label_smoothing) -> jax.Array:
  """f32[B]: mean of the smoothed loss over the quantiles that each value of `above` covers.

  Both sides are step functions of the mass below them. Their steps cut the mass into at most 2B pieces, on each of
  which one value of `above` meets one of `below`; with equal weights that is the i-th smallest of either.
  """
  weight = jnp.ones_like(above) if weight is None else weight.astype(above.dtype)
  upper, upper_mass = _sorted(above, weight)
  lower, lower_mass = _sorted(below, weight)
  ends = jnp.sort(jnp.concatenate([upper_mass, lower_mass]))
  piece = jnp.diff(ends, prepend=jnp.zeros(1, ends.dtype))
  i = jnp.take(upper, jnp.searchsorted(upper_mass, ends), mode="clip")
  j = jnp.take(lower, jnp.searchsorted(lower_mass, ends), mode="clip")
  delta = jnp.where(piece > 0, above[i] - below[j], 0.0)
  value = jnp.where(piece > 0, piece * smoothed(beta * delta, label_smoothing), 0.0)
  total = jnp.zeros_like(above).at[i].add(value)
  return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), 0.0)


def _sorted(values: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(indices by rising value, mass up to and including each); those of weight 0 come last and add nothing."""
  order = jnp.argsort(jnp.where(weight > 0, jax.lax.stop_gradient(values), jnp.inf))
  return order, jnp.cumsum(weight[order])
