"""Nectar rankings: {"prompt": text, "answers": [{"answer": text, "rank": number}, ...]}, rank 1 the best.

The prompt is an HH dialogue that ends in "Assistant:". Answers of equal rank keep the file's order.
(Zhu et al. 2023, Starling-7B; berkeley-nest/Nectar)
"""

from collections.abc import Mapping

from dpojax.data.formats.cells import fits_float32, from_json, is_message, kind_of, shown
from dpojax.data.formats.common import Format, PreferenceRow, Row, rest_of, single_turn, text
from dpojax.data.formats.hh import ANSWER, split_answer, turns_and_answers
from dpojax.data.formats.ranked import is_listed_with_scores
from dpojax.errors import DataError


def parse(row: Row, chat: bool) -> PreferenceRow:
  prompt, entries = text(row, "prompt"), from_json(row.get("answers"))
  if not isinstance(entries, list):
    raise DataError(f"column 'answers' holds {kind_of(entries)}, not a list of objects with 'answer' and 'rank'")
  for i, entry in enumerate(entries):
    if not isinstance(entry, Mapping) or not isinstance(entry.get("answer"), str):
      raise DataError(f"entry {i} of column 'answers' is no object with an 'answer' text")
    if isinstance(entry.get("rank"), bool) or not isinstance(entry.get("rank"), int | float):
      raise DataError(f"entry {i} of column 'answers' has no number as its 'rank'")
    if not fits_float32(entry["rank"]):
      raise DataError(f"entry {i} of column 'answers' has the 'rank' {shown(entry['rank'])}, not a finite number")
  ordered = tuple(entry["answer"] for entry in sorted(entries, key=lambda entry: entry["rank"]))
  details = rest_of(row, "prompt", "answers")
  if ANSWER not in prompt:
    return single_turn(prompt, ordered, chat, details)
  before, _ = split_answer(prompt, "prompt")
  if chat:
    return PreferenceRow("chat", *turns_and_answers(before, ordered), details)
  return PreferenceRow("text", before, tuple(f" {answer.strip()}" for answer in ordered), details)


def detects(row: Row) -> bool:
  answers = from_json(row.get("answers"))
  return (
    "prompt" in row
    and isinstance(answers, list)
    and bool(answers)
    and isinstance(answers[0], Mapping)
    and not is_message(answers[0])
    and not is_listed_with_scores(answers)
  )


FORMAT = Format(
  name="nectar",
  wants="prompt (text), answers (a list of objects with answer and rank)",
  columns=("prompt", "answers"),
  detects=detects,
  parse=parse,
)
