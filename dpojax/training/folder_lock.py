"""A folder that one process at a time writes into, on disks that several machines share too.

`FOLDER/lock.json` says who has it: host, process, since when; its time of the last change is the heartbeat. It appears whole
or not at all (a hard link; without links, a file that must be new), so nothing depends on locks of the file system.

A lock is left behind, and is taken over with a line, where
  the same machine   the process is gone, or its number belongs to one that began at another time
  another machine    there was no heartbeat for `STALE` seconds, by the clock of the disk
  a copied folder    the lock names another folder of this machine, which has the lock still
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from dpojax import signals
from dpojax.errors import CheckpointError
from dpojax.files import json_text, parse_json

FILE = "lock.json"
HEARTBEAT = 15.0
STALE = 300.0  # a shared disk may show a heartbeat a minute late
SETTLE = 0.2  # seconds in which processes that take over the same lock get in each other's way
INHERITED = "_DPOJAX_LOCK"  # variable: the lock of the command that has started this one for a stage of its own

Say = Callable[[str], None]
_mine: dict[pathlib.Path, str] = {}  # folders that this process has, and the token in their lock


def say_on_stderr(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Holder:
  """Who has a folder: what `lock.json` holds."""

  host: str
  machine: str  # host, boot and space of process numbers: where it is equal, the process can be looked for
  pid: int
  started: str  # when the process began, as its system counts
  since: str  # when the folder was taken, for people
  folder: str
  token: str

  def __str__(self) -> str:
    return f"process {self.pid} on {self.host}, since {self.since}"


@contextlib.contextmanager
def locked(folder: str | pathlib.Path, *, say: Say = say_on_stderr) -> Iterator[None]:
  """Has the folder, made where it is missing, for this process alone while the block runs.

  A process may take what it has once more. Where the folder was made for the lock and nothing was written, it goes again.

  Args:
    say: where a line about a lock that was left behind goes.

  Raises:
    CheckpointError: another process has it; says who.
    OSError: the folder cannot be written.
  """
  folder = pathlib.Path(folder)
  place = pathlib.Path(os.path.realpath(folder))
  if place in _mine:
    yield
    return
  made = _make(place)
  path = place / FILE
  try:
    token = _take(folder, path, say)
  except BaseException:
    _remove_empty(made)
    raise
  _mine[place] = token
  done = threading.Event()
  beats = threading.Thread(target=_beat, args=(folder, path, token, done), name="dpojax-lock", daemon=True)
  beats.start()

  def give_back() -> None:
    done.set()
    if _token_of(path) == token:
      path.unlink(missing_ok=True)
    _remove_empty(made)

  try:
    with signals.at_end(give_back):
      yield
  finally:
    del _mine[place]
    give_back()


def check_free(folder: str | pathlib.Path) -> None:
  """Raises CheckpointError where another process has the folder; the command that started this one may."""
  folder = pathlib.Path(folder)
  path = pathlib.Path(os.path.realpath(folder), FILE)
  holder = _read(path)
  if holder is None or path.parent in _mine or holder.token == os.environ.get(INHERITED):
    return
  if not left_behind(holder, path):
    raise _refusal(folder, holder, path)


def inherited(folder: str | pathlib.Path) -> dict[str, str]:
  """Variables for the processes that this one starts for stages in a folder that it has."""
  return {INHERITED: _mine[pathlib.Path(os.path.realpath(folder))]}


def left_behind(holder: Holder, path: pathlib.Path) -> str:
  """Why a lock is nobody's any more; "" where it is somebody's."""
  if holder.machine == machine():
    if _started(holder.pid) != holder.started:
      return "it is gone"
    other = pathlib.Path(holder.folder, FILE)
    with contextlib.suppress(OSError):
      if other.exists() and not os.path.samefile(other, path):
        return f"the folder is a copy of {holder.folder}"
    return ""
  age = _age(path)
  return f"no sign of it for {age:.0f} s" if age > STALE else ""


def machine() -> str:
  """Equal for two processes if each sees the other by its number: host, boot, and space of process numbers."""
  facts = [socket.gethostname()]
  with contextlib.suppress(OSError):
    facts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
  with contextlib.suppress(OSError):
    facts.append(os.readlink("/proc/self/ns/pid"))
  return " ".join(facts)


def _started(pid: int) -> str:
  """When a process of this machine began, in the words of its system; "" where there is none."""
  try:
    text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    state, *rest = text.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]  # a zombie has ended
  except OSError:
    pass
  if pathlib.Path("/proc/self/stat").exists():
    return ""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return ""
  except OSError:
    pass
  return "?"  # a system that does not tell


def _take(folder: pathlib.Path, path: pathlib.Path, say: Say) -> str:
  """Puts a lock of ours there; its token."""
  token = os.urandom(8).hex()
  since = time.strftime("%Y-%m-%d %H:%M:%S")
  own = Holder(socket.gethostname(), machine(), os.getpid(), _started(os.getpid()), since, str(path.parent), token)
  content = json_text(dataclasses.asdict(own), indent=2).encode() + b"\n"
  taken_over = ""
  for _ in range(20):
    if _create(path, content, token):
      if not taken_over:
        return token
      time.sleep(SETTLE)
      if _token_of(path) == token:
        say(taken_over)
        return token
    holder = _read(path)
    if holder is None:
      if path.exists() and _age(path) < STALE / 10:
        time.sleep(SETTLE)  # it is being written
        continue
      holder, why = Holder("?", "", 0, "", "?", "", ""), "it is damaged"
      if not path.exists():
        continue
    else:
      why = left_behind(holder, path)
    if not why:
      raise _refusal(folder, holder, path)
    taken_over = f"{folder}: the lock of {holder} was left behind ({why}); taken over"
    _move_away(path, holder.token)
  raise CheckpointError(f"{path}: other processes take the folder again and again; let one of them go on")


def _create(path: pathlib.Path, content: bytes, token: str) -> bool:
  """Writes the lock if there is none; whether it did."""
  part = path.with_name(f".{FILE}.{token}.part")
  try:
    _write_new(part, content)
    os.link(part, path)
    return True
  except FileExistsError:
    return False
  except OSError as error:
    if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
      error.filename, error.filename2 = str(path), None
      raise
  finally:
    part.unlink(missing_ok=True)
  try:  # a file system without hard links
    _write_new(path, content)
    return True
  except FileExistsError:
    return False


def _write_new(path: pathlib.Path, content: bytes) -> None:
  descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
  try:
    os.write(descriptor, content)
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _move_away(path: pathlib.Path, token: str) -> None:
  """Removes a lock, but not another one that has taken its place since it was read."""
  away = path.with_name(f".{FILE}.{os.urandom(8).hex()}.part")
  try:
    path.rename(away)
  except FileNotFoundError:
    return
  if _token_of(away) != token:
    with contextlib.suppress(OSError):
      os.link(away, path)
  away.unlink(missing_ok=True)


def _beat(folder: pathlib.Path, path: pathlib.Path, token: str, done: threading.Event) -> None:
  """In a thread: says that we live, and ends this process where another one has taken the folder over."""
  while not done.wait(HEARTBEAT):
    found = _token_of(path)
    if found == token:
      with contextlib.suppress(OSError):
        os.utime(path)
    elif found and not done.is_set():
      say_on_stderr(f"dpojax: error: {folder}: another process has taken it over ({_read(path)}); this one ends")
      signals.end_own(1)  # saves nothing: what is there is another's
      os.kill(os.getpid(), signal.SIGTERM)
      return


def _read(path: pathlib.Path) -> Holder | None:
  """The lock; None where there is none, or it is not whole."""
  try:
    fields: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
    return Holder(**fields)
  except (OSError, ValueError, TypeError, RecursionError):
    return None


def _token_of(path: pathlib.Path) -> str:
  holder = _read(path)
  return "" if holder is None else holder.token


def _age(path: pathlib.Path) -> float:
  """Seconds since the heartbeat, by the clock of the disk: that of another machine may be wrong."""
  probe = path.with_name(f".{FILE}.{os.urandom(8).hex()}.part")
  try:
    beat = path.stat().st_mtime
    _write_new(probe, b"")
    return probe.stat().st_mtime - beat
  except OSError:
    return 0.0
  finally:
    with contextlib.suppress(OSError):
      probe.unlink(missing_ok=True)


def _refusal(folder: pathlib.Path, holder: Holder, path: pathlib.Path) -> CheckpointError:
  elsewhere = "" if holder.machine == machine() else f" (or, if it has ended, until {STALE:.0f} s after its last sign)"
  return CheckpointError(
    f"{folder}: {holder}, is writing there, with a sign of it {max(_age(path), 0):.0f} s ago; wait for it{elsewhere}, stop "
    "it, or use another --workdir"
  )


def _make(folder: pathlib.Path) -> list[pathlib.Path]:
  """Makes a folder and those above it; the ones that were missing, the deepest first."""
  missing = []
  for place in (folder, *folder.parents):
    if place.exists():
      break
    missing.append(place)
  folder.mkdir(parents=True, exist_ok=True)
  return missing


def _remove_empty(folders: list[pathlib.Path]) -> None:
  for folder in folders:
    with contextlib.suppress(OSError):
      folder.rmdir()
