"""What every row format yields, and the reading of single columns."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from dpojax.errors import DataError
from dpojax.types import Answers

Row = Mapping[str, Any]
Message = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Judgement:
  """What a row says of its comparison beside the order of its answers.

  Attributes:
    tie: its two answers are equally good, so their order means nothing.
    margin: by how much the first answer is better, in the data's own unit; None where the row does not say.
    weight: >= 0, multiplies the example's loss; None where the row does not say.
  """

  tie: bool = False
  margin: float | None = None
  weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A row in the one form that tokenisation reads: a prompt and its answers, best first.

  Attributes:
    kind: "text": prompt and answers are joined as they stand; "chat": the prompt is a list of
      messages, an answer the content of the assistant's next one; "ids": token ids, used as they are.
    prompt: text, messages or ids.
    answers: texts or ids, best first where they are ranked.
    details: whatever else of the row is worth keeping (labels, scores).
    judgement: how sure the order is; read after the format's `parse`, since any format may have its columns.
    finished: which answers ended by themselves; those that did not get no EOS. Empty: all did.
  """

  kind: Literal["text", "chat", "ids"]
  prompt: Any
  answers: tuple[Any, ...]
  details: dict[str, Any] = dataclasses.field(default_factory=dict)
  judgement: Judgement = Judgement()
  finished: tuple[bool, ...] = ()


@dataclasses.dataclass(frozen=True)
class Format:
  """How rows of one layout are read.

  Attributes:
    name: its name in `data.format`.
    wants: the columns it needs, as said in error messages.
    columns: the columns it cannot do without.
    detects: whether a row looks like this format; `auto` asks the formats in turn.
    parse: (row, chat) -> Comparison; chat says that a chat template will be used. Raises DataError
      that says what is wrong with the row, without its place.
    answers: what a row holds: RANKING: two or more answers, best first; ONE, or UNPAIRED with a label: a single answer,
      which cannot be compared; ANY: several of equal standing, which is no ranking to learn from.
  """

  name: str
  wants: str
  columns: tuple[str, ...]
  detects: Callable[[Row], bool]
  parse: Callable[[Row, bool], Comparison]
  answers: Answers = Answers.RANKING


def has(row: Row, *columns: str) -> bool:
  return all(column in row for column in columns)


def text(row: Row, column: str) -> str:
  """The text in a column.

  Raises:
    DataError: it holds something else.
  """
  value = row.get(column)
  if not isinstance(value, str):
    raise DataError(f"column {column!r} holds {kind_of(value)}, not text")
  return value


def messages(row: Row, column: str) -> list[Message]:
  """The conversation in a column: a list of {"role": ..., "content": ...}, or that list as JSON text.

  Raises:
    DataError: it holds something else.
  """
  value = from_json(row.get(column))
  if not isinstance(value, list):
    raise DataError(f"column {column!r} holds {kind_of(value)}, not a list of messages")
  found = []
  for i, message in enumerate(value):
    place = f"message {i} of column {column!r}"
    if not isinstance(message, Mapping) or not has(message, "role", "content"):
      raise DataError(f"{place} is no object with 'role' and 'content'")
    if not isinstance(message["role"], str) or not isinstance(message["content"], str):
      raise DataError(f"{place}: role and content must be text, not {kind_of(message['content'])}")
    found.append({"role": message["role"], "content": message["content"]})
  if not found:
    raise DataError(f"column {column!r} holds no messages")
  return found


def is_messages(value: Any) -> bool:
  value = from_json(value)
  return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) and "role" in value[0]


def answer_after(prompt: list[Message], conversation: list[Message], column: str) -> str:
  """The assistant's answer in `conversation`, which may begin by repeating the prompt.

  Raises:
    DataError: what follows the prompt is not exactly one message of the assistant.
  """
  rest = conversation[len(prompt) :] if conversation[: len(prompt)] == prompt else conversation
  if len(rest) != 1 or rest[0]["role"] != "assistant":
    roles = ", ".join(message["role"] for message in rest) or "nothing"
    raise DataError(f"column {column!r} must go on from the prompt with one message of the assistant, not {roles}")
  return rest[0]["content"]


def token_ids(row: Row, column: str) -> list[int]:
  """The token ids in a column: a list of whole numbers, or that list as JSON text."""
  return check_ids(from_json(row.get(column)), f"column {column!r}")


def check_ids(value: Any, place: str) -> list[int]:
  if not isinstance(value, list) or any(isinstance(i, bool) or not isinstance(i, int) for i in value):
    raise DataError(f"{place} holds {kind_of(value)}, not a list of token ids")
  return value


def dialogue(prompt: str) -> str:
  """A lone question in the form that plain-text dialogue models are trained on, as HH writes it."""
  return f"\n\nHuman: {prompt.strip()}\n\nAssistant:"


def single_turn(prompt: str, answers: tuple[str, ...], chat: bool, details: dict[str, Any]) -> Comparison:
  """A question and its answers: messages for a chat template, else the plain dialogue form."""
  if chat:
    return Comparison("chat", [{"role": "user", "content": prompt}], answers, details)
  return Comparison("text", dialogue(prompt), tuple(f" {answer.strip()}" for answer in answers), details)


def from_json(value: Any) -> Any:
  """Lists written as JSON text, as CSV files hold them; anything else unchanged."""
  if isinstance(value, str) and value.lstrip().startswith("["):
    try:
      return json.loads(value)
    except ValueError:
      return value
  return value


def kind_of(value: Any) -> str:
  """A value's kind in the words of a data file."""
  names = {str: "text", bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
  return "nothing" if value is None else names.get(type(value), type(value).__name__)


def rest_of(row: Row, *columns: str) -> dict[str, Any]:
  """The small values of other columns, kept beside the example."""
  return {
    name: value for name, value in row.items() if name not in columns and isinstance(value, str | int | float | bool)
  }
