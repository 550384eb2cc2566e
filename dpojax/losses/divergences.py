"""What takes the place of the log-ratio when another divergence than reverse KL holds the policy to its reference.

An f-divergence turns a log-ratio x = log(policy / reference) into a score s(x) = f'(e^x), up to a constant that
cancels between two answers. Reverse KL gives s(x) = x, which is DPO.

Wang et al. 2023 (f-DPO), arXiv:2309.16240.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dpojax.errors import ConfigError

FDivergence = Callable[[jax.Array], jax.Array]


def reverse_kl(x: jax.Array) -> jax.Array:
  """s(x) = x."""
  return x


def forward_kl(x: jax.Array) -> jax.Array:
  """s(x) = 1 - e^(-x); the exponent is bounded as in `bounded_expm1`, where TRL 1.16 overflows."""
  return -bounded_expm1(-x)


def jensen_shannon(x: jax.Array) -> jax.Array:
  """s(x) = log 2 + log sigmoid(x), at most log 2."""
  return math.log(2) - jax.nn.softplus(-x)


def alpha_divergence(alpha: Any = 0.5) -> FDivergence:
  """s(x) = (e^((alpha - 1) x) - 1) / (alpha - 1): forward KL at alpha = 0, reverse KL in the limit of 1.

  `alpha` may be traced. Within 1e-6 of 1 the limit is taken. The exponent is bounded as in `bounded_expm1`;
  TRL 1.16 bounds it at 80 too and has the same default.
  """

  def score(x):
    order = alpha - 1
    near = jnp.abs(order) < 1e-6
    safe = jnp.where(near, 1.0, order).astype(x.dtype)
    return jnp.where(near, x, bounded_expm1(safe * x) / safe)

  return score


DIVERGENCES: tuple[str, ...] = ("reverse_kl", "forward_kl", "jensen_shannon", "alpha_divergence")


def get_divergence(name: str, options: Mapping[str, Any] | None = None) -> FDivergence:
  """The divergence called `name`; `options["divergence_alpha"]` is the order of `alpha_divergence` (0.5).

  Raises:
    ConfigError: there is no such divergence.
  """
  if name == "alpha_divergence":
    return alpha_divergence((options or {}).get("divergence_alpha", 0.5))
  known = {f.__name__: f for f in (reverse_kl, forward_kl, jensen_shannon)}
  if name not in known:
    raise ConfigError(f"loss.f_divergence: unknown divergence {name!r}; known are {', '.join(DIVERGENCES)}")
  return known[name]


def bounded_expm1(x: jax.Array) -> jax.Array:
  """e^x - 1 with x at most 80, and no gradient beyond: two scores that both overflow would differ by inf - inf.

  80 leaves room for a factor below float32's largest number; the same in float64, where it is the same function.
  """
  return jnp.expm1(jnp.minimum(x, 80.0))
