"""Chat templates, which are programs by strangers, rendered where they can do no harm.

Jinja's sandbox keeps a template away from Python's internals, but lets it build a string of a
gigabyte or loop for ever. So templates run in a worker process with limited memory, which is killed
when a render takes too long and started again for the next one.
"""

import contextlib
import datetime
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from dpojax.errors import TemplateError

_WORKER = Path(__file__).with_name("template_worker.py")
_START_SECONDS = 30.0  # a loaded machine may take long to start Python
_AT_ONCE = 256  # conversations of one request, so that a large data set never fills the worker's memory
_Messages = Sequence[dict]


class TemplateRenderer:
  """Renders conversations as transformers' `apply_chat_template(tokenize=False)` does.

  The worker starts at the first render and ends with `close`, the `with` block or the program. Safe to
  share between threads.
  """

  def __init__(
    self,
    template: str,
    *,
    special_tokens: dict[str, str],
    seconds: float = 2.0,
    megabytes: int = 256,
    now: datetime.datetime | None = None,
  ):
    """
    Args:
      template: Jinja source.
      special_tokens: what the template sees beside the messages, such as `bos_token`.
      seconds: wall time that one render may take.
      megabytes: address space of the worker; Python itself needs about 40.
      now: the time `strftime_now` tells; None: the clock. Templates that print the date render
        differently from day to day unless it is given.
    """
    self._template = template
    self._special_tokens = dict(special_tokens)
    self._seconds = seconds
    self._megabytes = megabytes
    self._now = now
    self._lock = threading.Lock()
    self._worker: _Worker | None = None

  def render(self, messages: _Messages, *, add_generation_prompt: bool) -> str:
    """The text of one conversation, a list of {"role": ..., "content": ...}.

    Raises:
      TemplateError: the template is not valid Jinja, raised an error (its text is passed on), reached
        for something forbidden, or used up its time or memory.
    """
    return self.render_batch([messages], add_generation_prompt=add_generation_prompt)[0]

  def render_batch(self, conversations: Sequence[_Messages], *, add_generation_prompt: bool) -> list[str]:
    """`render` of many; the `index` of an error tells which of them failed."""
    with self._lock:
      if self._worker is None:
        self._worker = self._start()
      try:
        texts: list[str] = []
        while len(texts) < len(conversations):
          some = conversations[len(texts) : len(texts) + _AT_ONCE]
          texts += self._worker.render(some, add_generation_prompt, len(texts))
        return texts
      except BaseException:  # an interrupt too: answers still on their way would be taken for later ones
        self._stop()
        raise

  def close(self) -> None:
    with self._lock:
      self._stop()

  def __enter__(self) -> "TemplateRenderer":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _start(self) -> "_Worker":
    worker = _Worker(self._seconds, self._megabytes, self._now)
    try:
      worker.load(self._template, self._special_tokens)
    except BaseException:
      worker.stop()
      raise
    return worker

  def _stop(self) -> None:
    if self._worker is not None:
      self._worker.stop()
      self._worker = None


class _Worker:
  """One worker process and the pipes to it."""

  def __init__(self, seconds: float, megabytes: int, now: datetime.datetime | None):
    self._seconds = seconds
    self._megabytes = megabytes
    arguments = [str(seconds), str(megabytes)] + ([] if now is None else [str(now.timestamp())])
    self._process = subprocess.Popen(
      [sys.executable, "-P", str(_WORKER), *arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
    )
    self.stop = weakref.finalize(self, _end, self._process)
    self._selector = selectors.DefaultSelector()
    self._selector.register(self._process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
    self._pending = b""
    if self._read_line(_START_SECONDS) != "ready":
      raise TemplateError(f"the template worker did not start; try: {sys.executable} -c 'import jinja2'")

  def load(self, template: str, special_tokens: dict[str, str]) -> None:
    self._send({"template": template, "special_tokens": special_tokens})
    self._answer(None)

  def render(self, conversations: Sequence[_Messages], add_generation_prompt: bool, first: int) -> list[str]:
    """Texts of some conversations; `first` is the index of the first in error messages."""
    try:
      self._send({"conversations": list(conversations), "add_generation_prompt": add_generation_prompt})
    except TypeError as error:
      raise TemplateError(f"chat template: messages must be plain JSON values: {error}") from error
    return [self._answer(first + n) for n in range(len(conversations))]

  def _send(self, value) -> None:
    line = json.dumps(value).encode() + b"\n"
    with contextlib.suppress(BrokenPipeError):  # the missing answer will tell
      self._process.stdin.write(line)  # type: ignore[union-attr]
      self._process.stdin.flush()  # type: ignore[union-attr]

  def _answer(self, index: int | None) -> str:
    reply = self._read_line(self._seconds)
    if isinstance(reply, dict) and "text" in reply:
      return reply["text"]
    line = reply.get("line") if isinstance(reply, dict) else None
    where = "chat template" + (f", line {line}" if line else "")
    if isinstance(reply, TimeoutError):
      what = f"took longer than {self._seconds:g} s"
    elif reply is None:
      what = f"its process ended; killed, or over {self._megabytes} MB of memory"
    elif reply["error"] == "memory":
      what = f"used more than {self._megabytes} MB of memory"
    else:
      what = reply["error"]
    failed = "does not compile" if index is None else f"fails on conversation {index}"
    error = TemplateError(f"{where}: {failed}: {what}")
    error.index = index or 0
    raise error

  def _read_line(self, seconds: float):
    """The next JSON value; None when the worker ended; a TimeoutError (returned) when it is late."""
    deadline = time.monotonic() + seconds
    while b"\n" not in self._pending:
      if not self._selector.select(max(0.0, deadline - time.monotonic())):
        return TimeoutError()
      data = os.read(self._process.stdout.fileno(), 1 << 20)  # type: ignore[union-attr]
      if not data:
        return None
      self._pending += data
    line, self._pending = self._pending.split(b"\n", 1)
    return json.loads(line)


def _end(process: subprocess.Popen) -> None:
  process.kill()  # it holds nothing worth saving
  process.wait()
  for pipe in (process.stdin, process.stdout):
    with contextlib.suppress(OSError):  # unsent bytes of a killed worker
      pipe.close()  # type: ignore[union-attr]
