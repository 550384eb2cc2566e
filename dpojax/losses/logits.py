"""The numbers that pair losses put into a sigmoid, and what they make of them."""

import jax
import jax.numpy as jnp

from dpojax.losses.divergences import FDivergence, reverse_kl
from dpojax.types import Array


def logit(a, b, margin, beta, f_divergence: FDivergence = reverse_kl) -> jax.Array:
  """f32[B]: beta (s(a) - s(b)) - margin, a and b the log-ratios of the chosen and the rejected answer."""
  return minus_margin(beta * (f_divergence(a) - f_divergence(b)), margin)


def mean_logit(a, b, chosen_length, rejected_length, margin, beta, f_divergence: FDivergence = reverse_kl) -> jax.Array:
  """f32[B]: beta (s(a) / |y_w| - s(b) / |y_l|) - margin: the same with each score divided by its answer's tokens."""
  chosen = per_token(f_divergence(a), chosen_length)
  rejected = per_token(f_divergence(b), rejected_length)
  return minus_margin(beta * (chosen - rejected), margin)


def minus_margin(logit: jax.Array, margin: Array | None) -> jax.Array:
  """The logit less the pair's own margin, by which the chosen answer is known to be better (arXiv:2402.10571)."""
  return logit if margin is None else logit - margin


def per_token(values: jax.Array, length: Array) -> jax.Array:
  """f32[...] values over their lengths; an empty slot, of length 0, is divided by 1, because 0 * NaN is NaN."""
  return values / jnp.maximum(length, 1).astype(values.dtype)


def smoothed(logit: jax.Array, label_smoothing) -> jax.Array:
  """-(1 - eps) log sigmoid(logit) - eps log sigmoid(-logit)."""
  return (1 - label_smoothing) * jax.nn.softplus(-logit) + label_smoothing * jax.nn.softplus(logit)
