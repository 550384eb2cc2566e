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

PARTS = ("low", "high", "error")  # of a cell, beside its value
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes what begins with one of them for a formula
NUMBER = re.compile(r"-?[\d.,]+(e[+-]?\d+)?( %)?|[\dhms]+")  # or a time


@dataclasses.dataclass(frozen=True)
class Cell:
  """A cell.

  Attributes:
    text: as it is shown.
    value: what it is sorted by and what a CSV file holds; None: the text.
    more: shown when the pointer rests on it.
    low, high: the ends of its interval; `error`: its standard error. A CSV file holds each in a column of its own.
  """

  text: str
  value: float | None = None
  more: str = ""
  low: float | None = None
  high: float | None = None
  error: float | None = None


@dataclasses.dataclass(frozen=True)
class Table:
  """A table: the first column names the row."""

  key: str
  title: str
  note: str
  header: Sequence[str]
  rows: Sequence[Sequence[Cell]]


NOTHING = Cell("-")


def number(value: Any, *, fraction: bool = False) -> Cell:
  """A number by its significant digits, or a fraction in percent; "-" where there is none."""
  if value is None or not math.isfinite(float(value)):
    return NOTHING
  return Cell(f"{100 * value:.1f} %" if fraction else format_number(float(value)), float(value))


def count(value: float | None) -> Cell:
  """A whole number."""
  return NOTHING if value is None or not math.isfinite(value) else Cell(f"{value:,.0f}", float(value))


def with_error(value: Any, error: Any = None, decimals: int = 3) -> Cell:
  """ "1.895 ± 0.023"."""
  if value is None or not math.isfinite(float(value)):
    return NOTHING
  text = f"{float(value):.{decimals}f}"
  if error is None or not math.isfinite(float(error)):
    return Cell(text, float(value))
  return Cell(f"{text} ± {float(error):.{decimals}f}", float(value), error=float(error))


def interval(found: Interval | None, seeds: int = 1, decimals: int = 2) -> Cell:
  """ "2.46 (2.36 to 2.56)"; where it is of fewer seeds than `seeds`, of how many."""
  if found is None:
    return NOTHING
  fewer = f", {found.seeds} of {seeds} seeds" if found.seeds < seeds else ""
  if not math.isfinite(found.low):
    return Cell(f"{found.value:.{decimals}f}{fewer}", found.value)
  of = f"{found.seeds} seeds" if found.seeds > 1 else ""
  text = f"{found.value:.{decimals}f} ({found.low:.{decimals}f} to {found.high:.{decimals}f}){fewer}"
  return Cell(text, found.value, of, found.low, found.high)


def bounds(value: Any, low: Any, high: Any, *, decimals: int = 2, fraction: bool = False) -> Cell:
  """A value with a given interval; "-" where there is none."""
  if value is None:
    return NOTHING
  scale, unit = (100, " %") if fraction else (1, "")
  text = f"{scale * value:.{decimals}f}"
  if low is None or high is None:
    return Cell(text + unit, float(value))
  text += f" ({scale * low:.{decimals}f} to {scale * high:.{decimals}f})"
  return Cell(text + unit, float(value), low=float(low), high=float(high))


def duration(seconds: float | None) -> Cell:
  """Hours, minutes and seconds."""
  return NOTHING if seconds is None else Cell(format_duration(seconds), float(seconds))


def operations(flops: float) -> Cell:
  """ "2.4e+12"; "-" where a model's size is not known."""
  return NOTHING if math.isnan(flops) else Cell(f"{flops:.2e}", flops)


def to_csv(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
  """The table as a CSV file: numbers in full, times in seconds, shares as parts of one, nothing where there is none.

  A column of numbers with intervals is followed by "NAME low" and "NAME high", one with errors by "NAME error". A text that a
  spreadsheet would take for a formula is written behind an apostrophe.
  """
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  parts = [
    [part for part in PARTS if any(getattr(row[i], part) is not None for row in rows)] for i in range(len(header))
  ]
  names = [
    name if part == "value" else f"{name} {part}"
    for name, several in zip(header, parts, strict=True)
    for part in ("value", *several)
  ]
  writer.writerow([safe_in_csv(name) for name in names])
  for row in rows:
    cells = []
    for cell, several in zip(row, parts, strict=True):
      cells.append(_plain(cell))
      cells += [_number(getattr(cell, part)) for part in several]
    writer.writerow(cells)
  return out.getvalue()


def safe_in_csv(text: str) -> str:
  """The text, behind an apostrophe where a spreadsheet would obey it."""
  return f"'{text}" if text[:1] in FORMULA and not NUMBER.fullmatch(text) else text


def _plain(cell: Cell) -> str | float:
  if cell.text == NOTHING.text:
    return ""
  bare = cell.low is cell.high is cell.error is None
  if cell.value is None or (bare and not NUMBER.fullmatch(cell.text)):
    return safe_in_csv(cell.text)
  return _number(cell.value)


def _number(value: float | None) -> str | float:
  return "" if value is None or not math.isfinite(value) else int(value) if float(value).is_integer() else value
