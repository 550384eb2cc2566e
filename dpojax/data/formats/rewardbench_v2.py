"""RewardBench 2: {"prompt": text, "chosen": [text, ...], "rejected": [text, ...], "subset", "id", "num_correct", ...}.

The right answers come first, then the wrong ones; neither are ranked among themselves. In the subset Ties
prompts come twice, with the ids "ref:N" and "tied:N". (Malik et al. 2025, arXiv:2506.01937)
"""

import re

from dpojax.data.formats.cells import from_json, kind_of, number, shown
from dpojax.data.formats.common import Format, PreferenceRow, Row, has, rest_of, single_turn, text
from dpojax.errors import DataError
from dpojax.types import Answers

TIES_ID = re.compile(r"(ref|tied):\d+")


def parse(row: Row, chat: bool) -> PreferenceRow:
  right, wrong = _texts(row, "chosen"), _texts(row, "rejected")
  if not right and not wrong:
    raise DataError("columns 'chosen' and 'rejected' are both empty")
  count = number(row.get("num_correct", len(right)), "num_correct")
  if count != len(right):
    raise DataError(f"column 'num_correct' says {shown(row['num_correct'])}, but 'chosen' holds {len(right)} answers")
  if str(row.get("subset", "")).lower() == "ties" and not TIES_ID.fullmatch(str(row.get("id", ""))):
    raise DataError(f"column 'id' holds {shown(row.get('id'))}; in the subset Ties it must be 'ref:N' or 'tied:N'")
  details = {**rest_of(row, "prompt", "chosen", "rejected"), "num_correct": len(right)}
  return single_turn(text(row, "prompt"), (*right, *wrong), chat, details)


def _texts(row: Row, column: str) -> tuple[str, ...]:
  value = from_json(row.get(column))
  if not isinstance(value, list) or any(not isinstance(answer, str) for answer in value):
    raise DataError(f"column {column!r} holds {kind_of(value)}, not a list of texts")
  return tuple(value)


def detects(row: Row) -> bool:
  if not has(row, "prompt", "chosen", "rejected"):
    return False
  if isinstance(row["chosen"], str) and "num_correct" not in row and "subset" not in row:
    return False  # an answer that happens to be written as a list
  return all(
    isinstance(value, list) and all(isinstance(answer, str) for answer in value)
    for value in (from_json(row["chosen"]), from_json(row["rejected"]))
  )


FORMAT = Format(
  name="rewardbench_v2",
  wants="prompt (text), chosen, rejected (lists of texts), with subset and id beside them",
  columns=("prompt", "chosen", "rejected"),
  detects=detects,
  parse=parse,
  answers=Answers.ANY,
)
