r"""Text for a screen: what came from data, models, names and settings is shown and not obeyed, and lines are as wide as they look.

A terminal obeys control characters: they move the cursor, clear the screen, rename the window. Others are not seen or turn what
follows around. `shown` writes both as Python does, `\x1b` or `\u202e`. A command's stdout and stderr are `Guarded`: whatever is
printed goes through `shown`, so that nobody has to think of it. What a terminal should obey (a live line, colours) is
written by `obeyed`, and its author answers for every part of it. Files keep what they are given.
"""

import contextlib
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, TextIO
from unicodedata import category

ERASE_LINE = "\r\x1b[2K"

# Control characters (C0 but tab and newline, DEL, C1), what orders writing directions, characters without a width of which
# nothing is seen (soft hyphen, joiners, fillers, tags), separators of lines, halves of surrogate pairs. Joiners stay where
# emoji and the scripts of Asia are written with them: behind a character above Hebrew's first.
HIDDEN = re.compile(
  "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
  "\ufff9-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
  "|(?<![\u0590-\u1fff\u2100-\ud7ff\uf900-\ufdff\uff01-\uff9f\U00010000-\U000dffff\ufe0f])[\u200c\u200d]"
)
_OPENING, _CLOSING = ("Ps", "Pi"), ("Pe", "Pf", "Po", "Pd")  # Unicode's categories of punctuation


def shown(text: str) -> str:
  r"""Text whose control and hidden characters are written out; newlines and tabs stay.

  >>> shown("a\x1b[2Jb\r\u202e\x00 中文 👩‍👧 café")
  'a\\x1b[2Jb\\r\\u202e\\x00 中文 👩\u200d👧 café'
  """
  return text if text.isascii() and text.isprintable() else HIDDEN.sub(_written_out, text)


def in_line(text: str) -> str:
  r"""The same in one line: newlines and tabs are written out too.

  >>> in_line("a\nb\tc")
  'a\\nb\\tc'
  """
  return shown(text).replace("\n", "\\n").replace("\t", "\\t")


def _written_out(found: re.Match[str]) -> str:
  return found[0].encode("unicode_escape").decode("ascii")


class Guarded:
  """A text stream that writes what is `shown`. What its encoding lacks is written out too, so that printing cannot fail for it.

  On a terminal a carriage return at the beginning of what is written stays where it overwrites nothing, or only what began
  with one too: progress bars of libraries work so, and nobody else's text can be hidden by it.

  Args:
    stream: where it goes; everything but writing is as there.
  """

  def __init__(self, stream: TextIO):
    self.stream = stream
    self._free = True  # the line so far is empty, or a progress bar

  def write(self, text: str) -> int:
    said, count = text, len(text)
    if text[:1] == "\r" and self._free and self.stream.isatty():
      obeyed(self, "\r")
      said = text[1:]
    if "\n" in said or (said and said is text):
      self._free = said.endswith("\n")
    obeyed(self, shown(said))
    return count

  def writelines(self, lines: Any) -> None:
    for line in lines:
      self.write(line)

  def __iter__(self) -> Iterator[str]:
    return iter(self.stream)

  def __getattr__(self, name: str) -> Any:
    return getattr(self.stream, name)


def guard() -> None:
  """Guards stdout and stderr of this process until it ends, tracebacks and warnings included."""
  for name in ("stdout", "stderr"):
    stream = getattr(sys, name)
    if stream is not None and not isinstance(stream, Guarded):
      setattr(sys, name, Guarded(stream))


@contextlib.contextmanager
def guarded() -> Iterator[None]:
  """Guards stdout and stderr while the block runs."""
  before = sys.stdout, sys.stderr
  guard()
  ours = sys.stdout, sys.stderr
  try:
    yield
  finally:
    if (sys.stdout, sys.stderr) == ours:  # else somebody has taken them meanwhile
      sys.stdout, sys.stderr = before


def obeyed(stream: Any, text: str) -> None:
  """Writes text with the control characters that are in it: each of its parts is ours, or has been `shown`."""
  stream = stream.stream if isinstance(stream, Guarded) else stream
  encoding = getattr(stream, "encoding", None) or "utf-8"
  if not text.isascii() and encoding.lower().replace("-", "") != "utf8":
    text = text.encode(encoding, "backslashreplace").decode(encoding)
  stream.write(text)


