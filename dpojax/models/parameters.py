"""Every parameter of the decoder, declared once: path, shape, logical axes, start, decay, how its gradient is added.

Who needs to know reads it here: the initial draw, the layout on devices, the optimizer's decay, weights from files, and
the sum of a step's gradient. A parameter's name outside stands in its family's table (`models/families`).
"""

import dataclasses
import itertools

import jax

from dpojax.models.config import ModelConfig
from dpojax.types import Declared, Parameter, Params


def decoder_parameters(config: ModelConfig) -> Declared:
  """Nested dict of `Parameter`, in the order in which they are drawn; biases and head where the config has them."""
  model, feed_forward = ("model", config.hidden), ("feed_forward", config.ffn)
  heads, keys = ("heads", config.heads * config.head_dim), ("heads", config.kv_heads * config.head_dim)
  residual = (2 * config.layers) ** -0.5  # keeps the residual stream's variance independent of depth

  def matrix(inputs, outputs, scale=1.0):
    (axis_in, size_in), (axis_out, size_out) = inputs, outputs
    shape, axes = (config.layers, size_in, size_out), ("layers", axis_in, axis_out)
    return Parameter(shape, axes, std=scale * size_in**-0.5, decay="matrix", in_place=True)

  def vector(size, init):
    return Parameter((config.layers, size), ("layers", None), init=init, in_place=True)

  def bias(present, name, outputs):
    return {f"{name}_bias": vector(outputs[1], "zeros")} if present else {}

  def words():
    return Parameter((config.vocab_size, config.hidden), ("vocabulary", "model"), std=0.02, decay="embedding")

  layers = {
    "attention_norm": vector(config.hidden, "ones"),
    "query": matrix(model, heads),
    **bias(config.attention_bias, "query", heads),
    "key": matrix(model, keys),
    **bias(config.attention_bias, "key", keys),
    "value": matrix(model, keys),
    **bias(config.attention_bias, "value", keys),
    "output": matrix(heads, model, residual),
    **bias(config.attention_bias, "output", model),
    "feed_forward_norm": vector(config.hidden, "ones"),
    "gate": matrix(model, feed_forward),
    **bias(config.mlp_bias, "gate", feed_forward),
    "up": matrix(model, feed_forward),
    **bias(config.mlp_bias, "up", feed_forward),
    "down": matrix(feed_forward, model, residual),
    **bias(config.mlp_bias, "down", model),
  }
  return {
    "embed": dataclasses.replace(words(), in_place=True),
    "layers": layers,
    "final_norm": Parameter((config.hidden,), (None,), init="ones"),
    **({} if config.tie_embeddings else {"head": words()}),
  }


def reward_head(heads: int, hidden: int) -> Parameter:
  """`score`, whose first rewards are of order 1 (Stiennon et al. 2020, arXiv:2009.01325, App. B)."""
  return Parameter((heads, hidden), (None, None), std=(hidden + 1) ** -0.5)


def draw_parameters(declared: Declared, key: jax.Array) -> Params:
  """Initial values; the n-th random one of the table is drawn with `fold_in(key, n)`."""
  count = itertools.count()

  def draw(entry):
    if isinstance(entry, dict):  # and not `jax.tree.map`, which goes by the alphabet
      return {name: draw(value) for name, value in entry.items()}
    return entry.draw(jax.random.fold_in(key, next(count)) if entry.init == "normal" else key)

  return draw(declared)
