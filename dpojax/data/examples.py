"""Tokenised examples: a prompt with its answers, and a data set of them."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.errors import DataError
from dpojax.interop.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TokenExample:
  """One prompt with K >= 1 answers, as token ids.

  Attributes:
    prompt: i32[P], BOS included where the tokenizer writes one. Never empty: the first token of an
      answer needs a position that predicts it.
    answers: K arrays i32[A_k], best first (chosen, rejected); every token is scored, EOS included, but for `learned`.
    index: place in its data set.
    weight: >= 0, multiplies the example's loss.
    label: what was observed of the first answer: 1 it won (or is desirable), 0 it lost (or is not), 1/2 a tie.
    margin: by how much it won, in the data's own unit; 0 where not known.
    learned: bool[A_k] of each answer, which of its tokens are scored; empty: all. Of a conversation the answer is
      everything behind the first turn that is learned, and what others say in it is read and not scored.
    scores: how good each answer is, the higher the better, equal ones tie; empty: nothing but their order is known.
    scores_have_units: whether differences of scores are margins.
  """

  prompt: np.ndarray
  answers: tuple[np.ndarray, ...]
  index: int = 0
  weight: float = 1.0
  label: float = 1.0
  margin: float = 0.0
  learned: tuple[np.ndarray, ...] = ()
  scores: tuple[float, ...] = ()
  scores_have_units: bool = False

  @property
  def scored(self) -> int:
    """Scored tokens of all answers."""
    return sum(int(np.count_nonzero(mask)) for mask in self.learned) if self.learned else self.answer_tokens

  @property
  def answer_tokens(self) -> int:
    """Tokens of all answers, those included that are read and not scored."""
    return sum(len(answer) for answer in self.answers)

  def scored_slots(self, score_prompt: bool = False) -> int:
    """Scored slots it takes: the scored tokens of its answers, and with `score_prompt` the prompt's but for the first."""
    return self.scored + (len(self.prompt) - 1 if score_prompt else 0)

  @property
  def longest(self) -> int:
    """Tokens of the prompt and its longest answer: one more than the largest position."""
    return len(self.prompt) + max(len(answer) for answer in self.answers)

  def row_tokens(self, share_prompt: bool = True) -> int:
    """Tokens the example takes in a packed row."""
    copies = 1 if share_prompt else len(self.answers)
    return copies * len(self.prompt) + self.answer_tokens


class TokenDataset:
  """Tokenised examples in memory, with where they came from and what was dropped on the way.

  Attributes:
    num_answers: K, the most answers any example has.
    fingerprint: sha256 over all token ids, weights, labels, margins, what is learned and `origin`.
    counts: what the data doctor counted, name -> number.
    metadata: one mapping per example; `row` (where it was read), `number` (of the row, from 0), `prompt`
      and `answers` (texts), `given` (the prompt as the data have it: text or messages, see `row_filter.given_prompt`),
      `details` (whatever else its format carries: label, score), and `held_out_by` (hexadecimal) where another prompt than
      its own decides on which side it is: that of its conversation's first example.
    notes: messages about single rows, such as the file and line of a malformed one.
    warnings: messages about the data as a whole: columns of text that nothing reads, what is odd about many rows.
    dropped: (number of the row as read, from 0, and why) of every row left out.
    answer_names: what to call answers 0, 1, ... of every example where their number does not tell.
  """

  def __init__(
    self,
    examples: Sequence[TokenExample],
    *,
    metadata: Sequence[Mapping[str, Any]] | None = None,
    counts: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    dropped: Sequence[tuple[int, str]] = (),
    origin: str = "",
    answer_names: Sequence[str] = (),
  ):
    if metadata is not None and len(metadata) != len(examples):
      raise ValueError(f"{len(metadata)} metadata rows for {len(examples)} examples")
    self._examples = [dataclasses.replace(example, index=i) for i, example in enumerate(examples)]
    self.metadata = list(metadata) if metadata is not None else [{} for _ in examples]
    self.counts = dict(counts or {})
    self.notes = list(notes)
    self.warnings = list(warnings)
    self.dropped = list(dropped)
    self.origin = origin
    self.answer_names = tuple(answer_names)
    self.num_answers = max((len(example.answers) for example in self._examples), default=1)
    self.fingerprint = fingerprint(self._examples, origin)

  @classmethod
  def from_examples(cls, examples: Iterable[Any], **details: Any) -> "TokenDataset":
    """A data set from `TokenExample`s or (prompt ids, [answer ids, ...]) tuples.

    Raises:
      DataError: a prompt or an answer is empty.
    """
    made = []
    for i, example in enumerate(examples):
      if not isinstance(example, TokenExample):
        prompt, answers = example
        example = TokenExample(as_ids(prompt), tuple(as_ids(answer) for answer in answers))
      check_example(example, f"example {i}")
      made.append(example)
    return cls(made, **details)

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> TokenExample:
    return self._examples[index]

  def subset(self, indices: Sequence[int], counts: Mapping[str, int] | None = None) -> "TokenDataset":
    """The examples at `indices`, renumbered from 0."""
    return TokenDataset(
      [self._examples[i] for i in indices],
      metadata=[self.metadata[i] for i in indices],
      counts=self.counts if counts is None else counts,
      notes=self.notes,
      warnings=self.warnings,
      dropped=self.dropped,
      origin=self.origin,
      answer_names=self.answer_names,
    )

  def where(self, index: int) -> str:
    """Where example `index` was read, for messages."""
    return str(self.metadata[index].get("row", f"example {index}"))

  @property
  def longest_segment(self) -> int:
    """Most tokens an example takes in a row: how far back attention can reach."""
    return max((example.row_tokens() for example in self._examples), default=0)

  def check_positions(self, max_positions: int) -> None:
    """Raises DataError, naming the row, if a position is not below `max_positions` (0: any)."""
    for example in self._examples:
      if max_positions and example.longest > max_positions:
        raise DataError(
          f"{self.where(example.index)}: prompt and longest answer have {example.longest} tokens, but the model takes "
          f"{max_positions} positions; set data.max_example={max_positions} or less"
        )

  def check_vocabulary(self, vocab_size: int, tokenizer: Tokenizer | None = None) -> None:
    """Raises DataError, naming row and token, if an id is not that of a row of the model's embedding.

    Args:
      vocab_size: rows of the embedding.
      tokenizer: says the token's text.
    """
    parts = [ids for example in self._examples for ids in (example.prompt, *example.answers)]
    if not parts:
      return
    every = np.concatenate(parts)
    if every.min(initial=0) >= 0 and every.max(initial=0) < vocab_size:
      return
    for example in self._examples:
      for ids in (example.prompt, *example.answers):
        check_ids(ids, vocab_size, self.where(example.index), tokenizer)


