"""Log-probs of chosen tokens and divergences of whole distributions, a tile of logits at a time.

A vocabulary is large: for 2,000 positions and 49,152 words the logits alone take 400 MB. Log-probs are
formed from tiles of some positions by some words, small enough for a processor's cache, in the forward
pass and in the backward one, so memory does not grow with the vocabulary. Divergences, which few losses
read, hold the whole vocabulary for `chunk` positions.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from dpojax.ops.matmul import contract, contract_first, dense, operand, sum_dtype
from dpojax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoredTokens:
  """What a model says at N scored positions; only `logp` carries a gradient.

  Attributes:
    logp: f32[N] log-prob of the target in nats.
    entropy: f32[N] entropy of the distribution in nats.
    correct: f32[N] 1 where the target has the largest logit, else 0.
    mean_logit: f32[N] mean logit over the vocabulary.
  """

  logp: jax.Array
  entropy: jax.Array
  correct: jax.Array
  mean_logit: jax.Array


WORDS = 4096  # of a tile at most: with 64 positions in float32, 1 MB
SLOTS = 64  # of each row in a tile at most
GPU_BLOCKS = 4  # tiles that a GPU cuts a row's slots into: as large as `chunk` allows, since each is a dozen launches


def scored_logps(
  hidden: Float[Array, "*positions D"],
  head: Float[Array, "V D"],
  target: Int[Array, "*positions"],
  *,
  used: Array | int | None = None,
  chunk: int,
  precision: str,
) -> ScoredTokens:
  """Scores target tokens under softmax(hidden @ head.T).

  Time goes with `used`, which may be traced. The backward pass forms the logits again; gradients are summed in float32.

  Args:
    hidden: f32[S, D] or f32[R, S, D] states that predict the targets.
    head: f32[V, D] output embedding.
    target: i32[S] or i32[R, S] token ids in [0, V).
    used: i32[], the first so many of the S positions (of every row) are scored, the others get 0; None: all.
    chunk: as many positions' logits exist at one time at most, and often far fewer (of every row, one at the least).
    precision: of the operands of the products, see `dpojax.ops.matmul.contract`.

  Returns:
    ScoredTokens of arrays like `target`; float64 if hidden is.
  """
  rows, slots = (1, *target.shape)[-2:]
  used_slots = jnp.minimum(jnp.asarray(slots if used is None else used, jnp.int32), slots)
  states, targets = hidden.reshape(rows, slots, -1), jnp.asarray(target).reshape(rows, slots)
  scores: tuple[jax.Array, ...] = _score(states, head, targets, used_slots, chunk, precision)  # pyright: ignore[reportAssignmentType]
  logp, entropy, correct = (x.reshape(target.shape) for x in scores)
  mean_logit = lax.stop_gradient(jnp.asarray(hidden) @ jnp.mean(jnp.asarray(head), axis=0))
  found = ScoredTokens(logp, lax.stop_gradient(entropy), lax.stop_gradient(correct), mean_logit)
  if used is None:
    return found
  there = jnp.broadcast_to(jnp.arange(slots, dtype=jnp.int32) < used_slots, target.shape)
  return jax.tree.map(lambda x: jnp.where(there, x, 0.0), found)


def token_kl(
  policy_hidden: Float[Array, "N D"],
  policy_head: Float[Array, "V D"],
  reference_hidden: Float[Array, "N E"],
  reference_head: Float[Array, "V E"],
  *,
  chunk: int,
  precision: str,
) -> Float[jax.Array, " N"]:
  """Exact KL divergence of next-token distributions, sum_v p (log p - log q), in nats.

  Args:
    policy_hidden, policy_head: f32[N, D], f32[V, D] that give p.
    reference_hidden, reference_head: f32[N, D'], f32[V, D'] that give q.
    chunk, precision: as in `scored_logps`.

  Returns:
    f32[N]; at least 0 up to rounding.
  """

  @jax.checkpoint
  def one_chunk(states):
    policy, reference = states
    log_p = jax.nn.log_softmax(dense(policy, jnp.asarray(policy_head).T, precision=precision))
    log_q = jax.nn.log_softmax(dense(reference, jnp.asarray(reference_head).T, precision=precision))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)

  chunks = _chunks((policy_hidden, reference_hidden), chunk)
  return _whole(lax.map(one_chunk, chunks), policy_hidden.shape[0])


def token_entropy(
  hidden: Float[Array, "N D"], head: Float[Array, "V D"], *, chunk: int, precision: str
) -> Float[jax.Array, " N"]:
  """Entropy of next-token distributions, -sum_v p log p, in nats, with a gradient.

  Args:
    hidden, head: f32[N, D], f32[V, D].
    chunk, precision: as in `scored_logps`.

  Returns:
    f32[N], at least 0 up to rounding.
  """

  @jax.checkpoint
  def one_chunk(states):
    log_p = jax.nn.log_softmax(dense(states, jnp.asarray(head).T, precision=precision))
    return -jnp.sum(jnp.exp(log_p) * log_p, -1)

  return _whole(lax.map(one_chunk, _chunks(hidden, chunk)), hidden.shape[0])


def log_collision(
  hidden: Float[Array, "N D"], head: Float[Array, "V D"], *, chunk: int, precision: str
) -> Float[jax.Array, " N"]:
  """Log of the probability that two draws of the next token agree, log sum_v p_v^2, without a gradient.

  Args:
    hidden, head: f32[N, D], f32[V, D].
    chunk, precision: as in `scored_logps`.

  Returns:
    f32[N], at most 0.
  """

  def one_chunk(states):
    logits = dense(states, lax.stop_gradient(jnp.asarray(head)).T, precision=precision)
    return jax.nn.logsumexp(2 * logits, -1) - 2 * jax.nn.logsumexp(logits, -1)

  return _whole(lax.map(one_chunk, _chunks(lax.stop_gradient(hidden), chunk)), hidden.shape[0])


def _chunks(arrays, chunk: int):
  """[N, ...] -> [chunks, n, ...]; chunk c holds positions c, c + chunks, ..., so an N sharded over devices stays so."""
  number = jax.tree.leaves(arrays)[0].shape[0]
  chunks = -(-number // chunk)
  size = -(-number // chunks)

  def cut(x):
    padded = jnp.pad(x, [(0, chunks * size - number)] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(size, chunks, *x.shape[1:]).swapaxes(0, 1)

  return jax.tree.map(cut, arrays)


def _whole(x: jax.Array, number: int) -> jax.Array:
  """The inverse of `_chunks`."""
  return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:number]


def _pieces(head: Array, most: int) -> jax.Array:
  """[V, D] -> [pieces, W, D] with W at most `most`; the last one filled up with zeros where V does not divide."""
  words = head.shape[0]
  least = -(-words // most)
  number = next((n for n in range(least, min(2 * least, words) + 1) if words % n == 0), least)
  size = -(-words // number)
  return jnp.pad(head, [(0, number * size - words), (0, 0)]).reshape(number, size, -1)


def _numbered(pieces: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The first word of each piece, and the pieces."""
  return jnp.arange(pieces.shape[0], dtype=jnp.int32) * pieces.shape[1], pieces


