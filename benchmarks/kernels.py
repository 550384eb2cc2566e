"""Parts of a training step on their own, as functions to compile and time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dpojax.models.config import ModelConfig
from dpojax.ops.attention import packed_attention
from dpojax.ops.logprobs import scored_logps
from dpojax.ops.matmul import contract, contract_first, dense
from dpojax.training.optimizer import Optimizer, gradient_norm, make_update
from dpojax.types import Params

SMOLLM2 = ModelConfig(
  vocab_size=49152, hidden=576, layers=30, heads=9, kv_heads=3, ffn=1536, rope_theta=1e5, max_positions=8192
)


def update_of(optimizer: Optimizer) -> Callable:
  """(params, moments, gradient, learning rate) -> (params, moments, norm); params and moments are to be donated."""
  update = make_update(optimizer.settings, optimizer.decayed)

  def with_norm(params: Params, opt_state, gradient: Params, learning_rate):
    norm = gradient_norm(gradient)
    return *update(params, opt_state, gradient, norm, jnp.isfinite(norm), learning_rate), norm

  return with_norm


def attention_of(precision: str, window: int | None = None) -> tuple[Callable, Callable]:
  """One layer's attention as (q, k, v, places) -> out, and its gradient (q, k, v, places, cotangent) -> (dq, dk, dv).

  `places` are the arrays segment, answer and position by name.
  """

  def forward(q, k, v, places):
    return packed_attention(q, k, v, **places, precision=precision, window=window)

  def gradient(q, k, v, places, toward):
    return jax.grad(lambda q, k, v: jnp.sum(forward(q, k, v, places) * toward), (0, 1, 2))(q, k, v)

  return forward, gradient


def head_of(precision: str, chunk: int, used: int | None = None) -> tuple[Callable, Callable]:
  """The head as (hidden [..., D], head [V, D], target [...]) -> logp, and its gradient with a cotangent -> (dh, dE).

  `used`: how many slots of each row are scored.
  """

  def forward(hidden, head, target):
    return scored_logps(hidden, head, target, used=used, chunk=chunk, precision=precision).logp

  def gradient(hidden, head, target, toward):
    return jax.grad(lambda h, e: jnp.sum(forward(h, e, target) * toward), (0, 1))(hidden, head)

  return forward, gradient


def head_pieces(number: int, width: int, words: int, chunk: int, precision: str) -> dict[str, tuple[Callable, tuple]]:
  """What a head's gradient cannot do without, one chunk of each: (function, shapes of its float32 arguments).

  Products, in the forms of `dpojax.ops.logprobs`: logits of `chunk` positions, logits again of as large a chunk of
  words, d hidden, d head; two passes over as many logits: log-sum-exp, and the gradient of the softmax.
  """
  inner, last = (((1,), (0,)), ((), ())), (((1,), (1,)), ((), ()))
  some = words * chunk // number  # words of a chunk

  def log_sum(logits):
    top = jnp.max(logits, -1)
    return top + jnp.log(jnp.sum(jnp.exp(logits - top[:, None]), -1))

  def softmax_gradient(logits, log_sum, toward):
    word = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
    hit = word == jnp.arange(number, dtype=jnp.int32)[None]
    return toward[None] * (hit.astype(logits.dtype) - jnp.exp(logits - log_sum[None]))

  def product(dimensions):
    return lambda a, b: contract(a, b, dimensions, precision=precision)

  return {
    "logits": (product(last), ((chunk, width), (words, width))),
    "logits again": (product(inner), ((some, width), (width, number))),
    "d hidden": (lambda a, b: contract_first(a, b, precision=precision), ((some, width), (some, number))),
    "d head": (product(inner), ((some, number), (number, width))),
    "softmax, forward": (log_sum, ((chunk, words),)),
    "softmax, backward": (softmax_gradient, ((some, number), (number,), (number,))),
  }


def weight_products(config: ModelConfig, precision: str) -> tuple[Callable, Callable, dict[str, tuple[int, int]]]:
  """All weight products of one block: forward (x by inputs, w by name) -> outputs, backward -> gradients; shapes of w."""
  attention, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
  hidden, ffn = config.hidden, config.ffn
  shapes = {"query": (hidden, attention), "key": (hidden, keys), "value": (hidden, keys), "output": (attention, hidden)}
  shapes |= {"gate": (hidden, ffn), "up": (hidden, ffn), "down": (ffn, hidden)}

  def one(x, w):
    return dense(x, w, precision=precision)

  def forward(inputs, weights):
    return {name: one(inputs[w.shape[0]], w) for name, w in weights.items()}

  def backward(inputs, weights, toward):
    def pull(x, w, g):  # the forward product is dead code here and not computed
      return jax.vjp(one, x, w)[1](g)

    return {name: pull(inputs[w.shape[0]], w, toward[w.shape[1]]) for name, w in weights.items()}

  return forward, backward, shapes


def hh_like_rows(rows: int, length: int, mean: int = 190) -> dict[str, np.ndarray]:
  """Full rows of pairs whose lengths are spread as those of HH."""
  random = np.random.default_rng(0)
  segment, answer = np.full((2, rows, length), -1, np.int32)
  position = np.zeros((rows, length), np.int32)
  for r in range(rows):
    at = example = 0
    while at < length:
      size = min(length - at, max(20, int(random.lognormal(np.log(0.8 * mean), 0.6))))
      prompt, chosen = size // 2, size // 4
      ends = at + prompt, at + prompt + chosen, at + size
      segment[r, at : ends[2]] = example
      answer[r, ends[0] : ends[1]], answer[r, ends[1] : ends[2]] = 2 * example, 2 * example + 1
      position[r, at : ends[1]] = range(prompt + chosen)
      position[r, ends[1] : ends[2]] = range(prompt, size - chosen)
      at, example = ends[2], example + 1
  return dict(segment=segment, answer=answer, position=position)
