"""Requests to stop, SIGTERM, Ctrl-C (SIGINT) and a terminal that closes (SIGHUP), in one place for a whole command.

  first    where the loop trains: a flag, which the loop looks at between steps; it saves, and the command ends
           anywhere else: the command ends at once
  second   ends the command at once, whatever it waits for

Whatever the way, the exit code is that of the command (`cli.main.stop_code`). A thread ends the process, as the main one may
wait in a library, which would make an error of its own of an exception, or none. All that is on disk is written whole, so
that such an end is no worse than a kill; what is to be tidied up says so by `at_end`. Signals within `TOGETHER` seconds
count as one: `timeout` and schedulers send theirs to a process and to its group.

A Python program that calls us keeps its handlers but for the time of a command or a loop, and is never ended: there the main
thread gets `StopRequested` instead.
"""

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

GRACE = 5.0  # seconds after a loop has saved in which a command that was asked to stop ends by itself
TOGETHER = 0.3
POLL = 0.1  # seconds between two looks of the thread, once there was a request
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Ending = Callable[[int], tuple[int, str]]
_handler: "Handler | None" = None


class StopRequested(KeyboardInterrupt):
  """Raised in the main thread by a request to stop, where nothing has to be saved first. Its text names the signal."""


class Handler:
  """What is known of requests to stop while a command, or a loop outside of one, runs.

  Args:
    ending: number of a signal -> (exit code, what is said at the end); None: the process is not ours, and is never ended.
  """

  def __init__(self, ending: "Ending | None"):
    self.ending = ending
    self.number = 0  # of the first signal; 0: nothing was asked
    self.over: int | None = None  # exit code of a command that has ended: from now on a signal ends the process at once
    self.ends = False  # a thread is tidying up, and then ends the process
    self._since = 0.0
    self._holds = 0
    self._open_since = 0.0  # when the request could first be obeyed
    self._before: dict[int, Any] = {}
    self._at_end: list[Callable[[], None]] = []

  def install(self) -> None:
    # `nohup` has a command ignore the terminal, and so it stays.
    taken = [n for n in STOPS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    self._before = {number: signal.signal(number, self._handle) for number in taken}
    if self.ending is None:
      return
    atexit.register(self._ignore)  # first, and so called last
    read, write = os.pipe()
    for end in (read, write):
      os.set_blocking(end, False)
    self._pipe = read, write
    self._wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=self._watch, name="dpojax-signals", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # which `cli.launch.restart` has blocked

  def _ignore(self) -> None:
    """The interpreter, while it ends, gives signals back to the system, which would end a command that has ended with its own code."""
    if self.over is not None:
      for number in self._before:
        signal.signal(number, signal.SIG_IGN)

  def remove(self) -> None:
    for number, before in self._before.items():
      signal.signal(number, before)
    if self.ending is not None:
      signal.set_wakeup_fd(self._wakeup)
      os.close(self._pipe[1])  # which ends the thread

  @contextlib.contextmanager
  def hold(self) -> Iterator[None]:
    """A first request only sets the flag while the block runs."""
    self._holds += 1
    try:
      yield
    finally:
      self._holds -= 1
      self._open_since = time.monotonic()

  @contextlib.contextmanager
  def release(self) -> Iterator[None]:
    """Inside `hold`: what can be left at any moment, such as a compilation.

    Raises:
      StopRequested: it was asked for.
    """
    if self.ending is None:  # who called us wants an answer, not an exception
      yield
      return
    held, self._holds = self._holds, 0
    self._open_since = time.monotonic()
    try:
      self.check()
      yield
    finally:
      self._holds = held

  def check(self) -> None:
    """Raises StopRequested where a request was made that nothing holds back."""
    if self.number and not self._holds:
      raise StopRequested(signal.Signals(self.number).name)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    if self.over is not None:
      end_process(self.over)
    now = time.monotonic()
    if not self.number:
      self.number, self._since = number, now
      if self.ending is None:
        self.check()
    elif self.ending is None and now - self._since > TOGETHER:
      raise StopRequested(signal.Signals(number).name)

  def _watch(self) -> None:
    """In a thread, which gets the number of every signal as a byte: ends the process where a request asks for that."""
    assert self.ending is not None
    read, first, number = self._pipe[0], 0.0, 0
    while True:
      ready, _, _ = select.select([read], [], [], POLL if first else None)
      now = time.monotonic()
      if ready:
        numbers = os.read(read, 64)
        if not numbers:  # the handler is removed
          os.close(read)
          return
        asked = [sent for sent in numbers if sent in self._before]
        if asked and self.over is not None:
          end_process(self.over)
        if asked and (not self._holds or (first and now - first > TOGETHER)):
          self.end(*self.ending(asked[0]))
        if asked and not first:
          first, number = now, asked[0]
      if first and not self._holds and now - max(first, self._open_since) > GRACE:
        self.end(*self.ending(number))

  def end(self, code: int, text: str = "") -> None:
    """Does what has to be done at the end, says the text, and ends the process."""
    self.ends = True
    for work in reversed(self._at_end):
      with contextlib.suppress(Exception):
        work()
    end_process(code, text)

  @contextlib.contextmanager
  def at_end(self, work: Callable[[], None]) -> Iterator[None]:
    self._at_end.append(work)
    try:
      yield
    finally:
      self._at_end.remove(work)


@contextlib.contextmanager
def handled(ending: Ending | None) -> Iterator["Handler | None"]:
  """Requests to stop are taken as above while the block runs; None where they already are, or outside the main thread.

  Args:
    ending: see `Handler`.
  """
  global _handler
  if _handler is not None or threading.current_thread() is not threading.main_thread():
    yield None
    return
  handler = _handler = Handler(ending)
  handler.install()
  try:
    yield handler
  finally:
    if handler.over is None:
      _handler = None
      handler.remove()


@contextlib.contextmanager
def held() -> Iterator["Handler | None"]:
  """A block that ends by itself soon after `requested`: a first request does not interrupt it.

  Outside of a command, requests are taken for the time of the block alone: the first sets the flag, a later one raises
  StopRequested. None outside the main thread, where Python allows no handlers.
  """
  with handled(None) as own:
    handler = _handler if threading.current_thread() is threading.main_thread() else own
    with contextlib.nullcontext() if handler is None else handler.hold():
      yield handler


def check() -> None:
  """Raises StopRequested where the command was asked to stop while something was saved: between two stages, say."""
  if _handler is not None:
    _handler.check()


def requested() -> str:
  """The name of the signal that has asked the command to stop; "": none has."""
  return signal.Signals(_handler.number).name if _handler is not None and _handler.number else ""


def wait_for_end() -> None:
  """Never returns where a thread is ending this process: what it tidies up makes errors where it is still in use."""
  if _handler is not None and _handler.ends:
    threading.Event().wait()


def end_own(code: int) -> None:
  """Ends this process at once if it is nothing but a command; else returns."""
  if _handler is not None and _handler.ending is not None:
    _handler.end(code)


@contextlib.contextmanager
def at_end(work: Callable[[], None]) -> Iterator[None]:
  """Has `work` called, in a thread, where the process is ended at once while the block runs."""
  with contextlib.nullcontext() if _handler is None else _handler.at_end(work):
    yield


def end_process(code: int, text: str = "") -> None:
  """Ends this process now, with what it has printed; waits for no thread, and for no reader of the output."""

  def flush() -> None:
    with contextlib.suppress(Exception):
      sys.stdout.flush()
    with contextlib.suppress(Exception):
      os.write(2, text.encode())

  last = threading.Thread(target=flush, daemon=True)
  with contextlib.suppress(RuntimeError):  # the interpreter is ending
    last.start()
    last.join(timeout=0.5)
  os._exit(code)
