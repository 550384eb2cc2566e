"""Attention over packed rows in which the answers of an example share their prompt."""

import jax
import jax.numpy as jnp

from dpojax.ops.matmul import contract


def packed_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  segment: jax.Array,
  answer: jax.Array,
  position: jax.Array,
  precision: str,
  window: int | None = None,
  lookback: int | None = None,
) -> jax.Array:
  """Softmax attention under the mask of `dpojax.types.PackedBatch`.

  Token i sees token j when both are of one segment, j <= i in the row, and j is a prompt token or of
  i's own answer. Scores are scaled by 1 / sqrt(d). Tokens with segment -1 get 0.

  Args:
    q: [R, L, H, d].
    k, v: [R, L, KV, d]; query head h reads key head h // (H / KV).
    segment, answer, position: i32[R, L].
    precision: of the operands of the products, see `dpojax.ops.matmul.contract`.
    window: keys at a distance of `window` or more, measured in `position`, are not seen.
    lookback: an upper bound on the row tokens of one segment: keys farther back than that in the row
      are of other segments and need not be read.

  Returns:
    [R, L, H, d] in float32 (float64 for float64 operands).
  """
  rows, length, heads, width = q.shape
  groups = k.shape[2]
  q = q.reshape(rows, length, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)
  k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
  q = q.reshape(rows, groups, heads // groups * length, width)
  scores = contract(q, k, (((3,), (3,)), ((0, 1), (0, 1))), precision=precision) * width**-0.5
  scores = scores.reshape(rows, groups, heads // groups, length, length)
  mask = visible(segment, answer, position, window)[:, None, None]
  scores = jnp.where(mask, scores, -jnp.inf)
  top = jnp.max(scores, -1, keepdims=True, initial=jnp.finfo(scores.dtype).min)
  weight = jnp.exp(scores - top)
  weight = weight / jnp.maximum(jnp.sum(weight, -1, keepdims=True), jnp.finfo(scores.dtype).tiny)
  weight = weight.reshape(rows, groups, heads // groups * length, length)
  out = contract(weight, v, (((3,), (2,)), ((0, 1), (0, 1))), precision=precision)
  out = out.reshape(rows, heads, length, width)
  return out.transpose(0, 2, 1, 3)


def visible(segment: jax.Array, answer: jax.Array, position: jax.Array, window: int | None) -> jax.Array:
  """bool[R, L, L]: may token i (axis 1) see token j (axis 2)."""
  index = jnp.arange(segment.shape[1])
  query, key = (lambda x: x[:, :, None]), (lambda x: x[:, None, :])
  mask = (query(segment) == key(segment)) & (key(segment) >= 0) & (index[:, None] >= index[None, :])[None]
  mask &= (key(answer) < 0) | (key(answer) == query(answer))
  if window is not None:
    mask &= query(position) - key(position) < window
  return mask