def check_ids(ids: np.ndarray, vocab_size: int, where: str, tokenizer: Tokenizer | None = None) -> None:
  """Raises DataError, naming the token, unless 0 <= id < `vocab_size` for all `ids` i32[n] of the text `where`."""
  wrong = ids[(ids < 0) | (ids >= vocab_size)]
  if not wrong.size:
    return
  token = int(wrong[0])
  text, size = "", ""
  if tokenizer is not None:
    text = f" {tokenizer.pieces([token])[0]!r}" if token >= 0 else ""
    size = f", the tokenizer {tokenizer.vocab_size:,} tokens"
  raise DataError(
    f"{where}: token{text} (id {token}) is none of the model's: its embedding has {vocab_size:,} rows{size}; leave the "
    "text out, or give a tokenizer and a model that belong together"
  )


def as_ids(ids: Any) -> np.ndarray:
  """i32[n] token ids."""
  return np.asarray(ids, np.int32).reshape(-1)


def check_example(example: TokenExample, where: str) -> None:
  """Raises DataError for an example that cannot be scored."""
  if len(example.prompt) == 0:
    raise DataError(
      f"{where}: the prompt is empty, so nothing predicts an answer's first token; begin it with the BOS token"
    )
  if not example.answers or any(len(answer) == 0 for answer in example.answers):
    raise DataError(f"{where}: an answer is empty; an answer needs at least its EOS token")
  if example.learned and [len(mask) for mask in example.learned] != [len(answer) for answer in example.answers]:
    raise DataError(
      f"{where}: `learned` has other lengths than the answers; give one truth value for each of their tokens"
    )
  if example.learned and not all(np.any(mask) for mask in example.learned):
    raise DataError(f"{where}: no token of an answer is learned; leave the example out")


def fingerprint(examples: Sequence[TokenExample], origin: str = "") -> str:
  """sha256 over all token ids, their grouping, weights, labels, margins, what is learned and `origin`, as 64 hexadecimal digits."""
  digest = hashlib.sha256(f"dpojax examples 1\n{origin}\n".encode())
  for example in examples:
    lengths = [len(example.prompt), *(len(answer) for answer in example.answers)]
    digest.update(np.asarray([len(lengths), *lengths], "<i8").tobytes())
    digest.update(np.asarray(example.weight, "<f8").tobytes())
    if (example.label, example.margin) != (1.0, 0.0):  # told apart from the usual only where it is not the usual
      digest.update(np.asarray([example.label, example.margin], "<f8").tobytes())
    for ids in (example.prompt, *example.answers):
      digest.update(np.asarray(ids, "<i4").tobytes())
    if example.scores:
      digest.update(b"scores" + np.asarray([*example.scores, example.scores_have_units], "<f8").tobytes())
    for mask in example.learned:
      digest.update(b"learned" + np.packbits(mask).tobytes())
  return digest.hexdigest()
