"""Files written whole or not at all: beside their place, under a name of their own, then renamed.

A process that is killed leaves the old file and perhaps a hidden one, `.NAME.XXXXXXXX.part`, which nobody reads.
Everything in the package that others read back is written here.
"""

import contextlib
import errno
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import IO, Any

PART = ".part"
LONGEST = 40  # characters of a file's name that the name beside it repeats; a name has at most 255 bytes


def write_atomically(path: str | pathlib.Path, content: str | bytes, *, durable: bool = False) -> None:
  """Writes a file: whoever opens `path` at any time finds the old content or the new one, whole.

  Args:
    content: text is written as UTF-8, its line ends as they are.
    durable: it is on the disk when this returns, so that a power cut does not undo it either.

  Raises:
    OSError: as `replacing`; its text names `path`.
  """
  try:
    with replacing(path, "wb" if isinstance(content, bytes) else "w", durable=durable) as file:
      file.write(content)
  except OSError as error:
    error.filename = error.filename or str(path)  # a full disk has no name
    raise


@contextlib.contextmanager
def replacing(path: str | pathlib.Path, mode: str = "w", *, durable: bool = False) -> Iterator[IO[Any]]:
  """An open file that takes the place of `path` when the block ends without an error, and else is gone.

  Args:
    mode: "w" (UTF-8, line ends as they are written) or "wb".
    durable: see `write_atomically`.

  Raises:
    OSError: see `replacing_path`; or the disk is full.
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
  it replaces, else what the umask allows. A symbolic link at `path` is replaced, not followed.

  Args:
    suffix: of the name; None: that of `path`, for libraries that choose a format by it.
    durable: see `write_atomically`.

  Raises:
    OSError: the folder is not there or cannot be written, or `path` is a folder; known before the block begins. Its
      text names `path`.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
  ending = PART + path.suffix if suffix is None else suffix
  part = path.with_name(f".{path.name[:LONGEST]}.{os.urandom(4).hex()}{ending}")
  try:
    try:
      os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
      with contextlib.suppress(FileNotFoundError):
        part.chmod(path.stat().st_mode & 0o777)
    except OSError as error:
      error.filename = str(path)
      raise
    yield part
    if durable:
      _to_disk(part)
    os.replace(part, path)
    if durable and os.name == "posix":
      _to_disk(path.parent)
  finally:
    part.unlink(missing_ok=True)


def json_line(value: Any) -> bytes:
  """A value as a line of JSONL, its end included: UTF-8 as it is, but for halves of surrogate pairs, which have none."""
  try:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
  except UnicodeEncodeError:
    return json.dumps(value).encode() + b"\n"


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
