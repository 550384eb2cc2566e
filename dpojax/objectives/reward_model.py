"""Learning a reward model from comparisons: any reward loss of `dpojax.losses` on packed rows."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from dpojax.losses.spec import LossSpec, loss_spec
from dpojax.models.reward_model import RewardModel
from dpojax.objectives import Objective
from dpojax.types import Answers, Declared, Metrics, PackedBatch, Params, sum_by_answer


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

  def forward(self, params: Params, frozen: Params, rows: PackedBatch) -> jax.Array:
    """f32[R, E * K, H] rewards."""
    del frozen
    return self.model.rewards(params, rows)

  def loss(self, observed: jax.Array, rows: PackedBatch, totals: dict, hyper: dict) -> tuple[jax.Array, Metrics]:
    rewards = observed.reshape(-1, rows.answers_per_example, self.model.heads)  # [B, K, H]
    present = (jnp.asarray(rows.answer_end) > 0).reshape(-1, rows.answers_per_example)
    weight = jnp.asarray(rows.example_weight).reshape(-1)
    values = jax.vmap(lambda r: self._values(r, present, rows, hyper), in_axes=-1, out_axes=-1)(rewards)

    def total(weight):
      # `where` and not a product with 0: an empty slot must not turn an overflow into NaN.
      return jnp.sum(jnp.where(weight > 0, values * weight, 0.0), axis=0)

    heads = self._weight(jnp.asarray(rows.example_index).reshape(-1), weight)
    share = jnp.mean(total(heads) / totals["heads"])
    metrics = reward_metrics(rewards, present, rows)
    metrics["loss"] = (jnp.mean(total(weight[:, None])), jnp.sum(weight))
    return share, jax.lax.stop_gradient(metrics)

  def _values(self, rewards: jax.Array, present: jax.Array, rows: PackedBatch, hyper: dict) -> jax.Array:
    """f32[B] values of the loss for one head's [B, K] rewards."""
    (loss,) = self.spec.losses
    options: dict[str, Any] = {name: hyper[name] for name in loss.options if name in hyper}
    if loss.answers is Answers.RANKING:
      return loss.function(rewards, present=present, **options)
    if rewards.shape[1] != 2:
      raise ValueError(f"{loss.name} compares two answers, but examples have {rewards.shape[1]}; use plackett_luce")
    margin = hyper["margin_scale"] * jnp.asarray(rows.example_margin).reshape(-1) if self.spec.margins else None
    label = jnp.asarray(rows.example_label).reshape(-1)
    return loss.function(rewards[:, 0], rewards[:, 1], margin=margin, label=label, **options)

  def _weight(self, index: jax.Array, weight: jax.Array) -> jax.Array:
    """f32[B, H] weight that each head gives each example, 0 where empty."""
    if not self.bootstrap:
      return jnp.broadcast_to(weight[:, None], (weight.shape[0], self.model.heads))

    def draw(index):
      key = jax.random.fold_in(jax.random.key(self.seed), index)
      return jax.random.exponential(key, (self.model.heads,), weight.dtype)

    return weight[:, None] * jax.vmap(draw)(jnp.maximum(index, 0))


def reward_metrics(rewards: jax.Array, present: jax.Array, rows: PackedBatch) -> Metrics:
  """What is reported of [B, K, H] raw rewards, over examples whose weight is not 0; an ensemble's reward is its mean.

  `rewards/chosen` is that of the first answer, `rewards/rejected` the mean over the others. For more than two
  answers `accuracies` is the share of an example's pairs in the right order; ties have none and are left out.
  `rewards/disagreement` is the standard deviation over heads of a pair's difference, which no constant that a
  head adds to all rewards can change. `rewards/square` is the mean of squared rewards: with `rewards/mean` it
  gives their variance.
  """
  mean = jnp.mean(rewards, axis=-1)
  dtype = mean.dtype
  used = (jnp.asarray(rows.example_weight).reshape(-1) > 0)[:, None]
  label = jnp.asarray(rows.example_label, dtype).reshape(-1, 1)
  first, second = map(jnp.asarray, zip(*itertools.combinations(range(mean.shape[1]), 2), strict=True))
  paired = used & present[:, first] & present[:, second]
  margins, decided = mean[:, first] - mean[:, second], paired & (label != 0.5)
  lengths = _lengths(rows)

  def over(values, where):
    """The mean over examples of their own means over `where`."""
    count = jnp.sum(where.astype(dtype), axis=1)
    own = jnp.sum(jnp.where(where, values, 0.0), axis=1) / jnp.maximum(count, 1.0)
    return jnp.sum(own), jnp.sum((count > 0).astype(dtype))

  here = used & present
  metrics = {
    "rewards/chosen": over(mean[:, :1], here[:, :1]),
    "rewards/rejected": over(mean[:, 1:], here[:, 1:]),
    "rewards/margins": over(mean[:, :1] - mean[:, 1:], here[:, :1] & here[:, 1:]),
    "rewards/accuracies": over(((label - 0.5) * margins > 0).astype(dtype), decided),
    "rewards/mean": over(mean, here),
    "rewards/square": over(jnp.square(mean), here),
    "length/chosen": over(lengths[:, :1].astype(dtype), here[:, :1]),
    "length/rejected": over(lengths[:, 1:].astype(dtype), here[:, 1:]),
  }
  if rewards.shape[-1] > 1:
    spread = jnp.std(rewards[:, first] - rewards[:, second], axis=-1)
    metrics["rewards/disagreement"] = over(spread, paired)
  return metrics


def _lengths(rows: PackedBatch) -> jax.Array:
  """i32[B, K] tokens of every answer."""
  counts = sum_by_answer(jnp.asarray(rows.filled).astype(jnp.int32), rows.answer_of, rows.num_answers)
  return counts.reshape(-1, rows.answers_per_example)
