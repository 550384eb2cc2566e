"""Where rows come from: local files, the hub, memory. A row that cannot be read is told, not lost."""

import collections
import contextlib
import csv
import dataclasses
import gzip
import io
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from dpojax.data.formats.cells import DuplicateName, load_json, shown
from dpojax.digests import file_digest
from dpojax.errors import DataError
from dpojax.files import expanded

if TYPE_CHECKING:
  import pyarrow

KINDS = (".jsonl", ".json", ".csv", ".parquet")
MOST_LINE = 2**27  # bytes of a line of JSON
MOST_CELL = 2**26  # characters of a cell of a CSV file: one quote left open makes a cell of the rest


@dataclasses.dataclass(frozen=True)
class SourceRow:
  """One row as it was read.

  Attributes:
    where: its place: "file:line", or "name[index]" counted from 0.
    values: column -> value; empty where the row could not be read.
    fault: what is wrong with it, or "".
  """

  where: str
  values: Mapping[str, Any]
  fault: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
  """Rows to be read, once.

  Attributes:
    name: for messages.
    rows: in their order.
    identity: a digest that is the same only where the rows are, as they now lie there; "" where that is not known.
  """

  name: str
  rows: Iterator[SourceRow]
  identity: Callable[[], str] = lambda: ""


def memory_rows(rows: Iterable[Mapping[str, Any]], name: str = "rows") -> Iterator[SourceRow]:
  """Rows that a program holds."""
  for i, row in enumerate(rows):
    odd = [name for name in row if not isinstance(name, str)] if isinstance(row, Mapping) else []
    if odd:
      yield SourceRow(f"{name}[{i}]", {}, f"has a column called {shown(odd[0])}; names of columns are texts")
    elif isinstance(row, Mapping):
      yield SourceRow(f"{name}[{i}]", _plain(row))
    else:
      yield SourceRow(f"{name}[{i}]", {}, f"is a {type(row).__name__}, not an object")


def _plain(row: Mapping[str, Any]) -> Mapping[str, Any]:
  """The row with lists and numbers of Python in the place of NumPy's, as JSON would hold them."""
  if not any(isinstance(value, np.ndarray | np.generic) for value in row.values()):
    return row
  return {name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value for name, value in row.items()}


def file_source(path: str, limit: int = 0) -> Source:
  """The rows of a local file. See `file_rows`."""

  def identity() -> str:
    with contextlib.suppress(OSError, ValueError):
      file = expanded(path)
      if file.is_file():  # to open a pipe would wait for somebody to write to it
        return file_digest(file)
    return ""  # whoever reads the rows will say what is wrong with the file

  return Source(path, file_rows(path, limit), identity)


def find_file(path: str, setting: str = "data.path") -> Path:
  """The file that `setting` names, not opened; DataError where there is none."""
  try:
    file = expanded(path)
    what = "" if file.is_file() else "is a folder, not a file" if file.is_dir() else "no such file"
  except (OSError, ValueError) as error:  # a name too long, a NUL
    file, what = Path(), str(getattr(error, "strerror", "") or error)
  if what:
    raise DataError(f"{path}: {what}; {setting} takes a JSONL, JSON, CSV or Parquet file, .gz allowed")
  return file


def file_rows(path: str, limit: int = 0) -> Iterator[SourceRow]:
  """Rows of a local JSONL, JSON, CSV or Parquet file, each also as .gz; the name tells which.

  Args:
    path: the file.
    limit: stop after this many rows; 0: never.

  Raises:
    DataError: no such file, a kind not known, or a file damaged as a whole.
  """
  file = find_file(path)
  suffixes = [suffix.lower() for suffix in file.suffixes]
  packed = bool(suffixes) and suffixes[-1] == ".gz"
  kind = suffixes[-2 if packed else -1] if len(suffixes) > packed else ""
  readers = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
  if kind not in readers:
    raise DataError(f"{path}: its name ends in {''.join(suffixes[-2:]) or 'nothing'}; wanted {', '.join(KINDS)} or .gz")
  with _opened(file, packed, path) as stream:
    rows = readers[kind](stream, path)
    try:
      yield from itertools.islice(rows, limit or None)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
      raise DataError(f"{path}: damaged gzip file ({error}); fetch or pack it again") from error


def _opened(file: Path, packed: bool, path: str) -> IO[bytes]:
  try:
    return cast(IO[bytes], (gzip.open if packed else open)(file, "rb"))
  except OSError as error:
    raise DataError(f"{path}: {error.strerror or error}; give a file that can be read") from error


def hub_source(name: str, *, subset: str, split: str, revision: str, limit: int = 0) -> Source:
  """The rows of a data set on the hub, or of a local folder in one of the hub's layouts.

  `subset` is tried as the name of a configuration, then as a `data_dir`.

  Raises:
    DataError: it cannot be fetched or read; names the option that looks wrong.
  """
  import datasets

  options: dict[str, Any] = dict(split=split, revision=revision or None)
  try:
    try:
      table = datasets.load_dataset(name, subset or None, **options)
    except ValueError as error:
      if not subset or "BuilderConfig" not in str(error):
        raise
      table = datasets.load_dataset(name, data_dir=subset, **options)
  except Exception as error:  # the library and its network stack raise many kinds
    raise DataError(f"{_hub_option(error, name, subset, split, revision)}: {_first_line(error)}") from error
  title = f"{name}[{split}]"
  count = min(limit, len(table)) if limit else len(table)
  rows = (SourceRow(f"{title}[{i}]", without_filled_nulls(table[i])) for i in range(count))
  # By what the library knows its own copy, of which the rows are: the files' contents (hub) or times (local).
  return Source(title, rows, lambda: str(getattr(table, "_fingerprint", "")))


