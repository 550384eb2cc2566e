"""A prompt and the one answer to learn: {"prompt": text or messages, "completion": text or messages}."""

from dpojax.data.formats.common import Comparison, Format, Row, answer_after, has, is_messages, messages, rest_of, text
from dpojax.types import Answers


def parse(row: Row, chat: bool) -> Comparison:
  details = rest_of(row, "prompt", "completion")
  if is_messages(row.get("prompt")):
    prompt = messages(row, "prompt")
    return Comparison("chat", prompt, (answer_after(prompt, messages(row, "completion"), "completion"),), details)
  prompt, answer = text(row, "prompt"), text(row, "completion")
  if chat:
    return Comparison("chat", [{"role": "user", "content": prompt}], (answer,), details)
  return Comparison("text", prompt, (answer,), details)


FORMAT = Format(
  name="completion",
  wants="prompt, completion (texts or messages)",
  columns=("prompt", "completion"),
  detects=lambda row: has(row, "prompt", "completion"),
  parse=parse,
  answers=Answers.ONE,
)
