"""Attention over packed rows in which the answers of an example share their prompt.

Rows are cut into blocks of `BLOCK` tokens, and only pairs of a query block and a key block that hold a
visible pair of tokens are visited, not those of other examples and not those of sibling answers only:
with examples of about 190 tokens in a row of 1,024 that is three tenths of all scores. Softmax is carried from key block to key block (Rabe and Staats 2021, arXiv:2112.05682;
Dao et al. 2022, arXiv:2205.14135, Algorithm 1), and the backward pass forms the probabilities again
from the log-sum-exp of each query, so no array of the scores' size outlives a pair of blocks.

Scores are kept transposed, keys before queries. Every product of both passes is then a plain
(rows of a) . (columns of b), the form that is fast on CPU, and no array of the scores' size is
transposed. The query heads that share a key head lie side by side with the queries of a block. On TPU
and NVIDIA GPUs the same blocks go through the kernels of `attention_tpu` and `attention_gpu`, row by row; elsewhere a
block is visited for all rows when one of them needs it.

What the backward pass needs besides q, k and v carries the name "attention", for remat policies.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float, Int

from dpojax.ops import attention_gpu, attention_tpu
from dpojax.ops.attention_blocks import Places, Plan, key_lists, lowest, make_plan, sees
from dpojax.ops.attention_sharding import on_every_device
from dpojax.ops.matmul import contract, kept_residual, operand, sum_dtype
from dpojax.types import Array

BLOCK = 128


def packed_attention(
  q: Float[Array, "R L H d"],
  k: Float[Array, "R L KV d"],
  v: Float[Array, "R L KV d"],
  *,
  segment: Int[Array, "R L"],
  answer: Int[Array, "R L"],
  position: Int[Array, "R L"],
  precision: str,
  window: int | None = None,
  plan: Plan | None = None,
) -> Float[jax.Array, "R L H d"]:
  """Softmax attention under the mask of `dpojax.types.PackedBatch`.

  Token i sees token j when both are of one segment, j <= i in the row, and j is a prompt token or of
  i's own answer. Scores are scaled by 1 / sqrt(d). Tokens with segment -1 get 0. Time is proportional
  to the pairs of blocks with a visible pair (off TPU: in any row), so rows that keep each segment together
  are fast; any arrangement is correct.

  Args:
    q: [R, L, H, d].
    k, v: [R, L, KV, d]; query head h reads key head h // (H / KV).
    segment, answer, position: i32[R, L].
    precision: of the operands of the products, see `dpojax.ops.matmul.contract`.
    window: keys at a distance of `window` or more, measured in `position`, are not seen.
    plan: what `attention_plan` makes of these places and this window, so that layers need not each make it.

  Returns:
    [R, L, H, d] in float32 (float64 for float64 operands); in "bfloat16" the values are rounded to it.
  """
  length = q.shape[1]
  plan = attention_plan(segment, answer, position, window) if plan is None else plan
  block = min(BLOCK, length)
  q, k, v = (_fill(x, block, 0) for x in (q, k, v))
  attended: jax.Array = _attention(q, k, v, plan, block, window, precision)  # pyright: ignore[reportAssignmentType]
  return attended[:, :length]


def attention_plan(
  segment: Int[Array, "R L"], answer: Int[Array, "R L"], position: Int[Array, "R L"], window: int | None
) -> Plan:
  """What `packed_attention` must visit in rows i32[R, L] with these places."""
  block = min(BLOCK, segment.shape[1])
  filled = (_fill(jnp.asarray(x, jnp.int32), block, empty) for x, empty in ((segment, -1), (answer, -1), (position, 0)))
  return make_plan(*filled, block=block, window=window)


def _fill(x, block, value):
  tail = -x.shape[1] % block
  return jnp.pad(x, [(0, 0), (0, tail)] + [(0, 0)] * (x.ndim - 2), constant_values=value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _attention(q, k, v, plan, block, window, precision):
  return _forward(q, k, v, plan, block, window, precision)[0]


def _forward(q, k, v, plan, block, window, precision):
  heads, width = q.shape[2:]
  groups = k.shape[2]
  queries = operand(_columns(q * width**-0.5, groups, block), precision)
  keys = operand(_rows(k, groups, block), precision)
  values = operand(_columns(v, groups, block), precision)
  attend = _dispatch(_forward_blocks, attention_tpu.forward, attention_gpu.forward, width, block, window, precision)
  out, log_total = attend(queries, keys, values, plan)
  out = kept_residual(_from_rows(out.swapaxes(3, 4), heads), "attention", precision)
  return out, (q, k, v, plan, out, checkpoint_name(log_total, "attention"))


def _dispatch(blocks, on_tpu, on_gpu, width, block, window, precision):
  """A function of the arrays: the kernels where the device has them and sizes allow, `blocks` elsewhere."""
  take = dict(window=window, precision=precision)
  kernels = {}
  if block % attention_tpu.LANES == 0:
    kernels["tpu"] = on_every_device(functools.partial(on_tpu, **take))
  if attention_gpu.takes(width, block):
    kernels["cuda"] = on_every_device(functools.partial(on_gpu, **take))
  blocks = functools.partial(blocks, **take)
  return functools.partial(lax.platform_dependent, **kernels, default=blocks) if kernels else blocks


def _forward_blocks(queries, keys, values, plan, *, window, precision):
  """(out [n, R, KV, d, N], log-sum-exp [n, R, KV, N]) of blocks; N = H / KV * block, the queries of a block."""
  number, rows, groups, width, size = queries.shape
  count, key_list = key_lists(plan.visible)
  mask = _mask(plan.places, size // keys.shape[3], keys.shape[3], window)
  product = functools.partial(contract, dimensions=_INNER, precision=precision)
  dtype = sum_dtype(queries)

  def of_query_block(i):
    query = _at(queries, i)

    def add_key_block(n, carry):
      out, top, total = carry
      j = key_list[i, n]
      scores = jnp.where(mask(i, j), product(_at(keys, j), query), lowest(dtype))
      new_top = jnp.maximum(top, jnp.max(scores, 2))
      weight = jnp.exp(scores - new_top[:, :, None])
      shrink = jnp.exp(top - new_top)
      out = out * shrink[:, :, None] + product(_at(values, j), weight)
      return out, new_top, total * shrink + jnp.sum(weight, 2)

    # Far above the score of a hidden key, far below any other: a query that sees nothing sums to 0.
    top = jnp.full((rows, groups, size), lowest(dtype) / 2)
    start = jnp.zeros((rows, groups, width, size), dtype), top, jnp.zeros((rows, groups, size), dtype)
    out, top, total = lax.fori_loop(0, count[i], add_key_block, start)
    total = jnp.maximum(total, jnp.finfo(dtype).tiny)
    return out / total[:, :, None], top + jnp.log(total)

  return lax.map(of_query_block, jnp.arange(number, dtype=jnp.int32))


def _backward(block, window, precision, residuals, g):
  q, k, v, plan, out, log_total = residuals
  heads, width = q.shape[2:]
  groups = k.shape[2]
  queries = operand(_rows(q * width**-0.5, groups, block), precision)
  keys, values, g_rows = (operand(_rows(x, groups, block), precision) for x in (k, v, g))
  # sum_j p_ij (dL/dp_ij), the term that softmax's derivative takes from every score of query i
  along = _rows(jnp.sum(out * g, -1, keepdims=True), groups, block)[..., 0]
  pull = _dispatch(_backward_blocks, attention_tpu.backward, attention_gpu.backward, width, block, window, precision)
  dq, dk, dv = pull(queries, keys, values, g_rows, log_total, along, plan)
  dq = _from_rows(dq.swapaxes(3, 4), heads) * width**-0.5
  dk, dv = _from_rows(dk, groups), _from_rows(dv, groups)
  no_gradient = jax.tree.map(lambda x: np.zeros(x.shape, jax.dtypes.float0), plan)
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), no_gradient


def _backward_blocks(queries, keys, values, g, log_total, along, plan, *, window, precision):
  """(dq [n, R, KV, d, N], dk, dv [n, R, KV, block, d]) of blocks; all arrays are rows of width d, but for dq."""
  query_columns, key_columns, g_columns = (x.swapaxes(3, 4) for x in (queries, keys, g))
  count, key_list = key_lists(plan.visible)
  mask = _mask(plan.places, queries.shape[3] // keys.shape[3], keys.shape[3], window)
  product = functools.partial(contract, dimensions=_INNER, precision=precision)
  dtype = sum_dtype(queries)

  def of_query_block(carry, i):
    query, query_rows_i, g_i, g_rows_i = (_at(x, i) for x in (query_columns, queries, g_columns, g))
    log_total_i, along_i = _at(log_total, i)[:, :, None], _at(along, i)[:, :, None]

    def add_key_block(n, carry):
      dq, dk, dv = carry
      j = key_list[i, n]
      scores = product(_at(keys, j), query)
      weight = jnp.exp(jnp.where(mask(i, j), scores - log_total_i, lowest(dtype)))
      d_scores = operand(weight * (product(_at(values, j), g_i) - along_i), precision)
      dq += product(_at(key_columns, j), d_scores)
      dk = _add_at(dk, j, product(d_scores, query_rows_i))
      dv = _add_at(dv, j, product(operand(weight, precision), g_rows_i))
      return dq, dk, dv

    dq, dk, dv = lax.fori_loop(0, count[i], add_key_block, (jnp.zeros(query.shape, dtype), *carry))
    return (dk, dv), dq

  zeros = jnp.zeros(keys.shape, dtype)
  (dk, dv), dq = lax.scan(of_query_block, (zeros, zeros), jnp.arange(keys.shape[0], dtype=jnp.int32))
  return dq, dk, dv


_attention.defvjp(_forward, _backward)

_INNER = (((3,), (2,)), ((0, 1), (0, 1)))  # [R, KV, m, n] . [R, KV, n, p]


def _mask(places, repeat, block, window):
  """`mask(i, j)` of a pair of blocks: bool[R, 1, block, repeat * block], keys before queries."""
  segment, answer, position = (_rows(x[:, :, None, None], 1, block)[:, :, 0, :, 0] for x in places)
  index = np.arange(segment.shape[0] * block, dtype=np.int32).reshape(-1, 1, block)
  of_key = Places(segment, answer, position, jnp.asarray(index))
  of_query = Places(*(jnp.tile(x, (1, 1, repeat)) for x in of_key))

  def mask(i, j):
    query = Places(*(_at(x, i)[:, None] for x in of_query))
    key = Places(*(_at(x, j)[:, :, None] for x in of_key))
    return sees(query, key, window)[:, None]

  return mask


def _rows(x, groups, block):
  """[R, L, H, d] -> [blocks, R, groups, (H / groups) * block, d]."""
  rows, length, heads, width = x.shape
  x = x.reshape(rows, length // block, block, groups, heads // groups, width)
  return x.transpose(1, 0, 3, 4, 2, 5).reshape(length // block, rows, groups, -1, width)


def _columns(x, groups, block):
  """[R, L, H, d] -> [blocks, R, groups, d, (H / groups) * block]."""
  return _rows(x, groups, block).swapaxes(3, 4)


def _from_rows(x, heads):
  """[blocks, R, groups, (H / groups) * block, d] -> [R, L, H, d]."""
  blocks, rows, groups, _, width = x.shape
  x = x.reshape(blocks, rows, groups, heads // groups, -1, width)
  return x.transpose(1, 0, 4, 2, 3, 5).reshape(rows, -1, heads, width)


def _at(x, i):
  return lax.dynamic_index_in_dim(x, i, 0, keepdims=False)


def _add_at(x, i, change):
  return lax.dynamic_update_index_in_dim(x, _at(x, i) + change, i, 0)
