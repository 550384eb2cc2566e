"""Supervised fine-tuning: next-token cross-entropy of the answers."""

import dataclasses

import jax
import jax.numpy as jnp

from dpojax.models.language_model import LanguageModel
from dpojax.types import Metrics, PackedBatch, Params


@dataclasses.dataclass(frozen=True)
class Sft:
  """Mean negative log-prob per answer token, over the whole step (not a mean of means).

  Every answer of an example counts, so K = 1 rows are plain supervised fine-tuning; prompts are
  never scored.
  """

  model: LanguageModel

  def totals(self, batch: PackedBatch) -> dict[str, jax.Array]:
    return {"tokens": jnp.maximum(jnp.sum(_token_weights(batch)), 1.0)}

  def __call__(
    self, params: Params, frozen: Params, rows: PackedBatch, totals: dict, hyper: dict
  ) -> tuple[jax.Array, Metrics]:
    del frozen, hyper
    scored = self.model.score(params, rows)
    weights = _token_weights(rows)
    nll = -jnp.sum(scored.logp * weights)
    tokens = jnp.sum(weights)
    loss = nll / totals["tokens"]
    metrics = {
      "loss": (nll, tokens),
      "entropy": (jnp.sum(scored.entropy * weights), tokens),
      "mean_token_accuracy": (jnp.sum(scored.correct * weights), tokens),
    }
    return loss, jax.lax.stop_gradient(metrics)


def _token_weights(batch: PackedBatch) -> jax.Array:
  """f32[..., S]: the example's weight on scored tokens, 0 in empty slots."""
  examples = batch.example_weight.shape[-1]
  # Empty slots name an answer past the last one; clamp them so that the gather stays in range.
  example = jnp.minimum(batch.answer_of // batch.answers_per_example, examples - 1)
  return jnp.where(batch.filled, jnp.take_along_axis(batch.example_weight, example, axis=-1), 0.0)