def _hub_option(error: Exception, name: str, subset: str, split: str, revision: str) -> str:
  """The setting that an error of `datasets` is about, with its value."""
  about = f"{type(error).__name__} {error}"
  if "split" in about.lower() and "Unknown split" in about:
    return f"data.split={split} of data.name={name}"
  if subset and ("BuilderConfig" in about or "data_dir" in about or "data files" in about):
    return f"data.subset={subset} of data.name={name}"
  if revision and "evision" in about:
    return f"data.revision={revision} of data.name={name}"
  return f"data.name={name}"


def _first_line(error: Exception) -> str:
  cause = error.__cause__ or error
  lines = (str(error) or str(cause) or type(error).__name__).strip().splitlines()
  return f"{lines[0]} ({type(error).__name__})"


def _jsonl_rows(stream: IO[bytes], path: str) -> Iterator[SourceRow]:
  number = 0
  while line := stream.readline(MOST_LINE):
    number += 1
    whole = len(line) < MOST_LINE or line.endswith(b"\n")
    if not whole:
      while (more := stream.readline(MOST_LINE)) and not more.endswith(b"\n"):
        pass
      yield SourceRow(f"{path}:{number}", {}, f"has more than {MOST_LINE:,} bytes")
    elif line.strip():
      yield _json_row(line, f"{path}:{number}")


def _json_row(line: bytes, where: str) -> SourceRow:
  try:
    value = load_json(line)
  except UnicodeDecodeError as error:
    return SourceRow(where, {}, f"not UTF-8: {error}")
  except DuplicateName as error:
    return SourceRow(where, {}, str(error))
  except ValueError as error:
    return SourceRow(where, {}, f"not JSON: {error}")
  if not isinstance(value, dict):
    return SourceRow(where, {}, f"holds a {type(value).__name__}, not an object with columns")
  return SourceRow(where, value)


def _json_rows(stream: IO[bytes], path: str) -> Iterator[SourceRow]:
  content = stream.read()
  try:
    value = load_json(content)
  except ValueError as error:
    if content.lstrip()[:1] == b"{" and b"\n" in content.strip():  # lines of JSON under the wrong name
      yield from _jsonl_rows(io.BytesIO(content), path)
      return
    if isinstance(error, DuplicateName):
      raise DataError(f"{path}: a row cannot be read: {error}; leave one out") from error
    raise DataError(f"{path}: not JSON: {error}; for one object a line, name it .jsonl") from error
  if not isinstance(value, list):
    raise DataError(f"{path}: holds a {type(value).__name__}; a .json file must hold a list of rows")
  yield from memory_rows(value, path)


def _csv_rows(stream: IO[bytes], path: str) -> Iterator[SourceRow]:
  csv.field_size_limit(MOST_CELL)
  reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
  try:
    header = next(reader, None)
    if header is None:
      return
    _check_distinct(header, f"{path}:1")
    start = reader.line_num + 1
    for fields in reader:
      where, start = f"{path}:{start}", reader.line_num + 1
      if len(fields) == len(header):
        yield SourceRow(where, dict(zip(header, fields, strict=True)))
      elif fields:
        yield SourceRow(where, {}, f"has {len(fields)} fields, but the header names {len(header)}")
  except csv.Error as error:
    hint = f"; is a quote left open from line {start} on?" if "field limit" in str(error) else ""
    raise DataError(f"{path}:{reader.line_num}: not CSV in UTF-8: {error}{hint}") from error
  except UnicodeDecodeError as error:
    raise DataError(f"{path}:{reader.line_num}: not CSV in UTF-8: {error}") from error


def _check_distinct(names: Sequence[str], where: str) -> None:
  """Raises DataError, naming it, for a column that is there twice: the last would be taken without a word."""
  twice = next((name for name, count in collections.Counter(names).items() if count > 1), None)
  if twice is not None:
    raise DataError(f"{where}: two columns are called {shown(twice)}; rename or leave out one of them")


def _parquet_rows(stream: IO[bytes], path: str) -> Iterator[SourceRow]:
  import pyarrow
  from pyarrow import parquet

  try:
    table = parquet.ParquetFile(stream if isinstance(stream, io.BufferedReader) else io.BytesIO(stream.read()))
    _check_schema(table.schema_arrow, path)
    batches = table.iter_batches(batch_size=64)
    yield from memory_rows((without_filled_nulls(row) for batch in batches for row in batch.to_pylist()), path)
  except (pyarrow.ArrowException, OSError) as error:
    raise DataError(f"{path}: not a Parquet file: {_first_line(error)}") from error


def without_filled_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
  """A row of an Arrow table without the nulls of objects inside its columns.

  A table gives all objects of a column the same fields, so that the arguments of one tool call become null in the others;
  a null that was meant cannot be told from these.
  """

  def kept(value: Any) -> Any:
    if isinstance(value, Mapping):
      return {key: kept(inner) for key, inner in value.items() if inner is not None}
    return [kept(inner) for inner in value] if isinstance(value, list) else value

  return {name: kept(value) for name, value in row.items()}


def _check_schema(fields: "Iterable[pyarrow.Field]", path: str) -> None:
  """`_check_distinct` of columns, and of the fields of objects inside them."""
  import pyarrow

  fields = list(fields)
  _check_distinct([field.name for field in fields], path)
  for field in fields:
    kind = field.type
    while pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
      kind = kind.value_type
    if pyarrow.types.is_struct(kind):
      _check_schema(kind, path)
