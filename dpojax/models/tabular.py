"""A policy over a few arms as a language model: a prompt of one token, and answers of one token, the arm.

The hidden state is 1 everywhere and the head is the column of logits, so the log-probs, entropies, divergences and
gradients are those of `dpojax.ops.logprobs`, the code that scores a decoder.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dpojax.errors import ShapeError
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.types import Declared, PackedBatch, Parameter, Params


@dataclasses.dataclass(frozen=True)
class TabularModel(LanguageModel):
  """Scores arms, whatever the prompt is; made by `of`.

  Parameters are {"logits": [A]}, or with features {"theta": [F]} and logits = features @ theta. They begin at 0, where
  all arms are as likely. It scores and is trained; it has no cache, so `rollout.sampler` does not write with it.

  Attributes:
    features: A rows of F numbers, or None.
  """

  features: tuple[tuple[float, ...], ...] | None = None

  @classmethod
  def of(cls, arms: int, features: Sequence[Sequence[float]] | np.ndarray | None = None) -> "TabularModel":
    """A model of that many arms.

    Args:
      features: [A, F] of each arm: a policy of F parameters. None: one logit an arm.

    Raises:
      ShapeError: features are not of these arms.
    """
    config = ModelConfig(arms, 1, layers=1, heads=1, kv_heads=1, ffn=1, head_dim=2, tie_embeddings=False)
    if features is None:
      return cls(config)
    table = np.asarray(features, np.float64)
    if table.ndim != 2 or len(table) != arms:
      raise ShapeError(f"features are [arms, F] = [{arms}, F], got {list(table.shape)}")
    return cls(config, features=tuple(tuple(row) for row in table.tolist()))

  @property
  def parameters(self) -> Declared:
    if self.features is None:
      return {"logits": Parameter((self.config.vocab_size,), (None,), init="zeros")}
    return {"theta": Parameter((len(self.features[0]),), (None,), init="zeros")}

  def head(self, params: Params) -> jax.Array:
    """[A, 1]: the logits."""
    if self.features is None:
      return jnp.asarray(params["logits"])[:, None]
    theta = jnp.asarray(params["theta"])
    return jnp.dot(jnp.asarray(self.features, theta.dtype), theta, precision=jax.lax.Precision.HIGHEST)[:, None]

  def hidden(self, params: Params, rows: PackedBatch) -> jax.Array:
    """[R, L, 1] ones."""
    return jnp.ones((*rows.tokens.shape, 1), jax.tree.leaves(params)[0].dtype)

  def log_probs(self, params: Params, temperature: float = 1.0) -> np.ndarray:
    """f64[A] log-probs of the arms at a temperature, on the host."""
    logits = np.asarray(self.head(params))[:, 0].astype(np.float64) / temperature
    return logits - np.logaddexp.reduce(logits)
