"""A JSONL file made a chunk of lines at a time, by a process that may be killed at any moment and started again.

Under way, `FILE.part` holds a header and the lines of whole chunks; when all are there they become FILE at once, and
`FILE.provenance.json` says what FILE was made from::

  nothing -> FILE.part: header, chunk 0 -> ... -> FILE.part: header, all chunks -> FILE, FILE.provenance.json

A process that is killed loses the chunk under way. The next one cuts off what is left of it and makes it again, with
the same boundaries: so the file is that of a process which was left alone, byte for byte, where lines are a pure
function of their chunk.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from dpojax.digests import file_digest
from dpojax.errors import ConfigError
from dpojax.files import PART, json_line, parse_json, replacing, write_json

SCHEMA = 1
PROVENANCE = ".provenance.json"

Job = Mapping[str, Any]
Line = dict[str, Any]


def write_resumably(
  path: str | pathlib.Path,
  job: Job,
  rows: Sequence[int],
  make: Callable[[range], Sequence[Line]],
  *,
  at_once: int,
  option: str = "--out",
  about: Mapping[str, Any] | None = None,
  replace_others: bool = False,
) -> bool:
  """Writes a line for every row, going on where an earlier process of the same job was killed.

  Args:
    path: the file, replaced when all lines are there.
    job: all that decides the lines, as JSON has it, by names that a person understands.
    rows: the number that each line has under "row", in order.
    make: a range of places in `rows` -> their lines, each with its "row".
    at_once: places of a chunk.
    option: what names `path`, for messages.
    about: what else a person should know of the file, written down with the job.
    replace_others: begin anew where the part file is of another job, for a place that is this job's alone.

  Returns:
    False where `path` held these lines already, and nothing was made.

  Raises:
    ConfigError: the folder cannot be written or is full, the part file is of another job (says what differs) or is none, or another
      process is writing it.
  """
  path = pathlib.Path(path)
  header = _header(job)
  with _opened(path, option) as part:
    if is_finished(path, job):
      if _left_over(part, header):
        part_path(path).unlink()
      return False
    with _disk_errors(path, option):
      at_once, done = _resume(part, path, header, rows, at_once, option, replace_others)
    for start in range(done, len(rows), at_once):
      places = range(start, min(start + at_once, len(rows)))
      lines = make(places)
      assert [line["row"] for line in lines] == [rows[place] for place in places]
      with _disk_errors(path, option):
        part.write(b"".join(json_line(line) for line in lines))
        _to_disk(part)
    with _disk_errors(path, option):
      _finish(part, path, header["job"], about or {})
    part_path(path).unlink(missing_ok=True)  # while it is locked
  return True


def is_finished(path: str | pathlib.Path, job: Job) -> bool:
  """Whether `path` holds what `write_resumably` made of this job, untouched."""
  path = pathlib.Path(path)
  try:
    record = parse_json(provenance_path(path).read_text(encoding="utf-8"))
    return record["sha256"] == file_digest(path) and not _changed(record, _header(job))
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    return False


def part_path(path: pathlib.Path) -> pathlib.Path:
  """Where the lines are kept while some are missing."""
  return path.with_name(path.name + PART)


def provenance_path(path: pathlib.Path) -> pathlib.Path:
  """Where it is written what the finished file was made from."""
  return path.with_name(path.name + PROVENANCE)


def differences(old: Job, new: Job) -> list[str]:
  """What differs between two jobs, a text each: "temperature: 1.0 -> 0.7"."""
  keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
  return [f"{key}: {_said(old.get(key))} -> {_said(new.get(key))}" for key in keys]


def _said(value: Any) -> str:
  text = json.dumps(value, ensure_ascii=False)
  return f"{text[1:9]}..." if isinstance(value, str) and len(value) == 64 else text  # a digest


def _header(job: Job) -> Line:
  return {"schema": SCHEMA, "job": json.loads(json.dumps(dict(job)))}


def _changed(before: Line, now: Line) -> list[str]:
  """What differs between two headers, a text each."""
  schema = differences({"schema": before["schema"]}, {"schema": now["schema"]})
  return schema + differences(before["job"], now["job"])


def _left_over(part: BinaryIO, header: Line) -> bool:
  """Whether a part file beside its finished file is empty, or of the same job."""
  first = part.readline()
  with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
    return not first or not _changed(parse_json(first), header)
  return False


@contextlib.contextmanager
def _opened(path: pathlib.Path, option: str) -> Iterator[BinaryIO]:
  """The part file, made where it is missing, for this process alone."""
  if path.is_dir():
    raise ConfigError(f"{option}={path}: it is a folder; name a file in it")
  try:
    descriptor = os.open(part_path(path), os.O_RDWR | os.O_CREAT, 0o666)
  except OSError as error:
    raise ConfigError(f"{option}={path}: {error.strerror}; name a file in an existing, writable folder") from None
  part = os.fdopen(descriptor, "r+b")
  try:
    if not _locked(part):
      raise ConfigError(f"{option}={path}: another process is writing it; wait for it, or name another file")
    yield part
  finally:
    with _disk_errors(path, option):
      part.close()  # which writes what a full disk has not taken


@contextlib.contextmanager
def _disk_errors(path: pathlib.Path, option: str) -> Iterator[None]:
  """Says of a full disk that nothing is lost."""
  try:
    yield
  except OSError as error:
    raise ConfigError(
      f"{option}={path}: {error.strerror}; what is done is in {part_path(path)}: make room, and the same command goes on"
    ) from None


def _locked(file: BinaryIO) -> bool:
  """Locks the file until it is closed or the process ends; False where another process has it."""
  try:
    import fcntl
  except ImportError:
    return True  # a system without such locks
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    return True  # a file system without them
  return True


def _resume(
  part: BinaryIO,
  path: pathlib.Path,
  header: Line,
  rows: Sequence[int],
  at_once: int,
  option: str,
  replace_others: bool,
) -> tuple[int, int]:
  """(places of a chunk, places done); the part file ends after the last whole chunk, or after a new header."""
  part.seek(0)
  first = part.readline()
  beginning = json_line(header | {"at_once": at_once})
  new = first != beginning and beginning.startswith(first)  # or killed while its header was written
  if not new:
    before, changed = _read_header(first, header, part_path(path), option)
    new = bool(changed) and replace_others
    if not new and changed:
      raise ConfigError(
        f"{part_path(path)} is the unfinished file of another job ({'; '.join(changed)}); delete it, or name another "
        f"{option}"
      )
    at_once = at_once if new else before
  if new:
    part.seek(0)
    part.truncate()
    part.write(beginning)
    _to_disk(part)
    return at_once, 0
  ends, end = [len(first)], len(first)
  for row, line in zip(rows, part, strict=False):
    end += len(line)
    if not _is_line_of(line, row):
      break
    ends.append(end)
  done = (len(ends) - 1) // at_once * at_once if len(ends) - 1 < len(rows) else len(rows)
  part.seek(ends[done])
  part.truncate()
  return at_once, done


def _read_header(first: bytes, header: Line, place: pathlib.Path, option: str) -> tuple[int, list[str]]:
  """(places of a chunk, what differs from `header`) of a part file's first line."""
  try:
    found = parse_json(first)
    return int(found["at_once"]), _changed(found, header)
  except (ValueError, TypeError, KeyError, AttributeError):
    raise ConfigError(
      f"{place} is no unfinished file of this command; move it away, or name another {option}"
    ) from None


def _is_line_of(line: bytes, row: int) -> bool:
  if not line.endswith(b"\n"):
    return False
  try:
    return parse_json(line)["row"] == row
  except (ValueError, TypeError, KeyError):
    return False


def _finish(part: BinaryIO, path: pathlib.Path, job: Job, about: Mapping[str, Any]) -> None:
  """Puts the lines of the part file at `path`, and beside it what they were made from."""
  digest = hashlib.sha256()
  part.seek(0)
  part.readline()
  with replacing(path, "wb", durable=True) as file:
    while block := part.read(2**20):
      digest.update(block)
      file.write(block)
    # Before the file itself: one that is killed in between finds a file of another digest, and finishes again.
    record = {"schema": SCHEMA, "job": job, "sha256": digest.hexdigest(), "about": dict(about)}
    write_json(provenance_path(path), record, durable=True)


def _to_disk(file: BinaryIO) -> None:
  file.flush()
  os.fsync(file.fileno())
