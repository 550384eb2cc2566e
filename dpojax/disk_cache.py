"""Files that one process keeps for later ones: what it wrote, whole and undamaged, or nothing at all.

For what can be made again (compiled programs, tokenised data): an entry carries a digest, is written beside and
renamed, and whatever goes wrong costs one line on stderr and the time to make it again.
"""

import contextlib
import hashlib
import os
import pathlib
import stat
import time
from collections.abc import Callable

from dpojax.files import is_part, replacing

STALE_SECONDS = 3600  # a part this old was left behind by a process that was killed
DIGEST_BYTES = hashlib.sha256().digest_size


class DiskCache:
  """Entries by key in one folder. Never raises; the first thing that goes wrong is said.

  Args:
    folder: of the entries; those of the folders beside it count towards the limit.
    suffix: of an entry's name.
    most_bytes: of all entries; the least recently used go first.
    what, made: an entry and how it comes about, for messages: "program", "compiled".
    say: called with the text of a message, once at most.
  """

  def __init__(
    self, folder: pathlib.Path, suffix: str, most_bytes: int, *, what: str, made: str, say: Callable[[str], None]
  ):
    self.folder = folder
    self._suffix = suffix
    self._most_bytes = most_bytes
    self._what, self._made = what, made
    self._tell: Callable[[str], None] | None = say
    self._writes = True

  def get(self, key: str) -> bytes | None:
    """The entry, or None where there is none or it is damaged; then it is removed too."""
    file = self.folder / (key + self._suffix)
    try:
      entry = file.read_bytes()
    except FileNotFoundError:
      return None
    except OSError as error:
      return self.say(f"{file}: {error.strerror}; the {self._what} is {self._made} anew")
    content = entry[DIGEST_BYTES:]
    if entry[:DIGEST_BYTES] != _digest(key, content):
      with contextlib.suppress(OSError):
        file.unlink()
      return self.say(f"{file.name} was damaged; the {self._what} is {self._made} anew")
    with contextlib.suppress(OSError):
      os.utime(file)
    return content

  def put(self, key: str, content: bytes) -> None:
    """Keeps an entry, if there is room."""
    if not self._writes or DIGEST_BYTES + len(content) > self._most_bytes:
      return
    try:
      self._make_room(DIGEST_BYTES + len(content))
      with replacing(self.folder / (key + self._suffix), "wb") as out:
        out.write(_digest(key, content))
        out.write(content)
    except OSError as error:
      self._writes = False
      self.say(f"{self.folder}: {error.strerror}; {self._what}s of this run are not kept")

  def say(self, message: str) -> None:
    """Passes on the first message of all."""
    tell, self._tell = self._tell, None
    if tell is not None:
      tell(message)

  def _make_room(self, size: int) -> None:
    """Removes entries, the least recently used first, until `size` bytes more are within the limit."""
    entries, total = [], size
    for folder in self.folder.parent.iterdir():
      remove_stale_parts(folder)
    for file in self.folder.parent.glob("*/*"):
      with contextlib.suppress(OSError):  # another process may remove it at the same time
        facts = file.stat()
        if file.suffix == self._suffix:
          entries.append((facts.st_mtime_ns, facts.st_size, file))
          total += facts.st_size
    for _, freed, file in sorted(entries):
      if total <= self._most_bytes:
        return
      with contextlib.suppress(OSError):
        file.unlink()
      total -= freed


def remove_stale_parts(folder: pathlib.Path) -> None:
  """Removes what processes that were killed have left half written in `folder`."""
  for file in folder.glob(".*"):
    with contextlib.suppress(OSError):  # another process may remove it at the same time
      if is_part(file) and time.time() - file.stat().st_mtime > STALE_SECONDS:
        file.unlink()


def own_folder(folder: pathlib.Path) -> pathlib.Path:
  """The folder and the one that it lies in, made for this user alone.

  Raises:
    OSError: it cannot be made, or others may write to it: who can write what we read back can do all we can.
  """
  for made in (folder.parent, folder):
    made.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = made.stat()
    if hasattr(os, "geteuid") and facts.st_uid != os.geteuid():
      raise PermissionError(0, f"{made.name} belongs to another user")
    if os.name == "posix" and facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
      raise PermissionError(0, f"others may write to {made.name}; chmod go-w mends it")
  return folder


def _digest(key: str, content: bytes) -> bytes:
  digest = hashlib.sha256(key.encode() + b"\0")
  digest.update(content)
  return digest.digest()
