"""Ranked answers: {"prompt": text or messages, "answers": [text, ...]}, best first, any number K >= 1.

A column "rewards" with a number for each answer, as a built-in world writes it, is kept in the details.
"""

from typing import Any

from dpojax.data.formats.cells import fits_float32, from_json, kind_of
from dpojax.data.formats.common import (
  Answer,
  Comparison,
  Format,
  Row,
  answer_after,
  has,
  is_messages,
  messages,
  read_prompt,
  rest_of,
)
from dpojax.errors import DataError


def parse(row: Row, chat: bool) -> Comparison:
  answers = from_json(row.get("answers"))
  if not isinstance(answers, list) or not answers or not all(isinstance(a, str) or is_messages(a) for a in answers):
    raise DataError(f"column 'answers' holds {kind_of(answers)}, not a list of texts, best first")
  details = rest_of(row, "prompt", "answers")
  rewards = from_json(row.get("rewards"))
  if isinstance(rewards, list) and len(rewards) == len(answers) and all(isinstance(r, int | float) for r in rewards):
    if not all(map(fits_float32, rewards)):
      raise DataError("column 'rewards' holds a number that is not finite as float32")
    details["rewards"] = rewards
  with_messages = not all(isinstance(answer, str) for answer in answers)
  kind, prompt = read_prompt(row, chat or with_messages)
  return Comparison(kind, prompt, tuple(_answer(answer, prompt) for answer in answers), details)


def _answer(answer: Any, prompt: Any) -> Answer:
  return (
    answer if isinstance(answer, str) else answer_after(prompt, messages({"answers": answer}, "answers"), "answers")
  )


def detects(row: Row) -> bool:
  return has(row, "prompt", "answers")


FORMAT = Format(
  name="ranked",
  wants="prompt (text or messages), answers (a list of texts, best first)",
  columns=("prompt", "answers"),
  reads=("rewards",),
  detects=detects,
  parse=parse,
)
