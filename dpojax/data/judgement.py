"""How sure a row is of its order: the columns `tie`, `margin` (or two scores) and `weight`, of any format."""

import math
from collections.abc import Mapping
from typing import Any

from dpojax.data.formats.common import Judgement, Row, kind_of
from dpojax.errors import DataError

TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
SCORES = ("score_chosen", "score_rejected")


def read_judgement(row: Row, answers: int) -> Judgement:
  """Reads `tie`, `margin`, `weight`, and as the margin score_chosen - score_rejected where there is no `margin`.

  A column that is absent, or empty in this row, says nothing.

  Args:
    row: as read.
    answers: how many answers it has.

  Raises:
    DataError: a column holds something else than it should; or a tie of other than two answers.
  """
  tie = _truth(row, "tie")
  if tie and answers != 2:
    raise DataError(f"column 'tie' is true, but the row has {answers} answers; a tie is between two")
  margin = _number(row, "margin")
  if margin is None:
    chosen, rejected = (_number(row, column) for column in SCORES)
    margin = None if chosen is None or rejected is None else chosen - rejected
  weight = _number(row, "weight")
  if weight is not None and weight < 0:
    raise DataError(f"column 'weight' holds {weight:g}; a weight is 0 or more")
  return Judgement(tie, margin, weight)


def _is_empty(value: Any) -> bool:
  return value is None or (isinstance(value, str) and not value.strip())


def _truth(row: Mapping[str, Any], column: str) -> bool:
  value = row.get(column)
  if _is_empty(value):
    return False
  found = TRUTH.get(str(value).strip().lower())
  if found is None:
    raise DataError(f"column {column!r} holds {value!r}, not true or false")
  return found


def _number(row: Mapping[str, Any], column: str) -> float | None:
  """A number, also written as text as CSV files hold it."""
  value = row.get(column)
  if _is_empty(value):
    return None
  if isinstance(value, bool) or not isinstance(value, int | float | str):
    raise DataError(f"column {column!r} holds {kind_of(value)}, not a number")
  try:
    number = float(value)
  except (ValueError, OverflowError):
    number = math.nan
  if not math.isfinite(number):
    raise DataError(f"column {column!r} holds {value!r}, not a finite number")
  return number
