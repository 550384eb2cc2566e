"""Compiled programs kept on disk, so that a second start does not wait for the compiler.

JAX's own cache on disk trusts what it reads, writes in place, and never replaces a damaged entry. This one has a
digest in every entry, writes beside and renames, and answers whatever goes wrong by compiling.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import sys

import jax
import jaxlib.version
from jax._src import compilation_cache as jax_cache
from jax._src.compilation_cache_interface import CacheInterface

from dpojax.kept_files import KeptFiles, own_folder

FOLDER = "DPOJAX_COMPILATION_CACHE"
LEAST_SECONDS = 0.3  # programs that compile faster are not kept
MOST_BYTES = 2**30  # of all entries; the least recently used go first
ENTRY, REFUSED = ".program", "refused"


def begin() -> None:
  """Turns the cache on in the folder that DPOJAX_COMPILATION_CACHE names; without a name, does nothing.

  A cache that the user has set up in JAX (`JAX_COMPILATION_CACHE_DIR`) or turned off there is left alone.
  """
  root = os.environ.get(FOLDER, "")
  settings = jax.config.values
  if not root or settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
    return
  limit = settings["jax_compilation_cache_max_size"]
  try:
    folder = prepare(pathlib.Path(root))
  except OSError as error:
    warn(f"{root}: {error.strerror or error}; programs are compiled at every start")
    return
  if (folder / REFUSED).exists():
    return
  if not (hasattr(jax_cache, "_cache") and hasattr(jax_cache, "_cache_initialized")):
    warn("not used: this version of JAX has no place for it")
    return
  jax_cache.reset_cache()
  jax_cache._cache = Programs(folder, MOST_BYTES if limit == -1 else limit)
  jax_cache._cache_initialized = True
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def prepare(root: pathlib.Path) -> pathlib.Path:
  """The folder for this machine's programs under `root`, made for this user alone.

  Raises:
    OSError: it cannot be made, or others may write to it: programs are run, so who can write one can do all we can.
  """
  root = root.expanduser()
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


class Programs(CacheInterface):
  """What JAX asks for a program by its key. Never raises; the first thing that goes wrong is said on stderr.

  Args:
    folder: of the entries; others beside it count towards the limit.
    most_bytes: of all entries.
  """

  def __init__(self, folder: pathlib.Path, most_bytes: int):
    self._path = folder
    self._files = KeptFiles(folder, ENTRY, most_bytes, what="program", made="compiled", say=warn)
    self._given: set[str] = set()

  def get(self, key: str) -> bytes | None:
    """The program, or None where there is none or it is damaged; then it is removed too."""
    program = self._files.get(key)
    if program is not None:
      self._given.add(key)
    return program

  def put(self, key: str, value: bytes) -> None:
    """Keeps a program, if there is room. One that was given out before was refused by XLA."""
    if key not in self._given:
      return self._files.put(key, value)
    with contextlib.suppress(OSError):
      (self._path / REFUSED).touch()
    self._files.say(f"XLA refuses programs that it compiled here; not used again until {self._path} is deleted")


def warn(message: str) -> None:
  print(f"dpojax: compilation cache: {message}", file=sys.stderr, flush=True)


def _processors() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
