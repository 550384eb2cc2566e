"""Tables, aligned for a terminal or in Markdown."""

from collections.abc import Sequence

Row = Sequence[str]


def aligned(header: Row, rows: Sequence[Row]) -> str:
  """Columns padded to their widest cell; the first is set left, numbers right.

  >>> print(aligned(["", "before", "after"], [["loss", "0.6931", "0.5"]]))
        before  after
  loss  0.6931    0.5
  """
  table = [list(header), *map(list, rows)]
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
