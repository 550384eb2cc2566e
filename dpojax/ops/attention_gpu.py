"""The attention of `dpojax.ops.attention` as Triton kernels for NVIDIA GPUs: one forward, two backward.

The arrays are those of that file, as `attention_tpu` describes them. A program owns a tile of queries of one head (of the second backward kernel: a tile of
keys) and goes through the blocks that hold something for it, tile by tile, with its sums in registers: nothing of the
scores' size is ever stored, and blocks without a visible pair are not read. Softmax is carried from tile to tile, and the
backward pass forms the probabilities again from each query's log-sum-exp (Dao et al. 2022, arXiv:2205.14135, Algorithms
1 and 4).
"""

import contextlib
import functools
import re
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from dpojax.ops.attention_blocks import Places, lowest, sees
from dpojax.ops.matmul import sum_dtype, tile_product

TILE = 64  # tokens at most: tiles of scores and sums of 64 x 64 fit the registers of four warps
TILE_BYTES = 64 * 256  # of a tile's operand: what is kept of a few of them fits the 99 KB that small GPUs share
LARGEST_WIDTH = 256
OLDEST, NEWEST = (8, 0), (9, 0)  # compute capabilities: of Ampere, the first that Triton takes, and of Hopper

_switched_off = False


def takes(width: int, block: int) -> bool:
  """Whether the kernels can be compiled: Triton's arrays have powers of 2 as sizes, its products at least 16."""
  fits = 16 <= width <= LARGEST_WIDTH and width & (width - 1) == 0 and block % TILE == 0
  return fits and not _switched_off and not said_reason_without()


def reason_without() -> str:
  """Why a GPU of this process goes without kernels, in a sentence; "" where all can have them."""
  for device in jax.local_devices():
    told = str(getattr(device, "compute_capability", None))
    if device.platform != "gpu" or told.startswith("gfx"):  # AMD's never meet these kernels
      continue
    named = re.fullmatch(r"(\d+)\.(\d+)", told)
    capability = (int(named[1]), int(named[2])) if named else None
    if capability is None:
      why = "not one that we can read"
    elif capability < OLDEST:
      why = "older than Ampere (8.0), where Triton begins, and has no products of bfloat16"
    elif capability > NEWEST:
      why = "newer than what the kernels were compiled and tried for (8.0 to 9.0)"
    else:
      continue
    kind = getattr(device, "device_kind", "GPU")
    return f"{kind} (compute capability {told}) is {why}: attention takes XLA's block form, slower and as exact"
  return ""


_said: list[str] = []
_saying = threading.Lock()


def said_reason_without() -> str:
  """`reason_without` of this process, said in a warning the first time."""
  with _saying:
    if not _said:
      _said.append(reason_without())
      if _said[0]:
        warnings.warn(_said[0], stacklevel=2)
    return _said[0]


@contextlib.contextmanager
def without_kernels():
  """What is traced inside takes the block form on every GPU: for comparing the two."""
  global _switched_off
  before, _switched_off = _switched_off, True
  try:
    yield
  finally:
    _switched_off = before


