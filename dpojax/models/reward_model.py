"""A decoder that scores answers: one number an answer and head, read at the answer's last token."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.parameters import reward_head
from dpojax.types import Array, Declared, PackedBatch, Params


@dataclasses.dataclass(frozen=True)
class Normalisation:
  """Mean and standard deviation of raw rewards over a reference set of answers.

  Attributes:
    mean, std: one number a head; every std is above 0.
    std_of_mean: the standard deviation of the mean over heads (that of the one head where there is one).
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  std_of_mean: float

  @classmethod
  def of(cls, rewards: np.ndarray) -> "Normalisation":
    """Measures [N, H] rewards of N >= 1 answers, in float64. A head that gives all of them the same gets std 1."""
    rewards = np.asarray(rewards, np.float64)
    std = np.std(rewards, axis=0)
    of_mean = float(np.std(rewards.mean(axis=1)))
    return cls(tuple(rewards.mean(axis=0).tolist()), tuple(np.where(std > 0, std, 1.0).tolist()), of_mean or 1.0)

  def apply(self, rewards: Array) -> Array:
    """[..., H] raw rewards to mean 0 and standard deviation 1 over the reference set, head by head."""
    shape = (1,) * (rewards.ndim - 1) + (-1,)
    mean, std = (np.asarray(x, rewards.dtype).reshape(shape) for x in (self.mean, self.std))
    return (rewards - mean) / std

  def of_head(self, head: int | None) -> "Normalisation":
    """That of one head alone, or with None of the mean over heads."""
    if head is None:
      return Normalisation((float(np.mean(self.mean)),), (self.std_of_mean,), self.std_of_mean)
    return Normalisation((self.mean[head],), (self.std[head],), self.std[head])


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """A decoder with `heads` linear heads in place of the vocabulary's; pure functions of parameters, hashable.

  Parameters are those of the decoder without its vocabulary head (a tied embedding only embeds) and
  `score` f32[heads, D]. Several heads are an ensemble: they share the decoder and differ in where they
  start, and their disagreement says how sure a reward is.

  Attributes:
    model: the decoder.
    heads: H, number of rewards an answer gets.
    normalisation: of raw rewards over a reference set, or None where none was measured.
  """

  model: LanguageModel
  heads: int = 1
  normalisation: Normalisation | None = None

  @property
  def config(self) -> ModelConfig:
    """The decoder's, as it was with its vocabulary head."""
    return self.model.config

  @property
  def trunk(self) -> LanguageModel:
    """The decoder without a vocabulary head."""
    return dataclasses.replace(self.model, config=dataclasses.replace(self.model.config, tie_embeddings=True))

  @property
  def parameters(self) -> Declared:
    """What is declared of every parameter."""
    return self.trunk.parameters | {"score": reward_head(self.heads, self.model.config.hidden)}

  def init(self, key: jax.Array) -> Params:
    """Random parameters from a PRNG key."""
    trunk, head = jax.random.split(key)
    return self.with_head(self.trunk.init(trunk), head)

  def with_head(self, params: Params, key: jax.Array) -> Params:
    """A decoder's parameters with a fresh `score` instead of any head they had."""
    score = reward_head(self.heads, self.model.config.hidden).draw(key, jnp.float32)
    return {name: value for name, value in params.items() if name not in ("head", "score")} | {"score": score}

  def rewards(self, params: Params, rows: PackedBatch) -> jax.Array:
    """f32[R, E * K, H] raw rewards of every answer slot, 0 where it is empty.

    The reward is score . h, h the hidden state after the final norm at the answer's last token, whose
    place the batch carries (`answer_end`): no token id is looked for, so padding and EOS may share one.
    The product is float32 whatever the precision of the decoder (float64 for float64 parameters).
    """
    end = jnp.asarray(rows.answer_end)
    decoder = {name: value for name, value in params.items() if name != "score"}
    hidden = jnp.take_along_axis(self.trunk.hidden(decoder, rows), end[..., None], axis=1)
    # A prompt is never empty, so no answer ends at 0. Empty slots are zeroed before the product, so that
    # nothing of them, NaN included, reaches the gradient.
    hidden = jnp.where((end > 0)[..., None], hidden, 0.0)
    return jax.lax.dot_general(hidden, params["score"], (((2,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)

  def scored_hidden(self, params: Params, rows: PackedBatch) -> jax.Array:
    """[R, S, D] hidden states at the scored slots, 0 in empty ones: what `values` reads."""
    return self.trunk.scored_hidden({name: value for name, value in params.items() if name != "score"}, rows)

  def values(self, params: Params, hidden: jax.Array) -> jax.Array:
    """[R, S] what the first head, as a critic, expects at hidden states [R, S, D]; of `params` it reads `score` only."""
    score = params["score"][:1]
    return jax.lax.dot_general(hidden, score, (((2,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)[..., 0]

  def normalised(self, rewards: Array) -> Array:
    """[..., H] raw rewards to mean 0 and standard deviation 1 over the reference set; unchanged where there is none."""
    return rewards if self.normalisation is None else self.normalisation.apply(rewards)

  def one_head(self, params: Params, head: int | None = None) -> tuple["RewardModel", Params]:
    """One head of an ensemble as a reward model of its own; None: the mean over heads, which is a linear head too."""
    score = jnp.asarray(params["score"])
    score = jnp.mean(score, axis=0, keepdims=True) if head is None else score[head : head + 1]
    normalisation = self.normalisation and self.normalisation.of_head(head)
    return RewardModel(self.model, 1, normalisation), params | {"score": score}

  def describe(self) -> dict[str, Any]:
    """What `model.json` keeps of the head, in JSON's types; read back by `from_description`."""
    measured = self.normalisation
    return {"heads": self.heads} | (
      {"mean": list(measured.mean), "std": list(measured.std), "std_of_mean": measured.std_of_mean} if measured else {}
    )

  @classmethod
  def from_description(cls, model: LanguageModel, described: dict[str, Any]) -> "RewardModel":
    """Inverse of `describe`.

    Raises:
      ValueError, TypeError, KeyError: it is not such a description.
    """
    heads = described["heads"]
    if "mean" not in described:
      return cls(model, heads)
    mean, std = (tuple(float(x) for x in described[name]) for name in ("mean", "std"))
    if not len(mean) == len(std) == heads:
      raise ValueError(f"{heads} heads, but {len(mean)} means and {len(std)} standard deviations")
    return cls(model, heads, Normalisation(mean, std, float(described["std_of_mean"])))
