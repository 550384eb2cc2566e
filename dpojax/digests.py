"""digests.json: the size and SHA-256 of a folder's files, kept by who writes them and checked by who reads them back.

A folder without one, and a file that it does not list, are not checked: models of others, and whatever a user adds.

  {"sha256": of the rest, "files": {"config.json": {"bytes": 812, "sha256": "9f..."}, ...}}

An entry may say that its file grows: the first so many bytes are then checked. While a file is replaced, `before` has its
old entry, so that a process that is killed between the two leaves nothing that looks damaged.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dpojax.errors import CheckpointError
from dpojax.files import json_line, json_text, write_atomically

FILE = "digests.json"
TRIES = 3  # a process that writes may replace list and file between the two readings


@dataclasses.dataclass(frozen=True)
class Entry:
  """What was written.

  Attributes:
    bytes: its size; of a file that grows, the length of the part that is known.
    sha256: of these bytes, 64 hexadecimal digits.
    grows: it may be longer now.
  """

  bytes: int
  sha256: str
  grows: bool = False

  def to_json(self) -> dict[str, Any]:
    return {"bytes": self.bytes, "sha256": self.sha256} | ({"grows": True} if self.grows else {})


@dataclasses.dataclass(frozen=True)
class Listed:
  """What a digests.json holds.

  Attributes:
    files: path in the folder -> what was written last, or is being written now.
    before: the same of what is being replaced.
  """

  files: Mapping[str, Entry] = dataclasses.field(default_factory=dict)
  before: Mapping[str, Entry] = dataclasses.field(default_factory=dict)

  def to_text(self) -> str:
    facts = {"files": {name: entry.to_json() for name, entry in sorted(self.files.items())}}
    if self.before:
      facts["before"] = {name: entry.to_json() for name, entry in sorted(self.before.items())}
    body = json.dumps(facts, sort_keys=True)
    return json_text({"sha256": hashlib.sha256(body.encode()).hexdigest()} | facts, indent=1) + "\n"

  @classmethod
  def from_text(cls, text: str) -> "Listed":
    """Raises ValueError unless `text` is what `to_text` wrote."""
    try:
      facts = json.loads(text)
      maps = [{name: Entry(**entry) for name, entry in facts.get(key, {}).items()} for key in ("files", "before")]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
      raise ValueError(str(error)) from None
    listed = cls(*maps)
    if listed.to_text() != text:
      raise ValueError("its own digest does not match")
    return listed


def file_digest(path: str | pathlib.Path) -> str:
  """sha256 of a file, as 64 hexadecimal digits."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def read_list(folder: str | pathlib.Path) -> Listed:
  """What is known of a folder's files; nothing where it has no digests.json.

  Raises:
    CheckpointError: it is damaged.
  """
  path = pathlib.Path(folder, FILE)
  try:
    return Listed.from_text(path.read_text(encoding="utf-8"))
  except (FileNotFoundError, NotADirectoryError):
    return Listed()
  except (OSError, ValueError) as error:
    raise CheckpointError(
      f"{path}: damaged ({error}); restore it, or delete it, and the folder's files are no longer checked"
    ) from None


def list_files(folder: str | pathlib.Path, names: Iterable[str]) -> None:
  """Lists files as they are now, beside those that are listed."""
  entries = _entries(pathlib.Path(folder), list(names))
  _write(folder, Listed({**read_list(folder).files, **entries}))


def replace_list(folder: str | pathlib.Path, files: Mapping[str, Entry]) -> None:
  """Lists these files alone: others that are there are no longer checked, and may go."""
  _write(folder, Listed(files))


def list_grown(folder: str | pathlib.Path, names: Iterable[str]) -> None:
  """Lists files that grow as far as they go now."""
  grown = {name: _entry(pathlib.Path(folder, name).read_bytes(), grows=True) for name in names}
  _write(folder, Listed({**read_list(folder).files, **grown}))


def write(folder: str | pathlib.Path, name: str, content: str | bytes, *, grows: bool = False) -> None:
  """Writes a file of a folder as `files.write_atomically` does, durably, and lists it. Its own folder is made where it is
  missing.
  """
  data = content.encode() if isinstance(content, str) else content
  path, known, entry = pathlib.Path(folder, name), read_list(folder).files, _entry(data, grows=grows)
  path.parent.mkdir(parents=True, exist_ok=True)
  if name in known and known[name] != entry:
    _write(folder, Listed({**known, name: entry}, {name: known[name]}))
  write_atomically(path, data, durable=True)
  if known.get(name) != entry:
    _write(folder, Listed({**known, name: entry}))


