"""Files written whole or not at all: beside their place, under a name of their own, then renamed.

A process that is killed leaves the old file and perhaps a hidden one, `.NAME.XXXXXXXX.part`, which nobody reads.
Everything in the package that others read back is written here, and whatever an option names.

  regular file or nothing  -> replaced at once
  symbolic link            -> stays; what it leads to is replaced, or made where it is missing
  FIFO, /dev/null, a terminal, /dev/stdout -> written into, never replaced
  disk (block device), socket -> refused
"""

import contextlib
import errno
import io
import json
import math
import os
import pathlib
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

from dpojax.terminal import HIDDEN

PART = ".part"
LONGEST = 40  # characters of a file's name that the name beside it repeats; a name has at most 255 bytes
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_unfinished: set[pathlib.Path] = set()  # files and folders of this process that are not in place yet


def write_atomically(path: str | pathlib.Path, content: str | bytes, *, durable: bool = False) -> None:
  """Writes a file: whoever opens `path` at any time finds the old content or the new one, whole.

  Args:
    content: text is written as UTF-8, its line ends as they are.
    durable: it is on the disk when this returns, so that a power cut does not undo it either.

  Raises:
    OSError: as `replacing`; its text names `path`.
  """
  with replacing(path, "wb" if isinstance(content, bytes) else "w", durable=durable) as file:
    file.write(content)


@contextlib.contextmanager
def replacing(path: str | pathlib.Path, mode: str = "w", *, durable: bool = False) -> Iterator[IO[Any]]:
  """An open file that takes the place of `path` when the block ends without an error, and else is gone.

  Args:
    mode: "w" (UTF-8, line ends as they are written) or "wb".
    durable: see `write_atomically`.

  Raises:
    OSError: see `replacing_path`.
  """
  text = "b" not in mode
  with (
    replacing_path(path, suffix=PART, durable=durable) as part,
    open(part, mode, encoding="utf-8" if text else None, newline="\n" if text else None) as file,
  ):
    yield file


@contextlib.contextmanager
def replacing_path(
  path: str | pathlib.Path, *, suffix: str | None = None, durable: bool = False
) -> Iterator[pathlib.Path]:
  """The path of an empty file that takes the place of `path` when the block ends without an error, and else is gone.

  For libraries that want a path. The file has the permissions that a plain `open` would leave: those of the file that
  it replaces, else what the umask allows. What becomes of links and devices stands above.

  Args:
    suffix: of the name; None: that of `path`, for libraries that choose a format by it.
    durable: see `write_atomically`.

  Raises:
    OSError: the folder is not there or cannot be written, or `path` is a folder, a disk or a socket, known before the
      block begins; or the disk is full. Its text names `path`.
  """
  path = pathlib.Path(path)
  ending = PART + path.suffix if suffix is None else suffix
  with naming(path):
    place = destination(path)
    special = is_written_into(path)
    if special and not os.access(path, os.W_OK):
      raise PermissionError(errno.EACCES, "it cannot be written", str(path))
    folder = pathlib.Path(tempfile.gettempdir()) if special else place.parent
    part = folder / f".{place.name[:LONGEST]}.{os.urandom(4).hex()}{ending}"
  try:
    with naming(path):
      _unfinished.add(part)
      os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
      if not special:
        with contextlib.suppress(FileNotFoundError):
          part.chmod(place.stat().st_mode & 0o777)
    with naming(path, part):
      yield part
    with naming(path):
      if special:
        with open(part, "rb") as source, open(path, "ab") as target:
          shutil.copyfileobj(source, target)
        return
      if durable:
        _to_disk(part)
      os.replace(part, place)
      if durable and os.name == "posix":
        _to_disk(place.parent)
  finally:
    part.unlink(missing_ok=True)
    _unfinished.discard(part)


