"""The one decoder of all families: pre-norm blocks, stacked and scanned.

Parameters, declared in `models.parameters` (biases and head only where the config has them)::

  embed [V, D]
  layers/attention_norm [N, D]      layers/query [N, D, H d]   layers/key, value [N, D, KV d]
  layers/output [N, H d, D]         layers/{query,key,value,output}_bias [N, ...]
  layers/feed_forward_norm [N, D]   layers/gate, up [N, D, F]  layers/down [N, F, D]
  layers/{gate,up,down}_bias [N, ...]
  final_norm [D]
  head [V, D]

Matrices of layers are stored [in, out]. The residual stream, norms and rotary angles keep the
parameters' dtype whatever the precision of the products.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dpojax.models.config import ModelConfig
from dpojax.ops.attention import attention_plan, packed_attention
from dpojax.ops.matmul import dense, kept
from dpojax.ops.norm import rms_norm
from dpojax.ops.rotary import apply_rotary, rotary_angles, rotary_frequencies
from dpojax.ops.summed import scan_layers, take
from dpojax.types import Array, PackedBatch, Params

# What the backward pass keeps of a block besides its input.
REMAT_POLICIES: dict[str, Callable | None] = {
  "layer": jax.checkpoint_policies.save_only_these_names("attention"),  # what attention gave: costly, and small
  # also outputs of weight products, and the product of gate and up that the last of them reads
  "dots": jax.checkpoint_policies.save_only_these_names("attention", "product", "operand"),
}


class Block(nnx.Module):
  """One pre-norm block; holds all layers' parameters stacked, and inside the scan those of one layer."""

  attention_norm: nnx.Param
  feed_forward_norm: nnx.Param

  def __init__(self, config: ModelConfig, precision: str, params: Params):
    self.config, self.precision = config, precision
    for name, value in params.items():
      setattr(self, name, nnx.Param(value))

  def __call__(self, x: jax.Array, angles: tuple[jax.Array, jax.Array], attend: Callable) -> tuple[jax.Array, Any]:
    """[B, T, D] -> [B, T, D], and whatever `attend(q, k, v)` returns beside its output."""
    mixed, extra = self.attention(rms_norm(x, self.attention_norm[...], self.config.norm_epsilon), angles, attend)
    x = x + mixed
    return x + self.feed_forward(rms_norm(x, self.feed_forward_norm[...], self.config.norm_epsilon)), extra

  def attention(self, x, angles, attend):
    def heads(name):
      return self.linear(x, name).reshape(*x.shape[:-1], -1, self.config.head_dim)

    q = apply_rotary(heads("query"), *angles)
    k = apply_rotary(heads("key"), *angles)
    out, extra = attend(q, k, heads("value"))
    return self.linear(out.reshape(*x.shape[:-1], -1), "output"), extra

  def feed_forward(self, x):
    gate, up = self.linear(x, "gate"), self.linear(x, "up")
    return self.linear(self.kept(jax.nn.silu(gate) * up, "operand"), "down")

  def linear(self, x, name):
    """x @ matrix `name`, plus `name_bias` where there is one."""
    out = self.kept(dense(x, getattr(self, name)[...], precision=self.precision), "product")
    bias = getattr(self, f"{name}_bias", None)
    return out if bias is None else out + bias[...][(None,) * (out.ndim - 1)]

  def kept(self, x, name):
    return kept(x, name, precision=self.precision)


class Decoder(nnx.Module):
  """Embedding, scanned blocks, final norm."""

  def __init__(self, config: ModelConfig, params: Params, *, precision: str, remat: str):
    self.config, self.precision, self.remat = config, precision, remat
    self.embed = nnx.Param(params["embed"])
    self.layers = Block(config, precision, params["layers"])
    self.final_norm = nnx.Param(params["final_norm"])
    if "head" in params:
      self.head = nnx.Param(params["head"])

  def __call__(self, rows: PackedBatch) -> jax.Array:
    """[R, L, D] hidden states of packed rows, after the final norm."""
    segment, answer, position = map(jnp.asarray, (rows.segment, rows.answer, rows.position))
    plan = attention_plan(segment, answer, position, self.config.window)

    def attend(q, k, v):
      out = packed_attention(
        q,
        k,
        v,
        segment=segment,
        answer=answer,
        position=position,
        precision=self.precision,
        window=self.config.window,
        plan=plan,
      )
      return out, None

    x, angles = embedded(self.embed.get_value(), rows.tokens, position, self.config)
    graph, layers = nnx.split(self.layers)

    def body(x, layer):
      return nnx.merge(graph, layer)(x, angles, attend)

    if self.remat != "none":
      # Inside a scan nothing can be merged across the barrier that prevent_cse would add.
      body = jax.checkpoint(body, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
    return final_hidden(scan_layers(body, x, layers), self.final_norm[...], self.config)


def embedded(embed: Any, tokens: Array, position: jax.Array, config: ModelConfig):
  """The embedded tokens [B, T, D] and the rotary angles of their positions."""
  x = take(embed, jnp.asarray(tokens))
  frequencies = rotary_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
  return x, rotary_angles(position, frequencies, x.dtype)


def final_hidden(x: jax.Array, gain: jax.Array, config: ModelConfig) -> jax.Array:
  """The residual stream [..., D] after the final norm."""
  return rms_norm(x, gain, config.norm_epsilon)
