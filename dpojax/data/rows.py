"""Rows as comparisons: columns, then format, then what holds for rows of every format.

Training, scoring, evaluation and sampling read rows here, so that all of them read a row alike.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dpojax.config.schema import DataSettings
from dpojax.data.annotations import read_annotations
from dpojax.data.columns import (
  ANSWER_NAMES,
  JUDGED,
  check_present,
  is_unread_text,
  parse_columns,
  standard_row,
)
from dpojax.data.formats.cells import MOST_DEPTH, from_json, is_empty, is_missing, kind_of, shown
from dpojax.data.formats.common import CALLS, Annotations, Format, Message, PreferenceRow, Row, answer_text
from dpojax.data.limits import Limits, shorten
from dpojax.data.sources import SourceRow
from dpojax.errors import DataError, RowError

AT_ONCE = 256  # rows rendered and tokenised together
CHARACTERS_AT_ONCE = 4_000_000  # of them; a longer row is alone
Choose = Callable[[str, Row, str], Format]  # (data.format, a row, its place)
Parse = Callable[[Row, bool], Sequence[PreferenceRow | DataError]]  # as `Format.turns`


def row_groups(rows: Iterator[SourceRow]) -> Iterator[list[SourceRow]]:
  """Rows in groups of at most `AT_ONCE` rows and `CHARACTERS_AT_ONCE` characters, one row at least.

  A row with half a character, or nested too deeply for what comes after, has that as its fault.
  """
  group: list[SourceRow] = []
  held = 0
  for row in rows:
    size, fault = _examined(row.values)
    if group and (len(group) == AT_ONCE or held + size > CHARACTERS_AT_ONCE):
      yield group
      group, held = [], 0
    group.append(SourceRow(row.where, {}, fault) if fault else row)
    held += size
  if group:
    yield group


def _examined(values: Mapping[str, Any]) -> tuple[int, str]:
  """(characters of all texts of a row, what makes it unusable or "")."""
  size = 0
  todo: list[tuple[Any, str, int]] = [(value, str(name), 1) for name, value in values.items()]
  for name in values:
    if has_half_character(str(name)):
      return size, f"the name of column {name!a} holds half a character (a lone surrogate)"
  while todo:
    value, name, depth = todo.pop()
    if isinstance(value, str):
      size += len(value)
      if has_half_character(value):
        return (
          size,
          f"column {name!r} holds half a character (a lone surrogate, {_surrogate(value)}), which no text may",
        )
    elif isinstance(value, Mapping | list | tuple):
      if depth > MOST_DEPTH:
        return size, f"column {name!r} is nested more than {MOST_DEPTH} deep"
      inner = (*value.keys(), *value.values()) if isinstance(value, Mapping) else value
      size += len(inner)
      todo += [(one, name, depth + 1) for one in inner if isinstance(one, str | Mapping | list | tuple)]
  return size, ""


def has_half_character(text: str) -> bool:
  """Whether it holds a lone surrogate, which UTF-8 cannot write."""
  if text.isascii():
    return False
  try:
    text.encode()
  except UnicodeEncodeError:
    return True
  return False


def _surrogate(text: str) -> str:
  return next(f"U+{ord(c):04X}" for c in text if "\ud800" <= c <= "\udfff")


class RowReader:
  """Reads the rows of one source; the first that can be read decides their format.

  Attributes:
    form: the format; None before `begin`.
  """

  def __init__(
    self,
    settings: DataSettings,
    choose: Choose,
    limits: Limits,
    *,
    chat: bool,
    annotated: bool = False,
    prompts: bool = False,
    rendered: bool = True,
  ):
    """
    Args:
      settings: format and columns.
      choose: the format for a row of standard columns.
      limits: beyond which texts are left out, or cut, before they are tokenised.
      chat: whether there is a chat template.
      annotated: whether ties, margins and weights are read.
      prompts: read prompts alone.
      rendered: whether what is read becomes text for a model; else a system message needs no template.

    Raises:
      ConfigError: `data.columns` is wrong.
    """
    self.settings, self.choose, self.limits = settings, choose, limits
    self.chat, self.annotated, self.prompts, self.rendered = chat, annotated, prompts, rendered
    self.columns = parse_columns(settings.columns)
    self.form: Format | None = None
    self.count = 0
    self.unread: collections.Counter[str] = collections.Counter()

  def begin(self, rows: list[SourceRow]) -> None:
    """Chooses the format by the first readable of these rows, if it's not chosen: one without nulls where there is one.

    Raises:
      DataError: it looks like no format, or `data.columns` names a column that it has not.
      ConfigError: no such format.
    """
    readable = [row for row in rows if not row.fault]
    if self.form is not None or not readable:
      return
    readable.sort(key=lambda row: any(value is None for value in row.values.values()))
    check_present(self.columns, readable[0].values, readable[0].where)
    row, values = self._first(readable)
    self.form = self.choose(self.settings.format, values, row.where)
    unread = [name for name in self._unread(values) if name not in ("system", "tools")]
    if self.form.name == "implicit" and self.settings.format == "auto" and unread:
      raise DataError(
        f"{row.where}: columns {', '.join(row.values)}: which of them holds the prompt? Say it by "
        f"data.columns=prompt={unread[0]}; or, if the prompt is what 'chosen' and 'rejected' begin with alike, leave "
        f"others out by data.columns={_left_out(unread)}"
      )

  def _first(self, rows: list[SourceRow]) -> tuple[SourceRow, Row]:
    """The first row whose columns can be told, with standard columns; DataError of the first row where there is none."""
    wrong: list[DataError] = []
    for row in rows:
      try:
        return row, standard_row(row.values, self.columns, answers=not self.prompts)
      except DataError as error:
        wrong.append(DataError(f"{row.where}: {error}"))
    raise wrong[0]

  def read(self, row: SourceRow) -> PreferenceRow | DataError:
    """The comparison that a row holds, or why it is left out."""
    try:
      (found,) = self._comparisons(row, lambda form: lambda values, chat: [form.parse(values, chat)])
    except DataError as error:
      return error
    return found

  def read_turns(self, row: SourceRow) -> list[PreferenceRow | DataError]:
    """A comparison for each turn of a conversation that is to be learned, or why it is left out; one error for the row.

    Rows of formats without turns hold one comparison.
    """
    try:
      return self._comparisons(row, lambda form: form.turns or (lambda values, chat: [form.parse(values, chat)]))
    except DataError as error:
      return [error]

  def _comparisons(self, row: SourceRow, parser: Callable[[Format], Parse]) -> list[PreferenceRow | DataError]:
    """What `parser` of the format makes of a row; DataError where that is nothing."""
    if row.fault or self.form is None:
      raise DataError(row.fault)
    values = standard_row(row.values, self.columns, answers=not self.prompts)
    self.count += 1
    self.unread.update(self._unread(values))
    system, tools = values.pop("system", None), _tools(values.pop("tools", None))
    chat = self.chat or (not self.rendered and not (is_empty(system) and tools is None))
    parsed = parser(self.form)(values, chat)
    found: list[PreferenceRow | DataError] = []
    for comparison in parsed:
      if isinstance(comparison, DataError):
        found.append(comparison)
        continue
      try:
        if self.prompts:
          comparison = dataclasses.replace(comparison, answers=())
        comparison = _with_system(comparison, system, chat)
        comparison = _with_tools(comparison, tools, chat)
        check_prompt(comparison)
        annotations = read_annotations(values, len(comparison.answers)) if self.annotated else Annotations()
        found.append(shorten(dataclasses.replace(comparison, annotations=annotations), self.limits))
      except DataError as error:
        found.append(error)
    errors = [one for one in found if isinstance(one, DataError)]
    if len(errors) == len(found):
      raise errors[0]
    return found

  def _unread(self, values: Row) -> list[str]:
    """Columns that look like text and that nothing reads."""
    form = self.form
    assert form is not None
    read = {*form.columns, *form.reads, "system", "tools", *JUDGED} | (ANSWER_NAMES if self.prompts else set())
    return [name for name, value in values.items() if name not in read and is_unread_text(name, value)]

  def warnings(self) -> list[str]:
    """What to know of the columns: a line, or none."""
    if not self.unread:
      return []
    names = [f"{name!r} ({count:,} of {self.count:,} rows)" for name, count in self.unread.most_common()]
    plural = len(names) > 1
    first = next(iter(self.unread)).removesuffix(" (not read)")
    what = "the prompt" if self.prompts else "prompt or answers"
    return [
      f"columns that hold text and are no part of {what}: {', '.join(names)}; say what {'they are' if plural else 'it is'} "
      f"by data.columns, such as prompt={first}, or leave {'them' if plural else 'it'} out without this line by "
      f"data.columns={_left_out(self.unread)}"
    ]


def _left_out(names) -> str:
  return ",".join(f"-{name.removesuffix(' (not read)')}" for name in names)


def _with_system(comparison: PreferenceRow, system: Any, chat: bool) -> PreferenceRow:
  """The column `system` as the first message."""
  if is_empty(system) or is_missing(system):
    return comparison
  if not isinstance(system, str):
    raise DataError(f"column 'system' holds {kind_of(system)}, not text")
  if comparison.kind != "chat":
    why = "its format has no messages" if chat or comparison.kind == "ids" else "there is no chat template"
    raise DataError(
      f"column 'system' holds a system message, but {why} to write it with; give a template (data.template=FILE.jinja) "
      "and prompt and answers, or leave it out by data.columns=-system"
    )
  first = comparison.prompt[0] if comparison.prompt else {}
  if first.get("role") == "system":
    if first["content"] != system:
      raise DataError("column 'system' and the first message are two different system messages; leave one out")
    return comparison
  return dataclasses.replace(comparison, prompt=[{"role": "system", "content": system}, *comparison.prompt])


def _tools(value: Any) -> list[Any] | None:
  """The functions in the column `tools`, a list or one written as text; None where there are none."""
  found = from_json(value)
  if is_empty(found) or found == [] or (isinstance(found, str) and found.strip() == "null"):
    return None
  if not isinstance(found, list) or not all(isinstance(tool, Mapping) for tool in found):
    raise DataError(
      f"column 'tools' holds {kind_of(found)}, not a list of functions that answers may call; leave it out by "
      "data.columns=-tools"
    )
  return found


def _with_tools(comparison: PreferenceRow, tools: list[Any] | None, chat: bool) -> PreferenceRow:
  if tools is None:
    return comparison
  if comparison.kind != "chat":
    why = "its format has no messages" if chat or comparison.kind == "ids" else "there is no chat template"
    raise DataError(
      f"column 'tools' holds functions, but {why} to write them with; give data.template=FILE.jinja, or leave it out by "
      "data.columns=-tools"
    )
  return dataclasses.replace(comparison, tools=tools, details={**comparison.details, "tools": tools})


def check_prompt(comparison: PreferenceRow) -> None:
  """Raises RowError for a conversation that says nothing, DataError for one that ends in an answer."""
  if comparison.kind != "chat":
    return
  spoken = [message for message in comparison.prompt if message["role"] != "system" or len(comparison.prompt) == 1]
  if not any(_says_something(message) for message in spoken):
    raise RowError("empty_prompt", "its prompt is empty: no message says anything")
  if comparison.prompt[-1]["role"] == "assistant":
    raise DataError(
      "its prompt ends in a message of the assistant; an answer must follow one of another role, such as user or tool"
    )


def _says_something(message: Message) -> bool:
  return bool(message["content"].strip()) or any(message.get(key) for key in CALLS)


def characters(comparison: PreferenceRow | DataError) -> int:
  """Characters of a conversation's messages and answers."""
  if isinstance(comparison, DataError) or comparison.kind != "chat":
    return 0
  texts = [*(message["content"] for message in comparison.prompt), *map(answer_text, comparison.answers)]
  return sum(map(len, texts))


def shown_message(message: Message) -> str:
  """What a message says, as a person reads it: its text, then its tool calls as JSON."""
  calls = [json.dumps(message[key], ensure_ascii=False, default=shown) for key in CALLS if message.get(key)]
  return "\n".join(filter(None, [message["content"], *calls]))
