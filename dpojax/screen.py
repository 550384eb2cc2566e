"""What a person sees: tables as wide as the terminal, and the one line that is redrawn.

A `Table` is laid out here, so that no number is ever cut: headings are broken between words, then the column of names
gives way, then whole columns go, those first of which its author says so, and are named below. rich draws it. Colours and
bold letters are for terminals alone, as rich decides it (NO_COLOR, FORCE_COLOR, TERM=dumb); a file or a pipe gets plain
text, as wide as it needs.
"""

import dataclasses
import os
import re
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

from dpojax import terminal

NARROWEST = 20  # columns of a terminal that names keep, however narrow it is
NARROWEST_HEADING = 8
GAP = 2  # between two columns of a table
PROSE = 100  # columns of sentences in a file


@dataclasses.dataclass(frozen=True)
class Table:
  """Cells of texts for a screen. A row whose cells are empty but for its name is a heading of those below it.

  Attributes:
    header: one heading a column.
    rows: as many cells each; control characters in them are written out.
    may_go: headings of the columns that go where lines would be too wide, the first of them first.
    names: place of the column of names, which is set left; the others are numbers, set right.
    left: headings of further columns that are set left.
    cut: names that are too long lose their middle; else they are broken into several lines.
  """

  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  may_go: Sequence[str] = ()
  names: int = 0
  left: Sequence[str] = ()
  cut: bool = False

  def text(self, width: int = 0) -> str:
    """The table as plain text for `width` columns of a terminal; 0: as wide as it needs.

    >>> print(Table(["", "before", "after"], [["loss", "0.6931", "0.5"]]).text())
          before  after
    loss  0.6931    0.5
    >>> print(Table(["beta", "reward of chosen"], [["0.1", "0.5"]]).text(15))
          reward
              of
    beta  chosen
    0.1      0.5
    >>> print(Table(["item", "won", "games"], [["a", "1", "2"]], may_go=["games"]).text(12))
    item  won
    a       1
    left out at 12 columns: games
    """
    return _drawn(self, width, styled=False)


class Page(str):
  """Parts with an empty line between each two, as plain text; `say` prints its tables as the terminal can show them."""

  parts: "tuple[str | Table, ...]"
  width: int

  def __new__(cls, parts: "Sequence[str | Table]", width: int = 0) -> "Page":
    """Args: parts: texts, which are as wide as their author made them, and tables; width: of the terminal, 0: any."""
    page = super().__new__(cls, "\n\n".join(part if isinstance(part, str) else part.text(width) for part in parts))
    page.parts, page.width = tuple(parts), width
    return page


def say(page: Page, stream: TextIO) -> None:
  """Prints a page; in style where `stream` is a terminal that has styles, texts always `shown`."""
  if not coloured(stream):
    print(page, file=stream)
    return
  for number, part in enumerate(page.parts):
    if number:
      print(file=stream)
    if isinstance(part, str):
      print(part, file=stream)
    else:
      terminal.obeyed(stream, _drawn(part, page.width, styled=True) + "\n")


def width_of(stream: Any) -> int:
  """Columns of the terminal that `stream` writes to, or what COLUMNS says; 0 where it is none, so that anything is right."""
  told = os.environ.get("COLUMNS", "")
  if told.isdecimal() and int(told):
    return int(told)
  if not stream.isatty():
    return 0
  try:
    return os.get_terminal_size(stream.fileno()).columns or 80
  except (OSError, ValueError, AttributeError):  # it says that it is a terminal, and is none of the system's
    return 80


def coloured(stream: Any) -> bool:
  """Whether `stream` shows styles: a terminal that has them, unless NO_COLOR is set, or whatever FORCE_COLOR asks for."""
  if not stream.isatty() and "FORCE_COLOR" not in os.environ and "TTY_COMPATIBLE" not in os.environ:
    return False  # without rich, which takes a while to import
  from rich.console import Console

  console = Console(file=stream, force_jupyter=False)
  return console.color_system is not None and not console.no_color


def is_live(stream: Any) -> bool:
  """Whether a line on `stream` can be written over."""
  return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def live_line(stream: Any, fields: Sequence[str], first: int = 0) -> None:
  """Writes the fields that fit over the line that the cursor is in: a full line would wrap and scroll."""
  terminal.obeyed(stream, terminal.ERASE_LINE)
  stream.write(fitting(fields, (width_of(stream) or 80) - 1, first))
  stream.flush()


