"""Rotary position embedding and the rules that stretch it to longer contexts."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from dpojax.types import Array


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How frequencies are stretched beyond the length a model was first trained on.

  Attributes:
    kind: "linear" divides every frequency by `factor` (Chen et al. 2023, arXiv:2306.15595); "llama3"
      divides only those of long wavelength, with a smooth passage between (Grattafiori et al. 2024,
      arXiv:2407.21783, and Meta's released code).
    factor: >= 1.
    low_freq_factor, high_freq_factor: "llama3" only. Wavelengths above original_max_positions /
      low_freq_factor are stretched fully, those below original_max_positions / high_freq_factor not at all.
    original_max_positions: "llama3" only, context length before stretching.
  """

  kind: str
  factor: float
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_max_positions: int = 8192


def rotary_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
  """f64[head_dim / 2] radians a position: theta^(-2i / head_dim), stretched by `scaling`.

  Su et al. 2021, arXiv:2104.09864, Sec. 3.2.2.
  """
  frequencies = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
  if scaling is None:
    return frequencies
  if scaling.kind == "linear":
    return frequencies / scaling.factor
  if scaling.kind == "llama3":
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)  # within the original context
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)
  raise ValueError(f"unknown rope scaling {scaling.kind!r}; known: linear, llama3")


def rotary_angles(
  position: Int[Array, "*tokens"], frequencies: Float[np.ndarray, " half"], dtype
) -> tuple[Float[jax.Array, "*tokens half"], Float[jax.Array, "*tokens half"]]:
  """Cosine and sine, each dtype[..., L, head_dim / 2], of i32[..., L] positions."""
  angles = position.astype(dtype)[..., None] * jnp.asarray(frequencies, dtype)[(None,) * position.ndim]
  return jnp.cos(angles), jnp.sin(angles)


def apply_rotary(
  x: Float[Array, "*tokens H d"], cosine: Float[Array, "*tokens half"], sine: Float[Array, "*tokens half"]
) -> Float[jax.Array, "*tokens H d"]:
  """Turns the pairs (x_i, x_{i + d/2}) of every head by the angle of their position.

  Args:
    x: [..., L, H, d], d even; the halves convention of transformers (not llama.cpp's neighbours).
    cosine, sine: [..., L, d / 2] from `rotary_angles`, of x's dtype.

  Returns:
    As x.
  """
  first, second = jnp.split(x, 2, axis=-1)
  cosine, sine = cosine[..., None, :], sine[..., None, :]
  return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
