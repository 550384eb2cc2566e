"""Rows as texts: prompts and answers as the data have them, for whoever judges text and needs no tokens."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpojax.config.schema import DataSettings
from dpojax.data.dataset import open_source
from dpojax.data.examples import as_ids
from dpojax.data.formats import Format, choose_format
from dpojax.data.formats.common import Message
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


def read_answers(
  settings: DataSettings, tokenizer: Tokenizer | None = None
) -> tuple[list[AnswerRow], list[tuple[int, str]]]:
  """(every row that can be read, (number of the row, from 0, and why) of every other).

  Args:
    settings: source and format; limits and template are not looked at, since nothing is tokenised.
    tokenizer: decodes rows of ids; where it has a chat template questions are read as messages, as `load_dataset` reads
      them. None: questions are texts.

  Raises:
    DataError: a file or column is wrong, or no row can be read.
    ConfigError: the settings name no source.
  """
  chat = tokenizer is not None and tokenizer.chat_template is not None
  found: list[AnswerRow] = []
  dropped: list[tuple[int, str]] = []
  form: Format | None = None
  source = open_source(settings, settings.path, settings.split)
  for number, row in enumerate(source.rows):
    if row.fault:
      dropped.append((number, f"{row.where}: {row.fault}"))
      continue
    form = form or choose_format(settings.format, row.values, row.where)
    try:
      read = form.parse(row.values, chat)
      finished = read.finished or (True,) * len(read.answers)
      if read.kind != "ids":
        found.append(AnswerRow(number, row.where, read.prompt, tuple(read.answers), read.details, finished))
        continue
      if tokenizer is None:
        raise DataError("it holds token ids; give the model whose they are as --model=PATH")
      texts = tuple(tokenizer.decode(ids, skip_special_tokens=True) for ids in read.answers)
      ids = as_ids(read.prompt), tuple(map(as_ids, read.answers))
      found.append(AnswerRow(number, row.where, tokenizer.decode(read.prompt), texts, read.details, finished, *ids))
    except DataError as error:
      dropped.append((number, f"{row.where}: {error}"))
  if not found:
    what = f"none of its {len(dropped)} rows can be read; {dropped[0][1]}" if dropped else "it holds no rows"
    raise DataError(f"{source.name}: {what}")
  return found, dropped
