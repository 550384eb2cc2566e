"""Log-probs of answers as the losses read them: pairs, rankings and single answers.

A container holds what one model (the policy or its reference) says of a step's answers; `arguments` takes two of them
apart into the arrays of a loss. Axis names: B examples, K answers of an example, R rows and S scored slots of packed
rows.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dpojax.types import Array, sum_by_answer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenLogps:
  """Log-probs of scored tokens, packed as in the batch they came from.

  Attributes:
    logp: f32[R, S] nats, 0 in empty slots.
    answer_of: i32[R, S], as in `PackedBatch`; `num_answers` in empty slots.
    num_answers: answer slots of a row, E * K (static).
    answers_per_example: K (static).
  """

  logp: Array
  answer_of: Array
  num_answers: int = dataclasses.field(metadata=dict(static=True))
  answers_per_example: int = dataclasses.field(default=2, metadata=dict(static=True))

  def sums(self) -> jax.Array:
    """f32[R, E * K]: sum over the tokens of each answer, 0 for empty answer slots."""
    return sum_by_answer(self.logp, self.answer_of, self.num_answers)

  def lengths(self) -> jax.Array:
    """i32[R, E * K]: scored tokens of each answer."""
    ones = (jnp.asarray(self.answer_of) < self.num_answers).astype(jnp.int32)
    return sum_by_answer(ones, self.answer_of, self.num_answers)

  def by_example(self, values: jax.Array) -> jax.Array:
    """[R, E * K] values of answer slots as [B, K]."""
    return values.reshape(-1, self.answers_per_example)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairLogps:
  """Log-probs of B chosen and rejected answers under one model.

  Only the first two are always there; a loss says which others it reads.

  Attributes:
    chosen, rejected: f32[B] nats, summed (not averaged) over answer tokens.
    chosen_length, rejected_length: i32[B] answer tokens; 0 where a pair is empty.
    weight: f32[B] of each pair, 0 where empty; None: all 1. Losses that compare pairs with one another
      leave out those of weight 0.
    margin: f32[B] by how much the chosen answer is better, in units of beta times nats; None: 0.
    chosen_kl, rejected_kl: f32[B] sum over an answer's positions of KL(reference || policy), of the policy.
    prompt, prompt_length: f32[B], i32[B] the prompt's tokens but for the first, which nothing predicts.
    opponent: f32[B] `chosen` or `rejected`, whichever the reference wrote.
    pairs_per_token: f32[] sum of weights over the sum of weight times `chosen_length`, over the global
      batch: what turns a mean over pairs into a mean over tokens. None: over these pairs. With `prompt`
      given, its tokens count too.
    tokens: per-token values of the same answers. Where both models carry them, log-ratios are subtracted
      per token and then summed, because float32 sums near 600 nats round at 6e-5.
  """

  chosen: Array
  rejected: Array
  chosen_length: Array | None = None
  rejected_length: Array | None = None
  weight: Array | None = None
  margin: Array | None = None
  chosen_kl: Array | None = None
  rejected_kl: Array | None = None
  prompt: Array | None = None
  prompt_length: Array | None = None
  opponent: Array | None = None
  pairs_per_token: Array | None = None
  tokens: TokenLogps | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RankedLogps:
  """Log-probs of B examples' K answers under one model, best answer first.

  Attributes:
    logp: f32[B, K] nats, summed over answer tokens.
    length: i32[B, K] answer tokens; 0: there is no such answer.
    weight: f32[B] of each example, 0 where empty; None: all 1.
    pairs_per_token: as in `PairLogps`, of the first answer.
    tokens: per-token values of the same answers.
  """

  logp: Array
  length: Array
  weight: Array | None = None
  pairs_per_token: Array | None = None
  tokens: TokenLogps | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SingleLogps:
  """Log-probs of B single answers, each labelled desirable or not, under one model.

  Attributes:
    logp: f32[B] nats, summed over answer tokens.
    length: i32[B] answer tokens, 0 where empty.
    desirable: bool[B].
    weight: f32[B] of each answer, 0 where empty; None: all 1.
    mismatched: f32[B] log-prob of another prompt's answer after this prompt, for losses that estimate
      how far the policy has moved on text it was not asked for (KTO).
    tokens: per-token values of the same answers; the mismatched one is answer 1 of the example.
  """

  logp: Array
  length: Array
  desirable: Array
  weight: Array | None = None
  mismatched: Array | None = None
  tokens: TokenLogps | None = None


Logps = PairLogps | RankedLogps | SingleLogps


def log_ratios(policy: PairLogps, reference: PairLogps) -> tuple[jax.Array, jax.Array]:
  """(a, b): f32[B] log-ratios policy - reference of the chosen and the rejected answers, in nats."""
  table = _token_ratios(policy, reference)
  if table is not None:
    return table[:, 0], table[:, 1]
  return jnp.asarray(policy.chosen) - reference.chosen, jnp.asarray(policy.rejected) - reference.rejected


def ranked_log_ratios(policy: RankedLogps, reference: RankedLogps) -> jax.Array:
  """f32[B, K] log-ratios policy - reference of every answer, in nats."""
  table = _token_ratios(policy, reference)
  return jnp.asarray(policy.logp) - reference.logp if table is None else table


def single_log_ratios(policy: SingleLogps, reference: SingleLogps) -> jax.Array:
  """f32[B] log-ratios policy - reference of the answers, in nats."""
  table = _token_ratios(policy, reference)
  return jnp.asarray(policy.logp) - reference.logp if table is None else table[:, 0]


def mismatched_log_ratios(policy: SingleLogps, reference: SingleLogps) -> jax.Array:
  """f32[B] log-ratios policy - reference of the mismatched answers, in nats."""
  table = _token_ratios(policy, reference)
  if table is not None:
    return table[:, 1]
  assert policy.mismatched is not None and reference.mismatched is not None, "this loss needs mismatched answers"
  return jnp.asarray(policy.mismatched) - reference.mismatched


def arguments(policy: Logps, reference: Logps | None = None, *, of_ratios: bool = False) -> dict[str, Any]:
  """What two models say of the same answers, by the names that losses give it (`dpojax.losses`).

  Args:
    reference: None where the loss reads none.
    of_ratios: give log-ratios in place of the policy's log-probs, and zeros in place of the reference's. Ratios are
      subtracted per token before they are summed, where both models carry tokens.
  """
  given = {field.name: getattr(policy, field.name) for field in dataclasses.fields(policy) if field.name != "tokens"}
  if reference is not None:
    ratios = _ratios(policy, reference)
    for name, ratio in ratios.items():
      if of_ratios:
        given[name], given[f"reference_{name}"] = ratio, jnp.zeros_like(ratio)
      else:
        given[f"reference_{name}"] = getattr(reference, name)
  return {name: value for name, value in given.items() if value is not None}


def _ratios(policy: Any, reference: Any) -> dict[str, jax.Array]:
  """Log-ratios by the names of the log-probs they are of."""
  if isinstance(policy, PairLogps):
    chosen, rejected = log_ratios(policy, reference)
    return {"chosen": chosen, "rejected": rejected}
  if isinstance(policy, RankedLogps):
    return {"logp": ranked_log_ratios(policy, reference)}
  ratios = {"logp": single_log_ratios(policy, reference)}
  if policy.mismatched is not None:
    ratios["mismatched"] = mismatched_log_ratios(policy, reference)
  return ratios


def _token_ratios(policy: Any, reference: Any) -> jax.Array | None:
  """[B, K] log-ratios subtracted per token and then summed, or None where a model carries sums only."""
  if policy.tokens is None or reference.tokens is None:
    return None
  difference = dataclasses.replace(policy.tokens, logp=jnp.asarray(policy.tokens.logp) - reference.tokens.logp)
  return difference.by_example(difference.sums())


def pair_logps(tokens: TokenLogps, **details: Any) -> PairLogps:
  """Pairs from packed tokens: answer 0 of an example is the chosen one, answer 1 the rejected."""
  sums, lengths = tokens.by_example(tokens.sums()), tokens.by_example(tokens.lengths())
  return PairLogps(sums[:, 0], sums[:, 1], lengths[:, 0], lengths[:, 1], tokens=tokens, **details)


def weighted_mean(values: jax.Array, weight: Array | None) -> jax.Array:
  """f32[]: mean of [B] values, those of weight 0 left out whatever they are."""
  if weight is None:
    return jnp.mean(values)
  weight = jnp.asarray(weight)
  total = jnp.sum(weight)
  # `where` and not a product with 0: an empty slot must not turn an overflow into NaN.
  return jnp.sum(jnp.where(weight > 0, values * weight, 0.0)) / jnp.where(total > 0, total, 1.0)
