"""Turning a request to stop (SIGTERM, Ctrl-C) into a flag that the loop looks at between steps."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
  """Raised by what takes long between two steps, such as a roll-out, when the run was asked to stop."""


class Preemption:
  """Context manager: SIGTERM and the first SIGINT set a flag, a second SIGINT raises KeyboardInterrupt.

  With several processes nothing is caught here: the distributed runtime takes SIGTERM of any of them
  and agrees on one step at which `requested` is true on all. Outside the main thread, where Python
  allows no handlers, nothing is caught either.

  Use::

    with Preemption() as preemption:
      for step in ...:
        if preemption.requested(step):
          ...save and leave

  Attributes:
    signal_name: what asked to stop, "SIGTERM" or "SIGINT"; "" if nothing did.
  """

  def __init__(self) -> None:
    self.signal_name = ""
    self._interrupts = 0
    self._before: dict[int, Any] = {}

  def requested(self, step: int = 0) -> bool:
    """Whether to save and stop, agreed between processes: each asks once a step, with its number."""
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      self.signal_name = "SIGTERM"
    return bool(self.signal_name)

  def __enter__(self) -> "Preemption":
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
      self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
    self._before = {}

  def _handle(self, number: int, frame: FrameType | None) -> None:
    self._interrupts += number == signal.SIGINT
    if self._interrupts > 1:
      raise KeyboardInterrupt
    self.signal_name = signal.Signals(number).name
