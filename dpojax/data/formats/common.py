"""What every row format yields, and the reading of single columns."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from dpojax.data.formats.cells import (
  ROLES,
  from_json,
  is_message,
  kind_of,
  messages_from_text,
  shown,
  truth,
)
from dpojax.errors import DataError
from dpojax.types import Answers

Row = Mapping[str, Any]
Message = dict[str, Any]  # role and content, both text, and whatever else a template may read
Answer = str | Message
CALLS = ("tool_calls", "function_call")
REASONING = ("reasoning_content", "reasoning", "thinking")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
FLAGS = ("weight", "train")  # whether a message is to be learned
TEXT_PARTS = ("text", "input_text", "output_text")
SHAREGPT = {
  "human": "user",
  "user": "user",
  "gpt": "assistant",
  "chatgpt": "assistant",
  "assistant": "assistant",
  "system": "system",
  "tool": "tool",
  "observation": "tool",
}


@dataclasses.dataclass(frozen=True)
class Annotations:
  """What a row says of its comparison beside the order of its answers.

  Attributes:
    tie: its two answers are equally good, so their order means nothing.
    margin: by how much the first answer is better, in the data's own unit; None where the row does not say.
    weight: >= 0, multiplies the example's loss; None where the row does not say.
    contradicts: the row's scores or margin say that the second answer is the better one.
  """

  tie: bool = False
  margin: float | None = None
  weight: float | None = None
  contradicts: bool = False


@dataclasses.dataclass(frozen=True)
class PreferenceRow:
  """A row in the one form that tokenisation reads: a prompt and its answers, best first.

  Attributes:
    kind: "text": prompt and answers are joined as they stand; "chat": the prompt is a list of
      messages, an answer the content of the assistant's next one, or that message where it has other keys too; "ids":
      token ids, used as they are.
    prompt: text, messages or ids.
    answers: texts, messages or ids, best first where they are ranked.
    details: whatever else of the row is worth keeping (labels, scores).
    annotations: how sure the order is; read after the format's `parse`, since any format may have its columns.
    finished: which answers ended by themselves; those that did not get no EOS. Empty: all did.
    tools: functions that the answers may call, as the template reads them; None: none.
    scores: how good each answer is, the higher the better; equal ones tie. Empty: nothing but their order is known.
    scores_have_units: whether differences of scores say by how much an answer is better; those of ranks do not.
  """

  kind: Literal["text", "chat", "ids"]
  prompt: Any
  answers: tuple[Any, ...]
  details: dict[str, Any] = dataclasses.field(default_factory=dict)
  annotations: Annotations = Annotations()
  finished: tuple[bool, ...] = ()
  tools: list[Any] | None = None
  scores: tuple[float, ...] = ()
  scores_have_units: bool = False


@dataclasses.dataclass(frozen=True)
class Format:
  """How rows of one layout are read.

  Attributes:
    name: its name in `data.format`.
    wants: the columns it needs, as said in error messages.
    columns: the columns it cannot do without.
    reads: further columns that it reads where a row has them.
    detects: whether a row looks like this format; `auto` asks the formats in turn.
    parse: (row, chat) -> PreferenceRow; chat says that a chat template will be used. Raises DataError
      that says what is wrong with the row, without its place.
    turns: of whole conversations: (row, chat) -> one PreferenceRow for every turn of the assistant that is to be learned, what
      stands before it as the prompt, or why it is left out; None: a row has no earlier turns to learn.
    answers: what a row holds: RANKING: two or more answers, best first; ONE, or UNPAIRED with a label: a single answer,
      which cannot be compared; ANY: several of equal standing, which is no ranking to learn from.
  """

  name: str
  wants: str
  columns: tuple[str, ...]
  detects: Callable[[Row], bool]
  parse: Callable[[Row, bool], PreferenceRow]
  answers: Answers = Answers.RANKING
  reads: tuple[str, ...] = ()
  turns: Callable[[Row, bool], Sequence[PreferenceRow | DataError]] | None = None


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
  """The conversation in a column, every key of a message kept: a list of {"role": ..., "content": ...}, one such object,
  or either as text.

  `content` may be null beside tool calls, and a list of text parts, which are joined. ShareGPT's {"from", "value"} become
  roles and contents. Keys that hold null, as Parquet fills them in, are left out.

  Raises:
    DataError: it holds something else, or parts that are no text, such as images.
  """
  value = from_json(messages_from_text(row.get(column), column))
  if is_message(value):
    value = [value]
  if not isinstance(value, list):
    raise DataError(f"column {column!r} holds {kind_of(value)}, not a list of messages")
  if not value:
    raise DataError(f"column {column!r} holds no messages")
  return [_message(message, f"message {i} of column {column!r}") for i, message in enumerate(value)]


def _message(message: Any, place: str) -> Message:
  if not isinstance(message, Mapping):
    raise DataError(f"{place} is no object with 'role' and 'content'")
  found = {key: value for key, value in message.items() if value is not None}
  if "role" not in found and "from" in found and "value" in found:
    sender = found.pop("from")
    if not isinstance(sender, str) or sender.lower() not in SHAREGPT:
      raise DataError(f"{place} is from {shown(sender)}; of ShareGPT's names {', '.join(SHAREGPT)} are read")
    found = {"role": SHAREGPT[sender.lower()], "content": found.pop("value"), **found}
  if "role" not in found or not ("content" in message or "content" in found or any(key in found for key in CALLS)):
    raise DataError(f"{place} is no object with 'role' and 'content'")
  if not isinstance(found["role"], str):
    raise DataError(f"{place}: role and content must be text, not {kind_of(found['role'])}")
  role = found["role"].strip().lower()
  if media := next((key for key in MEDIA if found.get(key)), None):
    raise DataError(f"{place} has {media!r}; only text is read")
  content = found.get("content")
  if content is None and any(found.get(key) for key in CALLS):
    content = ""
  return {"role": ROLES.get(role, found["role"]), "content": _content(content, place), **_others(found)}


def _others(message: Message) -> Message:
  """Its keys beside role and content, those left out that say nothing."""
  return {key: value for key, value in message.items() if key not in ("role", "content") and value not in ([], {}, "")}


def _content(content: Any, place: str) -> str:
  if isinstance(content, list) and content:
    return "".join(_part(part, place) for part in content)
  if not isinstance(content, str):
    raise DataError(f"{place}: role and content must be text, not {kind_of(content)}")
  return content


def _part(part: Any, place: str) -> str:
  """The text of a part of a content."""
  if isinstance(part, Mapping):
    kind = part.get("type") or "text"
    if kind not in TEXT_PARTS:
      raise DataError(f"{place} holds a part of type {shown(kind)}; only text is read")
    part = part.get("text")
    if not isinstance(part, str):
      raise DataError(f"{place} holds a part without its 'text'")
  elif not isinstance(part, str):
    raise DataError(f"{place}: role and content must be text, not a list")
  return part


def is_messages(value: Any) -> bool:
  """Whether it is a conversation, or was meant as one and written as text."""
  if isinstance(value, str):
    try:
      value = messages_from_text(value, "")
    except DataError:
      return True
  first = value[0] if isinstance(value, list) and value else value
  return is_message(first) or (isinstance(value, list) and isinstance(first, Mapping) and "role" in first)


def is_conversation(value: Any) -> bool:
  """`is_messages`, or a conversation without any."""
  return value == [] or is_messages(value)


def answer_after(prompt: list[Message], conversation: list[Message], column: str) -> Answer:
  """The assistant's answer in `conversation`, which may begin by repeating the prompt: its text, or the message where it
  has other keys too (tool calls).

  Raises:
    DataError: what follows the prompt is not exactly one message of the assistant.
  """
  rest = conversation[len(prompt) :] if conversation[: len(prompt)] == prompt else conversation
  if len(rest) != 1 or rest[0]["role"] != "assistant":
    roles = ", ".join(message["role"] for message in rest[:20]) or "nothing"
    raise DataError(f"column {column!r} must go on from the prompt with one message of the assistant, not {roles}")
  for flag in FLAGS:
    if rest[0].get(flag, 1) not in (1, "1"):
      raise DataError(
        f"the answer in column {column!r} has {flag!r} {shown(rest[0][flag])}, which is not read; leave the row out, or give "
        "the row a column 'weight'"
      )
  return as_answer(rest[0])


def as_answer(message: Message) -> Answer:
  """What a message of the assistant says: its text, or the message without its learning flags where it has other keys too."""
  answer = {key: value for key, value in message.items() if key not in FLAGS}
  return answer["content"] if set(answer) == {"role", "content"} else answer


def is_learned(message: Message, place: str) -> bool:
  """Whether a message's flags (`weight`, `train`) let it be learned.

  Raises:
    DataError: one holds something between: a message is learned or not.
  """
  flags = {flag: truth(message[flag]) for flag in FLAGS if flag in message}
  for flag, value in flags.items():
    if value is None:
      raise DataError(
        f"{place} has {flag!r} {shown(message[flag])}; a message is learned (1, true) or not (0, false); give the row a "
        "column 'weight' to weigh all of it"
      )
  return all(flags.values())


def answer_text(answer: Answer) -> str:
  """What an answer says, without its tool calls."""
  return answer if isinstance(answer, str) else answer["content"]


def other_keys(answer: Answer) -> list[str]:
  """Names of what an answer has beside its text, such as tool_calls."""
  return [] if isinstance(answer, str) else [key for key in answer if key not in ("role", "content")]


def read_prompt(row: Row, chat: bool, column: str = "prompt") -> tuple[Literal["text", "chat"], Any]:
  """(kind, prompt): messages where the column has them, or where a text becomes a user's message; else the text."""
  if is_conversation(row.get(column)):
    return "chat", [] if row[column] == [] else messages(row, column)
  prompt = text(row, column)
  return ("chat", [{"role": "user", "content": prompt}]) if chat else ("text", prompt)


