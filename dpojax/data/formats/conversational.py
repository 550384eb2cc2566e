"""Conversations: {"prompt": messages, "chosen": messages, "rejected": messages}, "prompt" optional.

A message is {"role": ..., "content": ...}. Without "prompt", or where the answers repeat it, the
prompt is the messages that chosen and rejected share; each must then go on with one message of the
assistant.
"""

from dpojax.data.formats.common import (
  Format,
  Message,
  PreferenceRow,
  Row,
  answer_after,
  has,
  is_conversation,
  is_messages,
  messages,
  read_prompt,
  rest_of,
)


def shared_messages(first: list[Message], second: list[Message]) -> list[Message]:
  """The messages both begin with, except their last: two equal answers are answers still."""
  count = 0
  while count < min(len(first), len(second)) - 1 and first[count] == second[count]:
    count += 1
  return first[:count]


def parse(row: Row, chat: bool) -> PreferenceRow:
  chosen, rejected = messages(row, "chosen"), messages(row, "rejected")
  prompt = read_prompt(row, True)[1] if "prompt" in row else shared_messages(chosen, rejected)
  answers = (answer_after(prompt, chosen, "chosen"), answer_after(prompt, rejected, "rejected"))
  return PreferenceRow("chat", prompt, answers, rest_of(row, "prompt", "chosen", "rejected"))


def detects(row: Row) -> bool:
  return (
    has(row, "chosen", "rejected")
    and is_messages(row["chosen"])
    and ("prompt" not in row or is_conversation(row["prompt"]))
  )


FORMAT = Format(
  name="conversational",
  wants="chosen, rejected (lists of messages), and prompt (a list of messages) unless both repeat it",
  columns=("chosen", "rejected"),
  reads=("prompt",),
  detects=detects,
  parse=parse,
)
