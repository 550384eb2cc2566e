"""How far a command is, on stderr."""

import sys
import time

from dpojax import screen
from dpojax.training.numbers import format_duration

REPORT_SECONDS = 10.0  # between lines where there is no terminal


class Line:
  """One live line on a terminal, once `after` seconds have passed; else a line now and then.

  Attributes:
    start: when it was made, by the monotonic clock.
  """

  def __init__(self, after: float = 0.0):
    self.start = self.shown = time.monotonic()
    self.live, self.begun = screen.is_live(sys.stderr), False
    self.pause = after if self.live else REPORT_SECONDS

  def show(self, *fields: str, left: float | None = None) -> None:
    """Writes what was done and how far it is over the line before, unless that was too short a while ago.

    Args:
      fields: the least important last.
      left: seconds to the end, which stand second and stay longest where a terminal is narrow; None: not known.
    """
    now = time.monotonic()
    if now - self.shown < self.pause:
      return
    self.shown, self.begun = now, True
    said = [*fields[:1], *([] if left is None else [f"left {format_duration(left)}"]), *fields[1:]]
    if self.live:
      screen.live_line(sys.stderr, said, first=0 if left is None else 1)
    else:
      print("  ".join(said), file=sys.stderr, flush=True)

  def close(self) -> None:
    """Ends the live line."""
    if self.live and self.begun:
      print(file=sys.stderr)


class Progress:
  """Rows done of all, the time left and tokens a second."""

  def __init__(self, total: int, what: str = "scored"):
    self.total, self.what, self.line = total, what, Line()
    self._first: tuple[int, float] | None = None  # rows, and when: what came before them waited for compilation

  def show(self, done: int, tokens: int) -> None:
    now, left = time.monotonic(), None
    if self._first is None:
      self._first = done, now
    elif done > self._first[0]:
      left = (now - self._first[1]) / (done - self._first[0]) * (self.total - done)
    rate = tokens / max(now - self.line.start, 1e-9)
    self.line.show(f"{self.what} {done:,}/{self.total:,} rows", f"tokens/s {rate:,.0f}", left=left)

  def close(self) -> None:
    self.line.close()