def token_ids(row: Row, column: str) -> list[int]:
  """The token ids in a column: a list of whole numbers, or that list as JSON text."""
  return check_ids(from_json(row.get(column)), f"column {column!r}")


def check_ids(value: Any, place: str) -> list[int]:
  if not isinstance(value, list) or any(isinstance(i, bool) or not isinstance(i, int) for i in value):
    raise DataError(f"{place} holds {kind_of(value)}, not a list of token ids")
  return value


def shared_length(first: str, second: str) -> int:
  """How many characters two texts begin with alike."""
  most = min(len(first), len(second))
  return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), most)


def dialogue(prompt: str) -> str:
  """A lone question in the form that plain-text dialogue models are trained on, as HH writes it."""
  return f"\n\nHuman: {prompt.strip()}\n\nAssistant:"


def single_turn(prompt: str, answers: tuple[str, ...], chat: bool, details: dict[str, Any]) -> PreferenceRow:
  """A question and its answers: messages for a chat template, else the plain dialogue form."""
  if chat:
    return PreferenceRow("chat", [{"role": "user", "content": prompt}], answers, details)
  return PreferenceRow("text", dialogue(prompt), tuple(f" {answer.strip()}" for answer in answers), details)


def rest_of(row: Row, *columns: str) -> dict[str, Any]:
  """The small values of other columns, kept beside the example."""
  return {
    name: value for name, value in row.items() if name not in columns and isinstance(value, str | int | float | bool)
  }
