"""The decoder as it writes: prompts at once, then one token an answer and step.

The prompts go through the stacked layers of training. A step of writing instead reads every weight once and does little
with it, so what would be nothing in training counts: a scan over stacked layers copies each layer's weights out of
the stack at every token. The layers are therefore split once a call
(`split_layers`), rounded once where products round them, and unrolled.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from dpojax.models.cache import (
  AnswerCache,
  PromptCache,
  attention_precision,
  prompt_layer,
  shared_attention,
  visible_slots,
  write_token,
)
from dpojax.models.config import ModelConfig
from dpojax.models.decoder import Block, embedded, final_hidden
from dpojax.ops.attention import attention_plan, packed_attention
from dpojax.ops.matmul import contract, operand
from dpojax.types import Params


def split_layers(params: Params, config: ModelConfig, precision: str) -> Params:
  """Parameters as `decode` reads them: `layers` a list, `head` always there, matrices rounded as products read them.

  A second copy of the weights, in "bfloat16" half as large; the embedding is shared where nothing rounds it.
  """
  layers = [_layer(params["layers"], i, precision) for i in range(config.layers)]
  head = params["embed"] if config.tie_embeddings else params["head"]
  return {**params, "layers": layers, "head": _rounded(head, precision)}


@functools.partial(jax.jit, static_argnames="precision")
def _layer(layers: Params, i: jax.Array, precision: str) -> Params:
  """One layer of the stack; its number is traced, so one small program takes them all apart."""
  taken = {name: lax.dynamic_index_in_dim(stacked, i, keepdims=False) for name, stacked in layers.items()}
  return {name: operand(x, precision) if x.ndim == 2 else x for name, x in taken.items()}


@functools.partial(jax.jit, static_argnames="precision")
def _rounded(x: jax.Array, precision: str) -> jax.Array:
  return operand(x, precision)


def prefill(
  params: Params, tokens: jax.Array, length: jax.Array, config: ModelConfig, precision: str
) -> tuple[jax.Array, PromptCache]:
  """See `LanguageModel.prefill`."""
  place = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
  segment = jnp.where(place < length[:, None], 0, -1)
  answer = jnp.full_like(segment, -1)
  plan = attention_plan(segment, answer, place, config.window)
  x, angles = embedded(params["embed"], tokens, place, config)

  def body(x, layer):
    def attend(q, k, v):
      out = packed_attention(
        q,
        k,
        v,
        segment=segment,
        answer=answer,
        position=place,
        precision=precision,
        window=config.window,
        plan=plan,
      )
      return out, prompt_layer(k, v, attention_precision(precision))

    return Block(config, precision, layer)(x, angles, attend)

  x, (keys, values) = lax.scan(body, x, params["layers"])
  layers = range(config.layers)
  cache = PromptCache(tuple(keys[i] for i in layers), tuple(values[i] for i in layers), length)
  return final_hidden(x, params["final_norm"], config), cache


def decode(
  split: Params, tokens: jax.Array, prompt: PromptCache, answer: AnswerCache, config: ModelConfig, precision: str
) -> tuple[jax.Array, AnswerCache]:
  """See `LanguageModel.decode`."""
  position = jnp.broadcast_to((prompt.length + answer.used)[:, None], tokens.shape)
  x, angles = embedded(split["embed"], tokens, position, config)
  slot = answer.used
  answer = dataclasses.replace(answer, used=slot + 1)
  visible = visible_slots(prompt, answer, config.window)
  written = []
  for i, layer in enumerate(split["layers"]):

    def attend(q, k, v, i=i):
      own = write_token(answer.keys[i], answer.values[i], k, v, slot)
      shared = prompt.keys[i], prompt.values[i]
      return shared_attention(q, shared, own, visible, precision=attention_precision(precision)), own

    x, own = Block(config, precision, layer)(x, angles, attend)
    written.append(own)
  keys, values = zip(*written, strict=True)
  return final_hidden(x, split["final_norm"], config), dataclasses.replace(answer, keys=keys, values=values)


def next_logits(split: Params, hidden: jax.Array, precision: str) -> jax.Array:
  """See `LanguageModel.next_logits`.

  The head comes first, as [V, D] times [D, rows]: on a CPU the other order takes a sixth longer in float32 and, where the
  head's transpose is not read in place, seven times as long in bfloat16.
  """
  flat = hidden.reshape(-1, hidden.shape[-1])
  logits = contract(split["head"], flat, (((1,), (1,)), ((), ())), precision=precision).T
  return logits.reshape(*hidden.shape[:-1], -1)
