"""A conversation whose last answer is to be learned: {"messages": [{"role": ..., "content": ...}, ...]}."""

from dpojax.data.formats.common import Comparison, Format, Row, answer_after, has, messages, rest_of
from dpojax.types import Answers


def parse(row: Row, chat: bool) -> Comparison:
  conversation = messages(row, "messages")
  prompt = conversation[:-1]
  answer = answer_after(prompt, conversation, "messages")
  return Comparison("chat", prompt, (answer,), rest_of(row, "messages"))


FORMAT = Format(
  name="chat",
  wants="messages (a list of messages, the last one the assistant's)",
  columns=("messages",),
  detects=lambda row: has(row, "messages"),
  parse=parse,
  answers=Answers.ONE,
)
