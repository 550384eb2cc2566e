"""Supervised fine-tuning: next-token cross-entropy of the answers."""

import dataclasses

import jax
import jax.numpy as jnp

from dpojax.models.language_model import LanguageModel
from dpojax.objectives import Objective
from dpojax.ops.logprobs import ScoredTokens
from dpojax.types import Declared, Metrics, PackedBatch, Params


@dataclasses.dataclass(frozen=True)
class Sft(Objective):
  """Mean negative log-prob per answer token, over the whole step (not a mean of means).

  Every answer of an example counts, so K = 1 rows are plain supervised fine-tuning; prompts are
  never scored.
  """

  model: LanguageModel

  @property
  def parameters(self) -> Declared:
    return self.model.parameters

  def normalizers(self, batch: PackedBatch) -> dict[str, jax.Array]:
    return {"tokens": jnp.maximum(jnp.sum(token_weights(batch)), 1.0)}

  def forward(self, params: Params, reference_params: Params, rows: PackedBatch) -> ScoredTokens:
    del reference_params
    return self.model.score(params, rows)

  def loss(self, outputs: ScoredTokens, rows: PackedBatch, normalizers: dict, hyper: dict) -> tuple[jax.Array, Metrics]:
    del hyper
    weights = token_weights(rows)
    nll = -jnp.sum(outputs.logp * weights)
    tokens = jnp.sum(weights)
    metrics = {
      "loss": (nll, tokens),
      "entropy": (jnp.sum(outputs.entropy * weights), tokens),
      "mean_token_accuracy": (jnp.sum(outputs.correct * weights), tokens),
    }
    return nll / normalizers["tokens"], jax.lax.stop_gradient(metrics)


def token_weights(batch: PackedBatch) -> jax.Array:
  """f32[..., S]: the example's weight on scored tokens, 0 in empty slots."""
  examples = batch.example_weight.shape[-1]
  # Empty slots name an answer past the last one; clamp them so that the gather stays in range.
  example = jnp.minimum(batch.answer_of // batch.answers_per_example, examples - 1)
  return jnp.where(batch.filled, jnp.take_along_axis(batch.example_weight, example, axis=-1), 0.0)
