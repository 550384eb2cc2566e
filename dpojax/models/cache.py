"""The key-value cache of a decoder that writes one token after another."""

import dataclasses

import jax
import jax.numpy as jnp

from dpojax.ops.matmul import contract


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values of the slots written so far; a slot is a column of tokens, one a row of the batch.

  Rows of unequal length share slots: what is padding in a row is a slot that is not `valid` there, on
  the left, on the right, or after a row has ended. Distances are measured in `position`.

  Attributes:
    keys, values: [layers, B, KV, T, d], rotary already applied to keys.
    position: i32[B, T] position of the token in each slot.
    valid: bool[B, T], slots that hold a token.
    used: i32[], slots written; the caller makes T large enough, nothing checks it on the device.
  """

  keys: jax.Array
  values: jax.Array
  position: jax.Array
  valid: jax.Array
  used: jax.Array


def add_slots(cache: Cache, position: jax.Array, valid: jax.Array) -> Cache:
  """Takes i32[B, n] positions and bool[B, n] into the next n slots (keys and values follow layer by layer)."""
  at = (0, cache.used)
  return dataclasses.replace(
    cache,
    position=jax.lax.dynamic_update_slice(cache.position, position.astype(jnp.int32), at),
    valid=jax.lax.dynamic_update_slice(cache.valid, valid, at),
    used=cache.used + position.shape[1],
  )


def visible_slots(cache: Cache, position: jax.Array, window: int | None) -> jax.Array:
  """bool[B, n, T]: what each of the n newest tokens, already added, may see."""
  count = position.shape[1]
  slot = jnp.arange(cache.valid.shape[1])
  own = cache.used - count + jnp.arange(count)
  mask = cache.valid[:, None, :] & (slot[None, :] <= own[:, None])[None]
  if window is not None:
    mask &= position[:, :, None] - cache.position[:, None, :] < window
  return mask


def write_layer(stored: jax.Array, new: jax.Array, layer: jax.Array, used: jax.Array) -> jax.Array:
  """Puts [B, n, KV, d] of layer number `layer` into the n slots that end at `used` of [layers, B, KV, T, d]."""
  slots = new.transpose(0, 2, 1, 3)[None].astype(stored.dtype)
  return jax.lax.dynamic_update_slice(stored, slots, (layer, 0, 0, used - new.shape[1], 0))


def cached_attention(q: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, *, precision: str) -> jax.Array:
  """Attention of new tokens to the cache.

  Args:
    q: [B, n, H, d].
    keys, values: [B, KV, T, d]; query head h reads head h // (H / KV).
    mask: bool[B, n, T].
    precision: of the operands, see `dpojax.ops.matmul.contract`.

  Returns:
    [B, n, H, d]; 0 for a token that sees nothing.
  """
  batch, count, heads, width = q.shape
  groups, length = keys.shape[1:3]
  share = heads // groups
  q = q.reshape(batch, count, groups, share, width).transpose(0, 2, 3, 1, 4).reshape(batch, groups, -1, width)
  scores = contract(q, keys.astype(q.dtype), (((3,), (3,)), ((0, 1), (0, 1))), precision=precision) * width**-0.5
  scores = scores.reshape(batch, groups, share, count, length)
  mask = mask[:, None, None]
  weight = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min), axis=-1)
  weight = jnp.where(mask, weight, 0.0).reshape(batch, groups, -1, length)
  out = contract(weight, values.astype(q.dtype), (((3,), (2,)), ((0, 1), (0, 1))), precision=precision)
  out = out.reshape(batch, groups, share, count, width)
  return out.transpose(0, 3, 1, 2, 4).reshape(batch, count, heads, width)
