"""How far a command is, on stderr."""

import sys
import time

from dpojax import terminal

REPORT_SECONDS = 10.0  # between lines where there is no terminal


class Line:
  """One live line on a terminal, once `after` seconds have passed; else a line now and then."""

  def __init__(self, after: float = 0.0):
    self.start = self.shown = time.monotonic()
    self.live, self.begun = sys.stderr.isatty(), False
    self.pause = after if self.live else REPORT_SECONDS

  def show(self, text: str) -> None:
    """Writes `text` over the line before, unless that was too short a while ago."""
    now = time.monotonic()
    if now - self.shown < self.pause:
      return
    self.shown, self.begun = now, True
    if self.live:
      terminal.live_line(sys.stderr, text)
    else:
      print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    """Ends the live line."""
    if self.live and self.begun:
      print(file=sys.stderr)
