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

from dpojax.ops.matmul import contract


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
  logp, entropy, correct = _score(hidden, head, target, chunk, precision)
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

  def one_chunk(states):
    log_p = jax.nn.log_softmax(_logits(states[0], policy_head, precision))
    log_q = jax.nn.log_softmax(_logits(states[1], reference_head, precision))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)

  number = policy_hidden.shape[0]
  chunks = _split((policy_hidden, reference_hidden), chunk)
  return _join(lax.map(jax.checkpoint(one_chunk), chunks), number)


def _logits(hidden, head, precision):
  """[n, D], [V, D] -> [n, V]."""
  return contract(hidden, head, (((1,), (1,)), ((), ())), precision=precision)


def _split(arrays, chunk: int):
  """[N, ...] -> [chunks, n, ...]. Chunk c holds positions c, c + chunks, ...: an N sharded over devices stays so."""
  number = jax.tree.leaves(arrays)[0].shape[0]
  chunks = max(1, -(-number // chunk))
  size = -(-number // chunks)

  def one(x):
    padded = jnp.pad(x, [(0, chunks * size - number)] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(size, chunks, *x.shape[1:]).swapaxes(0, 1)

  return jax.tree.map(one, arrays)


def _join(x: jax.Array, number: int) -> jax.Array:
  """The inverse of `_split`."""
  return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:number]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _score(hidden, head, target, chunk, precision):
  return _score_forward(hidden, head, target, chunk, precision)[0]


def _score_forward(hidden, head, target, chunk, precision):
  def one_chunk(slots):
    h, t = slots
    logits = _logits(h, head, precision)
    top = jnp.max(logits, -1, keepdims=True)
    weight = jnp.exp(logits - top)
    total = jnp.sum(weight, -1)
    mean = jnp.sum(weight * (logits - top), -1) / total
    of_target = jnp.take_along_axis(logits, t[:, None], -1)
    log_total = jnp.log(total)
    correct = (of_target[:, 0] >= top[:, 0]).astype(logits.dtype)
    return of_target[:, 0] - top[:, 0] - log_total, log_total - mean, correct, top[:, 0] + log_total

  number = hidden.shape[0]
  out = lax.map(one_chunk, _split((hidden, target), chunk))
  logp, entropy, correct, lse = (_join(x, number) for x in out)
  return (logp, entropy, correct), (hidden, head, target, lse)


def _score_backward(chunk, precision, residuals, cotangents):
  hidden, head, target, lse = residuals
  vocabulary = jnp.arange(head.shape[0], dtype=target.dtype)

  def one_chunk(head_gradient, slots):
    h, t, log_sum, g = slots
    weight = jnp.exp(_logits(h, head, precision) - log_sum[:, None])
    hot = (t[:, None] == vocabulary[None]).astype(weight.dtype)
    logit_gradient = g[:, None] * (hot - weight)
    hidden_gradient = contract(logit_gradient, head, (((1,), (0,)), ((), ())), precision=precision)
    head_gradient += contract(h, logit_gradient, (((0,), (0,)), ((), ())), precision=precision)
    return head_gradient, hidden_gradient

  start = jnp.zeros(head.shape[::-1], lse.dtype)
  slots = _split((hidden, target, lse, cotangents[0]), chunk)
  head_gradient, hidden_gradient = lax.scan(one_chunk, start, slots)
  hidden_gradient = _join(hidden_gradient, hidden.shape[0]).astype(hidden.dtype)
  return hidden_gradient, head_gradient.T.astype(head.dtype), np.zeros(target.shape, jax.dtypes.float0)


_score.defvjp(_score_forward, _score_backward)
