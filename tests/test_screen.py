"""Tables, pages and the live line, on real terminals (pty) and off them: no number is cut, what goes is named."""

import doctest
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax import screen
from dpojax.cli import progress
from dpojax.screen import Page, Table, fitting
from dpojax.training.runlog import RunLog

NUMBERS = st.from_regex(r"-?[0-9]{1,3}\.[0-9]{1,4}( ± 0\.[0-9]{1,3})?", fullmatch=True)
STYLES = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "TTY_COMPATIBLE", "COLORTERM")


class Pseudoterminal:
  """A terminal of the system with `columns`, and a stream that writes to it."""

  def __init__(self, columns):
    self._ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    self.stream = os.fdopen(theirs, "w", encoding="utf-8")

  def read(self):
    """All that was written; newlines come as the terminal makes them."""
    self.stream.close()
    parts = []
    try:
      while part := os.read(self._ours, 65536):
        parts.append(part)
    except OSError:  # Linux's way to say that the other end is closed
      pass
    os.close(self._ours)
    return b"".join(parts).decode("utf-8")


@pytest.fixture
def clean(monkeypatch):
  for name in STYLES:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("TERM", "xterm-256color")
  return monkeypatch


def columns(line):
  return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def test_examples_in_docstrings():
  result = doctest.testmod(screen)
  assert result.attempted > 0 and result.failed == 0


@pytest.mark.slow
@given(
  st.lists(st.tuples(*[NUMBERS] * 6), min_size=1, max_size=4),
  st.lists(st.text("价格是很ab ，", max_size=50), min_size=4, max_size=4),
  st.integers(30, 120),
)
def test_no_number_is_cut_and_what_went_is_named(numbers, names, width):
  header = ["", "accuracy of pairs", "margin", "KL to the reference", "length", "win rate", "status"]
  going = header[:2:-1]
  rows = [[name, *cells] for name, cells in zip(names, numbers, strict=False)]
  lines = Table(header, rows, may_go=going).text(width).split("\n")
  gone = []
  if lines[-1].startswith("left out at"):
    assert lines[-1].startswith(f"left out at {width} columns: ")
    gone = lines.pop().partition(": ")[2].split(", ")
  assert gone == going[: len(gone)]
  kept = [i for i, head in enumerate(header) if head not in gone]
  words = " ".join(lines).split()
  for row in rows:
    assert all(set(row[i].split()) <= set(words) for i in kept if i)
  assert all(columns(line) <= width for line in lines) or gone == going


def test_as_few_columns_go_as_need_to():
  row = ["name", "1.0", "2.0", "3.0"]
  table = Table(["", "aaaaaaaa", "bbbbbbbb", "cccccccc"], [row], may_go=["cccccccc", "bbbbbbbb"])
  assert table.text(34).split("\n")[1].split() == row
  assert table.text(33).split("\n")[1:] == ["name       1.0       2.0", "left out at 33 columns: cccccccc"]
  assert table.text(20).split("\n")[1:] == ["name       1.0", "left out at 20 columns: cccccccc, bbbbbbbb"]


def test_a_column_that_may_go_twice_goes_once():
  table = Table(["", "aaaaaaaa", "bbbbbbbb"], [["name", "1.0", "2.0"]], may_go=["bbbbbbbb", "bbbbbbbb", "aaaaaaaa"])
  assert table.text(8).split("\n")[1:] == ["name", "left out at 8 columns: bbbbbbbb, aaaaaaaa"]


def test_names_are_text_and_no_markup():
  name = "[bold]x[/bold] [/] :smile: \\[red] [link=https://a.b]c[/link] \x1b[2J"
  assert Table(["", "n"], [[name, "1"]]).text().split("\n")[1] == name.replace("\x1b", "\\x1b") + "  1"


def test_a_name_that_is_too_long_loses_its_middle_or_goes_on_below():
  rows = [["一个非常非常非常非常非常长的名字" * 2, "1"]]
  cut = Table(["item", "won"], rows, cut=True).text(30).split("\n")
  assert [columns(line) for line in cut] == [len("item") + 26, 30] or max(map(columns, cut)) <= 30
  assert len(cut) == 2 and "…" in cut[1]
  below = Table(["item", "won"], rows).text(30).split("\n")
  assert len(below) == 4 and max(map(columns, below)) <= 30 and below[-1].endswith("1")


PAGE = [("a text \x1b[31m", Table(["", "before"], [["section", ""], ["  loss", "0.5"]]))]


