"""Columns of a CSV, JSONL, JSON or Parquet file, block by block, so that the file may be larger than memory."""

import contextlib
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from dpojax.errors import DataError

BLOCK_ROWS = 1 << 19  # of a Parquet file
BLOCK_BYTES = 1 << 22  # of a CSV or JSONL file, unpacked
LONGEST_ROW = 1 << 28  # bytes of one JSONL row
_MISFIT = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)  # as Arrow says it
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
PACKED = (".gz", ".bz2", ".zst")


class Block(NamedTuple):
  """Some rows: a pyarrow array or a list for each column; `start` rows came before; `share` of the file is read."""

  columns: dict[str, Any]
  start: int
  share: float


def kind_of(path: str | pathlib.Path) -> str:
  """The suffix that says how a file is read, one of SUFFIXES.

  Raises:
    DataError: there is no such file, or its name does not say what it is.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    raise DataError(f"{path}: {'it is a folder' if file.is_dir() else 'there is no such file'}")
  suffixes = [suffix.lower() for suffix in file.suffixes]
  packed = bool(suffixes) and suffixes[-1] in PACKED
  kind = suffixes[-1 - packed] if len(suffixes) > packed else ""
  if kind not in SUFFIXES or (packed and kind == ".parquet"):
    raise DataError(
      f"{path}: its name must end in {', '.join(SUFFIXES)}, all but the last also with {' or '.join(PACKED)}"
    )
  return kind


def read_blocks(path: str | pathlib.Path, labels: Sequence[str], others: Sequence[str]) -> Iterator[Block]:
  """Columns of a file in blocks of about BLOCK_ROWS rows or BLOCK_BYTES bytes.

  Args:
    labels: columns whose whole numbers must stay exact.
    others: columns whose numbers may be read as float64.

  Columns of text come dictionary-encoded; everything in a CSV file is text, and an empty field is null. Rows are
  counted from 1 in messages, without a header and empty lines. A JSON file, a list of objects, is one block.

  Raises:
    DataError: a column is missing, the file is damaged, or a row is malformed.
  """
  kind, columns = kind_of(path), list(dict.fromkeys([*labels, *others]))
  if kind == ".json":
    return _json_list(str(path), columns)
  if kind in (".jsonl", ".ndjson"):
    return _json(str(path), columns, set(labels))
  return (_parquet if kind == ".parquet" else _csv)(str(path), columns)


def column_names(path: str | pathlib.Path) -> list[str]:
  """The columns of a file, of JSONL and JSON those of its first row; none where it has no row, or cannot be read."""
  import pyarrow as pa
  from pyarrow import csv, parquet

  kind = kind_of(path)
  try:
    if kind == ".parquet":
      return list(parquet.read_schema(str(path)).names)
    with _unpacked(str(path)) as (stream, _):
      if kind in (".csv", ".tsv"):
        return list(
          csv.open_csv(
            stream, csv.ReadOptions(block_size=1 << 16, use_threads=False), _csv_form(str(path))
          ).schema.names
        )
      rows = (
        _parsed(stream.read())
        if kind == ".json"
        else [json.loads(stream.read(BLOCK_BYTES).lstrip().partition(b"\n")[0])]
      )
    return list(rows[0])
  except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, RecursionError):
    return []  # what is wrong is said where it is read


def _require(path: str, columns: Sequence[str], there: Sequence[str]) -> None:
  for name in columns:
    number = list(there).count(name)
    if number > 1:
      raise DataError(f"{path}: {number} columns are called {name!r}; rename all but one")
    if not number:
      shown = ", ".join(map(repr, there[:20])) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
      raise DataError(f"{path}: there is no column {name!r}; there are {shown or 'none'}")


def _reason(error: Exception) -> str:
  return str(error).splitlines()[0] if str(error) else type(error).__name__


# --- Parquet


def _parquet(path: str, columns: list[str]) -> Iterator[Block]:
  import pyarrow as pa
  from pyarrow import parquet

  start = 0
  try:
    with parquet.ParquetFile(path) as file:
      _require(path, columns, file.schema_arrow.names)
      text = [name for name in columns if _is_text(file.schema_arrow.field(name).type)]
      rows = file.metadata.num_rows
    with parquet.ParquetFile(path, read_dictionary=text, pre_buffer=False, buffer_size=1 << 20) as file:
      for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=columns, use_threads=False):
        yield Block({name: batch.column(name) for name in columns}, start, (start + len(batch)) / rows)
        start += len(batch)
  except (pa.ArrowException, OSError) as error:
    where = f"after row {start:,}: " if start else ""
    raise DataError(f"{path}: {where}not a Parquet file, or a damaged one: {_reason(error)}") from error


def _is_text(kind) -> bool:
  import pyarrow as pa

  return pa.types.is_string(kind) or pa.types.is_large_string(kind)


# --- CSV


def _csv(path: str, columns: list[str]) -> Iterator[Block]:
  import pyarrow as pa
  from pyarrow import csv

  parse = _csv_form(path)
  text = pa.dictionary(pa.int32(), pa.string())
  start = 0
  try:
    with _unpacked(path) as (stream, _):
      options = csv.ReadOptions(block_size=1 << 16, use_threads=False)
      _require(path, columns, csv.open_csv(stream, options, parse).schema.names)
    typed = {name: text for name in columns}
    convert = csv.ConvertOptions(
      include_columns=columns, column_types=typed, strings_can_be_null=True, null_values=[""]
    )
    with _unpacked(path) as (stream, share):
      options = csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)
      reader = csv.open_csv(stream, options, parse, convert)
      for batch in reader:
        yield Block({name: batch.column(name) for name in columns}, start, share())
        start += len(batch)
  except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
    wrong = _MISFIT.search(str(error))
    if wrong:
      number, expected, found, row = wrong.groups()
      what = f"it has {found} fields, but the header has {expected}"
      raise DataError(f"{path}, row {int(number) - 1:,}: {what}: {row[:60]!r}") from error
    if "straddling" in str(error):
      what = f"a row is longer than {BLOCK_BYTES:,} bytes, or a quotation mark is never closed"
      raise DataError(f"{path}, after row {start:,}: {what}") from error
    where = f", after row {start:,}" if start else ""
    raise DataError(f"{path}{where}: not CSV in UTF-8, or damaged: {_reason(error)}") from error


def _csv_form(path: str):
  from pyarrow import csv

  return csv.ParseOptions(delimiter="\t" if ".tsv" in path.lower() else ",", newlines_in_values=True)


@contextlib.contextmanager
def _unpacked(path: str):
  """(the file as a stream, unpacked where its name says so; a function that gives the fraction of it read)."""
  import pyarrow as pa

  size = max(1, pathlib.Path(path).stat().st_size)
  with pa.OSFile(path) as raw:
    packed = path.lower().endswith(PACKED)
    stream = pa.CompressedInputStream(raw, pa.Codec.detect(path.lower()).name) if packed else raw
    yield stream, lambda: min(1.0, raw.tell() / size)


# --- JSON and JSONL


def _json_list(path: str, columns: list[str]) -> Iterator[Block]:
  import pyarrow as pa

  try:
    with _unpacked(path) as (stream, _):
      rows = _parsed(stream.read())
  except (pa.ArrowException, OSError) as error:
    raise DataError(f"{path}: damaged: {_reason(error)}") from error
  except RecursionError:
    raise DataError(f"{path}: nested too deeply; a row is an object of texts and numbers") from None
  except ValueError as error:
    more = "; JSONL, one object a line, is named .jsonl" if "Extra data" in str(error) else ""
    raise DataError(f"{path}: not JSON: {error}{more}") from error
  if not isinstance(rows, list):
    raise DataError(f"{path}: it holds a {type(rows).__name__}, not a list of objects, one for each comparison")
  if rows:
    rows = [_checked_row(path, row, columns, number) for number, row in enumerate(rows, start=1)]
    yield Block({name: [row[name] for row in rows] for name in columns}, 0, 1.0)


def _parsed(text: bytes) -> Any:
  return json.loads(text.decode("utf-8-sig"))


def _json(path: str, columns: list[str], labels: set[str]) -> Iterator[Block]:
  """Blocks of whole lines, read by Arrow; those it cannot read by Python, which also finds the line at fault."""
  import pyarrow as pa

  start, rest = 0, b""
  try:
    with _unpacked(path) as (stream, share):
      while True:
        new = stream.read(BLOCK_BYTES)
        end = new.rfind(b"\n") + 1 if new else 0
        if new and not end:
          rest += new
          if len(rest) > LONGEST_ROW:
            raise DataError(f"{path}, row {start + 1:,}: longer than {LONGEST_ROW:,} bytes; is it one object a line?")
          continue
        lines, rest = (rest + new[:end], new[end:]) if new else (rest, b"")
        if lines.strip():
          arrays = _json_arrays(path, lines, columns, labels, start)
          yield Block(arrays, start, share())
          start += len(arrays[columns[0]])
        if not new:
          return
  except (pa.ArrowException, OSError) as error:
    raise DataError(f"{path}, after row {start:,}: damaged: {_reason(error)}") from error


def _json_arrays(path: str, lines: bytes, columns: list[str], labels: set[str], start: int) -> dict[str, Any]:
  import pyarrow as pa
  from pyarrow import json as arrow_json

  kinds = _json_kinds(lines, columns, labels)
  if kinds is not None:
    parse = arrow_json.ParseOptions(explicit_schema=pa.schema(kinds), unexpected_field_behavior="ignore")
    options = arrow_json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    try:
      table = arrow_json.read_json(pa.BufferReader(lines), options, parse)
      if all(table.column(name).null_count == 0 for name in columns):
        return {name: table.column(name).combine_chunks() for name in columns}
    except pa.ArrowException:
      pass
  rows = []
  for line in lines.splitlines():
    if line.strip():
      rows.append(_json_row(path, line, columns, start + len(rows) + 1))
  return {name: [row[name] for row in rows] for name in columns}


def _json_kinds(lines: bytes, columns: list[str], labels: set[str]) -> list[tuple[str, Any]] | None:
  """The type of each column by the block's first row; None where that row says nothing."""
  import pyarrow as pa

  kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
  try:
    row = json.loads(lines.lstrip().partition(b"\n")[0])
    found = [(name, kinds[type(row[name])]) for name in columns]
  except (ValueError, KeyError, TypeError, RecursionError):
    return None  # what is wrong is said of the row
  return [(name, pa.float64() if kind == pa.int64() and name not in labels else kind) for name, kind in found]


def _json_row(path: str, line: bytes, columns: list[str], number: int) -> dict[str, Any]:
  try:
    row = json.loads(line)
  except ValueError as error:
    raise DataError(f"{path}, row {number:,}: not JSON: {error}") from error
  except RecursionError:
    raise DataError(f"{path}, row {number:,}: nested too deeply; a row is an object of texts and numbers") from None
  return _checked_row(path, row, columns, number)


def _checked_row(path: str, row: Any, columns: list[str], number: int) -> dict[str, Any]:
  if not isinstance(row, dict):
    raise DataError(f"{path}, row {number:,}: it holds a {type(row).__name__}, not an object")
  for name in columns:
    if name not in row:
      raise DataError(f"{path}, row {number:,}: there is no column {name!r}; there are {', '.join(map(repr, row))}")
    if isinstance(row[name], list | dict):
      raise DataError(f"{path}, row {number:,}: column {name!r} holds a {type(row[name]).__name__}")
  return row