def tile_of(width: int, block: int, precision: str) -> int:
  """Tokens of a tile."""
  size = 2 if precision == "bfloat16" else 4
  return min(TILE, max(16, TILE_BYTES // (width * size)), block)


def forward(queries, keys, values, plan, *, window, precision, interpret=False):
  """(out [n, R, KV, d, N], log-sum-exp [n, R, KV, N]) of the arrays that `attention_tpu.forward` takes."""
  out, log_total = _call(
    _forward_kernel,
    plan.by_query,
    owned=(queries.swapaxes(3, 4),),
    whole=(keys, values.swapaxes(3, 4)),
    places=plan.places,
    results=(queries.shape[3:4], ()),
    settings=dict(window=window, precision=precision, dtype=sum_dtype(queries)),
    interpret=interpret,
  )
  return out.swapaxes(3, 4), log_total


def backward(queries, keys, values, g, log_total, along, plan, *, window, precision, interpret=False):
  """(dq [n, R, KV, d, N], dk, dv [n, R, KV, block, d]) of the arrays that `attention_tpu.backward` takes."""
  width = queries.shape[4]
  settings = dict(window=window, precision=precision, dtype=sum_dtype(queries))
  call = functools.partial(_call, places=plan.places, settings=settings, interpret=interpret)
  of_query, of_key = (queries, g, log_total, along), (keys, values)
  (dq,) = call(_query_kernel, plan.by_query, owned=of_query, whole=of_key, results=((width,),))
  dk, dv = call(_key_kernel, plan.by_key, owned=of_key, whole=of_query, results=((width,), (width,)))
  return dq.swapaxes(3, 4), dk, dv


def _call(kernel, lists, *, owned, whole, places, results, settings, interpret):
  """One kernel: a program gets a tile of each array of `owned`, and the whole of its row and key head of `whole`.

  Args:
    lists: counts i32[R, n] and lists i32[R, n, n] of the blocks of `whole` that each block of `owned` must go through.
    owned, whole: [n, R, KV, N, ...]; N may differ between the two.
    results: shapes of a token's results.
  """
  number, rows, groups, size = owned[0].shape[:4]
  block = places[0].shape[1] // number
  tile = tile_of(whole[0].shape[4], block, settings["precision"])
  in_block, in_row = block // tile, size // tile
  index = jnp.broadcast_to(np.arange(number * block, dtype=np.int32), places[0].shape)
  facts = jnp.stack([*places, index], 1)  # i32[R, 4, L]

  def tile_spec(x):
    rest = x.shape[4:]
    of = lambda t, group, row: (t // in_row, row, group, t % in_row, *(0,) * len(rest))  # noqa: E731
    return pl.BlockSpec((None, None, None, tile, *rest), of)

  def whole_spec(x):
    rest = x.shape[3:]
    return pl.BlockSpec((number, None, None, *rest), lambda t, group, row: (0, row, group, *(0,) * len(rest)))

  shapes = [jax.ShapeDtypeStruct((number, rows, groups, size, *rest), settings["dtype"]) for rest in results]
  return pl.pallas_call(
    functools.partial(kernel, block=block, tile=tile, steps=whole[0].shape[3] // tile, **settings),
    grid=(number * in_row, groups, rows),
    in_specs=[
      pl.BlockSpec((None, 1), lambda t, group, row: (row, t // in_row)),
      pl.BlockSpec((None, None, number), lambda t, group, row: (row, t // in_row, 0)),
      pl.BlockSpec((None, 4, tile), lambda t, group, row: (row, 0, t // in_row * in_block + t % in_row % in_block)),
      pl.BlockSpec((None, 4, number * block), lambda t, group, row: (row, 0, 0)),
      *map(tile_spec, owned),
      *map(whole_spec, whole),
    ],
    out_specs=[tile_spec(shape) for shape in shapes],
    out_shape=shapes,
    compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=2),
    interpret=interpret,
  )(*lists, facts, facts, *owned, *whole)


def _go_through(count, listed, facts, *, block, tile, steps, visit, start):
  """`visit(carry, other block, its tile, places of that tile)` for every tile of the listed blocks.

  Args:
    steps: tiles of a listed block: those of all query heads, where it is one of queries.
  """

  def step(n, carry):
    other = listed[lax.div(n, np.int32(steps))]
    at = lax.rem(n, np.int32(steps)) * np.int32(tile)
    token = other * np.int32(block) + lax.rem(at, np.int32(block))
    fact = Places(*(facts[row, pl.ds(token, tile)] for row in range(4)))
    return visit(carry, other, pl.ds(at, tile), fact)

  return lax.fori_loop(np.int32(0), count[0] * np.int32(steps), step, start)


def _forward_kernel(
  count, listed, facts, all_facts, query, key, value, out, log_total, *, window, precision, dtype, **tiles
):
  product = functools.partial(tile_product, precision=precision, dtype=dtype)
  query, of_query = query[...], _facts_of(facts)

  def visit(carry, other, at, of_key):
    summed, top, total = carry
    scores = _hide(product(query, key[other, at, :], (1, 1)), of_query, of_key, window)
    new_top = jnp.maximum(top, jnp.max(scores, 1))
    weight = jnp.exp(scores - new_top[:, None])
    shrink = jnp.exp(top - new_top)
    summed = summed * shrink[:, None] + product(weight, value[other, at, :], (1, 0))
    return summed, new_top, total * shrink + jnp.sum(weight, 1)

  tokens, width = query.shape
  # Far above the score of a hidden key, far below any other: a query that sees nothing sums to 0.
  top = jnp.full((tokens,), lowest(dtype) / 2, dtype)
  start = jnp.zeros((tokens, width), dtype), top, jnp.zeros((tokens,), dtype)
  summed, top, total = _go_through(count, listed, all_facts, visit=visit, start=start, **tiles)
  total = jnp.maximum(total, np.asarray(jnp.finfo(dtype).tiny, dtype))
  out[...] = summed / total[:, None]
  log_total[...] = top + jnp.log(total)


def _query_kernel(
  count, listed, facts, all_facts, query, g, log_total, along, key, value, dq, *, window, precision, dtype, **tiles
):
  product = functools.partial(tile_product, precision=precision, dtype=dtype)
  owned = query[...], g[...], log_total[...], along[...]
  of_query = _facts_of(facts)

  def visit(dq, other, at, of_key):
    keys = key[other, at, :]
    hide = functools.partial(_hide, query=of_query, key=of_key, window=window)
    _, d_scores = _weights(*owned, keys, value[other, at, :], hide, product)
    return dq + product(d_scores, keys, (1, 0))

  start = jnp.zeros(owned[0].shape, dtype)
  dq[...] = _go_through(count, listed, all_facts, visit=visit, start=start, **tiles)


def _key_kernel(
  count, listed, facts, all_facts, key, value, query, g, log_total, along, dk, dv, *, window, precision, dtype, **tiles
):
  product = functools.partial(tile_product, precision=precision, dtype=dtype)
  keys, values, of_key = key[...], value[...], _facts_of(facts)

  def visit(carry, other, at, of_query):
    dk, dv = carry
    queries, gs = query[other, at, :], g[other, at, :]
    hide = functools.partial(_hide, query=of_query, key=of_key, window=window)
    given = queries, gs, log_total[other, at], along[other, at]
    weight, d_scores = _weights(*given, keys, values, hide, product)
    return dk + product(d_scores, queries, (0, 0)), dv + product(weight, gs, (0, 0))

  start = jnp.zeros(keys.shape, dtype), jnp.zeros(keys.shape, dtype)
  dk[...], dv[...] = _go_through(count, listed, all_facts, visit=visit, start=start, **tiles)


def _weights(query, g, log_total, along, key, value, hide, product):
  """The softmax weights of a tile, formed again, and the derivative by its scores: [queries, keys]."""
  weight = jnp.exp(hide(product(query, key, (1, 1)) - log_total[:, None]))
  return weight, weight * (product(g, value, (1, 1)) - along[:, None])


def _facts_of(facts) -> Places:
  return Places(*(facts[row, :] for row in range(4)))


def _hide(scores, query: Places, key: Places, window):
  """The scores [queries, keys], those of keys that are not seen replaced by the lowest number."""
  seen = sees(Places(*(x[:, None] for x in query)), Places(*(x[None, :] for x in key)), window)
  return jnp.where(seen, scores, lowest(scores.dtype))