def width(text: str) -> int:
  """Columns that a line takes on a terminal: Chinese characters and emoji two, combining marks none.

  >>> width("中文"), width("é"), width("e\u0301"), width("👩‍👧")
  (4, 1, 1, 2)
  """
  if text.isascii():
    return len(text)
  import wcwidth  # its tables take a while to read, and most lines need none

  found = wcwidth.wcswidth(text)
  return found if found >= 0 else sum(max(0, wcwidth.wcwidth(c)) for c in text)


def left(text: str, columns: int) -> str:
  """Text with spaces behind it up to `columns`."""
  return text + " " * (columns - width(text))


def right(text: str, columns: int) -> str:
  """Text with spaces before it up to `columns`."""
  return " " * (columns - width(text)) + text


def cut(text: str, columns: int) -> str:
  """The beginning of a line that fits into `columns`, whole characters with their marks.

  >>> cut("中文文", 5)
  '中文'
  """
  if width(text) <= columns:
    return text
  if text.isascii():
    return text[: max(0, columns)]
  kept, used = [], 0
  for character in characters(text):
    used += width(character)
    if used > columns:
      break
    kept.append(character)
  return "".join(kept)


def cut_middle(text: str, columns: int) -> str:
  """Text whose middle is `…` where it is wider than `columns`: names often differ at their ends.

  >>> cut_middle("a_long_name_of_a_run", 11)
  'a_lon…a_run'
  """
  if width(text) <= columns:
    return text
  half = (columns - 1) // 2
  end = "".join(reversed(list(_fitting(reversed(characters(text)), half))))
  return f"{''.join(_fitting(characters(text), columns - 1 - half))}…{end}"


def _fitting(parts: Any, columns: int) -> Iterator[str]:
  for part in parts:
    columns -= width(part)
    if columns < 0:
      return
    yield part


def characters(text: str) -> list[str]:
  """Characters as people count them: each with its marks, an emoji with what it is joined to."""
  if text.isascii():
    return list(text)
  import wcwidth

  return list(wcwidth.iter_graphemes(text))


def wrapped(text: str, columns: int, *, indent: str = "") -> list[str]:
  """One line as lines of at most `columns`, broken at spaces and between Chinese characters; further ones begin with `indent`.

  As `textwrap.wrap`, which counts characters and breaks Chinese at spaces only. No line begins with a comma or ends with an opening
  bracket. A character that is wider than `columns` stays whole.

  >>> wrapped("价格是 3 元，很便宜。", 8)
  ['价格是 3', '元，很便', '宜。']
  """
  if text.isascii():
    return textwrap.wrap(text, columns, subsequent_indent=indent)
  lines, line, used = [], "", 0

  def end() -> None:
    nonlocal line, used
    if line.strip(" "):
      lines.append(line.rstrip(" "))
    line, used = indent, width(indent)

  for unit in _units(text.replace("\t", " ").replace("\n", " ")):
    wide = width(unit)
    if used + wide <= columns:
      if not unit.strip(" ") and lines and line == indent:
        continue  # a line that goes on does not begin with the space it was broken at
      line, used = line + unit, used + wide
      continue
    if not unit.strip(" "):
      end()
      continue
    if wide <= columns - width(indent) or not line.strip(" "):
      end()
    for part in [unit] if used + wide <= columns else characters(unit):
      if used + width(part) > columns and line.strip(" "):
        end()
      line, used = line + part, used + width(part)
  end()
  return lines


def filled(text: str, columns: int, *, indent: str = "") -> str:
  """`wrapped` as one text."""
  return "\n".join(wrapped(text, columns, indent=indent))


def _units(text: str) -> Iterator[str]:
  """What no line is broken inside of: spaces, words, single wide characters with the marks of punctuation that belong to them."""
  unit = ""
  wide_before = False
  for character in characters(text):
    wide = width(character) > 1
    joined = (
      (not wide and not wide_before) or category(character[0]) in _CLOSING or (unit and category(unit[-1]) in _OPENING)
    )
    if unit and (character == " " or unit[-1] == " " or not joined) and not (character == " " == unit[-1]):
      yield unit
      unit = ""
    unit, wide_before = unit + character, wide
  if unit:
    yield unit
