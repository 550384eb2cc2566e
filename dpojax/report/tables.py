"""Tables, aligned for a terminal or in Markdown."""

import itertools
import textwrap
from collections.abc import Callable, Sequence

from dpojax import terminal
from dpojax.markdown import escape

Row = Sequence[str]
NARROWEST = 20  # characters of a first column that is broken


def aligned(header: Row, rows: Sequence[Row], *, width: int = 0) -> str:
  """Columns padded to their widest cell; the first is set left, numbers right.

  Where lines would be wider than `width` columns of a terminal (0: any is right), headings are broken between words, no
  narrower than their cells, and then the first column's texts. Control characters of cells are written out.

  >>> print(aligned(["", "before", "after"], [["loss", "0.6931", "0.5"]]))
        before  after
  loss  0.6931    0.5
  >>> print(aligned(["beta", "reward of chosen"], [["0.1", "0.5"]], width=15))
        reward
            of
  beta  chosen
  0.1      0.5
  """
  header, *rows = ([terminal.in_line(cell) for cell in row] for row in (header, *rows))
  table = [header, *rows]
  if width and sum(max(terminal.width(row[i]) for row in table) + 2 for i in range(len(header))) - 2 > width:
    table = [*_broken(header, rows), *rows]
  widths = [max(terminal.width(row[i]) for row in table) for i in range(len(header))]
  if width:
    widths[0] = min(widths[0], max(width - sum(size + 2 for size in widths[1:]), NARROWEST))
  lines = []
  for row in table:
    indent = row[0][: len(row[0]) - len(row[0].lstrip())]
    *above, first = terminal.wrapped(row[0], widths[0], indent=indent + "  ") or [""]
    cells = [
      terminal.left(first, widths[0]),
      *(terminal.right(cell, size) for cell, size in zip(row[1:], widths[1:], strict=True)),
    ]
    lines += [*above, "  ".join(cells).rstrip()]
  return "\n".join(lines)


def _broken(header: Row, rows: Sequence[Row]) -> list[list[str]]:
  """The header as several rows: words one below the other where their column's cells are narrower; the last is full."""
  least = [max([8, *(terminal.width(row[i]) for row in rows)]) for i in range(len(header))]
  heads = [
    textwrap.wrap(name, most, break_long_words=False, break_on_hyphens=False)
    for name, most in zip(header, least, strict=True)
  ]
  return [list(line) for line in itertools.zip_longest(*(reversed(head) for head in heads), fillvalue="")][::-1]


def markdown(
  header: Row, rows: Sequence[Row], *, cell: Callable[[str], str] = lambda text: text if text == "-" else escape(text)
) -> str:
  """The same table in Markdown; `cell` turns texts into Markdown: `within_cell` where they are that already.

  >>> print(markdown(["", "after"], [["loss", "0.5"]]))
  |  | after |
  |:--|--:|
  | loss | 0.5 |
  """
  lines = ["| " + " | ".join(map(cell, row)) + " |" for row in (header, *rows)]
  return "\n".join([lines[0], "|:--|" + "--:|" * (len(header) - 1), *lines[1:]])
