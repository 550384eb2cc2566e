"""Implicit prompt: {"chosen": text, "rejected": text}, two whole texts that begin alike.

The prompt is what they share, cut back to the last gap between words: the common characters of
"the sky is blue" and "the sky is black" end in " bl", which is answer, not prompt. What two answers
happen to begin with still counts as prompt; only an explicit prompt can tell.
"""

from dpojax.data.formats.common import Format, PreferenceRow, Row, has, rest_of, shared_length, text
from dpojax.errors import DataError


def shared_prompt(first: str, second: str) -> str:
  """What both texts begin with, up to the last gap: a line break stays, a space goes to the answers."""
  shared = first[: shared_length(first, second)]
  end = max((i for i, c in enumerate(shared) if c.isspace()), default=-1)
  if end < 0:
    return ""
  return shared[: end + 1] if shared[end] == "\n" else shared[:end]


def parse(row: Row, chat: bool) -> PreferenceRow:
  chosen, rejected = text(row, "chosen"), text(row, "rejected")
  prompt = shared_prompt(chosen, rejected)
  if not prompt.strip():
    raise DataError("'chosen' and 'rejected' begin differently, so they share no prompt; give it in a column 'prompt'")
  answers = (chosen[len(prompt) :], rejected[len(prompt) :])
  return PreferenceRow("text", prompt, answers, rest_of(row, "chosen", "rejected"))


FORMAT = Format(
  name="implicit",
  wants="chosen, rejected (whole texts that begin with the same prompt)",
  columns=("chosen", "rejected"),
  detects=lambda row: has(row, "chosen", "rejected") and "prompt" not in row,
  parse=parse,
)