@dataclasses.dataclass(frozen=True)
class _Tiles:
  """How [R, S] slots of each row are cut into blocks, and a vocabulary into pieces: tiles are one of each.

  Blocks are cut from the slots, so rows sharded over devices stay so.

  Attributes:
    rows, slots: R, S.
    width: slots of each row in a block.
    entries: of a tile at most, and of the backward pass's gradients of a piece's logits.
    words: of a piece at most.
  """

  rows: int
  slots: int
  width: int
  entries: int
  words: int

  @classmethod
  def on_cpu(cls, rows: int, slots: int, vocabulary: int, chunk: int) -> "_Tiles":
    """Tiles that a processor's cache holds."""
    return cls(rows, slots, max(1, min(SLOTS, chunk // rows, slots)), chunk * vocabulary, WORDS)

  @classmethod
  def on_gpu(cls, rows: int, slots: int, vocabulary: int, chunk: int) -> "_Tiles":
    """Few tiles, each of as many logits as `chunk` positions have."""
    return cls(rows, slots, max(1, -(-slots // GPU_BLOCKS)), chunk * vocabulary, vocabulary)

  @property
  def blocks(self) -> int:
    return -(-self.slots // self.width)

  def pieces(self, head, positions: int) -> jax.Array:
    """[pieces, W, D] with W words at most, of which `positions` have logits at one time."""
    return _pieces(head, max(1, min(self.words, self.entries // max(1, positions))))

  def cut(self, x):
    """[R, S, ...] -> [blocks, R * width, ...]."""
    x = jnp.pad(x, [(0, 0), (0, self.blocks * self.width - self.slots)] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(self.rows, self.blocks, self.width, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(self.blocks, self.rows * self.width, *x.shape[3:])

  def whole(self, x):
    """The inverse of `cut`."""
    x = x.reshape(self.blocks, self.rows, self.width, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(self.rows, -1, *x.shape[3:])[:, : self.slots]

  def count(self, used):
    """i32[], the blocks that hold the first `used` slots."""
    return (used + self.width - 1) // self.width


def _by_platform(function, head, target, chunk, precision):
  """`function(tiles, precision, *arrays)` as a function of the arrays, with the tiles of the device that it runs on."""
  rows, slots = target.shape
  tiles = [make(rows, slots, head.shape[0], chunk) for make in (_Tiles.on_cpu, _Tiles.on_gpu)]
  small, large = (functools.partial(function, each, precision) for each in tiles)
  return functools.partial(lax.platform_dependent, cuda=large, default=small)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _score(hidden, head, target, used, chunk, precision):
  """(logp, entropy, correct), each [R, S], of hidden [R, S, D]: of the first `used` slots of every row."""
  return _score_forward(hidden, head, target, used, chunk, precision)[0]


def _score_forward(hidden, head, target, used, chunk, precision):
  forward = _by_platform(_forward_tiles, head, target, chunk, precision)
  *scores, log_sum = forward(hidden, head, target, used)
  return tuple(scores), (hidden, head, target, used, log_sum)


def _forward_tiles(tiles, precision, hidden, head, target, used):
  """(logp, entropy, correct, log-sum-exp), [R, S] each.

  Softmax is carried from tile to tile, as in attention. In a tile words lie before positions.

  So sums over words add vectors, and every product is a fast form (see `dpojax.ops.matmul`). A piece of the
  vocabulary stays in a processor's cache for all blocks of positions.
  """
  words, pieces = head.shape[0], tiles.pieces(head, tiles.rows * tiles.width)
  columns = operand(tiles.cut(hidden), precision).swapaxes(1, 2)
  target, count = tiles.cut(target), tiles.count(used)
  dtype = sum_dtype(hidden)
  lowest = jnp.finfo(dtype).min / 4  # far below any logit, and twice it is still finite

  def one_piece(sums, numbered_piece):
    first, piece = numbered_piece
    piece = operand(piece, precision)
    size = piece.shape[0]

    def one_block(b, sums):
      top, total, total_below, of_target = (_at(x, b) for x in sums)
      logits = contract(piece, _at(columns, b), _INNER, precision=precision)
      if words % size:
        word = first + lax.broadcasted_iota(jnp.int32, (size, 1), 0)
        logits = jnp.where(word < words, logits, lowest)
      new_top = jnp.maximum(top, jnp.max(logits, 0))
      below = logits - new_top[None]
      weight = jnp.exp(below)
      fall = top - new_top
      shrink = jnp.exp(fall)
      total_below = shrink * (total_below + fall * total) + jnp.sum(weight * below, 0)
      total = shrink * total + jnp.sum(weight, 0)
      place = _at(target, b) - first
      here = jnp.take_along_axis(logits, jnp.clip(place, 0, size - 1)[None], 0)[0]
      of_target = jnp.where((place >= 0) & (place < size), here, of_target)
      return tuple(_put(x, new, b) for x, new in zip(sums, (new_top, total, total_below, of_target), strict=True))

    return lax.fori_loop(0, count, one_block, sums), None

  zeros = jnp.zeros(target.shape, dtype)
  (top, total, total_below, of_target), _ = lax.scan(
    one_piece, (zeros + lowest, zeros, zeros, zeros), _numbered(pieces)
  )
  total = jnp.where(total > 0, total, 1.0)  # of blocks that were left out
  log_total = jnp.log(total)
  correct = (of_target >= top).astype(dtype)
  found = of_target - top - log_total, log_total - total_below / total, correct, top + log_total
  return tuple(tiles.whole(x) for x in found)


def _score_backward(chunk, precision, residuals, cotangents):
  hidden, head, target, used, log_sum = residuals
  backward = _by_platform(_backward_tiles, head, target, chunk, precision)
  hidden_gradient, head_gradient = backward(hidden, head, target, used, log_sum, cotangents[0])
  none = jax.tree.map(lambda x: np.zeros(x.shape, jax.dtypes.float0), (target, used))
  return hidden_gradient.astype(hidden.dtype), head_gradient.astype(head.dtype), *none


def _backward_tiles(tiles, precision, hidden, head, target, used, log_sum, toward):
  """(d hidden, d head). The gradient of a piece's logits is formed block by block, then summed over words and positions.

  By one product each, as large as can be: so each word's gradient is formed once, nothing of the head's size is added
  up, and devices that hold different rows exchange each sum once.
  """
  pieces = tiles.pieces(head, tiles.blocks * tiles.rows * tiles.width)
  rows = operand(tiles.cut(hidden), precision)
  columns = rows.swapaxes(1, 2)
  target, log_sum, toward = (tiles.cut(x) for x in (target, log_sum, toward))
  count = tiles.count(used)
  size = pieces.shape[1]

  def one_piece(carry, numbered_piece):
    first, piece = numbered_piece
    piece = operand(piece, precision)
    word = first + lax.broadcasted_iota(target.dtype, (size, 1), 0)

    def one_block(b, logit_gradients):
      logits = contract(piece, _at(columns, b), _INNER, precision=precision)
      weight = jnp.exp(logits - _at(log_sum, b)[None])
      gradient = _at(toward, b)[None] * ((word == _at(target, b)[None]).astype(weight.dtype) - weight)
      return lax.dynamic_update_index_in_dim(logit_gradients, operand(gradient, precision), b, 1)

    hidden_gradient, logit_gradients = carry
    logit_gradients = lax.fori_loop(0, count, one_block, logit_gradients)
    change, head_gradient = lax.switch(count, sums, logit_gradients, piece)
    return (hidden_gradient + change, logit_gradients), head_gradient

  def sums_of(number):
    def of_blocks(gradients, piece):
      gradients = gradients[:, :number]
      to_hidden = contract_first(gradients, piece, precision=precision)
      to_head = contract(gradients, rows[:number], (((1, 2), (0, 1)), ((), ())), precision=precision)
      return jnp.pad(to_hidden, [(0, target.shape[0] - number), (0, 0), (0, 0)]), to_head

    return of_blocks

  sums = [sums_of(number) for number in range(target.shape[0] + 1)]  # products of another size for each count
  no_gradients = jnp.zeros((size, *target.shape), rows.dtype if precision == "bfloat16" else log_sum.dtype)
  start = jnp.zeros(rows.shape, log_sum.dtype), no_gradients
  (hidden_gradient, _), head_gradient = lax.scan(one_piece, start, _numbered(pieces))
  head_gradient = head_gradient.reshape(-1, head.shape[1])[: head.shape[0]]
  return tiles.whole(hidden_gradient), head_gradient


_score.defvjp(_score_forward, _score_backward)

_INNER = (((1,), (0,)), ((), ()))


def _at(x, i):
  return lax.dynamic_index_in_dim(x, i, 0, keepdims=False)


def _put(x, new, i):
  return lax.dynamic_update_index_in_dim(x, new, i, 0)
