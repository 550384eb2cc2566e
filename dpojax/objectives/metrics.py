"""What is reported of a step: one definition of each metric, whatever is learned; names as TRL has them.

Of compared answers, best first, examples of weight 0 left out; the scores are implicit rewards or those of a reward
model. Of each example first, then the mean over examples, so that a ranking counts as one whatever its length:

- `rewards/chosen`: the score of the first answer; `rewards/rejected`: the mean over the others;
- `rewards/margins`: the first less the mean over the others;
- `rewards/accuracies`: the fraction of its pairs in the right order. A tie (label 1/2) has no order and is left out, a label
  of 0 turns it round, and equal scores are not right. Where every example is a tie its count is 0;
- `accuracy/length_matched`: the same of pairs of about the same length.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from dpojax.losses.logps import PairLogps, SingleLogps, log_ratios, ranked_log_ratios, single_log_ratios
from dpojax.types import Metrics, PackedBatch, sum_by_answer

ALIKE = 0.1  # lengths count as alike when they differ by at most this fraction of the longer


def reward_metrics(rewards: jax.Array, present: jax.Array, rows: PackedBatch) -> Metrics:
  """Of [B, K, H] raw rewards of the answers that are `present`, bool[B, K]; an ensemble's reward is its mean.

  `rewards/disagreement` is the standard deviation over heads of a pair's difference, which no constant that a
  head adds to all rewards can change. `rewards/square` is the mean of squared rewards: with `rewards/mean` it
  gives their variance.
  """
  mean = jnp.mean(rewards, axis=-1)
  here = present & _used(rows)[:, None]
  metrics = _rewards(mean, here, _labels(rows, mean.dtype))
  metrics |= {"rewards/mean": _over(mean, here), "rewards/square": _over(jnp.square(mean), here)}
  metrics |= _sides("length", _lengths(rows).astype(mean.dtype), here)
  if rewards.shape[-1] > 1:
    first, second = _pairs(mean.shape[1])
    spread = jnp.std(rewards[:, first] - rewards[:, second], axis=-1)
    metrics["rewards/disagreement"] = _over(spread, here[:, first] & here[:, second])
  return metrics


def preference_metrics(policy: Any, reference: Any, observed: Any, rows: PackedBatch, beta: jax.Array) -> Metrics:
  """Rewards, log-probs, lengths and token metrics of what was observed.

  A reward is beta times the log-ratio; of losses without a reference, beta times the log-prob.
  `ratio/*` and `displacement/chosen` need a reference. Unpaired answers are under `chosen` where they are desirable
  and under `rejected` where they are not, and nothing compares them.

  Args:
    policy, reference: containers of `dpojax.losses.logps`; reference may be None.
    observed: with `entropy`, `correct`, `mean_logit` f32[R, S].
    rows: that it was observed of.
    beta: f32[].
  """
  if isinstance(policy, SingleLogps):
    return _of_unpaired(policy, reference, beta) | _of_tokens(observed, rows, only_first=True)
  logps, ratios, lengths = _as_table(policy, reference)
  here = (lengths > 0) & _used(rows)[:, None]
  scores = logps if ratios is None else ratios
  metrics = _rewards(scores, here, _labels(rows, scores.dtype), beta, lengths)
  metrics |= _sides("logps", logps, here) | _sides("length", lengths.astype(logps.dtype), here)
  if ratios is not None:
    metrics |= _sides("ratio", ratios, here)
    metrics["displacement/chosen"] = _over((ratios[:, :1] < 0).astype(ratios.dtype), here[:, :1])
  return metrics | _of_tokens(observed, rows)


def _as_table(policy: Any, reference: Any) -> tuple[jax.Array, jax.Array | None, jax.Array]:
  """[B, K] log-probs, log-ratios or None, lengths."""
  if isinstance(policy, PairLogps):
    both = lambda *columns: jnp.stack([jnp.asarray(column) for column in columns], axis=1)  # noqa: E731
    ratios = None if reference is None else both(*log_ratios(policy, reference))
    lengths = policy.chosen_length, policy.rejected_length
    return both(policy.chosen, policy.rejected), ratios, both(*lengths)
  ratios = None if reference is None else ranked_log_ratios(policy, reference)
  return jnp.asarray(policy.logp), ratios, jnp.asarray(policy.length)


def _rewards(
  scores: jax.Array, here: jax.Array, label: jax.Array, scale: Any = 1.0, lengths: jax.Array | None = None
) -> Metrics:
  """Of [B, K] scores, times `scale` the rewards, of the answers `here`, and labels [B]."""
  first, second = _pairs(scores.shape[1])
  won, lost = scores[:, first] > scores[:, second], scores[:, first] < scores[:, second]
  right = jnp.where(label[:, None] < 0.5, lost, won).astype(scores.dtype)
  decided = here[:, first] & here[:, second] & (label != 0.5)[:, None]
  metrics = _sides("rewards", scale * scores, here) | {
    "rewards/margins": _over(scale * (scores[:, :1] - scores[:, 1:]), here[:, :1] & here[:, 1:]),
    "rewards/accuracies": _over(right, decided),
  }
  if lengths is not None:
    one, other = lengths[:, first], lengths[:, second]
    alike = jnp.abs(one - other).astype(scores.dtype) <= ALIKE * jnp.maximum(one, other).astype(scores.dtype)
    metrics["accuracy/length_matched"] = _over(right, decided & alike)
  return metrics


def _sides(name: str, values: jax.Array, here: jax.Array) -> Metrics:
  """Of the first answer, and of the mean over the others."""
  return {f"{name}/chosen": _over(values[:, :1], here[:, :1]), f"{name}/rejected": _over(values[:, 1:], here[:, 1:])}


def _over(values: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(sum over examples of their own means over `where`, how many examples have any), of [B, N] values."""
  count = jnp.sum(where.astype(values.dtype), axis=1)
  own = jnp.sum(jnp.where(where, values, 0.0), axis=1) / jnp.maximum(count, 1.0)
  return jnp.sum(own), jnp.sum((count > 0).astype(values.dtype))


def _pairs(answers: int) -> tuple[jax.Array, jax.Array]:
  """Indices (better, worse) of all pairs of an example's answers."""
  both = list(itertools.combinations(range(answers), 2))
  return jnp.asarray([i for i, _ in both], int), jnp.asarray([j for _, j in both], int)


def _used(rows: PackedBatch) -> jax.Array:
  return jnp.asarray(rows.example_weight).reshape(-1) > 0


def _labels(rows: PackedBatch, dtype: Any) -> jax.Array:
  return jnp.asarray(rows.example_label, dtype).reshape(-1)


def _lengths(rows: PackedBatch) -> jax.Array:
  """i32[B, K] tokens of every answer."""
  counts = sum_by_answer(jnp.asarray(rows.filled).astype(jnp.int32), rows.answer_of, rows.num_answers)
  return counts.reshape(-1, rows.answers_per_example)


def _of_unpaired(policy: SingleLogps, reference: SingleLogps | None, beta) -> Metrics:
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
