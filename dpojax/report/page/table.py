"""A table of the page: cells as people read them, with what they are sorted by."""

import csv
import dataclasses
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from dpojax.report.frontier import Interval
from dpojax.training.numbers import format_duration, format_number

NUMBER = re.compile(r"-?[\d.,]+(e[+-]?\d+)?( %)?|[\dhms]+")  # or a time


@dataclasses.dataclass(frozen=True)
class Cell:
  """A cell.

  Attributes:
    text: as it is shown.
    value: what it is sorted by and what a CSV file holds; None: the text.
    more: shown when the pointer rests on it.
  """

  text: str
  value: float | None = None
  more: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """A table: the first column names the row."""

  key: str
  title: str
  note: str
  header: Sequence[str]
  rows: Sequence[Sequence[Cell]]


NOTHING = Cell("-")


def number(value: Any, *, share: bool = False) -> Cell:
  """A number by its significant digits, or a share in percent; "-" where there is none."""
  if value is None or not math.isfinite(float(value)):
    return NOTHING
  return Cell(f"{100 * value:.1f} %" if share else format_number(float(value)), float(value))


def count(value: float | None) -> Cell:
  """A whole number."""
  return NOTHING if value is None or not math.isfinite(value) else Cell(f"{value:,.0f}", float(value))


def with_error(value: Any, error: Any = None, decimals: int = 3) -> Cell:
  """ "1.895 ± 0.023"."""
  if value is None or not math.isfinite(float(value)):
    return NOTHING
  text = f"{float(value):.{decimals}f}"
  if error is not None and math.isfinite(float(error)):
    text += f" ± {float(error):.{decimals}f}"
  return Cell(text, float(value))


def interval(found: Interval | None, decimals: int = 2) -> Cell:
  """ "2.46 (2.36 to 2.56)"."""
  if found is None:
    return NOTHING
  if not math.isfinite(found.low):
    return Cell(f"{found.value:.{decimals}f}", found.value)
  seeds = f"{found.seeds} seeds" if found.seeds > 1 else ""
  return Cell(f"{found.value:.{decimals}f} ({found.low:.{decimals}f} to {found.high:.{decimals}f})", found.value, seeds)


def bounds(value: Any, low: Any, high: Any, *, decimals: int = 2, share: bool = False) -> Cell:
  """A value with a given interval; "-" where there is none."""
  if value is None:
    return NOTHING
  scale, unit = (100, " %") if share else (1, "")
  text = f"{scale * value:.{decimals}f}"
  if low is not None and high is not None:
    text += f" ({scale * low:.{decimals}f} to {scale * high:.{decimals}f})"
  return Cell(text + unit, float(value))


def duration(seconds: float | None) -> Cell:
  """Hours, minutes and seconds."""
  return NOTHING if seconds is None else Cell(format_duration(seconds), float(seconds))


def operations(flops: float) -> Cell:
  """ "2.4e+12"; "-" where a model's size is not known."""
  return NOTHING if math.isnan(flops) else Cell(f"{flops:.2e}", flops)


def _plain(cell: Cell) -> str | float:
  if cell.value is None or not NUMBER.fullmatch(cell.text):
    return cell.text
  return int(cell.value) if cell.value.is_integer() else cell.value


def to_csv(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
  """The table as a CSV file: numbers in full, times in seconds, shares as parts of one; what is more than a number, such as
  one with its interval, is written as people read it."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(header)
  for row in rows:
    writer.writerow([_plain(cell) for cell in row])
  return out.getvalue()
