"""Tables in Markdown."""

from collections.abc import Callable, Sequence

from dpojax.markdown import escape

Row = Sequence[str]


def markdown(
  header: Row, rows: Sequence[Row], *, cell: Callable[[str], str] = lambda text: text if text == "-" else escape(text)
) -> str:
  """A table in Markdown, numbers set right; `cell` turns texts into Markdown: `within_cell` where they are that already.

  >>> print(markdown(["", "after"], [["loss", "0.5"]]))
  |  | after |
  |:--|--:|
  | loss | 0.5 |
  """
  lines = ["| " + " | ".join(map(cell, row)) + " |" for row in (header, *rows)]
  return "\n".join([lines[0], "|:--|" + "--:|" * (len(header) - 1), *lines[1:]])
