"""Learning a reward model from comparisons: any reward loss of `dpojax.losses` on packed rows."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dpojax.losses.arrays import check_values
from dpojax.losses.spec import LossSpec, loss_spec
from dpojax.models.reward_model import RewardModel
from dpojax.objectives import Objective
from dpojax.objectives.metrics import reward_metrics
from dpojax.types import Answers, Declared, Metrics, PackedBatch, Params


@dataclasses.dataclass(frozen=True)
class RewardObjective(Objective):
  """The weighted mean over examples of a loss on rewards, averaged over the heads of an ensemble.

  A tie (`example_label` 1/2), a margin (`example_margin`) and a weight come with the example. Heads share
  everything but their own weights, so they differ only in where they start, unless `bootstrap` lets each
  see the examples with weights of its own.

  Attributes:
    model: gives the rewards.
    spec: one loss of rewards; its margins are subtracted from the difference of rewards.
    bootstrap: every head weighs every example by a draw from Exp(1), the same in every epoch (the Bayesian
      bootstrap: Rubin 1981, Annals of Statistics 9(1)); the reported loss is without these weights.
    seed: of those draws.
  """

  model: RewardModel
  spec: LossSpec = loss_spec("bradley_terry")
  bootstrap: bool = False
  seed: int = 0

  @property
  def parameters(self) -> Declared:
    return self.model.parameters

  def normalizers(self, batch: PackedBatch) -> dict[str, jax.Array]:
    """`heads`: f32[H], the sum of weights that each head gives the step's examples."""
    weight = self._weight(jnp.asarray(batch.example_index).reshape(-1), jnp.asarray(batch.example_weight).reshape(-1))
    total = jnp.sum(weight, axis=0)
    return {"heads": jnp.where(total > 0, total, 1.0)}

  def forward(self, params: Params, reference_params: Params, rows: PackedBatch) -> jax.Array:
    """f32[R, E * K, H] rewards."""
    del reference_params
    return self.model.rewards(params, rows)

  def loss(self, outputs: jax.Array, rows: PackedBatch, normalizers: dict, hyper: dict) -> tuple[jax.Array, Metrics]:
    rewards = outputs.reshape(-1, rows.answers_per_example, self.model.heads)  # [B, K, H]
    present = (jnp.asarray(rows.answer_end) > 0).reshape(-1, rows.answers_per_example)
    weight = jnp.asarray(rows.example_weight).reshape(-1)
    values = jax.vmap(lambda r: self._values(r, present, rows, hyper), in_axes=-1, out_axes=-1)(rewards)

    def total(weight):
      # `where` and not a product with 0: an empty slot must not turn an overflow into NaN.
      return jnp.sum(jnp.where(weight > 0, values * weight, 0.0), axis=0)

    heads = self._weight(jnp.asarray(rows.example_index).reshape(-1), weight)
    partial_loss = jnp.mean(total(heads) / normalizers["heads"])
    metrics = reward_metrics(rewards, present, rows)
    metrics["loss"] = (jnp.mean(total(weight[:, None])), jnp.sum(weight))
    return partial_loss, jax.lax.stop_gradient(metrics)

  def _values(self, rewards: jax.Array, present: jax.Array, rows: PackedBatch, hyper: dict) -> jax.Array:
    """f32[B] values of the loss for one head's [B, K] rewards."""
    (loss,) = self.spec.losses
    options: dict[str, Any] = {name: hyper[name] for name in loss.options if name in hyper}
    values = lambda **data: check_values(  # noqa: E731
      loss.name, loss.function(**{name: data[name] for name in loss.data}, **options), len(rewards)
    )
    if loss.answers is Answers.RANKING:
      return values(reward=rewards, present=present)
    if rewards.shape[1] != 2:
      raise ValueError(f"{loss.name} compares two answers, but examples have {rewards.shape[1]}; use plackett_luce")
    margin = hyper["margin_scale"] * jnp.asarray(rows.example_margin).reshape(-1) if self.spec.margins else None
    label = jnp.asarray(rows.example_label).reshape(-1)
    return values(chosen=rewards[:, 0], rejected=rewards[:, 1], margin=margin, label=label)

  def _weight(self, index: jax.Array, weight: jax.Array) -> jax.Array:
    """f32[B, H] weight that each head gives each example, 0 where empty."""
    if not self.bootstrap:
      return jnp.broadcast_to(weight[:, None], (weight.shape[0], self.model.heads))

    def draw(index):
      key = jax.random.fold_in(jax.random.key(self.seed), index)
      return jax.random.exponential(key, (self.model.heads,), weight.dtype)

    return weight[:, None] * jax.vmap(draw)(jnp.maximum(index, 0))
