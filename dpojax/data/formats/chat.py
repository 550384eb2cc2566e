"""A conversation whose answers are to be learned: {"messages": [{"role": ..., "content": ...}, ...]}.

`data.train_turns` says which: every turn of the assistant, each after all that stands before it, or the last::

    user q1, assistant a1, user q2, assistant a2     all: q1 -> a1, q1 a1 q2 -> a2     last: q1 a1 q2 -> a2
"""

import itertools

from dpojax.data.formats.common import (
  Format,
  PreferenceRow,
  Row,
  answer_after,
  as_answer,
  has,
  is_learned,
  messages,
  rest_of,
)
from dpojax.errors import DataError, RowError
from dpojax.types import Answers

# Each turn is rendered and tokenised after all that stands before it: characters, over all turns of one conversation.
MOST_HISTORY = 32_000_000
A_MESSAGE = 64  # characters that a template may write around one


def parse(row: Row, chat: bool) -> PreferenceRow:
  conversation = messages(row, "messages")
  prompt = conversation[:-1]
  answer = answer_after(prompt, conversation, "messages")
  return PreferenceRow("chat", prompt, (answer,), rest_of(row, "messages"))


def turns(row: Row, chat: bool) -> list[PreferenceRow | DataError]:
  """The turns of the assistant that are to be learned; those that a flag `weight` or `train` leaves out are read only.

  Raises:
    DataError: there are none.
  """
  conversation, details = messages(row, "messages"), rest_of(row, "messages")
  spoken = [i for i, message in enumerate(conversation) if message["role"] == "assistant"]
  if not spoken:
    raise DataError("column 'messages' has no message of the assistant, so there is nothing to learn")
  learned = [i for i in spoken if is_learned(conversation[i], f"message {i} of column 'messages'")]
  if not learned:
    raise DataError(
      "column 'messages' has no message of the assistant that its flags let be learned; leave the row out"
    )
  found: list[PreferenceRow | DataError] = []
  before = list(itertools.accumulate((len(message["content"]) + A_MESSAGE for message in conversation), initial=0))
  room = MOST_HISTORY
  for i in learned:
    room -= before[i + 1]
    if room < 0 and found:
      found.append(RowError("example_too_long", "the histories of its turns are too long to be read again for each"))
    else:
      found.append(PreferenceRow("chat", conversation[:i], (as_answer(conversation[i]),), details))
  return found


FORMAT = Format(
  name="chat",
  wants="messages (a list of messages, the last one the assistant's)",
  columns=("messages",),
  detects=lambda row: has(row, "messages"),
  parse=parse,
  answers=Answers.ONE,
  turns=turns,
)
