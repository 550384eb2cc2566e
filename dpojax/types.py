"""The containers that pass between layers: packed batches, log-probs, samples.

This module imports nothing of ours, so every layer may use it. All containers are immutable pytrees
whose leaves are NumPy arrays on the host and JAX arrays on the device.

Axis names used throughout: G row groups, R rows of a group, L row length, S scored slots of a row,
E example slots of a row, K answers of an example (the largest of the data set), B pairs.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedBatch:
  """Packed rows in which an example is a prompt with K >= 1 answers and the prompt appears once.

  One row, two examples with K = 2 (slot numbers as stored)::

      tokens    P P P a a b b b | Q Q c c d d d .
      position  0 1 2 3 4 3 4 5 | 0 1 2 3 2 3 4 0     each answer continues from its prompt
      segment   0 0 0 0 0 0 0 0 | 1 1 1 1 1 1 1 -1    attention never leaves a segment
      answer   -1-1-1 0 0 1 1 1 |-1-1 2 2 3 3 3 -1    answers of one prompt never see each other

  Token i attends to token j when both are in one segment, j <= i in the row, and j is a prompt token
  or belongs to i's own answer. Answer slot `e * K + k` holds answer k (0 the chosen one of a pair) of
  the example in slot e. A scored slot says: the hidden state at `scored_at` predicts `target`, a
  token of answer slot `answer_of`. The first token of every answer is predicted at the last prompt
  position, which its answers share. Slots of an answer are in the order of its tokens.

  Leading axes: [G, R, ...] for a whole step, [R, ...] for one group inside the step's loop.
  With `share_prompt=False` the packer repeats the prompt before every answer, one segment each, in
  the same container: the oracle of the shared form.

  Attributes:
    tokens: i32[..., L], 0 where empty.
    position: i32[..., L], position within prompt + own answer, 0 where empty.
    segment: i32[..., L], -1 where empty.
    answer: i32[..., L], answer slot, -1 on prompt tokens and where empty.
    scored_at: i32[..., S], index into the row, 0 where empty.
    target: i32[..., S], token id, 0 where empty.
    answer_of: i32[..., S], answer slot, E * K where empty.
    example_index: i32[..., E], index of the example in its data set, -1 where empty.
    example_weight: f32[..., E], 0 where empty.
    reference_logp: f32[..., S] cached reference log-probs of `target`, or None.
    num_groups: i32[], how many of the G groups hold examples; None inside the step's loop.
    answers_per_example: K (static), so that a row has E * K answer slots.
  """

  tokens: Array
  position: Array
  segment: Array
  answer: Array
  scored_at: Array
  target: Array
  answer_of: Array
  example_index: Array
  example_weight: Array
  reference_logp: Array | None = None
  num_groups: Any = None
  answers_per_example: int = dataclasses.field(default=2, metadata=dict(static=True))

  @property
  def num_answers(self) -> int:
    """Answer slots of a row, E * K."""
    return self.example_index.shape[-1] * self.answers_per_example

  @property
  def filled(self) -> Array:
    """bool[..., S]: which scored slots hold a token."""
    return self.answer_of < self.num_answers

  def group(self, index) -> "PackedBatch":
    """Row group `index` of a whole step: every array loses its leading axis."""
    arrays = dataclasses.replace(self, num_groups=None)
    return jax.tree.map(lambda x: jnp.asarray(x)[index], arrays)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenLogps:
  """Log-probs of scored tokens, packed as in the batch they came from.

  Attributes:
    logp: f32[..., R, S] nats, 0 in empty slots.
    answer_of: i32[..., R, S], as in `PackedBatch`; `num_answers` in empty slots.
    num_answers: answer slots per row, E * K (static).
  """

  logp: Array
  answer_of: Array
  num_answers: int = dataclasses.field(metadata=dict(static=True))

  def sums(self) -> jax.Array:
    """f32[R, E * K]: sum over the tokens of each answer, 0 for empty answer slots."""
    return sum_by_answer(self.logp, self.answer_of, self.num_answers)

  def lengths(self) -> jax.Array:
    """i32[R, E * K]: scored tokens of each answer."""
    ones = (jnp.asarray(self.answer_of) < self.num_answers).astype(jnp.int32)
    return sum_by_answer(ones, self.answer_of, self.num_answers)


def sum_by_answer(values: Array, answer_of: Array, num_answers: int) -> jax.Array:
  """Sums [R, S] values into [R, num_answers]; slots with answer_of == num_answers are dropped."""

  def one_row(v, a):
    return jax.ops.segment_sum(v, a, num_segments=num_answers + 1)[:num_answers]

  return jax.vmap(one_row)(jnp.asarray(values), jnp.asarray(answer_of))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairLogps:
  """Log-probs of B chosen and rejected answers under one model.

  Attributes:
    chosen, rejected: f32[B] nats, summed (not averaged) over answer tokens.
    chosen_length, rejected_length: i32[B] answer tokens; 1 or more even where a pair is empty.
    tokens: per-token values of the same answers, or None. Where both models carry them, log-ratios
      are subtracted per token and then summed, because float32 sums near 600 nats round at 6e-5.
  """

  chosen: Array
  rejected: Array
  chosen_length: Array | None = None
  rejected_length: Array | None = None
  tokens: TokenLogps | None = None


def log_ratios(policy: PairLogps, reference: PairLogps) -> tuple[jax.Array, jax.Array]:
  """(a, b): f32[B] log-ratios policy - reference of the chosen and the rejected answers, in nats."""
  if policy.tokens is None or reference.tokens is None:
    return (
      jnp.asarray(policy.chosen) - reference.chosen,
      jnp.asarray(policy.rejected) - reference.rejected,
    )
  difference = dataclasses.replace(policy.tokens, logp=jnp.asarray(policy.tokens.logp) - reference.tokens.logp)
  chosen, rejected = as_pairs(difference.sums())
  return chosen, rejected


def as_pairs(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Splits [..., R, E * 2] answer slots into chosen and rejected, each flat [B]."""
  pairs = values.reshape(-1, 2)
  return pairs[:, 0], pairs[:, 1]


Params = Any  # a nested dict of arrays: what `nnx.split` leaves of a model's parameters
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count), divided once on the host
