"""Text for a screen: nothing hidden is obeyed, nothing is lost, and lines are as wide as they look."""

import doctest
import io
import json
import logging
import pathlib
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax import markdown, terminal

PAIRS = pathlib.Path(__file__).parent / "data" / "chinese_pairs.jsonl"
TEXTS = [
  text for line in PAIRS.read_text(encoding="utf-8").splitlines() for text in json.loads(line).values()
]  # 50 pairs: 150 texts
HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\r\x08\x00\x7f\u2066\u200b\ud800"
ORDERS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}  # of writing directions


def obeyed_or_hidden(text):
  """Characters of a text that a terminal obeys or that change what is seen, by Unicode's categories."""
  return [
    c for c in text if c not in "\n\t" and (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or ord(c) in ORDERS)
  ]


def columns(line):
  """Of Chinese text without emoji, by Unicode's table of East Asian widths alone."""
  return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


@pytest.mark.parametrize("module", [terminal, markdown])
def test_examples_in_docstrings(module):
  result = doctest.testmod(module)
  assert result.attempted > 0 and result.failed == 0


@given(st.text(st.characters(exclude_categories=[])))
def test_nothing_shown_is_obeyed(text):
  said = terminal.shown(text)
  assert not obeyed_or_hidden(said)
  assert terminal.shown(said) == said
  assert "\n" not in terminal.in_line(text) and "\t" not in terminal.in_line(text)


@pytest.mark.slow
def test_every_hidden_character_is_written_out_and_those_of_living_scripts_stay():
  signs = {
    *range(0x600, 0x606),
    0x6DD,
    0x70F,
    0x890,
    0x891,
    0x8E2,
    0x110BD,
    0x110CD,
  }  # Cf, but seen: signs before numbers
  for code in range(sys.maxunicode + 1):
    character = chr(code)
    kept = terminal.shown(character) == character
    category = unicodedata.category(character)
    if category == "Cf" and code not in signs and not 0x13430 <= code <= 0x1343F:  # the last: of hieroglyphs
      assert not kept, hex(code)
    if category[0] in "LMNPS" and code not in (0x3164, 0xFFA0):  # but for letters that are nothing but room
      assert kept, hex(code)


def test_joiners_stay_where_they_join():
  for text in ("👩‍👩‍👧", "می‌خواهم", "क्‍ष", "👍🏽", "❤️", "全角　空格"):
    assert terminal.shown(text) == text
  assert terminal.shown("pay\u200dpal \u200d") == "pay\\u200dpal \\u200d"


@given(st.text(st.sampled_from("中文，。（）ab c\u0301👩👧é\u200d　-"), max_size=60), st.integers(2, 30))
def test_wrapped_lines_fit_and_lose_nothing(text, width):
  lines = terminal.wrapped(text, width, indent="")
  assert all(terminal.width(line) <= width for line in lines)
  assert "".join("".join(lines).split(" ")) == "".join(text.split(" "))


def test_chinese_is_as_wide_as_the_table_says_and_no_line_begins_with_a_comma():
  plain = [text for text in TEXTS if all(unicodedata.category(c) not in ("So", "Sk", "Cf") for c in text)]
  assert len(TEXTS) == 150 and len(plain) > 130
  for text in plain:
    assert terminal.width(text) == columns(text)
    for width in (12, 20, 39):
      lines = terminal.wrapped(text, width)
      assert max(map(columns, lines)) <= width
      assert "".join(lines).replace(" ", "") == text.replace(" ", "")
      assert not any(line[0] in "，。；：？！”）》、" or line[-1] in "“（《" for line in lines[1:])
      filled = [columns(line) for line in lines[:-1]]
      assert all(used > width - 8 for used in filled) or " " in text or text.isascii()


@given(st.sampled_from(TEXTS), st.integers(1, 40))
def test_text_is_cut_between_characters(text, width):
  assert text.startswith(terminal.cut(text, width)) and terminal.width(terminal.cut(text, width)) <= width
  middle = terminal.cut_middle(text, width)
  assert terminal.width(middle) <= width
  head, dots, tail = middle.partition("…")
  assert middle == text or (text.startswith(head) and dots and text.endswith(tail))


def test_what_is_printed_and_logged_goes_through_the_guard(capsys):
  with terminal.guarded():
    print("out", HOSTILE)
    print("err", HOSTILE, file=sys.stderr)
    sys.stdout.writelines([HOSTILE, "\n"])
    handler = logging.StreamHandler()
    logging.Logger("one", 0).handle(logging.LogRecord("one", 40, "", 0, HOSTILE, (), None))
    handler.emit(logging.LogRecord("one", 40, "", 0, HOSTILE, (), None))
    with terminal.guarded():
      print("inner", HOSTILE)
    terminal.obeyed(sys.stdout, "\x1b[32mours\x1b[0m\n")
  out, err = capsys.readouterr()
  assert not obeyed_or_hidden(err) and err.count("\\x1b]0;title\\x07") == 3
  assert obeyed_or_hidden(out) == ["\x1b", "\x1b"] and out.count("\\x1b]0;title\\x07") == 3
  assert not isinstance(sys.stdout, terminal.Guarded)


def test_a_progress_bar_is_drawn_over_itself_and_over_nothing_else():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  with Terminal() as screen:
    guarded = terminal.Guarded(screen)
    for text in ("\r 10 %", "\r 20 %\r", "\n", "\rfirst", "\n", "error: ", "\rhidden", "\n", "\r1\nx", "\r2"):
      guarded.write(text)
    assert screen.getvalue() == "\r 10 %\r 20 %\\r\n\rfirst\nerror: \\rhidden\n\r1\nx\\r2"
  with io.StringIO() as file:
    terminal.Guarded(file).write("\r 10 %")
    assert file.getvalue() == "\\r 10 %"


def test_a_character_that_the_encoding_lacks_is_written_out():
  file = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
  guarded = terminal.Guarded(file)
  assert guarded.write("é 中") == 3
  guarded.flush()
  assert file.buffer.getvalue() == b"\xe9 \\u4e2d"


@pytest.mark.parametrize("code", ["raise ValueError(text)", "print(text)", "import warnings; warnings.warn(text)"])
def test_a_process_that_is_guarded_to_its_end(code):
  script = f"from dpojax import terminal; terminal.guard(); text = {HOSTILE!r}; {code}"
  ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8")
  assert not obeyed_or_hidden(ran.stdout + ran.stderr) and "\\x1b]0;title\\x07" in ran.stdout + ran.stderr