@pytest.mark.parametrize(
  ("environment", "styled"),
  [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"FORCE_COLOR": "1"}, True)],
)
def test_styles_on_a_terminal(clean, environment, styled):
  for name, value in environment.items():
    clean.setenv(name, value)
  terminal = Pseudoterminal(80)
  from dpojax.terminal import Guarded

  page = Page(PAGE[0], screen.width_of(terminal.stream))
  screen.say(page, Guarded(terminal.stream))
  said = terminal.read().replace("\r\n", "\n")
  assert ("\x1b[1m" in said) == styled
  assert "a text \\x1b[31m" in said  # texts are shown, whatever the styles
  assert re.sub(r"\x1b\[[0-9;]*m", "", said).split("\n")[2:] == [*str(page).split("\n")[2:], ""] or not styled
  assert styled or said == f"a text \\x1b[31m\n\n{PAGE[0][1].text()}\n"


def test_a_pipe_gets_plain_text_as_wide_as_it_needs(clean):
  table = Table([f"column {i}" for i in range(30)], [["1234.5"] * 30], may_go=["column 29"])
  file = io.StringIO()
  screen.say(Page([table], screen.width_of(file)), file)
  assert "\x1b" not in file.getvalue() and file.getvalue().count("1234.5") == 30
  clean.setenv("FORCE_COLOR", "1")
  forced = io.StringIO()
  screen.say(Page([table], screen.width_of(forced)), forced)
  assert "\x1b[1m" in forced.getvalue()
  assert re.sub(r"\x1b\[[0-9;]*m", "", forced.getvalue()) == file.getvalue()


@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=6), st.integers(0, 80))
def test_of_the_live_line_whole_fields_stay_and_the_time_left_longest(fields, width):
  fields[1] = "left 3m05s"
  line = fitting(fields, width, first=1)
  assert screen.terminal.width(line) <= width
  shown = [screen.terminal.in_line(field) for field in fields]
  possible = [shown[1], *("  ".join(shown[:n]) for n in range(2, len(shown) + 1))]
  assert line in possible if width >= len(shown[1]) else shown[1].startswith(line)


ROW = {"loss": 0.5, "rewards/accuracies": 0.712, "rewards/margins": 0.25, "mean_token_accuracy": 0.76}


@pytest.mark.parametrize(
  ("width", "last"),
  [
    (200, "step 2/9  left 0s  loss 0.5  accuracy 71.2%  margin 0.25  token accuracy 76.0%"),
    (70, "step 2/9  left 0s  loss 0.5  accuracy 71.2%  margin 0.25"),
    (25, "step 2/9  left 0s"),
    (12, "left 0s"),
  ],
)
def test_the_live_line_on_terminals_of_several_widths(clean, tmp_path, width, last):
  """The stream's own terminal counts: here stdout, which pytest captures, is none."""
  clean.setattr("dpojax.training.runlog.REDRAW_SECONDS", 0.0)
  clean.setattr("dpojax.training.time_left.time.monotonic", lambda: 5.0)
  terminal = Pseudoterminal(width)
  with RunLog(tmp_path, total_steps=9, stream=terminal.stream) as log:
    log.progress(1, ROW)
    log.progress(2, ROW)
  drawn = terminal.read().split("\r\x1b[2K")
  assert drawn[-1] == f"{last}\r\n" and all(columns(line.rstrip()) < width for line in drawn)


def test_a_dumb_terminal_gets_lines(clean, tmp_path):
  clean.setenv("TERM", "dumb")
  terminal = Pseudoterminal(80)
  with RunLog(tmp_path, total_steps=4, log_every=2, stream=terminal.stream) as log:
    for step in range(1, 5):
      log.progress(step, {"loss": 0.5})
  said = terminal.read()
  assert "\x1b" not in said
  assert [line.split("  ")[0] for line in said.replace("\r\n", "\n").splitlines()] == ["step 2/4", "step 4/4"]


def test_rows_done_have_a_time_left(clean):
  now = [0.0]
  clean.setattr(progress.time, "monotonic", lambda: now[0])
  clean.setattr(sys, "stderr", io.StringIO())
  clean.setattr(progress, "REPORT_SECONDS", 0.0)
  bar = progress.Progress(100)
  for done in (0, 10, 30):  # the first call comes when all is compiled
    now[0] += 20.0
    bar.show(done, 100 * done)
  lines = sys.stderr.getvalue().splitlines()
  assert lines[0] == "scored 0/100 rows  tokens/s 0"
  assert lines[-1] == "scored 30/100 rows  left 1m33s  tokens/s 50"  # 70 rows of 4/3 seconds


def test_rich_is_left_alone_until_something_is_drawn():
  code = (
    "import sys, io, dpojax.screen, dpojax.cli.main as m; m.main(['--help']); dpojax.screen.coloured(io.StringIO());"
    "sys.exit('rich' in sys.modules)"
  )
  environment = {name: value for name, value in os.environ.items() if name not in STYLES}
  subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=environment)
