"""A decoder as everything above uses it: pure functions of parameters, hashable, nothing else inside."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from dpojax.models import decode
from dpojax.models.cache import AnswerCache, PromptCache
from dpojax.models.config import ModelConfig
from dpojax.models.decoder import Decoder
from dpojax.models.parameters import decoder_parameters, draw_parameters
from dpojax.models.scoring_model import ScoringModel
from dpojax.ops.summed import plain
from dpojax.types import Declared, PackedBatch, Params


@dataclasses.dataclass(frozen=True)
class LanguageModel(ScoringModel):
  """What to compute; the parameters are arguments.

  Everything is computed in the dtype of the parameters (float32, or float64 in tests), except that
  precision "bfloat16" rounds the operands of matrix products.

  Attributes:
    config: the decoder.
    precision: "float32" or "bfloat16".
    remat: what the backward pass recomputes: "none", "layer" (each block) or "dots" (all but the weight
      products of a block).
    chunk: most scored positions whose logits exist at one time.
  """

  config: ModelConfig
  precision: str = "float32"
  remat: str = "layer"
  chunk: int = 512

  def init(self, key: jax.Array) -> Params:
    """Random parameters from a PRNG key: a nested dict of f32 arrays, as `parameters` declares them."""
    return draw_parameters(self.parameters, key)

  @property
  def parameters(self) -> Declared:
    """What is declared of every parameter."""
    return decoder_parameters(self.config)

  def hidden(self, params: Params, rows: PackedBatch) -> jax.Array:
    """[R, L, D] hidden states after the final norm; of no meaning where a row is empty."""
    return self._decoder(params)(rows)

  def head(self, params: Params) -> jax.Array:
    """[V, D] output embedding."""
    return plain(params["embed"]) if self.config.tie_embeddings else params["head"]

  def split_layers(self, params: Params) -> Params:
    """The parameters as `decode` and `next_logits` read them; made once for many tokens. A copy of the layers."""
    return decode.split_layers(params, self.config, self.precision)

  def prefill(self, params: Params, tokens: jax.Array, length: jax.Array) -> tuple[jax.Array, PromptCache]:
    """Reads prompts.

    Args:
      params: as for `hidden`.
      tokens: i32[P, S], prompts from slot 0 on.
      length: i32[P], tokens of each; what stands after them is not seen.

    Returns:
      ([P, S, D] hidden states after the final norm, of no meaning after a prompt's end; their cache).
    """
    return decode.prefill(params, tokens, length, self.config, self.precision)

  def empty_answers(self, prompt: PromptCache, samples: int, capacity: int) -> AnswerCache:
    """A cache of `capacity` slots for `samples` answers to each prompt."""
    prompts, groups, width, _ = prompt.keys[0].shape
    keys = jnp.zeros((prompts * samples, groups, width, capacity), prompt.keys[0].dtype)
    values = keys.swapaxes(-1, -2)
    layers = len(prompt.keys)
    return AnswerCache((keys,) * layers, (values,) * layers, jnp.zeros((), jnp.int32))

  def decode(
    self, split: Params, tokens: jax.Array, prompt: PromptCache, answer: AnswerCache
  ) -> tuple[jax.Array, AnswerCache]:
    """Appends a token to every answer.

    Args:
      split: what `split_layers` made of the parameters.
      tokens: i32[P, N], the next token of each of the N answers to each prompt.
      prompt: from `prefill`.
      answer: the tokens before; needs a free slot.

    Returns:
      ([P, N, D] hidden states after the final norm, the new cache).
    """
    return decode.decode(split, tokens, prompt, answer, self.config, self.precision)

  def next_logits(self, split: Params, hidden: jax.Array) -> jax.Array:
    """[..., D] hidden states to [..., V] logits; `split` as in `decode`."""
    return decode.next_logits(split, hidden, self.precision)

  def _decoder(self, params: Params) -> Decoder:
    return nnx.merge(_graph(self), params)


@functools.lru_cache(maxsize=64)
def _graph(model: LanguageModel) -> nnx.GraphDef:
  """The static half of the module, built once without computing anything."""

  def new() -> Decoder:
    return Decoder(model.config, model.init(jax.random.key(0)), precision=model.precision, remat=model.remat)

  return nnx.graphdef(nnx.eval_shape(new))
