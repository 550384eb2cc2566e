"""Compiled programs kept on disk by JAX's own cache, in a folder of ours, so that a second start does not wait.

JAX trusts what it reads: a flipped bit can end the process or stay unseen where zstandard is installed, whose frames
have no checksum. It never replaces an entry that is there, and writes none at all once a killed process has left half
of one. So each entry gets a digest when it has been written, and `begin` looks at all of them before JAX may.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import sys
import threading
import warnings

import jax
import jaxlib.version
from jax import monitoring

from dpojax.disk_cache import own_folder, remove_stale_parts
from dpojax.files import expanded, write_atomically

FOLDER = "DPOJAX_COMPILATION_CACHE"
LEAST_SECONDS = 0.3  # programs that compile faster are not kept
MOST_BYTES = 2**30  # of the entries of one machine and version of jaxlib; the least recently used go first
# What JAX writes of a program, first to last, and what we add once it has.
ENTRY, USED, DIGEST = "-cache", "-atime", "-sha256"
REFUSED = "refused"
# Of JAX's monitoring: a program is about to be written; and it was compiled and, where it is to be, written.
WRITES, COMPILED = "/jax/compilation_cache/cache_misses", "/jax/core/compile/backend_compile_duration"


def begin() -> None:
  """Turns the cache on in the folder that DPOJAX_COMPILATION_CACHE names; without a name, does nothing.

  A cache that the user has set up in JAX (`JAX_COMPILATION_CACHE_DIR`) or turned off there is left alone.
  """
  root = os.environ.get(FOLDER, "")
  settings = jax.config.values
  if not root or settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
    return
  limit = settings["jax_compilation_cache_max_size"]
  if limit == 0:
    return
  try:
    folder = prepare(pathlib.Path(root))
    damaged = remove_unsound(folder)
  except OSError as error:
    warn(f"{root}: {error.strerror or error}; programs are compiled at every start")
    return
  if damaged:
    more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    warn(f"{damaged[0]}{more} in {folder}: damaged and removed; what was in them is compiled anew")
  if (folder / REFUSED).exists():
    return
  Watch(folder).begin()
  changes = {
    "jax_compilation_cache_dir": str(folder),
    "jax_compilation_cache_max_size": MOST_BYTES if limit == -1 else limit,
    "jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS,
    "jax_persistent_cache_enable_xla_caches": "none",  # files that only XLA reads and nobody checks
  }
  for name, value in changes.items():
    if name.upper() not in os.environ or not os.environ[name.upper()]:
      jax.config.update(name, value)


def prepare(root: pathlib.Path) -> pathlib.Path:
  """The folder for this machine's programs under `root`, made for this user alone.

  Raises:
    OSError: it cannot be made, or others may write to it: programs are run, so who can write one can do all we can.
  """
  root = expanded(root)
  return own_folder(root / f"jaxlib-{jaxlib.version.__version__}-{machine()}")


def machine() -> str:
  """A digest of what compiled code for this processor depends on, for a home shared between machines.

  JAX's own key has the features that XLA sees; a list from the kernel as well costs nothing. The number of
  processors decides how XLA splits loops.
  """
  facts = [platform.machine(), platform.system(), str(_processors())]
  with contextlib.suppress(OSError):
    wanted = ("flags", "Features", "model name", "CPU part")
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    facts += sorted({" ".join(line.split()) for line in lines if line.startswith(wanted)})
  return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def remove_unsound(folder: pathlib.Path) -> list[str]:
  """Removes every entry that is not as it was written, and what is left of entries that are gone.

  One without a digest was written by a process that was killed before it could add it; it goes too, without a word.

  Returns:
    Names of the damaged ones.

  Raises:
    OSError: the folder cannot be read or written.
  """
  damaged, sound = [], set()
  for entry in sorted(folder.glob("*" + ENTRY)):
    key = entry.name.removesuffix(ENTRY)
    kept = _read(folder / (key + DIGEST))
    if kept and kept.decode(errors="replace") != _digest(key, _read(entry)):
      damaged.append(entry.name)
    elif kept and (folder / (key + USED)).exists():  # without it JAX cannot tell what to remove, and writes nothing
      sound.add(key)
  for suffix in (ENTRY, USED, DIGEST):
    for file in folder.glob("*" + suffix):
      if file.name.removesuffix(suffix) not in sound:
        file.unlink(missing_ok=True)
  remove_stale_parts(folder)
  return damaged


class Watch:
  """Follows what JAX does with its cache: adds a digest to what it wrote, and says the first thing that goes wrong."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._writing: set[int] = set()  # threads in which JAX is about to write a program
    self._said = False
    self._show = warnings.showwarning

  def begin(self) -> None:
    monitoring.register_event_listener(self.event)
    monitoring.register_event_duration_secs_listener(self.duration)
    self._show = warnings.showwarning
    warnings.showwarning = self.warning

  def event(self, event: str, **_) -> None:
    if event == WRITES:
      self._writing.add(threading.get_ident())

  def duration(self, event: str, duration_secs: float, **_) -> None:
    if event == COMPILED and threading.get_ident() in self._writing:
      self._writing.discard(threading.get_ident())
      self.add_digests()

  def add_digests(self) -> None:
    """Adds one to each complete entry that has none: `begin` left no such entry, so it was written just now.

    Digests of entries that JAX has removed to make room go, so that they are not taken for those of the next ones.
    """
    with contextlib.suppress(OSError):  # without one the entry is removed by the next start
      entries = {entry.name.removesuffix(ENTRY): entry for entry in self.folder.glob("*" + ENTRY)}
      digests = {file.name.removesuffix(DIGEST): file for file in self.folder.glob("*" + DIGEST)}
      for key in digests.keys() - entries.keys():
        digests[key].unlink(missing_ok=True)
      for key in entries.keys() - digests.keys():
        content = _read(entries[key])
        if content and (self.folder / (key + USED)).exists():
          write_atomically(self.folder / (key + DIGEST), _digest(key, content))

  def warning(self, message, category, filename, lineno, file=None, line=None) -> None:
    """In place of `warnings.showwarning`, as JAX goes on with a warning whenever its cache fails."""
    text = str(message)
    if text.startswith("Cache value for key"):
      return  # one program larger than all may be
    if "persistent compilation cache entry" not in text:
      return self._show(message, category, filename, lineno, file, line)
    reason = text.partition("': ")[2].partition("\n")[0]
    if text.startswith("Error writing"):
      self._remove_unfinished()
      self._say(f"{self.folder}: {reason}; programs of this run are not kept")
    elif reason.partition(":")[0].endswith("RuntimeError"):  # the entry was sound
      with contextlib.suppress(OSError):
        (self.folder / REFUSED).touch()
      self._say(f"XLA refuses programs that it compiled here; not used again until {self.folder} is deleted")
    else:
      self._say(f"{self.folder}: {reason}; the program is compiled anew")

  def _remove_unfinished(self) -> None:
    with contextlib.suppress(OSError):
      for entry in self.folder.glob("*" + ENTRY):
        if not entry.with_name(entry.name.removesuffix(ENTRY) + USED).exists():
          entry.unlink(missing_ok=True)

  def _say(self, text: str) -> None:
    if not self._said:
      self._said = True
      warn(text)


def warn(message: str) -> None:
  print(f"dpojax: compilation cache: {message}", file=sys.stderr, flush=True)


def _read(file: pathlib.Path) -> bytes:
  """Content; nothing where the file cannot be read, or has gone."""
  try:
    return file.read_bytes()
  except OSError:
    return b""


def _digest(key: str, content: bytes) -> str:
  return hashlib.sha256(key.encode() + b"\0" + content).hexdigest()


def _processors() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
