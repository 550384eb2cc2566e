"""The key-value cache of a decoder that writes N answers to every prompt, a token at a time.

A prompt's part is computed once and read by all its answers; each answer has a part of its own::

  prompt part   [P, KV, ..S..]       read once a token as the product of [N * H / KV, d] with [d, S]
  answer part   [P * N, KV, ..T..]   one slot a token; all answers are at the same slot

Both are softmax over one row of scores: each part gives its largest score, the sum of its exponentials and the sum
weighted by them, and the parts are brought to one maximum and added (Milakov and Gimelshein 2018, arXiv:1805.02867).
Keys lie with the slots last, [d, slots]: products with them need no transpose, 1.6 times as fast on a CPU.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from dpojax.ops.matmul import contract, operand
from dpojax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
  """Keys and values of P prompts; prompts shorter than S end in slots that nobody sees.

  Attributes:
    keys: [P, KV, d, S] of each layer, rotary applied.
    values: [P, KV, S, d] of each layer.
    length: i32[P] tokens of each prompt; the token in slot s has position s.
  """

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  length: jax.Array

  def take(self, prompts: Array) -> "PromptCache":
    """Some prompts, i32[P']."""
    return jax.tree.map(lambda x: x[prompts], self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AnswerCache:
  """Keys and values of N answers to each of P prompts, in T slots; slot t is the answer's token t.

  Attributes:
    keys: [P * N, KV, d, T] of each layer, rotary applied. (P and N are one axis: as two, and N = 1, XLA for CPU
      copies the cache at every token, four times.)
    values: [P * N, KV, T, d] of each layer.
    used: i32[] slots written; the caller makes T large enough, nothing checks it on the device.
  """

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  used: jax.Array

  @property
  def capacity(self) -> int:
    """T."""
    return self.keys[0].shape[-1]

  def take(self, rows: Array) -> "AnswerCache":
    """Some answers i32[R], numbered along the axis of P * N."""
    return jax.tree.map(lambda x: x[rows] if x.ndim else x, self)

  def grow(self, capacity: int) -> "AnswerCache":
    """The same with `capacity` slots, at least as many as before."""
    room, whole = (0, capacity - self.capacity), (0, 0)
    return AnswerCache(
      tuple(jnp.pad(x, (whole, whole, whole, room)) for x in self.keys),
      tuple(jnp.pad(x, (whole, whole, room, whole)) for x in self.values),
      self.used,
    )


def attention_precision(precision: str) -> str:
  """What attention's products are computed in, and the cache kept in, where all others are in `precision`.

  XLA for CPU cannot write into a bfloat16 array: it widens and rounds the whole cache at every token. There they are float32,
  which for products as small as these is as fast.
  """
  return "float32" if jax.default_backend() == "cpu" else precision


def prompt_layer(k: jax.Array, v: jax.Array, precision: str) -> tuple[jax.Array, jax.Array]:
  """Keys and values [P, S, KV, d] as a `PromptCache` keeps those of one layer: rounded as products read them."""
  return operand(k.transpose(0, 2, 3, 1), precision), operand(v.transpose(0, 2, 1, 3), precision)


def write_token(keys: jax.Array, values: jax.Array, k: jax.Array, v: jax.Array, slot: jax.Array):
  """Puts k, v [P, N, KV, d] of one token an answer into `slot` of one layer of an `AnswerCache`."""
  k, v = (x.reshape(-1, *x.shape[2:]) for x in (k, v))
  keys = lax.dynamic_update_slice_in_dim(keys, k[..., None].astype(keys.dtype), slot, axis=-1)
  values = lax.dynamic_update_slice_in_dim(values, v[..., None, :].astype(values.dtype), slot, axis=-2)
  return keys, values


def visible_slots(prompt: PromptCache, answer: AnswerCache, window: int | None) -> tuple[jax.Array, jax.Array]:
  """(bool[P, S], bool[T]): what the token just written into the answers' last used slot sees of either part."""
  slot = jnp.arange(prompt.keys[0].shape[-1], dtype=jnp.int32)
  step = answer.used - 1
  place = jnp.arange(answer.capacity, dtype=jnp.int32)
  of_prompt, of_answer = slot[None] < prompt.length[:, None], place <= step
  if window is not None:
    of_prompt &= prompt.length[:, None] + step - slot[None] < window
    of_answer &= step - place < window
  return of_prompt, of_answer


def shared_attention(
  q: jax.Array,
  prompt: tuple[jax.Array, jax.Array],
  answer: tuple[jax.Array, jax.Array],
  visible: tuple[jax.Array, jax.Array],
  *,
  precision: str,
) -> jax.Array:
  """Attention of one new token an answer to its prompt and to its own answer so far.

  Args:
    q: [P, N, H, d]; query head h reads key head h // (H / KV).
    prompt: keys [P, KV, d, S] and values [P, KV, S, d].
    answer: keys [P * N, KV, d, T] and values [P * N, KV, T, d], the new token among them.
    visible: see `visible_slots`; of the answer, at least the new token.
    precision: of the operands, see `dpojax.ops.matmul.contract`.

  Returns:
    [P, N, H, d].
  """
  prompts, count, heads, width = q.shape
  groups = prompt[0].shape[1]
  q = q.reshape(prompts, count, groups, -1, width) * width**-0.5
  together = q.swapaxes(1, 2).reshape(prompts, groups, -1, width)  # a prompt's answers side by side
  shared = _part(together, *prompt, visible[0][:, None, None], precision)
  shared = [x.reshape(prompts, groups, count, -1, x.shape[-1]).swapaxes(1, 2) for x in shared]
  own = _part(q.reshape(-1, *q.shape[2:]), *answer, visible[1][None, None, None], precision)
  own = [x.reshape(prompts, count, *x.shape[1:]) for x in own]
  largest = jnp.maximum(shared[0], own[0])
  weight, own_weight = jnp.exp(shared[0] - largest), jnp.exp(own[0] - largest)
  out = (weight * shared[2] + own_weight * own[2]) / (weight * shared[1] + own_weight * own[1])
  return out.reshape(prompts, count, heads, width)


def _part(q, keys, values, visible, precision):
  """Of scores q[B, KV, n, d] . keys[B, KV, d, s]: their maximum, the sum of exponentials, and the values' weighted sum.

  Where nothing is visible: (the lowest number, 0, 0).
  """
  last_with_first = ((3,), (2,)), ((0, 1), (0, 1))
  scores = contract(q, keys, last_with_first, precision=precision)
  scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
  largest = jnp.max(scores, axis=-1, keepdims=True)
  weight = jnp.where(visible, jnp.exp(scores - largest), 0.0)
  mixed = contract(weight, values, last_with_first, precision=precision)
  return largest, jnp.sum(weight, axis=-1, keepdims=True), mixed
