"""Choosing the next token: greedy, from the whole distribution, or from its most probable part.

The vocabulary is long and a step short, so: no sort (half a second for 64 rows of 49,152 on a CPU), no pass that the
settings do not ask for, and no array of weights. The tokens that top-k and nucleus leave are always the first ones in
order of falling probability and, among equals, of rising id. Such a set is two numbers a row (`Leading`), found by bisection
over the bits of the logits, and asked again wherever a pass reads the logits anyway.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from dpojax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Leading:
  """The first tokens of each row: those above a threshold, and of those at it the ones up to an id.

  Attributes:
    threshold: i32[B, 1], of the order of `rank`.
    last: i32[B, 1], the largest id of those at the threshold that belong.
  """

  threshold: jax.Array
  last: jax.Array


def choose_tokens(
  keys: Array, logits: Array, *, temperature: Array, top_k: Array, top_p: Array
) -> tuple[jax.Array, jax.Array]:
  """One token a row.

  Args:
    keys: typed random keys [B]; a row's token depends on its own key and logits alone.
    logits: f32[B, V], finite.
    temperature: f32[], traced; logits are divided by it. 0 is greedy: the first largest logit.
    top_k: i32[], traced; the k most probable tokens are left, among equals the first ids; 0: all.
    top_p: f32[] in (0, 1], traced; of these, the smallest set of most probable tokens whose share of their mass is
      at least this: the token that crosses belongs (Holtzman et al. 2019, arXiv:1904.09751, Section 3.1).

  Returns:
    tokens i32[B], and their log-probs f32[B] under all logits, divided by the temperature where it is not 0.
  """
  keys, logits = jnp.asarray(keys), jnp.asarray(logits)
  scaled = logits / jnp.where(temperature > 0, temperature, 1.0).astype(logits.dtype)
  largest = jnp.max(scaled, axis=-1, keepdims=True)
  sums = column_sums(jnp.exp(scaled - largest))
  total = jnp.sum(sums, axis=-1)

  def sampled() -> jax.Array:
    def leading() -> tuple[Leading, jax.Array]:
      kept = leading_tokens(scaled, top_k, top_p)
      return kept, column_sums(jnp.where(is_leading(scaled, kept), jnp.exp(scaled - largest), 0.0))

    kept, weight = lax.cond((top_k > 0) | (top_p < 1), leading, lambda: (everything(scaled), sums))
    return draw(keys, scaled, largest, kept, weight)

  def greedy() -> jax.Array:  # and not argmax, which takes ten times as long on a CPU
    ids = lax.broadcasted_iota(jnp.int32, scaled.shape, 1)
    return jnp.min(jnp.where(scaled == largest, ids, scaled.shape[1]), axis=-1)

  tokens = lax.cond(temperature > 0, sampled, greedy)
  chosen = jnp.take_along_axis(scaled, tokens[:, None], axis=-1)
  return tokens, (chosen - largest)[:, 0] - jnp.log(total)


def leading_tokens(logits: Array, top_k: Array, top_p: Array) -> Leading:
  """What `top_k` and then `top_p` leave of each row; see `choose_tokens`."""
  logits = jnp.asarray(logits, jnp.float32)
  kept = everything(logits)
  kept = lax.cond(top_k > 0, lambda: _first(logits, jnp.ones_like, top_k, kept), lambda: kept)

  def nucleus() -> Leading:
    largest = jnp.max(logits, axis=-1, keepdims=True)

    def mass(x):
      return jnp.where(is_leading(x, kept), jnp.exp(x - largest), 0.0)

    return _first(logits, mass, top_p * jnp.sum(mass(logits), axis=-1, keepdims=True), kept)

  return lax.cond(top_p < 1, nucleus, lambda: kept)


def rank(logits: jax.Array) -> jax.Array:
  """i32 in the order of f32 `logits`: bits of negative numbers fall as the numbers rise."""
  logits = jnp.where(logits == 0, 0, logits.astype(jnp.float32))  # -0 and 0 are equal
  bits = lax.bitcast_convert_type(logits, jnp.int32)
  return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


def everything(logits: jax.Array) -> Leading:
  """All tokens of f32[B, V]."""
  rows = jnp.zeros((logits.shape[0], 1), jnp.int32)
  return Leading(rows + jnp.iinfo(jnp.int32).min, rows)


def is_leading(logits: jax.Array, kept: Leading) -> jax.Array:
  """bool[B, V]: which tokens `kept` holds."""
  order, ids = rank(logits), lax.broadcasted_iota(jnp.int32, logits.shape, 1)
  return (order > kept.threshold) | ((order == kept.threshold) & (ids <= kept.last))


def _first(logits: jax.Array, measure: Callable, enough: Array, within: Leading) -> Leading:
  """The fewest leading tokens whose summed `measure(logits)` f32[B, V], 0 outside `within`, is at least `enough`.

  `enough` is a number or [B, 1]; where rounding leaves less than it, all of `within`.
  """
  order, ids = rank(logits), lax.broadcasted_iota(jnp.int32, logits.shape, 1)
  enough = jnp.broadcast_to(jnp.asarray(enough, jnp.float32), (logits.shape[0], 1))

  def above(bound):
    return jnp.sum(jnp.where(order >= bound, measure(logits), 0.0), axis=-1, keepdims=True)

  least = jnp.maximum(jnp.min(order, axis=-1, keepdims=True), within.threshold)
  most = jnp.max(order, axis=-1, keepdims=True)
  # above(threshold) >= enough > above(threshold + 1)
  threshold = _bisect(lambda bound: above(bound) >= enough, least, most + 1)
  missing = enough - above(threshold + 1)
  at = order == threshold

  def up_to(bound):
    return jnp.sum(jnp.where(at & (ids <= bound), measure(logits), 0.0), axis=-1, keepdims=True)

  last = jnp.where(threshold == within.threshold, within.last, logits.shape[1] - 1)
  # Equal logits are rare, and all of them often belong: then nothing is to be searched.
  one_less = up_to(last) - jnp.max(jnp.where(at, measure(logits), 0.0), axis=-1, keepdims=True)
  return lax.cond(
    jnp.any(one_less >= missing),
    lambda: Leading(threshold, last - _bisect(lambda less: up_to(last - less) >= missing, 0 * last, last + 1)),
    lambda: Leading(threshold, last),
  )


def _bisect(holds: Callable, low: jax.Array, high: jax.Array) -> jax.Array:
  """The largest i32 that `holds` elementwise, where it holds at `low`, not at `high`, and changes once between."""

  def halve(interval):
    low, high = interval
    middle = (low & high) + ((low ^ high) >> 1)  # their mean, which their sum or difference might overflow
    found = holds(middle)
    return jnp.where(found, middle, low), jnp.where(found, high, middle)

  # `high - low` wraps around where the interval is longer than an i32 can say, and is still not 0 or 1.
  def open_still(interval):
    return jnp.any((interval[1] - interval[0] != 1) & (interval[1] != interval[0]))

  return lax.while_loop(open_still, halve, (low, high))[0]


def draw(keys: jax.Array, scaled: jax.Array, largest: jax.Array, kept: Leading, sums: jax.Array) -> jax.Array:
  """i32[B]: a token of `kept` in proportion to exp(scaled); `sums` are those of `column_sums`.

  First a column by its summed weight, then a row of it: two short cumulative sums cost a tenth of one over the vocabulary,
  and two uniform numbers reach every token of a long tail, where one, with its 2^23 values, would skip most.
  """
  uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,), jnp.float32))(keys)
  columns = sums.shape[1]
  column = invert(uniform[:, 0], sums)
  length = -(-scaled.shape[1] // columns)
  ids = column[:, None] + columns * jnp.arange(length, dtype=jnp.int32)[None]
  inside = jnp.minimum(ids, scaled.shape[1] - 1)
  logits = jnp.take_along_axis(scaled, inside, axis=-1)
  order = rank(logits)
  held = (order > kept.threshold) | ((order == kept.threshold) & (ids <= kept.last))
  weight = jnp.where(held & (ids == inside), jnp.exp(logits - largest), 0.0)
  return column + columns * invert(uniform[:, 1], weight)


def invert(uniform: jax.Array, weights: jax.Array) -> jax.Array:
  """i32[B]: the first index whose cumulative weight exceeds `uniform` f32[B] (in [0, 1)) of the whole f32[B, n]."""
  cumulative = jnp.cumsum(weights.astype(jnp.float32), axis=-1)
  # The largest f32 below 1 times the whole may round to the whole, beyond every index.
  bound = jnp.minimum(uniform[:, None] * cumulative[:, -1:], jnp.nextafter(cumulative[:, -1:], jnp.float32(0)))
  return jnp.sum(cumulative <= bound, axis=-1, dtype=jnp.int32)


def column_sums(weights: jax.Array) -> jax.Array:
  """[B, columns], of weights [B, V] of which token v lies in column v % columns; about the root of V columns.

  Columns and not blocks of neighbours: sums over an axis that is not the last are vectorised on a CPU.
  """
  vocabulary = weights.shape[1]
  root = math.isqrt(vocabulary - 1) + 1
  # Where a divisor is near, nothing is to be filled up.
  columns = next((n for n in range(root, max(root // 4, 1), -1) if vocabulary % n == 0), root)
  filled = jnp.pad(weights, ((0, 0), (0, -vocabulary % columns)))
  return jnp.sum(filled.reshape(weights.shape[0], -1, columns), axis=1)