def write_json(folder: str | pathlib.Path, name: str, value: Any) -> None:
  """As `write`, of a value as `files.write_json` writes it."""
  write(folder, name, json_text(value, indent=2) + "\n")


def write_json_lines(folder: str | pathlib.Path, name: str, values: Iterable[Any]) -> None:
  """As `write`, of values as lines of JSON."""
  write(folder, name, b"".join(map(json_line, values)))


def read(folder: str | pathlib.Path, name: str) -> bytes:
  """What a file of a folder holds.

  Raises:
    CheckpointError: it is listed, and gone or not what was written.
    OSError: it cannot be read; FileNotFoundError where it is not listed either.
  """
  check(folder, [name])
  return pathlib.Path(folder, name).read_bytes()


def check(folder: str | pathlib.Path, names: Iterable[str] | None = None, *, quick: bool = False) -> None:
  """Raises CheckpointError with what `damage` finds, and what to do."""
  found = damage(folder, names, quick=quick)
  if found:
    raise CheckpointError(f"{found}; {advice(folder)}")


def advice(folder: str | pathlib.Path) -> str:
  """What to do about a file that is not what was written."""
  return (
    f"restore it, or, if it was changed on purpose, delete {pathlib.Path(folder, FILE)}, and the folder's files are no longer "
    "checked"
  )


def damage(folder: str | pathlib.Path, names: Iterable[str] | None = None, *, quick: bool = False) -> str:
  """The first listed file that is gone or not what was written, and what is wrong with it, in words; "" where all are sound.

  Args:
    names: paths in the folder; those that are not listed are not looked at. None: all that are listed.
    quick: sizes alone are compared; nothing is read.

  Raises:
    CheckpointError: digests.json itself is damaged.
  """
  folder, chosen = pathlib.Path(folder), None if names is None else list(names)
  found, listed = "", read_list(folder)
  for _ in range(TRIES):
    found = _first_damage(folder, listed, listed.files if chosen is None else chosen, quick)
    before, listed = listed, read_list(folder) if found else listed
    if not found or listed == before:
      break
  return found


def _first_damage(folder: pathlib.Path, listed: Listed, names: Iterable[str], quick: bool) -> str:
  wanted = [name for name in names if name in listed.files]

  def problem(name: str) -> str:
    entries = [known[name] for known in (listed.files, listed.before) if name in known]
    return _problem(folder / name, entries, quick)

  if len(wanted) < 2 or quick:
    return next(filter(None, map(problem, wanted)), "")
  with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
    return next(filter(None, threads.map(problem, wanted)), "")


def _problem(path: pathlib.Path, entries: list[Entry], quick: bool) -> str:
  """What is wrong with a file that should be as one of `entries` says; "" where it is."""
  try:
    with open(path, "rb") as file:
      size = os.fstat(file.fileno()).st_size
      fits = [entry for entry in entries if size == entry.bytes or (entry.grows and size > entry.bytes)]
      if not fits:
        return f"{path}: damaged or changed ({size:,} bytes instead of {entries[0].bytes:,})"
      if quick:
        return ""
      for entry in fits:
        file.seek(0)
        found = hashlib.sha256(file.read(entry.bytes)) if entry.grows else hashlib.file_digest(file, "sha256")
        if found.hexdigest() == entry.sha256:
          return ""
  except (FileNotFoundError, NotADirectoryError):
    return f"{path}: it is gone, and {FILE} lists it"
  except OSError as error:
    return f"{path}: {error.strerror}"
  return f"{path}: damaged or changed (its SHA-256 is not the one in {FILE})"


def _entry(content: bytes, *, grows: bool = False) -> Entry:
  return Entry(len(content), hashlib.sha256(content).hexdigest(), grows)


def _entries(folder: pathlib.Path, names: list[str]) -> dict[str, Entry]:
  with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
    digests = list(threads.map(lambda name: file_digest(folder / name), names))
  return {name: Entry((folder / name).stat().st_size, digest) for name, digest in zip(names, digests, strict=True)}


def _write(folder: str | pathlib.Path, listed: Listed) -> None:
  write_atomically(pathlib.Path(folder, FILE), listed.to_text(), durable=True)
