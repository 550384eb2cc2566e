"""The `dpojax` command: finds the sub-command, loads it only then, and says errors in one line."""

import errno
import functools
import importlib
import os
import signal
import sys

from dpojax import signals, terminal
from dpojax.cli.devices import check_devices, of_devices
from dpojax.errors import InputError
from dpojax.files import DISK_ERRORS, remove_unfinished

INTERRUPTED = 75  # sysexits' "temporary failure": the same command goes on
COMPUTING = ("train", "sweep", "eval", "score", "sample")  # on the devices of JAX
LONGEST = 200  # characters of a path in a message

COMMANDS = {
  "init": "a folder to begin with: a config, a Makefile, ten rows, a README",
  "train": "train a model as a config says, or go on where its workdir stopped",
  "sweep": "train over a grid of settings, compiled once; one table and one plot",
  "score": "log-probs of the answers in a file under a model",
  "eval": "accuracy, calibration and length bias of a reward model or policy on held-out comparisons",
  "sample": "write answers with a model",
  "export": "turn a run into a transformers folder",
  "data": "look at a data set: `dpojax data inspect`",
  "report": "one page over runs: the frontier, curves, samples, what each method costs",
  "compare": "two runs paired by prompt: differences of reward, KL and length with intervals",
  "bt": "Bradley-Terry strengths of items compared in pairs: a leaderboard from a file of games",
}

HELP = f"""Learning from pairwise comparisons in JAX.

usage: dpojax COMMAND [OPTIONS]

commands:
{chr(10).join(f"  {name:<8}{meaning}" for name, meaning in COMMANDS.items())}

`dpojax COMMAND --help` lists a command's options. To begin:

  dpojax init first && cd first && make inspect train
"""


def main(arguments: list[str] | None = None, *, own_process: bool = False) -> int:
  """Runs one command.

  Args:
    arguments: of the command line; None: those of this process.
    own_process: this process is nothing but the command, so a second request to stop may end it at once.

  Returns:
    0 when done, 1 when it failed, 2 when what it was given is wrong, `stop_code` when it was asked to stop.
  """
  arguments = sys.argv[1:] if arguments is None else arguments
  if own_process:
    terminal.guard()  # and a traceback at its end too
  with terminal.guarded(), signals.handled(functools.partial(ending, arguments) if own_process else None) as handler:
    with signals.at_end(remove_unfinished):
      code = run(arguments)
    if handler is not None and own_process:
      handler.over = code
      if handler.number:
        signals.end_process(code)  # what libraries still do in threads is of no use, and may never end
  return code


def run(arguments: list[str]) -> int:
  """Arguments and result as of `main`."""
  if not arguments or arguments[0] in ("-h", "--help", "help"):
    print(HELP, end="")
    return 0
  if arguments[0] == "--version":
    from dpojax import __version__

    print(f"dpojax {__version__}")
    return 0
  name, rest = arguments[0], arguments[1:]
  if name not in COMMANDS:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; commands are {', '.join(COMMANDS)}"
    return fail(f"unknown command {name!r}{hint}")
  try:
    try:
      if name in COMPUTING and not {"-h", "--help"} & set(rest):
        check_devices()
      code = importlib.import_module(f"dpojax.cli.{name}").main(rest)
      sys.stdout.flush()  # what cannot be written is an error of ours, not of the interpreter's end
      return code
    except BaseException:
      signals.wait_for_end()
      raise
  except InputError as error:
    return fail(str(error))
  except BrokenPipeError:
    sys.stderr.close()  # the reader of our output has gone, as in `dpojax ... | head`
    return 1
  except Exception as error:
    if isinstance(error, OSError) and (said := of_files(error)) is not None:
      return fail(said)
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # as pathlib says it
      return fail(f"a path begins with ~, but its user is not known here ({error}); write the path in full")
    if isinstance(error, ValueError) and "embedded null" in str(error):  # as every call of the system says it
      return fail("a path holds NUL, which no name does; look at the paths of the config")
    if (said := of_devices(error)) is not None:
      return fail(said)
    if (said := of_memory(error)) is not None:
      print(f"dpojax: error: {said}", file=sys.stderr)
      return 1
    if stop := signals.requested():  # libraries make errors of their own of StopRequested, such as ImportError
      return stopped(arguments, stop)
    raise
  except signals.StopRequested as stop:
    return stopped(arguments, str(stop))
  except KeyboardInterrupt:
    print("dpojax: interrupted", file=sys.stderr)
    return 130


