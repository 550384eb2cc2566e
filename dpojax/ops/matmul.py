"""Matrix products whose operands may be narrower than their sums."""

import jax
import jax.numpy as jnp
from jax import lax

PRECISIONS = ("float32", "bfloat16")


def contract(a: jax.Array, b: jax.Array, dimensions: lax.DotDimensionNumbers, *, precision: str) -> jax.Array:
  """`lax.dot_general` with the project's two precisions.

  "float32" keeps the operands as they are (float64 stays float64) and asks for full precision where a
  device would round operands by default. "bfloat16" rounds the operands and sums in float32.
  """
  if precision == "float32":
    return lax.dot_general(a, b, dimensions, precision=lax.Precision.HIGHEST)
  if precision == "bfloat16":
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
  raise ValueError(f"precision {precision!r} is none of {PRECISIONS}")


def dense(x: jax.Array, w: jax.Array, *, precision: str) -> jax.Array:
  """x[..., D] @ w[D, F] -> [..., F] in float32 (float64 for float64 operands)."""
  return contract(x, w, (((x.ndim - 1,), (0,)), ((), ())), precision=precision)
