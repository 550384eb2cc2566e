"""Turning a request to stop (SIGTERM, Ctrl-C) into a flag that the loop looks at between steps."""

import contextlib

from dpojax import signals


class Interrupted(Exception):
  """Raised by what takes long between two steps, such as a roll-out, when the run was asked to stop."""


class Preemption:
  """Context manager: a first request to stop sets a flag while its block runs; `dpojax.signals` says what a second does.

  Outside the main thread, where Python allows no handlers, nothing is caught.

  Use::

    with Preemption() as preemption:
      for step in ...:
        if preemption.requested(step):
          ...save and leave
  """

  def __init__(self) -> None:
    self._handler: signals.Handler | None = None
    self._open = contextlib.ExitStack()

  def requested(self, step: int = 0) -> bool:
    """Whether to save and stop, asked before the step after `step` is taken."""
    return self._handler is not None and self._handler.number != 0

  def released(self) -> contextlib.AbstractContextManager[None]:
    """A block inside that of this one that a request may leave by `signals.StopRequested`: nothing is lost with it."""
    return contextlib.nullcontext() if self._handler is None else self._handler.release()

  def __enter__(self) -> "Preemption":
    self._handler = self._open.enter_context(signals.held())
    return self

  def __exit__(self, *_: object) -> None:
    self._open.close()