def of_memory(error: Exception) -> str | None:
  """What to say of an error because no memory is left; None: it is another error."""
  lines = str(error).splitlines() or [""]
  exhausted = next((line for line in lines if "RESOURCE_EXHAUSTED" in line or "Out of memory" in line), None)
  if isinstance(error, MemoryError):
    exhausted = lines[0] or "an allocation failed"
  elif type(error).__name__ != "JaxRuntimeError":  # known by name: jax may not have been imported
    return None
  if exhausted is None:
    return None
  return (
    f"no memory is left ({exhausted.strip()[:200]}); lower what sets the size, such as batch.rows, batch.row_length or "
    "the number of samples, or use a smaller model; what is saved stays, and the same command goes on from it"
  )


def ending(arguments: list[str], number: int) -> tuple[int, str]:
  """(exit code, what is said) of a command that a signal has stopped."""
  code = stop_code(arguments, number)
  again = "; the same command goes on" if code == INTERRUPTED else ""
  return code, f"dpojax: stopped by {signal.Signals(number).name}{again}\n"


def stopped(arguments: list[str], name: str) -> int:
  """Says which signal has stopped the command; returns the exit code of that."""
  code, text = ending(arguments, getattr(signal, name))
  print(text, end="", file=sys.stderr)
  return code


def stop_code(arguments: list[str], number: int) -> int:
  """The exit code of a command that a signal has stopped: 75 where the same command goes on, else 128 and its number."""
  name = arguments[0] if arguments else ""
  resumes = name in ("train", "sweep") or (name == "sample" and any(word.startswith("--out") for word in arguments))
  return INTERRUPTED if resumes else 128 + number


def of_files(error: OSError) -> str | None:
  """What the user can mend of an error of the system, in one line: the path, what is wrong, what is needed; None of others."""
  needed = {
    errno.ENOSPC: "make room, and give the same command again",
    errno.EDQUOT: "make room, and give the same command again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), and give the same command again",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "name a place that you may read and write",
    errno.EPERM: "name a place that you may read and write",
    errno.ENAMETOOLONG: "name it with at most 255 bytes between two /",
    errno.ENOTDIR: "a file stands where a folder is needed; move it, or name another place",
    errno.EEXIST: "a file stands where a folder is needed; move it, or name another place",
    errno.EISDIR: "a folder stands where a file is needed; move it, or name another place",
    errno.ENOTEMPTY: "empty it, or name another place",
    errno.ENOENT: "make it, or name another place",
    errno.ELOOP: "mend the links, or name another place",
    errno.EINVAL: "name another place",
    errno.EIO: "look at the disk, and give the same command again",
    errno.ESTALE: "mount the shared disk again, and give the same command again",
    errno.ENXIO: "name a place that can be written",
    errno.ENODEV: "name a place that can be written",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
  }
  if error.errno not in needed or (error.filename is None and error.errno not in DISK_ERRORS):
    return None
  if error.filename is None:  # what is printed has no name, for example
    return f"{error.strerror}; {needed[error.errno]}"
  path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
  path = terminal.in_line(path if len(path) <= LONGEST else f"{path[:LONGEST]}...")
  return f"{path}: {error.strerror}; {needed[error.errno]}"


def fail(message: str) -> int:
  """Says what the user can mend; returns the exit code of that."""
  continued = "\n  "  # so that no name with a newline looks like a line of ours
  print(f"dpojax: error: {message.replace(chr(10), continued)}", file=sys.stderr)
  return 2
