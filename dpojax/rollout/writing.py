"""The host's half of sampling: what answers have written, what has ended them, and which grid the rest fit in."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from dpojax.data.batch_shape import bucket

Ended = Literal["eos", "stop", "length"]
FEWEST_ROWS = 16  # fewer are hardly faster: a step reads all weights whatever the rows


@dataclasses.dataclass(frozen=True)
class Sample:
  """What a model wrote after a prompt.

  Attributes:
    tokens: i32[T], T >= 1: the EOS included where it ended by one, and the token that completed a stop string.
    ended: why it ended: "eos", "stop" (a stop string) or "length" (the limit).
    logp: f32[T] nats of each token under the model at the sampling temperature, over the whole vocabulary whatever
      top-k and nucleus left out; of greedy samples at temperature 1.
  """

  tokens: np.ndarray
  ended: Ended
  logp: np.ndarray

  @property
  def finished(self) -> bool:
    """Whether it ended by itself, not by the limit."""
    return self.ended != "length"


@dataclasses.dataclass(frozen=True)
class Ends:
  """What ends an answer.

  Attributes:
    limit: tokens at most.
    ids: i32[E], tokens that end it.
    stop: texts that end it.
    decode: i32[T] -> text; asked where there are stop texts.
  """

  limit: int
  ids: np.ndarray
  stop: Sequence[str] = ()
  decode: Callable[[np.ndarray], str] | None = None

  def first_stop(self, tokens: np.ndarray, known: int) -> int:
    """How many of i32[T] tokens it takes until their text holds a stop text; 0: all do not.

    The first `known` do not. All are decoded first, so a stop text is found that stays in the text as it grows.
    """
    if not self._holds_stop(tokens):
      return 0
    return next((n for n in range(known + 1, len(tokens)) if self._holds_stop(tokens[:n])), len(tokens))

  def _holds_stop(self, tokens: np.ndarray) -> bool:
    if self.decode is None or not self.stop:
      return False
    text = self.decode(tokens)
    return any(each in text for each in self.stop)


class Writing:
  """Answers that are being written, in rows that keep their number, whatever grid writes them.

  Attributes:
    limit: tokens of an answer at most.
    done: how many have ended.
    written: tokens of all.
  """

  def __init__(self, count: int, ends: Ends):
    self._ends, self.limit = ends, ends.limit
    self._tokens = np.zeros((count, ends.limit), np.int32)
    self._logp = np.zeros((count, ends.limit), np.float32)
    self._length = np.zeros(count, np.int64)
    self._ended: list[Ended | None] = [None] * count

  def __len__(self) -> int:
    return len(self._ended)

  @property
  def done(self) -> int:
    return len(self._ended) - self._ended.count(None)

  @property
  def written(self) -> int:
    return int(self._length.sum())

  def going(self, rows: np.ndarray) -> np.ndarray:
    """bool, as i32 rows: which of them go on; not -1, which is nobody's."""
    none = np.asarray([ended is None for ended in self._ended] + [False])
    return none[rows]

  def last_tokens(self, rows: np.ndarray) -> np.ndarray:
    """i32, as i32 rows: the token each has written last; of -1 anything."""
    return self._tokens[rows, np.maximum(self._length[rows] - 1, 0)]

  def add(self, rows: np.ndarray, tokens: np.ndarray, logps: np.ndarray) -> None:
    """Takes tokens i32[c, P, N] and log-probs f32[c, P, N] of the rows i32[P, N] that go on, up to what ends them."""
    for p, n in np.argwhere(self.going(rows)).tolist():
      self._add_row(int(rows[p, n]), tokens[:, p, n], logps[:, p, n])

  def _add_row(self, row: int, tokens: np.ndarray, logps: np.ndarray) -> None:
    known = int(self._length[row])
    ends = np.flatnonzero(np.isin(tokens, self._ends.ids))
    count, ended = (int(ends[0]) + 1, "eos") if len(ends) else (len(tokens), None)
    self._tokens[row, known : known + count] = tokens[:count]
    self._logp[row, known : known + count] = logps[:count]
    stopped = self._ends.first_stop(self._tokens[row, : known + count - (ended == "eos")], known)
    length = stopped or known + count
    if stopped:
      ended = "stop"
    elif ended is None and length == self._ends.limit:
      ended = "length"
    self._length[row], self._ended[row] = length, ended

  def sample(self, row: int) -> Sample:
    """A row that has ended."""
    ended = self._ended[row]
    assert ended is not None, f"row {row} has not ended"
    return Sample(self._tokens[row, : self._length[row]].copy(), ended, self._logp[row, : self._length[row]].copy())


def smaller_grid(going: np.ndarray, multiple: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
  """A grid for the answers that go on, if it is worth it.

  Args:
    going: bool[P, N].
    multiple: of which the number of prompts must be one.

  Returns:
    None, or (i32[P'] prompts, i32[P', N'] answers of each, bool[P', N'] which of them go on and are no copies). Prompts
    and answers keep their order. P' and N' are of 1, 2, 3, 4, 6, 8, 12, 16, .., so that there are few shapes, each of
    them a compilation, and a third of the places at least is saved.
  """
  rows = going.any(axis=1)
  prompts, answers = _round_up(int(rows.sum())), _round_up(int(going.sum(axis=1).max()))
  prompts = -(-prompts // multiple) * multiple
  if going.size <= FEWEST_ROWS or prompts * answers * 3 > going.size * 2:
    return None
  prompt = np.resize(np.flatnonzero(rows), prompts)
  answer = np.argsort(~going[prompt], axis=1, kind="stable")[:, :answers]
  kept = np.take_along_axis(going[prompt], answer, axis=1) & (np.arange(prompts) < rows.sum())[:, None]
  return prompt.astype(np.int32), answer.astype(np.int32), kept


def _round_up(count: int) -> int:
  return bucket(16 * count) // 16
