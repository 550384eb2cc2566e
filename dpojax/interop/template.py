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
from collections.abc import Iterator, Sequence
from pathlib import Path

from dpojax.errors import TemplateError

_WORKER = Path(__file__).with_name("template_worker.py")
_START_SECONDS = 30.0  # a loaded machine may take long to start Python
_AT_ONCE = (
  256  # conversations of one request, and bytes of them, so that a large data set never fills the worker's memory
)
_BYTES_AT_ONCE = 2_000_000
_Messages = Sequence[dict]
_Tools = Sequence[list | None]


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
    most_characters: int = 32_000_000,
  ):
    """
    Args:
      template: Jinja source.
      special_tokens: what the template sees beside the messages, such as `bos_token`.
      seconds: wall time that one render may take.
      megabytes: address space of the worker; Python itself needs about 40.
      now: the time `strftime_now` tells; None: the clock. Templates that print the date render
        differently from day to day unless it is given.
      most_characters: of the text of one conversation.
    """
    self._template = template
    self._special_tokens = dict(special_tokens)
    self._seconds = seconds
    self._megabytes = megabytes
    self._now = now
    self._most_characters = most_characters
    self._lock = threading.Lock()
    self._worker: _Worker | None = None

  def render(self, messages: _Messages, *, add_generation_prompt: bool, tools: list | None = None) -> str:
    """The text of one conversation, a list of {"role": ..., "content": ...} with whatever other keys; and functions that
    it may call.

    Raises:
      TemplateError: the template is not valid Jinja, raised an error (its text is passed on), reached
        for something forbidden, used up its time or memory, or wrote too much or half a character.
    """
    return self.render_batch([messages], add_generation_prompt=add_generation_prompt, tools=[tools])[0]

  def render_batch(
    self, conversations: Sequence[_Messages], *, add_generation_prompt: bool, tools: _Tools | None = None
  ) -> list[str]:
    """`render` of many; the `index` of an error tells which of them failed.

    Conversations go to the worker many at once. Where it dies or is late on them, each is tried alone, with a worker of its
    own where that dies again: only one that fails alone is at fault.
    """
    requests = [_request(messages, None if tools is None else tools[i], i) for i, messages in enumerate(conversations)]
    texts: list[str] = []
    with self._lock:
      try:
        for some in _batches(requests):
          try:
            texts += self._rendered(some, add_generation_prompt, len(texts))
          except TemplateError as error:
            if not error.exhausted or len(some) == 1:
              raise
            self._stop()
            for request in some:
              texts += self._rendered([request], add_generation_prompt, len(texts))
        return texts
      except BaseException:  # an interrupt too: answers still on their way would be taken for later ones
        self._stop()
        raise

  def _rendered(self, requests: Sequence[str], add_generation_prompt: bool, first: int) -> list[str]:
    if self._worker is None:
      self._worker = self._start()
    return self._worker.render(requests, add_generation_prompt, first)

  def close(self) -> None:
    with self._lock:
      self._stop()

  def __enter__(self) -> "TemplateRenderer":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _start(self) -> "_Worker":
    worker = _Worker(self._seconds, self._megabytes, self._now, self._most_characters)
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

  def __init__(self, seconds: float, megabytes: int, now: datetime.datetime | None, most_characters: int):
    self._seconds = seconds
    self._most_characters = most_characters
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

  def render(self, requests: Sequence[str], add_generation_prompt: bool, first: int) -> list[str]:
    """Texts of some conversations, given as `_request` writes them; `first` is the index of the first in messages."""
    messages, tools = zip(*(request.split("\n") for request in requests), strict=True)
    flag = json.dumps(add_generation_prompt)
    self._write(
      f'{{"conversations": [{", ".join(messages)}], "tools": [{", ".join(tools)}], "add_generation_prompt": {flag}}}'
    )
    return [self._answer(first + n) for n in range(len(requests))]

  def _send(self, value) -> None:
    self._write(json.dumps(value))

  def _write(self, text: str) -> None:
    line = text.encode() + b"\n"
    with contextlib.suppress(BrokenPipeError):  # the missing answer will tell
      self._process.stdin.write(line)  # type: ignore[union-attr]
      self._process.stdin.flush()  # type: ignore[union-attr]

  def _answer(self, index: int | None) -> str:
    reply = self._read_line(self._seconds)
    exhausted = False
    if isinstance(reply, dict) and "text" in reply:
      what = _unusable(reply["text"], self._most_characters)
      if not what:
        return reply["text"]
      reply = {"error": what}
    line = reply.get("line") if isinstance(reply, dict) else None
    where = "chat template" + (f", line {line}" if line else "")
    if isinstance(reply, TimeoutError):
      exhausted, what = True, f"took longer than {self._seconds:g} s"
    elif reply is None:
      exhausted, what = True, f"its process ended; killed, or over {self._megabytes} MB of memory"
    elif reply["error"] == "memory":
      exhausted, what = True, f"used more than {self._megabytes} MB of memory"
    else:
      what = reply["error"]
    failed = "does not compile" if index is None else f"fails on conversation {index}"
    error = TemplateError(f"{where}: {failed}: {what}")
    error.index = index or 0
    error.exhausted = exhausted
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


def _request(messages: _Messages, tools: list | None, index: int) -> str:
  """A conversation and its tools, as JSON on a line each.

  Raises:
    TemplateError: they are no plain JSON values.
  """
  try:
    return f"{json.dumps(messages)}\n{json.dumps(tools)}"
  except (TypeError, ValueError, RecursionError) as error:
    wrong = TemplateError(f"chat template: messages must be plain JSON values: {error}")
    wrong.index = index
    raise wrong from error


def _batches(requests: Sequence[str]) -> Iterator[Sequence[str]]:
  """At most `_AT_ONCE` requests and `_BYTES_AT_ONCE` bytes at once, one request at least."""
  start = held = 0
  for i, request in enumerate(requests):
    if i > start and (i - start == _AT_ONCE or held + len(request) > _BYTES_AT_ONCE):
      yield requests[start:i]
      start, held = i, 0
    held += len(request)
  if start < len(requests):
    yield requests[start:]


def _unusable(text: str, most_characters: int) -> str:
  """What is wrong with a rendered text; "" where nothing is."""
  if len(text) > most_characters:
    return f"writes {len(text):,} characters, more than {most_characters:,}"
  try:
    text.encode()
  except UnicodeEncodeError:
    return "writes half a character (a lone surrogate)"
  return ""


def _end(process: subprocess.Popen) -> None:
  process.kill()  # it holds nothing worth saving
  process.wait()
  for pipe in (process.stdin, process.stdout):
    with contextlib.suppress(OSError):  # unsent bytes of a killed worker
      pipe.close()  # type: ignore[union-attr]
