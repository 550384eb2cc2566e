"""Learning from preference pairs: any loss of `dpojax.losses` on packed rows."""

import dataclasses

import jax
import jax.numpy as jnp

from dpojax.losses import get_loss, loss_options
from dpojax.models.language_model import LanguageModel
from dpojax.types import Metrics, PackedBatch, PairLogps, Params, TokenLogps, as_pairs, log_ratios


@dataclasses.dataclass(frozen=True)
class Preference:
  """The weighted mean over pairs of a preference loss.

  The reference is live when `frozen` parameters are given: its log-probs come from the same program
  as the policy's, so the first DPO loss is log 2 even in bfloat16. Otherwise the batch carries them
  (`reference_logp`, from the disk cache).

  Attributes:
    model: scores the tokens.
    loss: a name of `dpojax.losses`.
  """

  model: LanguageModel
  loss: str = "dpo"

  def totals(self, batch: PackedBatch) -> dict[str, jax.Array]:
    weight = jnp.sum(batch.example_weight)
    return {"pairs": jnp.where(weight > 0, weight, 1.0)}

  def __call__(
    self, params: Params, frozen: Params, rows: PackedBatch, totals: dict, hyper: dict
  ) -> tuple[jax.Array, Metrics]:
    scored = self.model.score(params, rows)
    if frozen:
      reference_logp = jax.lax.stop_gradient(self.model.score(frozen, rows).logp)
    elif rows.reference_logp is not None:
      reference_logp = rows.reference_logp
    else:
      raise ValueError("no reference: give frozen parameters, or a batch with reference_logp")

    policy = pair_logps(TokenLogps(scored.logp, rows.answer_of, rows.num_answers))
    reference = pair_logps(TokenLogps(reference_logp, rows.answer_of, rows.num_answers))
    options = {name: hyper[name] for name in loss_options(self.loss)}
    values = get_loss(self.loss)(policy, reference, **options)

    weight = jnp.asarray(rows.example_weight).reshape(-1)
    # `where` and not a product with 0: an empty slot must not turn an overflow into NaN.
    loss_sum = jnp.sum(jnp.where(weight > 0, values * weight, 0.0))
    metrics = _pair_metrics(policy, reference, weight, hyper["beta"]) | _token_metrics(scored, rows)
    metrics["loss"] = (loss_sum, jnp.sum(weight))
    return loss_sum / totals["pairs"], jax.lax.stop_gradient(metrics)


def pair_logps(tokens: TokenLogps) -> PairLogps:
  """Sums packed token log-probs into B = R * E pairs, keeping the tokens for exact log-ratios."""
  chosen, rejected = as_pairs(tokens.sums())
  chosen_length, rejected_length = as_pairs(tokens.lengths())
  return PairLogps(chosen, rejected, chosen_length, rejected_length, tokens)


def _pair_metrics(policy: PairLogps, reference: PairLogps, weight: jax.Array, beta) -> Metrics:
  assert policy.chosen_length is not None and policy.rejected_length is not None
  present = weight > 0
  pairs = jnp.sum(present.astype(weight.dtype))

  def mean(x):
    return jnp.sum(jnp.where(present, x, 0.0)), pairs

  chosen, rejected = log_ratios(policy, reference)
  return {
    "rewards/chosen": mean(beta * chosen),
    "rewards/rejected": mean(beta * rejected),
    "rewards/margins": mean(beta * (chosen - rejected)),
    "rewards/accuracies": mean((chosen > rejected).astype(weight.dtype)),
    "logps/chosen": mean(policy.chosen),
    "logps/rejected": mean(policy.rejected),
    "ratio/chosen": mean(chosen),
    "ratio/rejected": mean(rejected),
    "displacement/chosen": mean((chosen < 0).astype(weight.dtype)),
    "length/chosen": mean(policy.chosen_length.astype(weight.dtype)),
    "length/rejected": mean(policy.rejected_length.astype(weight.dtype)),
  }


def _token_metrics(scored, rows: PackedBatch) -> Metrics:
  def mean(x, where):
    return jnp.sum(jnp.where(where, x, 0.0)), jnp.sum(where.astype(x.dtype))

  chosen = rows.filled & (rows.answer_of % rows.answers_per_example == 0)
  return {
    "entropy": mean(scored.entropy, rows.filled),
    "mean_token_accuracy": mean(scored.correct, rows.filled),
    "logits/chosen": mean(scored.mean_logit, chosen),
    "logits/rejected": mean(scored.mean_logit, rows.filled & ~chosen),
  }
