"""Text in plots: drawn as it is written, in fonts that have its characters; what no installed font has is written out.

matplotlib looks for a character in the fonts of a text's family and draws a box where none has it. Its own font has no Chinese.
"""

import contextlib
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any

from dpojax.terminal import in_line, shown

if TYPE_CHECKING:
  from matplotlib.figure import Figure
  from matplotlib.text import Text

# Asked first, the others in the order of their names: those of whole scripts, in shapes that go with a sans serif.
PREFERRED = (
  "Noto Sans CJK SC",
  "Noto Sans SC",
  "Source Han Sans SC",
  "PingFang SC",
  "Hiragino Sans GB",
  "Microsoft YaHei",
  "WenQuanYi Micro Hei",
  "WenQuanYi Zen Hei",
  "Noto Sans",
)
_said: set[str] = set()  # characters of which it was said that no font has them


def make_legible(figure: "Figure") -> None:
  """Before a figure is saved: `$` is no formula, control characters are written out, and every character is in one of the fonts.

  Says once on stderr which characters are written as `\\u4f60` because no font has them.
  """
  from matplotlib.text import Text
  from matplotlib.ticker import FixedFormatter

  for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
    axis.get_major_ticks()  # they are made when they are asked for
    labels = [label.get_text() for label in axis.get_ticklabels()]
    if any(_drawable(text) != text for text in labels):
      _say_missing("".join(labels))
      axis.set_major_formatter(FixedFormatter([_drawable(text) for text in labels]))
  texts = figure.findobj(Text)
  _say_missing("".join(text.get_text() for text in texts))
  for text in texts:
    _make_drawable(text)


def legible(part: Any) -> Any:
  """A specification of a chart, with every text in it, names of fields too, as `make_legible` does with a figure's."""
  if isinstance(part, str):
    _say_missing(part)
    return _drawable(part)
  if isinstance(part, dict):
    return {legible(name): legible(inner) for name, inner in part.items()}
  return [legible(inner) for inner in part] if isinstance(part, list) else part


def text_width(text: str, size: float) -> float:
  """Inches that a line takes at `size` points, in the fonts that `make_legible` gives it."""
  from matplotlib import rcParams
  from matplotlib.font_manager import FontProperties
  from matplotlib.textpath import text_to_path

  text = _drawable(text)
  font = FontProperties(family=[*rcParams["font.family"], *_families(frozenset(text))[0]], size=size)
  return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def _make_drawable(text: "Text") -> None:
  text.set_parse_math(False)
  said = text.get_text()
  if said.isascii() and said.isprintable():
    return
  text.set_text(_drawable(said))
  if more := _families(frozenset(text.get_text()))[0]:
    text.set_fontfamily([*text.get_fontfamily(), *more])


def _drawable(text: str) -> str:
  """Text with the characters written out that a terminal would obey or that no font has."""
  if text.isascii() and text.isprintable():
    return text
  text = "\n".join(map(in_line, text.split("\n")))
  missing = _families(frozenset(text))[1]
  return "".join(_code(c) if c in missing else c for c in text)


def _say_missing(text: str) -> None:
  if text.isascii():
    return
  new = sorted(_families(frozenset(shown(text)))[1] - _said)
  _said.update(new)
  if new:
    print(
      f"dpojax: plots: no installed font has {''.join(new)}: written out, as {_code(new[0])}; install one that has them, such "
      "as the package fonts-noto-cjk",
      file=sys.stderr,
      flush=True,
    )


def _code(character: str) -> str:
  return character.encode("unicode_escape").decode("ascii")


@functools.lru_cache(maxsize=256)
def _families(characters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
  """(families that have what matplotlib's own font lacks, characters that no font has)."""
  from matplotlib import font_manager

  lacking = frozenset(
    c for c in characters if c > "~" and ord(c) not in _codes(font_manager.findfont(font_manager.FontProperties()))
  )
  families: list[str] = []
  for family, path in _installed() if lacking else ():
    found = frozenset(c for c in lacking if ord(c) in _codes(path))
    if found:
      families.append(family)
      lacking -= found
    if not lacking:
      break
  return families, lacking


@functools.cache
def _installed() -> list[tuple[str, str]]:
  """(family, file) of all fonts in the order in which they are asked; without those that have a box for every character."""
  from matplotlib import font_manager

  # Many fonts of other scripts have one weight, and nobody can do anything about it.
  logging.getLogger(font_manager.__name__).addFilter(lambda said: "font weight" not in said.getMessage())
  known = {font.fname for font in font_manager.fontManager.ttflist}
  for path in (
    set(font_manager.findSystemFonts()) - known
  ):  # installed after matplotlib made its list, which it keeps in a file
    with contextlib.suppress(OSError, RuntimeError):  # what FreeType cannot read
      font_manager.fontManager.addfont(path)
  fonts = {font.name: font.fname for font in reversed(font_manager.fontManager.ttflist) if not _is_boxes(font.name)}
  place = {name: i for i, name in enumerate(PREFERRED)}
  return sorted(fonts.items(), key=lambda item: (place.get(item[0], len(place)), item[0]))


def _is_boxes(name: str) -> bool:
  return "lastresort" in name.replace(" ", "").lower()


@functools.lru_cache(maxsize=64)
def _codes(path: str) -> frozenset[int]:
  """Code points that a font file has; none where it cannot be read."""
  from matplotlib import font_manager

  try:
    return frozenset(font_manager.get_font(path).get_charmap())
  except (OSError, RuntimeError):
    return frozenset()
