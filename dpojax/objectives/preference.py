"""Learning from preferences: any weighted sum of the losses of `dpojax.losses` on packed rows."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpojax.errors import ConfigError, ShapeError
from dpojax.losses import Loss
from dpojax.losses.arrays import check_values
from dpojax.losses.divergences import get_divergence
from dpojax.losses.logps import Logps, PairLogps, RankedLogps, SingleLogps, TokenLogps, log_ratios, single_log_ratios
from dpojax.losses.modifiers import (
  dynamic_beta,
  length_desensitised,
  mean_reward_gap,
  reward_shift,
  running_mean,
  wpo_weights,
)
from dpojax.losses.spec import LossSpec, loss_spec
from dpojax.models.language_model import LanguageModel
from dpojax.objectives import Objective
from dpojax.objectives.metrics import preference_metrics
from dpojax.types import Answers, Array, Declared, Metrics, PackedBatch, Params, floats_as


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ForwardOutput:
  """What the models say at the scored slots of packed rows; only the first and `kl` carry a gradient.

  Attributes:
    logp: f32[R, S] of the policy, nats.
    reference_logp: f32[R, S], or None where no loss reads it.
    kl: f32[R, S] KL(reference || policy) of the next-token distributions, nats, or None.
    collision: f32[R, S] log of the sum of squared probabilities of the policy, or None.
    entropy, correct, mean_logit: f32[R, S], see `ScoredTokens`.
  """

  logp: Array
  reference_logp: Array | None
  kl: Array | None
  collision: Array | None
  entropy: Array
  correct: Array
  mean_logit: Array


@dataclasses.dataclass(frozen=True)
class Preference(Objective):
  """The weighted mean over examples of one preference loss, or of a weighted sum of several.

  The reference is live when `reference_params` are given: its log-probs come from the same program
  as the policy's, so the first DPO loss is log 2 even in bfloat16. Otherwise the batch carries them
  (`reference_logp`, from the disk cache). Losses without a reference read neither.

  In `hyper`, option `beta` of every loss is `beta`, or `NAME.beta` for the loss of that name alone;
  `NAME.weight` is its weight in the sum (1 where absent). An option that is absent has the loss's default.

  Attributes:
    model: scores the tokens.
    spec: the losses and what changes them.
    metrics: functions of what policy and reference (None: no loss reads it) say of the examples, f32[B] each, whose
      weighted mean is recorded under the function's name.
  """

  model: LanguageModel
  spec: LossSpec = loss_spec("dpo")
  metrics: tuple[Callable[[Logps, Logps | None], jax.Array], ...] = ()

  @property
  def coupled(self) -> bool:
    return self.spec.dynamic_beta or self.spec.reads("shift") or any(loss.coupled for loss in self.spec.losses)

  @property
  def running(self) -> dict[str, float]:
    gap = {"running/reward_gap": 0.0} if self.spec.dynamic_beta else {}
    shift = {"running/shift": 0.0, "running/shift_count": 0.0} if self.spec.reads("shift") else {}
    return gap | shift

  @property
  def parameters(self) -> Declared:
    return self.model.parameters

  def normalizers(self, batch: PackedBatch) -> dict[str, jax.Array]:
    weight = jnp.asarray(batch.example_weight)
    examples = jnp.sum(weight)
    length = self._first_answer_tokens(batch.flat())
    tokens = jnp.sum(weight.reshape(-1) * length.astype(weight.dtype))
    one = lambda x: jnp.where(x > 0, x, 1.0)  # noqa: E731
    return {"examples": one(examples), "tokens": one(tokens)}

  def forward(self, params: Params, reference_params: Params, rows: PackedBatch) -> ForwardOutput:
    hidden = self.model.scored_hidden(params, rows)
    scored = self.model.score_hidden(params, hidden, rows)
    reference_logp, kl, collision = None, None, None
    if self.spec.reads("reference"):
      if not reference_params and rows.reference_logp is None:
        raise ValueError("no reference: give reference_params, or a batch with reference_logp")
      reference_logp = rows.reference_logp
      if reference_params:
        reference_hidden = self.model.scored_hidden(reference_params, rows)
        reference_logp = jax.lax.stop_gradient(self.model.score_hidden(reference_params, reference_hidden, rows).logp)
        if self.spec.reads("token_kl"):
          kl = self.model.kl_hidden(reference_params, reference_hidden, params, hidden, rows)
      elif self.spec.reads("token_kl"):
        raise ValueError(f"{'+'.join(self.spec.names)} reads the reference's whole distribution: give reference_params")
    if self.spec.wpo:
      collision = jax.lax.stop_gradient(self.model.collision_hidden(params, hidden, rows))
    return ForwardOutput(scored.logp, reference_logp, kl, collision, scored.entropy, scored.correct, scored.mean_logit)

  def loss(
    self, outputs: ForwardOutput, rows: PackedBatch, normalizers: dict, hyper: dict
  ) -> tuple[jax.Array, Metrics]:
    # Weights, counts and options come in float32 whatever the parameters are.
    rows, normalizers, hyper = floats_as(outputs.logp.dtype, (rows, normalizers, dict(hyper)))
    weight = jnp.asarray(rows.example_weight).reshape(-1)
    policy = self._logps(outputs.logp, outputs, rows, normalizers, hyper)
    reference = None
    if outputs.reference_logp is not None:
      reference = self._logps(outputs.reference_logp, outputs, rows, normalizers, hyper)
    hyper, moved = self._adapt(policy, reference, hyper)

    values, metrics = jnp.zeros_like(weight), moved
    for loss in self.spec.losses:
      given = loss.arguments(policy, reference)
      one = check_values(loss.name, loss.formula(**given, **self._options(loss, hyper)), len(weight))
      if self.spec.wpo and loss.compares:
        assert outputs.collision is not None
        one = one * wpo_weights(self._tokens(outputs.logp, rows), outputs.collision)
      # `where` and not a product with 0: an empty slot must not turn an overflow into NaN.
      one = jnp.where(weight > 0, one * weight, 0.0)
      if len(self.spec.losses) > 1:
        metrics[f"loss/{loss.name}"] = (jnp.sum(one), jnp.sum(weight))
      values = values + hyper.get(f"{loss.name}.weight", jnp.ones((), one.dtype)) * one
    loss_sum = jnp.sum(values)
    metrics |= preference_metrics(policy, reference, outputs, rows, hyper["beta"])
    for function in self.metrics:
      own = jnp.asarray(function(policy, reference))
      if own.shape != weight.shape:
        raise ShapeError(
          f"metric {function.__name__}: wants one number an example, [{len(weight)}], got {list(own.shape)}"
        )
      if function.__name__ in metrics or function.__name__ == "loss":
        raise ConfigError(
          f"metrics: two are called {function.__name__}; give each function a name of its own (def NAME)"
        )
      metrics[function.__name__] = (jnp.sum(jnp.where(weight > 0, own * weight, 0.0)), jnp.sum(weight))
    metrics["loss"] = (loss_sum, jnp.sum(weight))
    return loss_sum / normalizers["examples"], jax.lax.stop_gradient(metrics)

  def _options(self, loss: Loss, hyper: dict) -> dict[str, Any]:
    """Options of one loss by name."""
    options: dict[str, Any] = {}
    for option in loss.options:
      if option == "f_divergence":
        options[option] = get_divergence(self.spec.f_divergence, hyper)
      elif f"{loss.name}.{option}" in hyper or option in hyper:
        options[option] = hyper.get(f"{loss.name}.{option}", hyper.get(option))
    return options

  def _tokens(self, logp: Array, rows: PackedBatch) -> TokenLogps:
    return TokenLogps(logp, jnp.asarray(rows.answer_of), rows.num_answers, rows.answers_per_example)

  def _logps(self, logp: Array, outputs: ForwardOutput, rows: PackedBatch, normalizers: dict, hyper: dict) -> Logps:
    """One model's log-probs in the container that the losses read."""
    tokens = self._tokens(logp, rows)
    lengths = tokens.by_example(tokens.lengths())
    if self.spec.ld:
      tokens = length_desensitised(tokens, hyper["ld_alpha"])
    sums = tokens.by_example(tokens.sums())
    weight = jnp.asarray(rows.example_weight).reshape(-1)
    pairs_per_token = normalizers["examples"] / normalizers["tokens"]
    if self.spec.answers is Answers.UNPAIRED:
      desirable = jnp.asarray(rows.example_label).reshape(-1) > 0.5
      mismatched = sums[:, 1] if self.spec.reads("mismatched") else None
      return SingleLogps(sums[:, 0], lengths[:, 0], desirable, weight, mismatched, tokens)
    if self.spec.answers in (Answers.RANKING, Answers.TRIPLE):
      return RankedLogps(sums, lengths, weight, pairs_per_token, tokens)
    details: dict[str, Any] = {}
    if self.spec.margins:
      details["margin"] = hyper["margin_scale"] * jnp.asarray(rows.example_margin).reshape(-1)
    if outputs.kl is not None:
      kl = tokens.by_example(self._tokens(outputs.kl, rows).sums())
      details |= {"chosen_kl": kl[:, 0], "rejected_kl": kl[:, 1]}
    if rows.score_prompt:
      details |= {"prompt": sums[:, -1], "prompt_length": lengths[:, -1]}
    if self.spec.reads("opponent"):
      if rows.example_opponent is None:
        raise ValueError(
          f"{'+'.join(self.spec.names)} needs to know which answers the reference wrote: example_opponent"
        )
      first = jnp.asarray(rows.example_opponent).reshape(-1) == 0
      details["opponent"] = jnp.where(first, sums[:, 0], sums[:, 1])
    return PairLogps(
      sums[:, 0],
      sums[:, 1],
      lengths[:, 0],
      lengths[:, 1],
      weight=weight,
      pairs_per_token=pairs_per_token,
      tokens=tokens,
      **details,
    )

  def _adapt(self, policy: Logps, reference: Logps | None, hyper: dict) -> tuple[dict, Metrics]:
    """Options that follow the whole batch, and the statistics to carry on to the next step."""
    metrics: Metrics = {}
    one = jnp.ones((), jnp.float32)
    if self.spec.dynamic_beta:
      assert isinstance(policy, PairLogps) and isinstance(reference, PairLogps)
      before = hyper["running/reward_gap"]
      gap = mean_reward_gap(*log_ratios(policy, reference), policy.weight, hyper["beta"])
      hyper = hyper | {"beta": dynamic_beta(hyper["beta"], gap, before, strength=hyper["dynamic_beta"])}
      after = running_mean(before, gap, keep=hyper["dynamic_beta_momentum"])
      metrics |= {"running/reward_gap": (after, one), "beta": (hyper["beta"], one)}
    if self.spec.reads("shift"):
      assert isinstance(policy, SingleLogps) and isinstance(reference, SingleLogps)
      count = hyper["running/shift_count"] + one
      shift = reward_shift(single_log_ratios(policy, reference), policy.desirable, policy.weight, hyper["beta"])
      shift = hyper["running/shift"] + (shift - hyper["running/shift"]) / count
      hyper = hyper | {"shift": shift}
      metrics |= {"running/shift": (shift, one), "running/shift_count": (count, one)}
    return hyper, metrics

  def _first_answer_tokens(self, rows: PackedBatch) -> jax.Array:
    """f32[B] tokens over which a loss averages the first answer's negative log-prob, a scored prompt's included."""
    lengths = self._tokens(jnp.zeros(rows.target.shape, jnp.float32), rows)
    counts = lengths.by_example(lengths.lengths())
    first = counts[:, 0]
    if rows.score_prompt:
      first = first + counts[:, -1]
    return first.astype(jnp.float32)
