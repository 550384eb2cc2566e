"""Log-probs of chosen tokens and divergences of whole distributions, a chunk of tokens at a time.

A vocabulary is large: for 2,000 positions and 49,152 words the logits alone take 400 MB. Nothing of
size [N, V] exists here beyond `chunk` positions, in the forward pass or in the backward one.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dpojax.ops.matmul import contract, contract_first, dense, operand


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


def scored_logps(hidden: jax.Array, head: jax.Array, target: jax.Array, *, chunk: int, precision: str) -> ScoredTokens:
  """Scores target tokens under softmax(hidden @ head.T), at most `chunk` positions at a time.

  The backward pass recomputes the logits of each chunk and sums the head's gradient in float32.

  Args:
    hidden: f32[N, D] states that predict the targets.
    head: f32[V, D] output embedding.
    target: i32[N] token ids in [0, V).
    chunk: most positions whose logits exist at one time.
    precision: of the operands of the products, see `dpojax.ops.matmul.contract`.

  Returns:
    ScoredTokens of [N] arrays; float64 if hidden is.
  """
  scores: tuple[jax.Array, ...] = _score(hidden, head, target, chunk, precision)  # pyright: ignore[reportAssignmentType]
  logp, entropy, correct = scores
  mean_logit = lax.stop_gradient(hidden @ jnp.mean(head, axis=0))
  return ScoredTokens(logp, lax.stop_gradient(entropy), lax.stop_gradient(correct), mean_logit)


def token_kl(
  policy_hidden: jax.Array,
  policy_head: jax.Array,
  reference_hidden: jax.Array,
  reference_head: jax.Array,
  *,
  chunk: int,
  precision: str,
) -> jax.Array:
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
    log_p = jax.nn.log_softmax(dense(policy, policy_head.T, precision=precision))
    log_q = jax.nn.log_softmax(dense(reference, reference_head.T, precision=precision))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)

  chunks = _chunks((policy_hidden, reference_hidden), chunk)
  return _whole(lax.map(one_chunk, chunks), policy_hidden.shape[0])


def log_collision(hidden: jax.Array, head: jax.Array, *, chunk: int, precision: str) -> jax.Array:
  """Log of the probability that two draws of the next token agree, log sum_v p_v^2, without a gradient.

  Args:
    hidden, head: f32[N, D], f32[V, D].
    chunk, precision: as in `scored_logps`.

  Returns:
    f32[N], at most 0.
  """

  def one_chunk(states):
    logits = dense(states, lax.stop_gradient(head).T, precision=precision)
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _score(hidden, head, target, chunk, precision):
  return _score_forward(hidden, head, target, chunk, precision)[0]


def _score_forward(hidden, head, target, chunk, precision):
  rounded_head = operand(head, precision)

  def one_chunk(slots):
    h, t = slots
    logits = contract(h, rounded_head, (((1,), (1,)), ((), ())), precision=precision)
    top = jnp.max(logits, -1)
    below = logits - top[:, None]
    weight = jnp.exp(below)
    total = jnp.sum(weight, -1)
    mean_below = jnp.sum(weight * below, -1) / total
    of_target = jnp.take_along_axis(logits, t[:, None], -1)[:, 0]
    log_total = jnp.log(total)
    correct = (of_target >= top).astype(logits.dtype)
    return of_target - top - log_total, log_total - mean_below, correct, top + log_total

  out = lax.map(one_chunk, _chunks((hidden, target), chunk))
  logp, entropy, correct, log_sum = (_whole(x, hidden.shape[0]) for x in out)
  return (logp, entropy, correct), (hidden, head, target, log_sum)


def _score_backward(chunk, precision, residuals, cotangents):
  """Chunks of the vocabulary instead of positions, as large.

  So each word's gradient is formed once and nothing of the head's size is added up, and devices that
  hold different positions exchange each sum once. Arrays lie words before positions, which makes every
  product a fast form (see `dpojax.ops.matmul`).
  """
  hidden, head, target, log_sum = residuals
  number, words = hidden.shape[0], head.shape[0]
  chunks = -(-number // chunk)
  chunks = next((n for n in range(chunks, min(2 * chunks, words + 1)) if words % n == 0), chunks)
  size = -(-words // chunks)
  # Words added to fill the last chunk have logit 0 but no embedding, so they change no sum.
  pieces = jnp.pad(head, [(0, chunks * size - words), (0, 0)]).reshape(chunks, size, -1)
  rows = operand(hidden, precision)
  columns = rows.T

  def one_chunk(hidden_gradient, chunk_of_head):
    first, piece = chunk_of_head
    logits = contract(piece, columns, _INNER, precision=precision)
    weight = jnp.exp(logits - log_sum[None])
    word = first + lax.broadcasted_iota(target.dtype, (size, 1), 0)
    logit_gradient = cotangents[0][None] * ((word == target[None]).astype(weight.dtype) - weight)
    logit_gradient = operand(logit_gradient, precision)
    hidden_gradient += contract_first(piece, logit_gradient, precision=precision)
    return hidden_gradient, contract(logit_gradient, rows, _INNER, precision=precision)

  firsts = jnp.arange(chunks, dtype=target.dtype) * size
  start = jnp.zeros(columns.shape, log_sum.dtype)
  hidden_gradient, head_gradient = lax.scan(one_chunk, start, (firsts, pieces))
  head_gradient = head_gradient.reshape(chunks * size, -1)[:words]
  no_gradient = np.zeros(target.shape, jax.dtypes.float0)
  return hidden_gradient.T.astype(hidden.dtype), head_gradient.astype(head.dtype), no_gradient


_score.defvjp(_score_forward, _score_backward)

_INNER = (((1,), (0,)), ((), ()))
