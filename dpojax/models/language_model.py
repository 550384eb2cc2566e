"""A decoder as everything above uses it: pure functions of parameters, hashable, nothing else inside."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from dpojax.losses.logps import TokenLogps
from dpojax.models import decode
from dpojax.models.cache import AnswerCache, PromptCache
from dpojax.models.config import ModelConfig
from dpojax.models.decoder import Decoder
from dpojax.models.parameters import decoder_parameters, draw_parameters
from dpojax.ops.logprobs import ScoredTokens, log_collision, scored_logps, token_entropy, token_kl
from dpojax.ops.matmul import dense
from dpojax.ops.summed import plain
from dpojax.types import Declared, PackedBatch, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Compared:
  """What two policies say at the scored slots: arrays [R, S] in nats, 0 in empty slots.

  Attributes:
    logp, other_logp: log-probs of the target.
    kl: exact KL(first || other) of the next-token distributions.
    entropy: of the first's.
  """

  logp: jax.Array
  other_logp: jax.Array
  kl: jax.Array
  entropy: jax.Array


@dataclasses.dataclass(frozen=True)
class LanguageModel:
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

  def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
    """[..., D] hidden states to [..., V] logits."""
    return dense(hidden, self.head(params).T, precision=self.precision)

  def score(self, params: Params, rows: PackedBatch) -> ScoredTokens:
    """What the model says at the scored slots: arrays [R, S], all 0 in empty slots."""
    return self.score_hidden(params, self.scored_hidden(params, rows), rows)

  def score_hidden(self, params: Params, hidden: jax.Array, rows: PackedBatch) -> ScoredTokens:
    """`score`, of hidden states that are known already."""
    # Packing fills slots from the first on; those after the last filled one of any row cost nothing.
    used = jnp.max(jnp.where(rows.filled, jnp.arange(1, rows.target.shape[-1] + 1)[None], 0))
    head, target = self.head(params), jnp.asarray(rows.target)
    scored = scored_logps(hidden, head, target, used=used, chunk=self.chunk, precision=self.precision)
    return jax.tree.map(lambda x: jnp.where(rows.filled, x, 0.0), scored)

  def logps(self, params: Params, rows: PackedBatch) -> TokenLogps:
    """Log-probs of the scored tokens, with the answer each belongs to."""
    logp = self.score(params, rows).logp
    return TokenLogps(logp, jnp.asarray(rows.answer_of), rows.num_answers, rows.answers_per_example)

  def kl_hidden(
    self, params: Params, hidden: jax.Array, other_params: Params, other_hidden: jax.Array, rows: PackedBatch
  ) -> jax.Array:
    """[R, S] exact KL(first || second), of hidden states [R, S, D] that are known already; differentiable in both."""
    kl = token_kl(
      hidden.reshape(-1, self.config.hidden),
      self.head(params),
      other_hidden.reshape(-1, self.config.hidden),
      self.head(other_params),
      chunk=self.chunk,
      precision=self.precision,
    )
    return jnp.where(rows.filled, kl.reshape(rows.target.shape), 0.0)

  def entropy_hidden(self, params: Params, hidden: jax.Array, rows: PackedBatch) -> jax.Array:
    """[R, S] entropy of the next token, of hidden states [R, S, D], differentiable; 0 where empty."""
    flat = hidden.reshape(-1, self.config.hidden)
    entropy = token_entropy(flat, self.head(params), chunk=self.chunk, precision=self.precision)
    return jnp.where(rows.filled, entropy.reshape(rows.target.shape), 0.0)

  def compare(self, params: Params, other_params: Params, rows: PackedBatch, temperature: jax.Array) -> Compared:
    """Two policies at the scored slots, both with logits divided by `temperature` f32[], traced; see `Compared`."""
    # A head without bias: dividing what it reads divides the logits.
    hidden, other = (self.scored_hidden(p, rows) / temperature for p in (params, other_params))
    scored, other_scored = self.score_hidden(params, hidden, rows), self.score_hidden(other_params, other, rows)
    kl = self.kl_hidden(params, hidden, other_params, other, rows)
    return Compared(scored.logp, other_scored.logp, kl, scored.entropy)

  def collision_hidden(self, params: Params, hidden: jax.Array, rows: PackedBatch) -> jax.Array:
    """[R, S] log of the sum of squared probabilities of the next token, of hidden states [R, S, D]; 0 where empty."""
    flat = hidden.reshape(-1, self.config.hidden)
    collision = log_collision(flat, self.head(params), chunk=self.chunk, precision=self.precision)
    return jnp.where(rows.filled, collision.reshape(rows.target.shape), 0.0)

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

  def scored_hidden(self, params: Params, rows: PackedBatch) -> jax.Array:
    """[R, S, D] hidden states that predict the targets, 0 in empty slots so that nothing of them spreads."""
    hidden = jnp.take_along_axis(self.hidden(params, rows), jnp.asarray(rows.scored_at)[..., None], axis=1)
    return jnp.where(rows.filled[..., None], hidden, 0.0)


@functools.lru_cache(maxsize=64)
def _graph(model: LanguageModel) -> nnx.GraphDef:
  """The static half of the module, built once without computing anything."""

  def new() -> Decoder:
    return Decoder(model.config, model.init(jax.random.key(0)), precision=model.precision, remat=model.remat)

  return nnx.graphdef(nnx.eval_shape(new))
