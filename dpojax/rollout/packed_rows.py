"""The answers of a roll-out in rows that are packed once: minibatches are choices of rows.

::

  prompts and answers -> examples of up to k answers that fit a row -> rows 0 1 2 ...   (packed once)
  minibatch = some rows, in groups of a static shape       epochs permute rows, never what stands in them
  [A, T] by answer and token  <->  [rows, S] by scored slot

In bfloat16 packing alone moves an answer's log-prob by up to 0.3 nats: what is compared between two passes must lie in
the same rows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpojax.data.examples import TokenExample
from dpojax.data.packing import BatchShape, empty_rows, pack
from dpojax.data.slots import locate
from dpojax.errors import ConfigError
from dpojax.types import PackedBatch

PER_SLOT = ("reference_logp", "behaviour_logp", "advantage", "old_value", "value_target")


class PackedRows:
  """Rows of one roll-out.

  Args:
    prompts: i32[P_i] each.
    answers: tokens of the answers to each prompt, one list a prompt.
    shape: of a minibatch, see `minibatch_shape`.

  Attributes:
    count: rows.
    mask: bool[A, T]: which places of an array by answer and token hold a token.
    tokens: i64[count], tokens of each row, counted as each answer alone, its prompt included.
  """

  def __init__(self, prompts: Sequence[np.ndarray], answers: Sequence[Sequence[np.ndarray]], shape: BatchShape):
    examples, first = [], []
    number = 0
    for prompt, several in zip(prompts, answers, strict=True):
      for start in range(0, len(several), shape.answers):
        some = several[start : start + shape.answers]
        examples.append(TokenExample(np.asarray(prompt, np.int32), tuple(some), index=len(examples)))
        first.append(number)
        number += len(some)
    groups = -(-len(examples) // shape.rows)
    packed = pack(examples, dataclasses.replace(shape, groups=groups))
    flat = {
      field.name: np.asarray(value).reshape(-1, value.shape[-1])
      for field in dataclasses.fields(packed)
      if isinstance(value := getattr(packed, field.name), np.ndarray) and value.ndim > 1
    }
    self.count = int(np.sum(np.any(flat["example_index"] >= 0, axis=1)))
    self._rows = {name: value[: self.count] for name, value in flat.items()}
    self._shape = shape
    slots = locate(packed)
    width = flat["target"].shape[1]
    self._row, self._slot = np.divmod(slots.place, width)
    self._answer, self._rank = np.asarray(first)[slots.example] + slots.answer, slots.rank
    lengths = np.zeros(number, np.int64)
    np.maximum.at(lengths, self._answer, self._rank + 1)
    self.mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    alone = np.asarray([example.row_tokens(share_prompt=False) for example in examples])
    held = self._rows["example_index"]
    self.tokens = np.sum(np.where(held >= 0, alone[held], 0), axis=1)

  def by_slot(self, values: np.ndarray) -> np.ndarray:
    """[A, T] values of tokens as [count, S] values of scored slots, 0 in empty ones."""
    found = np.zeros(self._rows["target"].shape, values.dtype)
    found[self._row, self._slot] = values[self._answer, self._rank]
    return found

  def by_token(self, values: np.ndarray) -> np.ndarray:
    """The inverse of `by_slot`: 0 behind an answer's end."""
    found = np.zeros(self.mask.shape, values.dtype)
    found[self._answer, self._rank] = values[self._row, self._slot]
    return found

  @property
  def filled(self) -> np.ndarray:
    """bool[count, S]: which scored slots hold a token."""
    return self._rows["answer_of"] < self._shape.examples * self._shape.answers

  def batch(self, rows: np.ndarray, per_slot: dict[str, np.ndarray] | None = None) -> PackedBatch:
    """Some rows as a packed step [G, R, ...] of the minibatch's shape.

    Args:
      rows: their numbers; at most as many as the shape has.
      per_slot: further arrays [len(rows), S], of these rows, by field of `PackedBatch`.
    """
    shape = self._shape
    empty = empty_rows(shape.groups * shape.rows, shape)
    for name, array in empty.items():
      array[: len(rows)] = self._rows[name][rows]
    for name, values in (per_slot or {}).items():
      empty[name] = np.zeros((shape.groups * shape.rows, values.shape[1]), values.dtype)
      empty[name][: len(rows)] = values
    grouped: dict[str, Any] = {name: x.reshape(shape.groups, shape.rows, -1) for name, x in empty.items()}
    used = np.asarray(-(-len(rows) // shape.rows), np.int32)
    return PackedBatch(**grouped, num_groups=used, answers_per_example=shape.answers)

  def rows_of(self, batch_values: np.ndarray, count: int) -> np.ndarray:
    """[count, S] values of the first `count` rows of a packed step [G, R, S]."""
    return np.asarray(batch_values).reshape(-1, batch_values.shape[-1])[:count]


def minibatch_shape(
  *,
  prompts: int,
  samples: int,
  longest_prompt: int,
  shortest_prompt: int,
  max_tokens: int,
  minibatches: int,
  rows: int,
  length: int,
) -> BatchShape:
  """The static shape that every minibatch of every roll-out fits.

  A prompt with its K answers is one example where they fit a row together, else several of as many as fit.

  Args:
    prompts, samples: of a roll-out.
    longest_prompt, shortest_prompt: tokens.
    max_tokens: of an answer.
    minibatches: of a pass.
    rows, length: of a group, and tokens of a row.

  Raises:
    ConfigError: the longest prompt leaves no room for an answer.
  """
  answers = min(samples, (length - longest_prompt) // max_tokens)
  if answers < 1:
    raise ConfigError(
      f"batch.row_length={length} has no room for the longest prompt ({longest_prompt} tokens) and an answer of "
      f"rollout.max_tokens={max_tokens}; raise it, or set data.max_prompt"
    )
  examples = prompts * -(-samples // answers)
  rows_of_minibatch = -(-examples // minibatches)  # one example a row is the worst case
  return BatchShape(
    groups=-(-rows_of_minibatch // rows),
    rows=rows,
    length=length,
    scored=length,
    # Fewer rows than minibatches would leave one empty: a step that moves by the optimizer's momentum alone.
    examples=max(1, min(examples // minibatches, length // (shortest_prompt + 1))),
    answers=answers,
  )


def split_rows(count: int, minibatches: int, order: np.ndarray) -> list[np.ndarray]:
  """Rows in an order, divided into minibatches whose sizes differ by one row at most."""
  return np.array_split(order[:count], minibatches)