def fitting(fields: Sequence[str], columns: int, first: int = 0) -> str:
  """One line of whole fields: that at place `first` stays longest, the others go from the end.

  >>> fitting(["step 9/10", "left 3s", "loss 0.5"], 18, first=1)
  'step 9/10  left 3s'
  >>> fitting(["step 9/10", "left 3s", "loss 0.5"], 12, first=1)
  'left 3s'
  """
  fields = [terminal.in_line(field) for field in fields]
  order = [*fields[first : first + 1], *fields[:first], *fields[first + 1 :]]
  kept, used = 0, -GAP
  for field in order:
    used += terminal.width(field) + GAP
    if used > columns:
      break
    kept += 1
  if not kept:
    return terminal.cut(order[0], columns) if order else ""
  places = [first, *(place for place in range(len(fields)) if place != first)][:kept] if first < len(fields) else []
  return (" " * GAP).join(fields[place] for place in sorted(places))


def _drawn(table: Table, width: int, *, styled: bool) -> str:
  from io import StringIO

  from rich.console import Console
  from rich.table import Column
  from rich.table import Table as Drawn
  from rich.text import Text

  heads, rows, gone = _laid_out(table, width)
  columns = [
    Column(Text("\n".join(lines), style="bold"), justify="left" if left else "right", vertical="bottom", no_wrap=True)
    for lines, left in heads
  ]
  drawn = Drawn(*columns, box=None, pad_edge=False, padding=(0, GAP // 2), header_style="")
  for row in rows:
    heading = len(row) > 1 and row[0] and not any(row[1:])
    drawn.add_row(*(Text(cell, style="bold" if heading else "") for cell in row))
  file = StringIO()
  whole = sum(max(map(_width, lines)) for lines in zip(*rows, strict=True)) if rows else 0
  console = Console(
    file=file,
    width=whole + sum(max(map(terminal.width, lines), default=0) + GAP for lines, _ in heads) + 1,
    force_terminal=styled,
    color_system="standard" if styled else None,
    force_jupyter=False,
    legacy_windows=False,
    _environ={},
  )
  console.print(drawn, crop=False)
  drawn_lines = file.getvalue().rstrip("\n").split("\n")
  lines = [re.sub(r"(\x1b\[[0-9;]*m| )+$", lambda end: end[0].replace(" ", ""), line) for line in drawn_lines]
  if gone:
    lines.append(f"left out at {width} columns: {', '.join(gone)}")
  return "\n".join(lines)


def _laid_out(table: Table, width: int) -> tuple[list[tuple[list[str], bool]], list[list[str]], list[str]]:
  """((heading's lines, whether it is set left) of each column, rows of cells, headings of what went)."""
  header, *rows = ([terminal.in_line(cell) for cell in row] for row in (table.header, *table.rows))
  cells = [max((terminal.width(row[i]) for row in rows), default=0) for i in range(len(header))]
  heads = [[head] for head in header]
  kept, gone = list(range(len(header))), []

  def size(i: int) -> int:
    return max(cells[i], *map(terminal.width, heads[i]))

  def total() -> int:
    return sum(size(i) + GAP for i in kept) - GAP

  if width and total() > width:
    heads = [
      textwrap.wrap(head, max(NARROWEST_HEADING, cell), break_long_words=False, break_on_hyphens=False) or [""]
      for head, cell in zip(header, cells, strict=True)
    ]
    named = [terminal.in_line(head) for head in table.may_go]
    for place in dict.fromkeys(header.index(head) for head in named if head in header):
      if total() - size(table.names) + min(size(table.names), NARROWEST) <= width:
        break
      kept.remove(place)
      gone.append(header[place])
    room = max(width - total() + size(table.names), min(NARROWEST, size(table.names)))
    rows = [[_name(cell, room, table.cut) if i == table.names else cell for i, cell in enumerate(row)] for row in rows]
  left = {table.names, *(i for i, head in enumerate(table.header) if head in table.left)}
  return [(heads[i], i in left) for i in kept], [[row[i] for i in kept] for row in rows], gone


def _name(text: str, room: int, cut: bool) -> str:
  if cut:
    return terminal.cut_middle(text, room)
  indent = text[: len(text) - len(text.lstrip())]
  return "\n".join(terminal.wrapped(text, max(1, room), indent=indent + "  ") or [""])


def _width(cell: str) -> int:
  return max(map(terminal.width, cell.split("\n")))
