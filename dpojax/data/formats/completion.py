"""A prompt and the one answer to learn: {"prompt": text or messages, "completion": text or messages}."""

from dpojax.data.formats.common import (
  Format,
  PreferenceRow,
  Row,
  answer_after,
  has,
  is_messages,
  messages,
  read_prompt,
  rest_of,
  text,
)
from dpojax.types import Answers


def parse(row: Row, chat: bool) -> PreferenceRow:
  details = rest_of(row, "prompt", "completion")
  if is_messages(row.get("completion")):
    _, prompt = read_prompt(row, True)
    return PreferenceRow("chat", prompt, (answer_after(prompt, messages(row, "completion"), "completion"),), details)
  kind, prompt = read_prompt(row, chat)
  return PreferenceRow(kind, prompt, (text(row, "completion"),), details)


FORMAT = Format(
  name="completion",
  wants="prompt, completion (texts or messages)",
  columns=("prompt", "completion"),
  detects=lambda row: has(row, "prompt", "completion"),
  parse=parse,
  answers=Answers.ONE,
)
