"""What is reported of a step of preference learning; names as TRL has them where it has them."""

from typing import Any

import jax
import jax.numpy as jnp

from dpojax.losses.logps import (
  PairLogps,
  RankedLogps,
  SingleLogps,
  log_ratios,
  ranked_log_ratios,
  single_log_ratios,
)
from dpojax.types import Metrics, PackedBatch

ALIKE = 0.1  # lengths count as alike when they differ by at most this share of the longer


def preference_metrics(policy: Any, reference: Any, observed: Any, rows: PackedBatch, beta: jax.Array) -> Metrics:
  """Rewards, log-probs, lengths and token metrics of what was observed, as (sum, count).

  A reward is beta times the log-ratio; of losses without a reference, beta times the log-prob.
  `ratio/*` and `displacement/chosen` need a reference. Empty slots count for nothing.

  Args:
    policy, reference: containers of `dpojax.losses.logps`; reference may be None.
    observed: with `entropy`, `correct`, `mean_logit` f32[R, S].
    rows: that it was observed of.
    beta: f32[].
  """
  if isinstance(policy, SingleLogps):
    return _of_singles(policy, reference, beta) | _of_tokens(observed, rows, only_first=True)
  return _of_pairs(*_as_pairs(policy, reference), beta) | _of_tokens(observed, rows)


def _as_pairs(policy: Any, reference: Any) -> tuple[Any, Any, Any, Any]:
  """(log-probs, log-ratios or None, lengths, weights): of the best and the worst answer of each example."""
  if isinstance(policy, PairLogps):
    logps = jnp.asarray(policy.chosen), jnp.asarray(policy.rejected)
    ratios = None if reference is None else log_ratios(policy, reference)
    return logps, ratios, (policy.chosen_length, policy.rejected_length), policy.weight
  assert isinstance(policy, RankedLogps)
  length = jnp.asarray(policy.length)
  last = jnp.maximum(jnp.sum((length > 0).astype(jnp.int32), axis=1) - 1, 0)

  def ends(x):
    return x[:, 0], jnp.take_along_axis(x, last[:, None], axis=1)[:, 0]

  ratios = None if reference is None else ends(ranked_log_ratios(policy, reference))
  return ends(jnp.asarray(policy.logp)), ratios, ends(length), policy.weight


def _of_pairs(logps, ratios, lengths, weight, beta) -> Metrics:
  present = weight > 0
  kind = logps[0].dtype
  scores = logps if ratios is None else ratios
  chosen, rejected = scores

  def mean(x, where=present):
    where = where & present
    return jnp.sum(jnp.where(where, x.astype(kind), 0.0)), jnp.sum(where.astype(kind))

  longest, difference = jnp.maximum(*lengths), jnp.abs(lengths[0] - lengths[1])
  alike = difference.astype(kind) <= ALIKE * longest.astype(kind)
  metrics = {
    "rewards/chosen": mean(beta * chosen),
    "rewards/rejected": mean(beta * rejected),
    "rewards/margins": mean(beta * (chosen - rejected)),
    "rewards/accuracies": mean(chosen > rejected),
    "accuracy/length_matched": mean(chosen > rejected, alike),
    "logps/chosen": mean(logps[0]),
    "logps/rejected": mean(logps[1]),
    "length/chosen": mean(lengths[0]),
    "length/rejected": mean(lengths[1]),
  }
  if ratios is not None:
    metrics |= {
      "ratio/chosen": mean(chosen),
      "ratio/rejected": mean(rejected),
      "displacement/chosen": mean(chosen < 0),
    }
  return metrics


def _of_singles(policy: SingleLogps, reference: SingleLogps | None, beta) -> Metrics:
  """Of desirable answers under `chosen`, of undesirable ones under `rejected`."""
  logp = jnp.asarray(policy.logp)
  present = jnp.asarray(policy.weight) > 0
  good, bad = present & policy.desirable, present & ~jnp.asarray(policy.desirable)
  ratio = logp if reference is None else single_log_ratios(policy, reference)

  def mean(x, where):
    return jnp.sum(jnp.where(where, x.astype(logp.dtype), 0.0)), jnp.sum(where.astype(logp.dtype))

  metrics: Metrics = {}
  for side, where in (("chosen", good), ("rejected", bad)):
    metrics |= {
      f"rewards/{side}": mean(beta * ratio, where),
      f"logps/{side}": mean(logp, where),
      f"length/{side}": mean(policy.length, where),
    }
    if reference is not None:
      metrics[f"ratio/{side}"] = mean(ratio, where)
  if reference is not None:
    metrics["displacement/chosen"] = mean(ratio < 0, good)
  return metrics


def _of_tokens(observed: Any, rows: PackedBatch, only_first: bool = False) -> Metrics:
  """Of answers' tokens; `only_first`: of the first answer of each example, the others being there for comparison."""

  def mean(x, where):
    return jnp.sum(jnp.where(where, x, 0.0)), jnp.sum(where.astype(x.dtype))

  number = rows.answer_of % rows.answers_per_example
  answers = rows.filled & (number < (1 if only_first else rows.answers_per_example - rows.score_prompt))
  chosen = answers & (number == 0)
  metrics = {"entropy": mean(observed.entropy, answers), "mean_token_accuracy": mean(observed.correct, answers)}
  if not only_first:
    metrics |= {
      "logits/chosen": mean(observed.mean_logit, chosen),
      "logits/rejected": mean(observed.mean_logit, answers & ~chosen),
    }
  return metrics
