"""Rows as texts: prompts and answers as the data have them, for whoever judges text and needs no tokens."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpojax.config.schema import DataSettings
from dpojax.data.dataset import open_source
from dpojax.data.examples import as_ids
from dpojax.data.formats import PreferenceRow, choose_format
from dpojax.data.formats.common import Message, other_keys
from dpojax.data.limits import Limits
from dpojax.data.rows import RowReader, row_groups
from dpojax.errors import DataError
from dpojax.interop.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class AnswerRow:
  """A prompt and its answers, as text.

  Attributes:
    number: of the row, from 0.
    where: it was read, for messages.
    given: the prompt: text, or messages.
    answers: texts in the row's order, best first where they are ranked.
    details: other columns of the row.
    finished: which answers ended by themselves.
    prompt_ids, answers_ids: i32[P] and i32[A] of each answer, of rows that hold ids; else None.
  """

  number: int
  where: str
  given: str | list[Message]
  answers: tuple[str, ...]
  details: Mapping[str, Any]
  finished: tuple[bool, ...]
  prompt_ids: np.ndarray | None = None
  answers_ids: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(frozen=True)
class AnswerRows:
  """Rows that can be read, (number of the row, from 0, and why) of every other, and messages about the data as a whole."""

  rows: list[AnswerRow]
  dropped: list[tuple[int, str]]
  warnings: list[str]


def read_answers(settings: DataSettings, tokenizer: Tokenizer | None = None) -> AnswerRows:
  """The rows of the data that `settings` name, as text.

  Args:
    settings: source, format and columns; limits and template are not looked at, since nothing is tokenised.
    tokenizer: decodes rows of ids; where it has a chat template questions are read as messages, as `load_dataset` reads
      them. None: questions are texts.

  Raises:
    DataError: a file or column is wrong, or no row can be read.
    ConfigError: the settings name no source.
  """
  chat = tokenizer is not None and tokenizer.chat_template is not None
  none = Limits(0, 0, 0, 0, "drop")
  reader = RowReader(settings, choose_format, none, chat=chat, rendered=False)
  source = open_source(settings, settings.path, settings.split)
  found: list[AnswerRow] = []
  dropped: list[tuple[int, str]] = []
  numbers = itertools.count()
  for some in row_groups(source.rows):
    reader.begin(some)
    for row, number in zip(some, numbers, strict=False):
      read = reader.read(row)
      try:
        found.append(_answer_row(number, row.where, _readable(read), tokenizer))
      except DataError as error:
        dropped.append((number, f"{row.where}: {error}"))
  if not found:
    what = f"none of its {len(dropped)} rows can be read; {dropped[0][1]}" if dropped else "it holds no rows"
    raise DataError(f"{source.name}: {what}")
  return AnswerRows(found, dropped, reader.warnings())


def _readable(read: PreferenceRow | DataError) -> PreferenceRow:
  if isinstance(read, DataError):
    raise read
  keys = [key for answer in read.answers if read.kind == "chat" for key in other_keys(answer)]
  if keys:
    raise DataError(
      f"an answer has {keys[0]!r} beside its text, which rewards do not read; score it with a model's log-probs"
    )
  return read


def _answer_row(number: int, where: str, read: PreferenceRow, tokenizer: Tokenizer | None) -> AnswerRow:
  finished = read.finished or (True,) * len(read.answers)
  if read.kind != "ids":
    return AnswerRow(number, where, read.prompt, tuple(read.answers), read.details, finished)
  if tokenizer is None:
    raise DataError("it holds token ids; give the model whose they are as --model=PATH")
  texts = tuple(tokenizer.decode(ids, skip_special_tokens=True) for ids in read.answers)
  ids = as_ids(read.prompt), tuple(map(as_ids, read.answers))
  return AnswerRow(number, where, tokenizer.decode(read.prompt), texts, read.details, finished, *ids)
