"""Text in Markdown: what came from data, models, names and settings is shown as it is, and none of it becomes markup."""

import re

from dpojax.terminal import in_line, shown


def escape(text: str) -> str:
  r"""Text as Markdown that shows it as it is, in a paragraph, a heading or a cell of a table: nothing in it is markup.

  What has a meaning in CommonMark or in GitHub's tables, links, formulas and lists is preceded by a backslash, HTML's
  characters are entities, a newline is `<br>`, and control characters are written out. `_` within a word means nothing.

  >>> print(escape("# [a](b) | `c` <b> snake_case _d_ 1. $x$"))
  \# \[a\](b) \| \`c\` &lt;b&gt; snake_case \_d\_ 1. \$x\$
  >>> print(escape("1. one\n- two"))
  1\. one<br>\- two
  """
  text = re.sub(r"[\\`*\[\]|~$#]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.", r"\\\g<0>", shown(text))
  text = re.sub(r"^(\s*)([-+](?=\s|$)|[-=]{2})", r"\1\\\2", text, flags=re.M)
  text = re.sub(r"^(\s*\d{1,9})([.)])(?=\s|$)", r"\1\\\2", text, flags=re.M)
  return within_cell(text, bars=False)


def within_cell(text: str, *, bars: bool = True) -> str:
  """Text of ours in Markdown that stays inside its cell."""
  for old, new in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), *([("|", "\\|")] if bars else []), ("\n", "<br>")):
    text = text.replace(old, new)
  return text


def code(text: str) -> str:
  """Text as a code span of Markdown, in one line, whatever backticks are in it.

  >>> print(code("runs/a"), code("a`b"), code("`"))
  `runs/a` `` a`b `` `` ` ``
  """
  text = in_line(text)
  fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
  room = " " * (len(fence) > 1 or text != text.strip() or not text)
  return f"{fence}{room}{text}{room}{fence}"