@contextlib.contextmanager
def replacing_folder(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A new folder that takes the place of `path`, which is empty or missing, when the block ends without an error.

  Raises:
    OSError: `path` is a file or holds something, or the folder that it lies in cannot be written; names `path`.
  """
  path = pathlib.Path(path)
  with naming(path):
    place = destination(path, folder=True)
    place.parent.mkdir(parents=True, exist_ok=True)
  part = place.with_name(f".{place.name[:LONGEST]}{PART}")
  with naming(path, part), scratch_folder(part):
    yield part
    with naming(path):
      if place.exists():
        place.rmdir()
      part.rename(place)


@contextlib.contextmanager
def scratch_folder(part: pathlib.Path) -> Iterator[None]:
  """A new folder, empty, that is gone when the block ends: what is left of an earlier one of its name too."""
  _unfinished.add(part)
  try:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    yield
  finally:
    shutil.rmtree(part, ignore_errors=True)
    _unfinished.discard(part)


def append_whole(file: io.RawIOBase, content: bytes, path: str | pathlib.Path) -> None:
  """Appends to a file that is opened with "ab" and buffering=0: all of it, or nothing and an OSError that names `path`."""
  with naming(path):
    written = file.write(content)
    if written != len(content):  # as on a disk that is almost full
      os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size - (written or 0))
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def destination(path: str | pathlib.Path, *, folder: bool = False) -> pathlib.Path:
  """Where `path` leads to: itself, or what the symbolic link at its end leads to, which may be missing.

  Args:
    folder: it is to be a folder.

  Raises:
    OSError: a folder stands where a file is wanted, or a file where a folder is; or links lead in a circle.
  """
  path = pathlib.Path(path)
  if "\0" in str(path):
    raise OSError(errno.EINVAL, "no name of a file holds NUL", str(path))
  if path.is_symlink():
    place = pathlib.Path(os.path.realpath(path))
    if place.is_symlink():
      raise OSError(errno.ELOOP, "symbolic links lead in a circle", str(path))
  else:
    place = path
  if path.is_dir() and not folder:
    raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
  if folder and path.exists() and not path.is_dir():
    raise NotADirectoryError(errno.ENOTDIR, "it is a file", str(path))
  return place


def is_written_into(path: str | pathlib.Path) -> bool:
  """Whether what `path` leads to is written into and not replaced: a FIFO, a terminal, /dev/null, an open file of a process.

  Raises:
    OSError: it is a disk or a socket, which no file is written into; names `path`.
  """
  try:
    mode = os.stat(path).st_mode
  except OSError:
    return False  # missing, which is fine; or what opens it will say so
  if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
    raise OSError(errno.EINVAL, f"it is a {'disk' if stat.S_ISBLK(mode) else 'socket'}", str(path))
  if not stat.S_ISREG(mode):
    return not stat.S_ISDIR(mode)
  # /dev/stdout leads to a regular file where a shell wrote `> FILE`: the shell has it open, so it must stay that file.
  hop = pathlib.Path(path)
  for _ in range(40):
    parent = os.path.realpath(hop.parent)
    if parent == "/dev" or (parent.startswith("/proc/") and parent.endswith("/fd")):
      return True
    if not hop.is_symlink():
      return False
    hop = hop.parent / os.readlink(hop)
  return False


def expanded(path: str | pathlib.Path) -> pathlib.Path:
  """The path with the home of a user in the place of ~ or ~USER; of a user that is not known, as it is.

  `Path.expanduser` raises a RuntimeError there that names no path.
  """
  return pathlib.Path(os.path.expanduser(path))


@contextlib.contextmanager
def naming(path: str | pathlib.Path, part: pathlib.Path | None = None) -> Iterator[None]:
  """An OSError of the block names `path`: a full disk has no name, and that of an unfinished file tells nobody anything.

  Args:
    part: the unfinished file or folder; the block may then meet other files too, whose errors stay as they are.
  """
  try:
    with _of_the_system():
      yield
  except OSError as error:
    named = str(error.filename or "")
    ours = named.startswith(str(part)) if named else error.errno in DISK_ERRORS
    if part is None or ours:
      error.filename, error.filename2 = str(path), None
    raise


@contextlib.contextmanager
def _of_the_system() -> Iterator[None]:
  """An error of a library in Rust that tells of one of the system, "No space left on device (os error 28)", as that."""
  try:
    yield
  except Exception as error:
    found = None if isinstance(error, OSError) else re.search(r"\(os error (\d+)\)", str(error))
    if found is None:
      raise
    raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def remove_unfinished() -> None:
  """Deletes what this process has not put in place yet: for one that ends at once."""
  for part in list(_unfinished):
    with contextlib.suppress(OSError):
      if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
      else:
        part.unlink()


def json_text(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
  """A value as JSON that every parser reads.

  Text stays as it is, but for what a terminal would obey or hide and halves of surrogate pairs, which have no UTF-8: these are
  written as JSON's escapes, which say the same. NaN and infinities are written as `to_json_number` has them; `finite` takes
  them out where others read the file.
  """
  try:
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
  except ValueError:
    value = _with_numbers_named(value)
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
  return HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def to_json_number(value: float) -> float | int | str:
  """A number that valid JSON can hold: NaN and infinities become "nan", "inf" and "-inf".

  JSON has no such numbers, and `null` would lose which it was; `float` reads the strings back.
  """
  number = value if isinstance(value, int) else float(value)
  return number if math.isfinite(number) else str(number)


def _with_numbers_named(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _with_numbers_named(inner) for name, inner in value.items()}
  if isinstance(value, (list, tuple)):
    return [_with_numbers_named(inner) for inner in value]
  return to_json_number(value) if isinstance(value, float) else value


def finite(value: Any) -> tuple[Any, int]:
  """The value with None in the place of NaN and infinities, and how many there were.

  >>> finite({"a": [1.0, float("nan")], "b": float("inf")})
  ({'a': [1.0, None], 'b': None}, 2)
  """
  if isinstance(value, dict):
    found = {name: finite(inner) for name, inner in value.items()}
    return {name: inner for name, (inner, _) in found.items()}, sum(count for _, count in found.values())
  if isinstance(value, (list, tuple)):
    several = [finite(inner) for inner in value]
    return [inner for inner, _ in several], sum(count for _, count in several)
  bad = isinstance(value, float) and not math.isfinite(value)
  return (None, 1) if bad else (value, 0)


def parse_json(text: str | bytes) -> Any:
  """The value of a JSON text.

  Raises:
    ValueError: it is not JSON, not UTF-8, or nested too deeply for Python, which says that by a RecursionError.
  """
  try:
    return json.loads(text)
  except RecursionError:
    raise json.JSONDecodeError("nested too deeply", "", 0) from None


def write_json(path: str | pathlib.Path, value: Any, *, durable: bool = False, sort_keys: bool = False) -> None:
  """Writes a JSON file for people and programs, as `write_atomically`; errors as that and `json_text`."""
  write_atomically(path, json_text(value, indent=2, sort_keys=sort_keys) + "\n", durable=durable)


def json_line(value: Any) -> bytes:
  """A value as a line of JSONL, its end included; errors as `json_text`."""
  return json_text(value).encode() + b"\n"


def write_json_lines(path: str | pathlib.Path, values: Iterable[Any]) -> None:
  """Writes a JSONL file whole or not at all, as `write_atomically`."""
  write_atomically(path, b"".join(map(json_line, values)))


def lines_of(path: str | pathlib.Path) -> list[bytes]:
  """The lines of a JSONL file, without their ends.

  Bytes and not text: `str.splitlines` also divides at U+0085, U+2028 and U+2029, which JSON's strings may hold as they are.
  """
  return pathlib.Path(path).read_bytes().splitlines()


def is_part(path: pathlib.Path) -> bool:
  """Whether a process that was killed may have left this file behind: it is nobody's content."""
  return path.name.startswith(".") and PART in path.suffixes[-2:]


def _to_disk(path: pathlib.Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
