"""Tables, aligned for a terminal or in Markdown."""

import itertools
import textwrap
from collections.abc import Sequence

Row = Sequence[str]


def aligned(header: Row, rows: Sequence[Row], *, width: int = 0) -> str:
  """Columns padded to their widest cell; the first is set left, numbers right.

  A table wider than `width` characters, if given, has its headings broken between words, no narrower than their cells.

  >>> print(aligned(["", "before", "after"], [["loss", "0.6931", "0.5"]]))
        before  after
  loss  0.6931    0.5
  >>> print(aligned(["beta", "reward of chosen"], [["0.1", "0.5"]], width=15))
        reward
            of
  beta  chosen
  0.1      0.5
  """
  table = [list(header), *map(list, rows)]
  if width and sum(max(len(row[i]) for row in table) + 2 for i in range(len(header))) - 2 > width:
    least = [max(8, *(len(row[i]) for row in rows)) if rows else 8 for i in range(len(header))]
    heads = [
      textwrap.wrap(name, most, break_long_words=False, break_on_hyphens=False)
      for name, most in zip(header, least, strict=True)
    ]
    lines_of_header = list(itertools.zip_longest(*(reversed(head) for head in heads), fillvalue=""))
    table[:1] = map(list, reversed(lines_of_header))
  widths = [max(len(row[i]) for row in table) for i in range(len(header))]
  lines = []
  for row in table:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    lines.append("  ".join(cells).rstrip())
  return "\n".join(lines)


def markdown(header: Row, rows: Sequence[Row]) -> str:
  """The same table in Markdown.

  >>> print(markdown(["", "after"], [["loss", "0.5"]]))
  |  | after |
  |:--|--:|
  | loss | 0.5 |
  """
  lines = ["| " + " | ".join(map(escape, row)) + " |" for row in (header, *rows)]
  return "\n".join([lines[0], "|:--|" + "--:|" * (len(header) - 1), *lines[1:]])


def escape(text: str) -> str:
  """Text that stays inside its Markdown cell and is shown as it is."""
  for old, new in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("\n", "<br>")):
    text = text.replace(old, new)
  return text
