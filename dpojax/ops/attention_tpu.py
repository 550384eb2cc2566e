"""The attention of `dpojax.ops.attention` as kernels for TPU: one forward, two backward.

The arrays are those of that file: blocks first, scores with keys before queries, the query heads of one
key head side by side with the queries of a block. Statistics of a query are then rows of a register, and
a head of width 64 lies along its short side. A grid step is one visit of `attention_blocks.visits`: pairs
of blocks without a visible pair of tokens are neither loaded nor computed, and a block that several
visits share is loaded once. What no visit writes is whatever the memory held, and is masked outside.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dpojax.ops.attention_blocks import Places, block_of_visit, lowest, sees, unpack, visits
from dpojax.ops.matmul import sum_dtype, tile_product

LANES = 128  # of a vector register: blocks are a multiple of it


def forward(queries, keys, values, plan, *, window, precision, interpret=False):
  """(out [n, R, KV, d, N], log-sum-exp [n, R, KV, N]); N = H / KV * block.

  Args:
    queries: [n, R, KV, d, N], scaled.
    keys: [n, R, KV, block, d].
    values: [n, R, KV, d, block].
    plan: what to visit, see `attention_blocks.Plan`.
    interpret: run on any device, slowly.
  """
  width, size = queries.shape[3:]
  dtype = sum_dtype(queries)
  kernel = functools.partial(_forward_kernel, window=window, precision=precision, dtype=dtype)
  out, log_total = _call(
    kernel,
    visits(plan.visible),
    owners=(queries,),
    others=(keys, values),
    places=plan.places,
    keys_own=False,
    results=((width, size), (1, size)),
    scratch=((1, size), (1, size)),
    dtype=dtype,
    interpret=interpret,
  )
  return _filled(out, plan.places, 4), log_total[:, :, :, 0]


def backward(queries, keys, values, g, log_total, along, plan, *, window, precision, interpret=False):
  """(dq [n, R, KV, d, N], dk, dv [n, R, KV, block, d]).

  Args:
    queries, g: [n, R, KV, N, d]; queries scaled, g the cotangent of the output.
    keys, values: [n, R, KV, block, d].
    log_total, along: [n, R, KV, N], the log-sum-exp of a query's scores and the sum of output times cotangent.
    plan, interpret: as in `forward`.
  """
  size, width = queries.shape[3:]
  block = keys.shape[3]
  dtype = sum_dtype(queries)
  queries, g, key_columns = (x.swapaxes(3, 4) for x in (queries, g, keys))
  of_query = queries, g, log_total[:, :, :, None], along[:, :, :, None]
  settings = dict(window=window, precision=precision, dtype=dtype)
  call = functools.partial(_call, places=plan.places, dtype=dtype, interpret=interpret)
  (dq,) = call(
    functools.partial(_query_kernel, **settings),
    visits(plan.visible),
    owners=of_query,
    others=(keys, values, key_columns),
    keys_own=False,
    results=((width, size),),
  )
  dk, dv = call(
    functools.partial(_key_kernel, **settings),
    visits(plan.visible.swapaxes(1, 2)),
    owners=(keys, values),
    others=of_query,
    keys_own=True,
    results=((block, width), (block, width)),
  )
  return _filled(dq, plan.places, 4), _filled(dk, plan.places, 3), _filled(dv, plan.places, 3)


def _call(kernel, listed, *, owners, others, places, keys_own, results, dtype, interpret, scratch=()):
  """One kernel over a list of visits: a step gets a block of `owners`, which results are of, and one of `others`."""
  total, codes = listed
  number, rows, groups = owners[0].shape[:3]
  segment, answer, position = places
  index = jnp.broadcast_to(np.arange(segment.shape[1], dtype=np.int32), segment.shape)
  by_query = jnp.stack([x.reshape(rows, number, -1) for x in (segment, answer, position, index)], 2)
  by_key = by_query.swapaxes(2, 3)

  def spec(shape, place):
    return pl.BlockSpec((None, None, None, *shape), place)

  def owner(group, step, codes):
    row, block, _ = unpack(codes[step])
    return block, row, group, 0, 0

  def other(group, step, codes):
    row, _, block = unpack(codes[step])
    return block, row, group, 0, 0

  def place_of(array, place):
    def of(group, step, codes):
      block, row, *_ = place(group, step, codes)
      return row, block, 0, 0

    return pl.BlockSpec((None, None, *array.shape[2:]), of)

  of_query, of_key = (other, owner) if keys_own else (owner, other)
  return pl.pallas_call(
    kernel,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(groups, total),
      in_specs=[
        place_of(by_query, of_query),
        place_of(by_key, of_key),
        *(spec(x.shape[3:], owner) for x in owners),
        *(spec(x.shape[3:], other) for x in others),
      ],
      out_specs=[spec(shape, owner) for shape in results],
      scratch_shapes=[pltpu.VMEM(shape, dtype) for shape in scratch],
    ),
    out_shape=[jax.ShapeDtypeStruct((number, rows, groups, *shape), dtype) for shape in results],
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    interpret=interpret,
  )(codes, by_query, by_key, *owners, *others)


def _forward_kernel(
  codes, by_query, by_key, query, key, value, out, log_total, top, total, *, window, precision, dtype
):
  first, last = _ends(codes)

  @pl.when(first)
  def _():
    out[...] = jnp.zeros(out.shape, dtype)
    # Far above the score of a hidden key, far below any other: a query that sees nothing sums to 0.
    top[...] = jnp.full(top.shape, lowest(dtype) / 2)
    total[...] = jnp.zeros(total.shape, dtype)

  product = functools.partial(tile_product, precision=precision, dtype=dtype)
  scores = _hide(product(key[...], query[...]), by_query, by_key, window)
  new_top = jnp.maximum(top[...], jnp.max(scores, 0, keepdims=True))
  weight = jnp.exp(scores - new_top)
  shrink = jnp.exp(top[...] - new_top)
  out[...] = out[...] * shrink + product(value[...], weight)
  total[...] = total[...] * shrink + jnp.sum(weight, 0, keepdims=True)
  top[...] = new_top

  @pl.when(last)
  def _():
    sum_of_weights = jnp.maximum(total[...], jnp.finfo(dtype).tiny)
    out[...] = out[...] / sum_of_weights
    log_total[...] = top[...] + jnp.log(sum_of_weights)


def _query_kernel(codes, by_query, by_key, query, g, log_total, along, key, value, key_columns, dq, **settings):
  first = _ends(codes)[0]

  @pl.when(first)
  def _():
    dq[...] = jnp.zeros(dq.shape, dq.dtype)

  d_scores = _weights(by_query, by_key, query, g, log_total, along, key, value, **settings)[1]
  dq[...] += tile_product(key_columns[...], d_scores, precision=settings["precision"], dtype=dq.dtype)


def _key_kernel(codes, by_query, by_key, key, value, query, g, log_total, along, dk, dv, **settings):
  first = _ends(codes)[0]

  @pl.when(first)
  def _():
    dk[...] = jnp.zeros(dk.shape, dk.dtype)
    dv[...] = jnp.zeros(dv.shape, dv.dtype)

  weight, d_scores = _weights(by_query, by_key, query, g, log_total, along, key, value, **settings)
  product = functools.partial(tile_product, over=(1, 1), precision=settings["precision"], dtype=dk.dtype)
  dk[...] += product(d_scores, query[...])
  dv[...] += product(weight, g[...])


def _weights(by_query, by_key, query, g, log_total, along, key, value, *, window, precision, dtype):
  """The softmax weights of a pair of blocks, formed again, and the derivative by its scores: [block, N]."""
  product = functools.partial(tile_product, precision=precision, dtype=dtype)
  scores = product(key[...], query[...]) - log_total[...]
  weight = jnp.exp(_hide(scores, by_query, by_key, window))
  return weight, weight * (product(value[...], g[...]) - along[...])


def _ends(codes):
  """Whether this visit is the first, and the last, of its block."""
  step = pl.program_id(1)
  here = block_of_visit(codes[step])
  before = block_of_visit(codes[jnp.maximum(step - 1, 0)])
  return (step == 0) | (before != here), block_of_visit(codes[step + 1]) != here


def _hide(scores, by_query, by_key, window):
  """The scores [block, N], those of keys that are not seen replaced by the lowest number."""
  query = Places(*(by_query[n : n + 1, :] for n in range(4)))
  key = Places(*(by_key[:, n : n + 1] for n in range(4)))
  seen = sees(query, key, window)
  block = seen.shape[1]
  heads = (scores[:, at : at + block] for at in range(0, scores.shape[1], block))
  return jnp.concatenate([jnp.where(seen, x, lowest(scores.dtype)) for x in heads], 1)


def _filled(x, places, axis):
  """x [n, R, KV, ., .], 0 where the tokens along `axis` are empty."""
  number, rows = x.shape[:2]
  filled = (places[0] >= 0).reshape(rows, number, -1).swapaxes(0, 1)
  filled = jnp.tile(filled, (1, 1, x.shape[axis] // filled.shape[2]))
  return jnp.where(jnp.expand_dims(filled, (2, 7 - axis)), x, 0)
