"""Who sees whom in packed rows: the rule between tokens, and which pairs of blocks hold a visible pair.

Token i sees token j when both are of one segment, j <= i in the row, and j is a prompt token or of i's
own answer (`dpojax.types.PackedBatch`). A block of queries therefore needs few blocks of keys: none of
other examples, and none that hold only siblings of its answers. Both paths of `dpojax.ops.attention`
read the rule and the lists from here.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Places(NamedTuple):
  """Where tokens are; arrays of one shape, -1 in `segment` where empty. `index` is the place in the row."""

  segment: jax.Array
  answer: jax.Array
  position: jax.Array
  index: jax.Array


def sees(query: Places, key: Places, window: int | None) -> jax.Array:
  """bool, of the broadcast shape: which queries see which keys. Tokens of segment -1 see and are seen by nobody."""
  seen = (key.segment == query.segment) & (key.segment >= 0) & (key.index <= query.index)
  seen &= (key.answer < 0) | (key.answer == query.answer)
  return seen if window is None else seen & (query.position - key.position < window)


class Plan(NamedTuple):
  """What attention must visit; the same for every layer.

  Attributes:
    places: i32[R, L] each of segment, answer and position.
    visible: bool[R, n, n], see `visible_blocks`.
    by_query: (count i32[R, n], list i32[R, n, n]) of the key blocks that each query block must visit, row by row.
    by_key: the same of the query blocks that visit each key block.
  """

  places: tuple[jax.Array, jax.Array, jax.Array]
  visible: jax.Array
  by_query: tuple[jax.Array, jax.Array]
  by_key: tuple[jax.Array, jax.Array]


def make_plan(
  segment: jax.Array, answer: jax.Array, position: jax.Array, *, block: int, window: int | None = None
) -> Plan:
  """The plan for rows whose length is a multiple of `block`; arguments as of `visible_blocks`."""
  visible = visible_blocks(segment, answer, position, block=block, window=window)
  by_query, by_key = (jax.vmap(lambda one: key_lists(one[None]))(x) for x in (visible, visible.swapaxes(1, 2)))
  return Plan((segment, answer, position), visible, by_query, by_key)


def visible_blocks(
  segment: jax.Array, answer: jax.Array, position: jax.Array, *, block: int, window: int | None = None
) -> jax.Array:
  """bool[R, n, n]: whether any query of block i sees any key of block j, for rows of n blocks; exact.

  Time and memory are proportional to n times the row, not to the square of the row: the tokens that one key
  is looked up by form a group (the whole segment for a prompt's key, its answer for an answer's), and
  of every group only the nearest query of each block matters. Earlier blocks are earlier in the row, and
  in its own block a key is seen by itself, so the order of tokens needs no comparison.

  Args:
    segment, answer, position: i32[R, L], L a multiple of `block`; positions are >= 0.
    window: keys at a distance of `window` (>= 1) or more, measured in `position`, are not seen.
  """
  # Row by row under vmap: as indices of one gather, rows over several devices would be brought together.
  of_row = functools.partial(_visible_blocks_of_row, block=block, window=window)
  return jax.vmap(of_row)(segment, answer, position)


def _visible_blocks_of_row(segment, answer, position, block, window):
  length = segment.shape[0]
  number = length // block
  block_of = np.arange(length, dtype=np.int32) // block
  by_segment, by_answer = _groups(segment, answer)
  empty = segment < 0
  nobody = np.int32(np.iinfo(np.int32).max)
  nearest = jnp.full((number, 2 * length), nobody)
  for group in (by_segment, by_answer):
    nearest = nearest.at[block_of, jnp.where(empty, 2 * length, group)].min(position, mode="drop")
  nearest = nearest[:, jnp.where(answer < 0, by_segment, by_answer)]
  seen = (nearest < nobody) & ~empty[None]
  if window is not None:
    seen &= nearest - position[None] < window
  return jnp.any(seen.reshape(number, number, block), 2) & np.tri(number, dtype=bool)


def _groups(segment, answer):
  """(number of every token's segment, in [0, L); of its segment and answer, in [L, 2 L)), i32[L] each."""
  length = segment.shape[0]
  segment, answer, index = jax.lax.sort((segment, answer, jnp.arange(length, dtype=jnp.int32)), num_keys=2)
  new_segment = jnp.diff(segment, prepend=segment[:1]) != 0
  new_answer = new_segment | (jnp.diff(answer, prepend=answer[:1]) != 0)
  numbers = jnp.cumsum(new_segment, dtype=jnp.int32), length + jnp.cumsum(new_answer, dtype=jnp.int32)
  return tuple(jnp.zeros_like(index).at[index].set(n, unique_indices=True) for n in numbers)


def key_lists(visible: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(count i32[n], list i32[n, n]): the key blocks that each query block must visit in any row, in order, first.

  Args:
    visible: bool[R, n, n], see `visible_blocks`.
  """
  needed = jnp.any(visible, 0)
  order = jnp.argsort(~needed, axis=1, stable=True)
  return jnp.sum(needed, 1, dtype=jnp.int32), order.astype(jnp.int32)


# A visit is one number, row << 20 | block << 10 | other block: lists of visits stay in a core's small scalar memory.
_BITS = 10


def visits(visible: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(number i32[], list i32[V + 1]) of the visible pairs of blocks of all rows, by row, by block, by other block.

  V = R n (n + 1) / 2 is the most there can be. The list goes on with a number that is of no row, so the last
  visit of a block is one whose follower is of another. Where nothing is visible, the first pair is visited.

  Args:
    visible: bool[R, n, n]; swap the last two axes for the visits of each key block.
  """
  rows, number = visible.shape[:2]
  if max(rows, 2 * number) > 2 << _BITS:
    raise ValueError(f"{rows} rows of {number} blocks do not fit: at most {2 << _BITS} rows of {1 << _BITS} blocks")
  row, block, other = np.indices(visible.shape, dtype=np.int32)
  none = np.int32(np.iinfo(np.int32).max)
  most = rows * number * (number + 1) // 2
  codes = jnp.where(visible, row << 2 * _BITS | block << _BITS | other, none).reshape(-1)
  # They are in order; sorting only brings them together.
  codes = jnp.pad(jnp.sort(codes)[:most], (0, 1), constant_values=none)
  total = jnp.sum(visible, dtype=jnp.int32)
  return jnp.maximum(total, 1), codes.at[0].set(jnp.where(total == 0, 0, codes[0]))


def unpack(visit: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(row, block, other block) of a visit."""
  low = (1 << _BITS) - 1
  return visit >> 2 * _BITS, visit >> _BITS & low, visit & low


def block_of_visit(visit: jax.Array) -> jax.Array:
  """A number that visits of one block of one row share."""
  return visit >> _BITS


def lowest(dtype: jnp.dtype) -> jax.Array:
  """The score of a key that is not seen."""
  return jnp.asarray(jnp.finfo(dtype).min, dtype)
