"""Whose token every scored slot of a packed batch scores."""

import dataclasses

import numpy as np

from dpojax.types import PackedBatch


@dataclasses.dataclass(frozen=True)
class Slots:
  """The filled scored slots of a batch, each an element of every array.

  Attributes:
    place: i64, index into the flattened [G, R, S] arrays.
    example: i64, index of the example in its data set.
    answer: i64, which of the example's answers.
    rank: i64, which of the answer's tokens.
  """

  place: np.ndarray
  example: np.ndarray
  answer: np.ndarray
  rank: np.ndarray

  def of_answers(self, number: int | np.ndarray) -> "Slots":
    """Those of the first `number` answers of their examples (i64[slots], or one for all): a scored prompt lies behind."""
    chosen = self.answer < number
    return Slots(self.place[chosen], self.example[chosen], self.answer[chosen], self.rank[chosen])

  def in_order(self) -> "Slots":
    """The same by example, then answer, then token."""
    order = np.lexsort((self.rank, self.answer, self.example))
    return Slots(self.place[order], self.example[order], self.answer[order], self.rank[order])


def locate(batch: PackedBatch) -> Slots:
  """The filled slots of a batch; those of an answer are in the order of its tokens."""
  example_index = np.asarray(batch.example_index).reshape(-1, np.shape(batch.example_index)[-1])
  answer_of = np.asarray(batch.answer_of).reshape(len(example_index), -1)
  row, column = np.nonzero(answer_of < batch.num_answers)
  slot = answer_of[row, column].astype(np.int64)
  place = row * answer_of.shape[1] + column
  owner = row * batch.num_answers + slot
  order = np.argsort(owner, kind="stable")
  place, owner, row, slot = place[order], owner[order], row[order], slot[order]
  begins = np.flatnonzero(np.diff(owner, prepend=-1))
  counts = np.diff(begins, append=len(owner))
  rank = np.arange(len(owner)) - np.repeat(begins, counts)
  e, k = np.divmod(slot, batch.answers_per_example)
  return Slots(place, example_index[row, e].astype(np.int64), k, rank)
