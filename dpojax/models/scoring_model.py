"""What every model that scores tokens can do, once it says what it makes of packed rows."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from dpojax.losses.logps import TokenLogps
from dpojax.ops.logprobs import ScoredTokens, log_collision, scored_logps, token_entropy, token_kl
from dpojax.ops.matmul import dense
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


class ScoringConfig(Protocol):
  """What is asked of a model's `config`."""

  @property
  def vocab_size(self) -> int:
    """Rows of the output embedding."""
    ...

  @property
  def max_positions(self) -> int:
    """Longest text in tokens; 0: any."""
    ...

  def to_dict(self) -> dict[str, Any]:
    """All that decides what is computed, of JSON's types: its fingerprint, and `model.json` of a run."""
    ...


class ScoringModel:
  """A model that says log-probs of given tokens: `LanguageModel`, or one of your own.

  A model of your own is a hashable object, such as a frozen dataclass, that inherits this and has `config`, `hidden` and
  `head`. It trains with every objective on given text (SFT, preferences), with live, cached and moving references. Such
  a bigram model is::

      @dataclasses.dataclass(frozen=True)
      class Bigram(ScoringModel):
        config: BigramConfig                    # vocab_size, max_positions, to_dict()

        def hidden(self, params, rows):
          return params["embed"][rows.tokens]

        def head(self, params):
          return params["head"]

  and `dpojax.DPO(LoadedModel(Bigram(config), params, tokenizer), ...)` trains it. What writes needs more: the methods
  `split_layers`, `prefill`, `empty_answers`, `decode` and `next_logits` of `LanguageModel`.

  Attributes:
    config: sizes and limits.
    precision: "float32", or "bfloat16" for the operands of the head's products.
    chunk: most scored positions whose logits exist at one time.
  """

  config: Any
  precision: str = "float32"
  chunk: int = 512

  @property
  def writes(self) -> bool:
    """Whether it has the methods that sampling needs."""
    return hasattr(self, "prefill")

  @property
  def parameters(self) -> Declared:
    """What is declared of the parameters, see `types.Parameter`: how they lie on devices, which of them decay; {}: nothing."""
    return {}

  def hidden(self, params: Params, rows: PackedBatch) -> jax.Array:
    """[R, L, D] states that predict the next token; of no meaning where a row is empty.

    Token i may see token j where both are of one `segment`, j <= i, and j is of the prompt (`answer` -1) or of i's own
    answer; its place in its text is `position`, see `types.PackedBatch`. Then packed answers score as each alone would.
    """
    raise NotImplementedError

  def head(self, params: Params) -> jax.Array:
    """[V, D] output embedding."""
    raise NotImplementedError

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

  def scored_hidden(self, params: Params, rows: PackedBatch) -> jax.Array:
    """[R, S, D] hidden states that predict the targets, 0 in empty slots so that nothing of them spreads."""
    hidden = jnp.take_along_axis(self.hidden(params, rows), jnp.asarray(rows.scored_at)[..., None], axis=1)
    return jnp.where(rows.filled[..., None], hidden, 0.0)

  def logps(self, params: Params, rows: PackedBatch) -> TokenLogps:
    """Log-probs of the scored tokens, with the answer each belongs to."""
    logp = self.score(params, rows).logp
    return TokenLogps(logp, jnp.asarray(rows.answer_of), rows.num_answers, rows.answers_per_example)

  def kl_hidden(
    self, params: Params, hidden: jax.Array, other_params: Params, other_hidden: jax.Array, rows: PackedBatch
  ) -> jax.Array:
    """[R, S] exact KL(first || second), of hidden states [R, S, D] that are known already; differentiable in both."""
    kl = token_kl(
      hidden.reshape(-1, hidden.shape[-1]),
      self.head(params),
      other_hidden.reshape(-1, other_hidden.shape[-1]),
      self.head(other_params),
      chunk=self.chunk,
      precision=self.precision,
    )
    return jnp.where(rows.filled, kl.reshape(rows.target.shape), 0.0)

  def entropy_hidden(self, params: Params, hidden: jax.Array, rows: PackedBatch) -> jax.Array:
    """[R, S] entropy of the next token, of hidden states [R, S, D], differentiable; 0 where empty."""
    flat = hidden.reshape(-1, hidden.shape[-1])
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
    flat = hidden.reshape(-1, hidden.shape[-1])
    collision = log_collision(flat, self.head(params), chunk=self.chunk, precision=self.precision)
    return jnp.where(rows.filled, collision.reshape(rows.target.shape), 0.0)
