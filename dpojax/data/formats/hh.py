"""Anthropic HH: {"chosen": text, "rejected": text} of turns "\\n\\nHuman: ..." and "\\n\\nAssistant: ...".

The answer is what follows the last "\\n\\nAssistant:". With a chat template the turns before it become
messages; without one the text stays as it is, its markers included. (Bai et al. 2022, arXiv:2204.05862)
"""

import re
from collections.abc import Sequence

from dpojax.data.formats.common import Format, Message, PreferenceRow, Row, has, rest_of, text
from dpojax.errors import DataError

ANSWER = "\n\nAssistant:"
TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def split_answer(dialogue: str, column: str) -> tuple[str, str]:
  """(everything up to and with the last "Assistant:", what it says).

  Raises:
    DataError: there is no such turn.
  """
  at = dialogue.rfind(ANSWER)
  if at < 0:
    raise DataError(f"column {column!r} has no turn '\\n\\nAssistant:'")
  return dialogue[: at + len(ANSWER)], dialogue[at + len(ANSWER) :]


def is_dialogue(prompt: str) -> bool:
  """Whether a prompt is written in turns and ends where the assistant answers."""
  first = TURN.match(prompt if prompt.startswith("\n\n") else f"\n\n{prompt.lstrip()}")
  return first is not None and prompt.rstrip().endswith(ANSWER)


def turns(dialogue: str) -> list[Message]:
  """The messages of a dialogue; neighbours of one role are joined, since templates want roles to alternate.

  Raises:
    DataError: there is text before the first turn.
  """
  parts = TURN.split(dialogue if dialogue.startswith("\n\n") else f"\n\n{dialogue.lstrip()}")
  if parts[0].strip():
    raise DataError(f"the dialogue begins with {parts[0].strip()[:30]!r}, not with '\\n\\nHuman:'")
  found: list[Message] = []
  for marker, content in zip(parts[1::2], parts[2::2], strict=True):
    role, content = ROLES[marker], content.strip()
    if found and found[-1]["role"] == role:
      found[-1]["content"] = f"{found[-1]['content']}\n\n{content}".strip()
    else:
      found.append({"role": role, "content": content})
  return found


def turns_and_answers(dialogue: str, answers: Sequence[str]) -> tuple[list[Message], tuple[str, ...]]:
  """The messages of a dialogue that ends in "Assistant:", and the answers, which begin with what the assistant just said.

  Where the last turn before the answer is the assistant's too, both are one message, as neighbours of one role are::

      Human: hi  Assistant: hello.  Assistant:   + " how are you?"   ->   [user: hi], "hello.\\n\\nhow are you?"

  Raises:
    DataError: there is text before the first turn.
  """
  found = turns(dialogue.rstrip().removesuffix(ANSWER))
  said = found.pop()["content"] if found and found[-1]["role"] == "assistant" else ""
  return found, tuple(f"{said}\n\n{answer.strip()}".strip() if said else answer for answer in answers)


def parse(row: Row, chat: bool) -> PreferenceRow:
  prompt, chosen = split_answer(text(row, "chosen"), "chosen")
  other, rejected = split_answer(text(row, "rejected"), "rejected")
  if prompt != other:
    raise DataError("'chosen' and 'rejected' differ before their last '\\n\\nAssistant:', so they share no prompt")
  details = rest_of(row, "chosen", "rejected")
  if not chat:
    return PreferenceRow("text", prompt, (chosen, rejected), details)
  return PreferenceRow("chat", *turns_and_answers(prompt, (chosen.strip(), rejected.strip())), details)


def detects(row: Row) -> bool:
  return (
    has(row, "chosen", "rejected")
    and "prompt" not in row
    and isinstance(row["chosen"], str)
    and ANSWER in row["chosen"]
  )


FORMAT = Format(
  name="hh",
  wants="chosen, rejected (dialogues of '\\n\\nHuman:' and '\\n\\nAssistant:')",
  columns=("chosen", "rejected"),
  detects=detects,
  parse=parse,
)
