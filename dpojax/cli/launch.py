"""The process that a `dpojax` command runs in: settings that only count before it starts, and folders of what it keeps.

Commands that compute start the interpreter once more in their place (execve: same process id, arguments, files and
signals), with memory settings that glibc reads when a process begins. What the user has set stays as it is, and
`DPOJAX_LAUNCH=plain` leaves all this out. docs/performance.md has what was measured.

Only the console script and `python -m dpojax` come here. `dpojax.cli.main.main`, called from Python, changes nothing.
"""

import json
import os
import pathlib
import signal
import sys
import threading

from dpojax import terminal
from dpojax.cli.main import COMPUTING, fail, main
from dpojax.errors import ConfigError, InputError
from dpojax.signals import STOPS

LAUNCH = "DPOJAX_LAUNCH"
CACHES = {"DPOJAX_COMPILATION_CACHE": "xla", "DPOJAX_TOKEN_CACHE": "tokens"}  # variable: folder
# Set from before the restart to after it: which variables were added or changed, with what they were before.
RESTARTED = "_DPOJAX_RESTARTED"

KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb"  # 1: asks the kernel for transparent huge pages by madvise


def command() -> int:
  """`dpojax` as a shell starts it; `dpojax.cli.main.main` in a process with settings of our own.

  Raises:
    SystemExit, and whatever `main` lets through.
  """
  terminal.guard()
  restarted = restore_environment()
  if sys.argv[1:2] and sys.argv[1] in COMPUTING and not {"-h", "--help"} & set(sys.argv[2:]):
    try:
      plain = is_plain(os.environ)
    except InputError as error:
      return fail(str(error))
    if not plain:
      if not restarted:
        restart()
      name_cache_folders()
  alone = _is_ours_alone()
  if restarted and not alone:  # else the command does it, once it takes signals
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
  return main(own_process=alone)


def is_plain(environment) -> bool:
  """Whether the user wants the process as it is.

  Raises:
    ConfigError: DPOJAX_LAUNCH is something we do not know.
  """
  value = environment.get(LAUNCH, "")
  if value not in ("", "plain"):
    raise ConfigError(f"{LAUNCH}={value}: it may be 'plain', or not set")
  return value == "plain"


def allocator_settings(environment) -> dict[str, str]:
  """Variables to add or change for an allocator that asks for huge pages; what is set already stays.

  Empty where it would change nothing: no huge pages on request, or glibc's malloc is not the one in use.
  """
  if not _on_glibc() or not _huge_pages_on_request() or "malloc" in environment.get("LD_PRELOAD", ""):
    return {}
  if (environment.get("JAX_PLATFORMS") or "cpu").split(",")[0] != "cpu":
    return {}  # arrays live elsewhere
  tunables = environment.get(TUNABLES, "")
  named = {part.partition("=")[0] for part in tunables.split(":")}
  if HUGE_PAGES in named:
    return {}
  return {TUNABLES: ":".join(filter(None, (tunables, f"{HUGE_PAGES}=1")))}


def restart() -> None:
  """Starts this command again with `allocator_settings`; returns where there are none or it cannot be done safely."""
  settings = allocator_settings(os.environ)
  if not settings or not _is_ours_alone():
    return
  before = {name: os.environ.get(name) for name in settings}
  environment = os.environ | settings | {RESTARTED: json.dumps(before)}
  mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # until the command takes them
  try:
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
  except OSError:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # the command works without


def restore_environment() -> bool:
  """After a restart: puts the variables back as they were, and says that there was one.

  glibc has read them. Processes that we start must not: the worker of chat templates has an address space of
  256 MB, and what a user's own tools do with memory is not our affair.
  """
  note = os.environ.pop(RESTARTED, None)
  if note is None:
    return False
  try:
    before = json.loads(note)
    for name, value in before.items():
      if value is None:
        os.environ.pop(name, None)
      else:
        os.environ[name] = value
  except (ValueError, TypeError, AttributeError):
    pass  # not a note of ours; that there is one is enough to never start again
  return True


def name_cache_folders() -> None:
  """Fills in the variables that name the folders of caches, where the user has not set them."""
  base = os.environ.get("XDG_CACHE_HOME", "")
  try:
    # The specification of XDG says that a relative path is to be ignored.
    folder = pathlib.Path(base) if os.path.isabs(base) else pathlib.Path.home() / ".cache"
  except RuntimeError:
    return  # a user without a home
  for name, kept in CACHES.items():
    os.environ.setdefault(name, str(folder / "dpojax" / kept))


def _on_glibc() -> bool:
  try:
    return sys.platform == "linux" and (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
  except (ValueError, OSError):
    return False


def _huge_pages_on_request() -> bool:
  """Whether the kernel gives huge pages to who asks; where it always or never does, glibc does not ask."""
  try:
    return "[madvise]" in KERNEL.read_text(encoding="ascii")
  except (OSError, UnicodeDecodeError):
    return False


def _is_ours_alone() -> bool:
  """Whether this process is nothing but `dpojax COMMAND`: `runpy` in a notebook, say, must not restart its kernel."""
  arguments = sys.argv[1:]
  front = sys.orig_argv[: len(sys.orig_argv) - len(arguments)]
  if not sys.executable or sys.orig_argv[len(front) :] != arguments or len(front) < 2:
    return False
  by_module = front[-2:] == ["-m", "dpojax"]
  by_script = pathlib.Path(front[-1]).stem == "dpojax" and front[-1] == sys.argv[0]
  alone = threading.active_count() == 1 and sys.gettrace() is None and "jax" not in sys.modules
  return (by_module or by_script) and alone
