"""Runs one case through the door that a user takes, in this process, and says what came of it."""

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator

from dpojax.cli.main import main
from dpojax.errors import InputError
from tests.fuzz.cases import Case
from tests.fuzz.doors import DOORS

SLOWEST = 20  # seconds of one input
CODES = (0, 1, 2)  # docs/commands.md; 75 and 130 need a signal
UNREADABLE = re.compile(r"^dpojax: error: (\s*$|[A-Z]\w*Error\b|KeyError|'\w*'$)", re.MULTILINE)


class Hang(BaseException):
  """An input took longer than `SLOWEST`."""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What came of a case.

  Attributes:
    code: of the command; 0 and 2 for a door of Python, which returned or raised an InputError.
    said: the end of what it wrote on stderr.
    fault: what must not be, in a line: an exception, a hang, an exit code that is not documented; "".
    trace: of the exception.
  """

  code: int | None
  said: str
  fault: str = ""
  trace: str = ""
  seconds: float = 0.0


def run(case: Case, folder: pathlib.Path, seeds: pathlib.Path) -> Outcome:
  """Lays the case out in `folder`, which must not exist, runs it there and takes the folder away again.

  What is late is run once more: then its programs are compiled, and a busy machine may be less so.
  """
  found = _run(case, folder, seeds)
  return _run(case, folder, seeds) if found.fault.startswith("Hang") else found


def _run(case: Case, folder: pathlib.Path, seeds: pathlib.Path) -> Outcome:
  case.lay_out(folder, seeds)
  start, code, fault, trace = time.monotonic(), None, "", ""
  with _inside(folder), _captured() as said:
    try:
      with _limited(SLOWEST):
        code = _code_of(case)
    except SystemExit as error:  # argparse's, after it has printed its help
      code = 0 if error.code in (None, 0) and {"-h", "--help"} & set(case.command) else None
      fault = "" if code == 0 else f"SystemExit: {error.code!r}"
    except BaseException as error:
      fault = f"{type(error).__name__}: {error}"
      trace = traceback.format_exc()
  shutil.rmtree(folder, ignore_errors=True)
  text = said()
  if not fault and code not in CODES:
    fault = f"exit code {code!r}"
  if not fault and "Traceback (most recent" in text:
    fault = "a traceback on stderr"
  if not fault and code == 2 and ("dpojax: error: " not in text or UNREADABLE.search(text)):
    fault = "exit code 2 without a message that says why"
  return Outcome(code, text[-2000:], fault[:500], trace, time.monotonic() - start)


def _code_of(case: Case) -> int:
  if case.command[:1] != ["python"]:
    return main(list(case.command))
  try:
    DOORS[case.command[1]](*case.command[2:])
  except InputError as error:
    print(f"dpojax: error: {error}", file=sys.stderr)
    return 2
  return 0


@contextlib.contextmanager
def _inside(folder: pathlib.Path) -> Iterator[None]:
  before = os.getcwd()
  os.chdir(folder)
  try:
    yield
  finally:
    os.chdir(before)


@contextlib.contextmanager
def _captured() -> Iterator:
  """stdout and stderr as a shell gives them, strict about what has no UTF-8 as Python's are; yields a function: stderr."""
  out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
  err = io.TextIOWrapper(raw := io.BytesIO(), encoding="utf-8", errors="backslashreplace")
  raw.close = lambda: None  # where the reader of stdout has gone, the command closes stderr
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):

    def said() -> str:
      with contextlib.suppress(ValueError):
        err.flush()
      return raw.getvalue().decode()

    yield said


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
  """Raises Hang in the block after so many seconds."""

  def late(*_):
    raise Hang(f"more than {seconds} s")

  before = signal.signal(signal.SIGALRM, late)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
