"""Ranked answers: {"prompt": text or messages, "answers": [text, ...]}, any number K >= 1.

They stand best first, or a list beside them says how good each is, and they are put in that order, equal ones as they stand::

    {"answers": ["a", "b", "c"], "scores": [3, 9, 3]}            b > a = c      also "ratings"
    {"answers": ["a", "b"], "ranks": [2, 1]}                     b > a          rank 1 the best
    {"answers": [{"response": "a", "overall_score": 3}, ...]}                   as UltraFeedback lists them

A column "rewards" with a number for each answer, as a built-in environment writes it, is kept in the details and orders nothing:
the order of such answers may have been drawn.
"""

from collections.abc import Mapping
from typing import Any

from dpojax.data.formats.cells import fits_float32, from_json, kind_of
from dpojax.data.formats.common import (
  Answer,
  Format,
  PreferenceRow,
  Row,
  answer_after,
  has,
  is_messages,
  messages,
  read_prompt,
  rest_of,
)
from dpojax.errors import DataError

SCORES = ("scores", "ratings")  # the higher the better
RANKS = ("ranks", "rank", "ranking")  # 1 the best
TEXTS = ("response", "answer", "text", "completion", "output", "content")  # an answer's, where it is an object
POINTS = ("score", "overall_score", "rating", "reward")


def parse(row: Row, chat: bool) -> PreferenceRow:
  answers = from_json(row.get("answers"))
  if is_listed_with_scores(answers):
    row = {**row, **_columns_of(answers)}
    answers = row["answers"]
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
  read = tuple(_answer(answer, prompt) for answer in answers)
  scores, units = _scores(row, len(answers))
  labels = from_json(row.get("labels"))
  if not scores and isinstance(labels, list) and labels and all(isinstance(label, bool) for label in labels):
    raise DataError(
      "column 'labels' says true or false of each answer, which is no order: labels of steps (TRL's stepwise "
      "supervision) train nothing here; for whole answers, give rows with prompt, completion and label"
    )
  if scores:
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    read, scores = tuple(read[i] for i in order), tuple(scores[i] for i in order)
    if "rewards" in details:
      details["rewards"] = [rewards[i] for i in order]
  return PreferenceRow(kind, prompt, read, details, scores=scores, scores_have_units=units)


def _scores(row: Row, answers: int) -> tuple[tuple[float, ...], bool]:
  """(how good each answer is, the higher the better, and whether differences mean something); empty where nothing says."""
  for name in (*SCORES, *RANKS):
    values = from_json(row.get(name))
    if not isinstance(values, list) or not any(_is_number(value) for value in values):
      continue
    if len(values) != answers or not all(map(_is_number, values)):
      raise DataError(f"column {name!r} holds {len(values)} values for {answers} answers; give a number for each")
    if not all(map(fits_float32, values)):
      raise DataError(f"column {name!r} holds a number that is not finite as float32")
    return tuple(float(value) if name in SCORES else -float(value) for value in values), name in SCORES
  return (), False


def _is_number(value: object) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def is_listed_with_scores(answers: Any) -> bool:
  """Whether answers are objects that each hold a text and how good it is; Nectar's, with a rank, have their own format."""
  return (
    isinstance(answers, list)
    and bool(answers)
    and all(isinstance(a, Mapping) and not is_messages(a) and any(name in a for name in TEXTS) for a in answers)
    and any(name in answers[0] for name in POINTS)
  )


def _columns_of(answers: list[Mapping[str, Any]]) -> dict[str, Any]:
  """Objects as a list of texts and one of scores."""
  text = next(name for name in TEXTS if name in answers[0])
  score = next(name for name in POINTS if name in answers[0])
  for i, answer in enumerate(answers):
    if not isinstance(answer.get(text), str) or not _is_number(answer.get(score)):
      raise DataError(f"entry {i} of column 'answers' has no text {text!r} or no number {score!r}; leave the row out")
  return {"answers": [answer[text] for answer in answers], "scores": [answer[score] for answer in answers]}


def _answer(answer: Any, prompt: Any) -> Answer:
  return (
    answer if isinstance(answer, str) else answer_after(prompt, messages({"answers": answer}, "answers"), "answers")
  )


def detects(row: Row) -> bool:
  return has(row, "prompt", "answers")


FORMAT = Format(
  name="ranked",
  wants="prompt (text or messages), answers (a list of texts, best first, or with a list of scores, ratings or ranks)",
  columns=("prompt", "answers"),
  reads=("rewards", *SCORES, *RANKS),
  detects=detects,
  parse=parse,
)
