"""Ranked answers: {"prompt": text or messages, "answers": [text, ...]}, best first, any number K >= 1.

A column "rewards" with a number for each answer, as a built-in world writes it, is kept in the details.
"""

from dpojax.data.formats.common import (
  Comparison,
  Format,
  Row,
  from_json,
  has,
  is_messages,
  kind_of,
  messages,
  rest_of,
  text,
)
from dpojax.errors import DataError


def parse(row: Row, chat: bool) -> Comparison:
  answers = from_json(row.get("answers"))
  if not isinstance(answers, list) or not answers or any(not isinstance(answer, str) for answer in answers):
    raise DataError(f"column 'answers' holds {kind_of(answers)}, not a list of texts, best first")
  details = rest_of(row, "prompt", "answers")
  rewards = from_json(row.get("rewards"))
  if isinstance(rewards, list) and len(rewards) == len(answers) and all(isinstance(r, int | float) for r in rewards):
    details["rewards"] = rewards
  if is_messages(row.get("prompt")):
    return Comparison("chat", messages(row, "prompt"), tuple(answers), details)
  prompt = text(row, "prompt")
  if chat:
    return Comparison("chat", [{"role": "user", "content": prompt}], tuple(answers), details)
  return Comparison("text", prompt, tuple(answers), details)


def detects(row: Row) -> bool:
  return has(row, "prompt", "answers")


FORMAT = Format(
  name="ranked",
  wants="prompt (text or messages), answers (a list of texts, best first)",
  columns=("prompt", "answers"),
  detects=detects,
  parse=parse,
)
