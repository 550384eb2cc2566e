"""Reads how sure a row is of its order: the columns `tie`, `margin` (or two scores) and `weight`, of any format."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpojax.data.formats.cells import fits_float32, is_empty, number, shown, truth
from dpojax.data.formats.common import Annotations, Row
from dpojax.errors import DataError

SCORES = ("score_chosen", "score_rejected")
SHP_SCORES = ("score_A", "score_B")


def read_annotations(row: Row, answers: int) -> Annotations:
  """Reads `tie`, `margin`, `weight`, and as the margin score_chosen - score_rejected where there is no `margin`.

  A column that is absent, or empty in this row, says nothing.

  Args:
    row: as read.
    answers: how many answers it has.

  Raises:
    DataError: a column holds something else than it should, or a number beyond float32; or a tie of other than two
      answers.
  """
  tie = _truth(row, "tie")
  if tie and answers != 2:
    raise DataError(f"column 'tie' is true, but the row has {answers} answers; a tie is between two")
  margin = number(row.get("margin"), "margin")
  chosen, rejected = (number(row.get(column), column) for column in SCORES)
  scored = None if chosen is None or rejected is None else chosen - rejected
  if margin is None:
    margin = scored
  if margin is not None and not fits_float32(margin):
    raise DataError(f"columns {SCORES[0]!r} and {SCORES[1]!r} differ by {margin:g}, beyond float32")
  weight = number(row.get("weight"), "weight")
  if weight is not None and weight < 0:
    raise DataError(f"column 'weight' holds {weight:g}; a weight is 0 or more")
  if weight and not np.float32(weight):
    raise DataError(f"column 'weight' holds {weight:g}, which is 0 as float32; give 0, or a larger weight")
  contradicts = not tie and (
    any(difference is not None and difference < 0 for difference in (margin, scored))
    or _shp_otherwise(row)
    or _says_rejected(row)
  )
  return Annotations(tie, margin, weight, contradicts)


def _shp_otherwise(row: Row) -> bool:
  """Whether SHP's two scores say that the other answer is the better one."""
  if not all(_is_number(row.get(name)) for name in SHP_SCORES) or (first := truth(row.get("labels"))) is None:
    return False
  better, worse = [row[name] for name in SHP_SCORES][:: 1 if first else -1]
  return worse > better


def _says_rejected(row: Row) -> bool:
  """Whether `winner` or `label` of a row of pairs says that the rejected answer is the better one."""
  if "chosen" not in row or "rejected" not in row:
    return False
  winner = row.get("winner")
  return (isinstance(winner, str) and winner.strip().lower() == "rejected") or truth(row.get("label")) is False


def _is_number(value: object) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _truth(row: Mapping[str, Any], column: str) -> bool:
  value = row.get(column)
  if is_empty(value):
    return False
  found = truth(value)
  if found is None:
    raise DataError(f"column {column!r} holds {shown(value)}, not true or false")
  return found
