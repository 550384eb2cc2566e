"""Columns that comparisons are read from: labels and their places, numbers, flags; and labels that look alike."""

import itertools
import numbers
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from dpojax.errors import DataError

SECOND, TIE, FIRST = 0, 1, 2  # who won


def index_labels(
  *columns: Any, items: Sequence[Hashable] | None = None, rows: np.ndarray | None = None, name: str = "a label"
) -> tuple[tuple[np.ndarray, ...], tuple[Hashable, ...]]:
  """(i32[m] places of each column's labels, all labels).

  Without `items`, the labels are those found, sorted.

  Args:
    rows: i[m] numbers by which errors call the rows; 0, 1, 2 and so on without it.
    name: what errors call a label.

  Raises:
    DataError: columns differ in length, labels are of several types, one is missing (None, NaN), or not in `items`.
  """
  arrays = [_array(column) for column in columns]
  lengths = {array.shape for array in arrays}
  if len(lengths) != 1 or arrays[0].ndim != 1:
    raise DataError(f"columns of labels have shapes {', '.join(str(a.shape) for a in arrays)}; they must be equal, [m]")
  number = (lambda row: int(row)) if rows is None else (lambda row: int(rows[row]))
  if all(np.issubdtype(a.dtype, np.integer) for a in arrays):
    placed = _integers(arrays, items, number)
    if placed is not None:
      return placed
  return _any_labels(arrays, items, number, name)


def _array(column) -> np.ndarray:
  """The column; NumPy would make a list of numbers and strings all strings."""
  array = as_array("a column of labels", column)
  listed = array.dtype.kind == "U" and array.ndim == 1 and not isinstance(column, np.ndarray)
  if listed and not all(isinstance(label, str) for label in column):
    array = np.empty(len(array), object)
    array[:] = list(column)
  return array


def as_array(name: str, values: Any) -> np.ndarray:
  """Values as an array; DataError where some are lists and some are not, which have no shape."""
  try:
    return np.asarray(values)
  except ValueError as error:
    raise DataError(
      f"{name} holds lists among other values, or of different lengths; it takes one value each"
    ) from error


def _integers(arrays, items, number):
  """By a table from label to place, where labels span few numbers; None where they do not."""
  size = sum(a.size for a in arrays)
  if not size:
    return tuple(a.astype(np.int32) for a in arrays), tuple(items) if items is not None else ()
  if any(a.dtype == np.uint64 and a.max() > np.iinfo(np.int64).max for a in arrays):
    return None
  arrays = [a if a.dtype in (np.int32, np.int64) else a.astype(np.int64) for a in arrays]  # a - low must not wrap
  low, high = min(int(a.min()) for a in arrays), max(int(a.max()) for a in arrays)
  if high - low > 4 * size + 1000:
    return None
  if items is None:
    there = np.zeros(high - low + 1, bool)
    for a in arrays:
      there[a - low if low else a] = True
    labels = tuple((np.flatnonzero(there) + low).tolist())
  else:
    labels = tuple(items)
    if not all(isinstance(label, int | np.integer) for label in labels):
      return None
    _distinct(labels)
  if low >= 0 and high < len(labels) and labels == tuple(range(len(labels))):
    return tuple(a.astype(np.int32) for a in arrays), labels
  values = np.asarray(labels, np.int64)
  inside = np.flatnonzero((values >= low) & (values <= high))
  table = np.full(high - low + 1, -1, np.int32)
  table[values[inside] - low] = inside
  places = tuple(table[a - low] for a in arrays)
  for a, place in zip(arrays, places, strict=True):
    if (place < 0).any():
      row = int((place < 0).argmax())
      raise DataError(f"row {number(row)}: {int(a[row])} is not among the items given")
  return places, labels


def _any_labels(arrays, items, number, name):
  columns = [array.tolist() for array in arrays]
  everything = list(itertools.chain.from_iterable(columns))
  try:
    found = dict.fromkeys(everything)
  except TypeError:  # lists cannot be labels
    raise _several_types(everything) from None
  if any(map(_is_missing, found)):
    row = next(row for column in columns for row, label in enumerate(column) if _is_missing(label))
    raise DataError(f"row {number(row)}: {name} is missing")
  for label in found:
    if isinstance(label, str) and not label.isascii() and any("\ud800" <= c <= "\udfff" for c in label):
      what = ascii(label)[:80]
      raise DataError(f"{name} holds half of a surrogate pair, which no text does ({what}); write it as UTF-8")
  labels = tuple(found) if items is None else tuple(items)
  if len({_kind(kind) for kind in set(map(type, everything))}) > 1:
    raise _several_types(everything)
  try:
    labels = tuple(sorted(labels)) if items is None else labels
  except TypeError:
    raise _several_types(everything) from None
  _distinct(labels)
  place_of = {label: place for place, label in enumerate(labels)}
  places = []
  for column in columns:
    there = np.fromiter((place_of.get(label, -1) for label in column), np.int32, len(column))
    if (there < 0).any():
      row = int((there < 0).argmax())
      raise DataError(f"row {number(row)}: {column[row]!r} is not among the items given")
    places.append(there)
  return tuple(places), labels


def _is_missing(label) -> bool:
  """None, and what floats, dates and pandas write for nothing."""
  return label is None or (not isinstance(label, str) and str(label) in ("nan", "NaT", "<NA>"))


def _several_types(labels) -> DataError:
  kinds = ", ".join(sorted({type(label).__name__ for label in labels}))
  return DataError(f"labels must be all strings or all integers, but these are {kinds}")


def _kind(kind: type) -> type:
  """One for all numbers but truth values, and the type itself of all else."""
  return numbers.Number if issubclass(kind, numbers.Number) and kind is not bool else kind


def _distinct(labels) -> None:
  if len(set(labels)) != len(labels):
    raise DataError("items holds a label twice")


class Places:
  """Numbers of items, in the order in which their labels came."""

  def __init__(self, items: Sequence[Hashable] | None, from_text: bool):
    self.items, self.from_text = None if items is None else tuple(items), from_text
    given = [str(item) for item in self.items or ()] if from_text else list(self.items or ())
    self.number: dict[Any, int] = {label: number for number, label in enumerate(given)}
    if len(self.number) != len(given):
      raise DataError("items holds a label twice")
    self.labels = list(self.items or ())
    self.seen: dict[str, tuple[Any, np.ndarray]] = {}

  def table(self, column: str, found: Any) -> tuple[np.ndarray, str]:
    """(i32[d + 1] number of each distinct label, -1 where it has none and at the end; why it has none)."""
    if not isinstance(found, list):
      before = self.seen.get(column)
      if before is not None and before[0].equals(found):
        return before[1], self._fault
    values = found if isinstance(found, list) else found.to_pylist()
    if self.items is None:
      for value in values:
        if value not in self.number and type(value) in (str, int):
          self.number[value] = len(self.labels)
          self.labels.append(value)
    if all(type(value) in (str, int) for value in values):
      table = np.asarray([*(self.number.get(value, -1) for value in values), -1], np.int32)
    else:  # 1.0 and True would be found as 1
      known = [self.number.get(value, -1) if type(value) in (str, int) else -1 for value in values]
      table = np.asarray([*known, -1], np.int32)
    if not isinstance(found, list):
      self.seen[column] = (found, table)
    return table, self._fault

  @property
  def _fault(self) -> str:
    return "no label" + ("; they are texts or whole numbers" if self.items is None else " among the items given")

  def settled(self, path: Any, *numbers: np.ndarray) -> tuple[tuple[Hashable, ...], list[np.ndarray]]:
    """The labels in their final order, without those never met; and `numbers` to match."""
    if self.items is not None:
      return self.items, list(numbers)
    used = np.unique(np.concatenate(numbers))
    labels: list[Any] = [self.labels[i] for i in used.tolist()]
    if self.from_text and all(_whole(label) for label in labels):
      labels = [int(label) for label in labels]
    if len({type(label) for label in labels}) > 1:
      some = {type(label): label for label in labels}
      raise DataError(f"{path}: labels are partly texts, partly numbers ({' and '.join(map(repr, some.values()))})")
    order = sorted(range(len(labels)), key=labels.__getitem__)
    final = np.zeros(len(self.labels), np.int64)
    final[used[order]] = np.arange(len(order))
    return tuple(labels[i] for i in order), [final[number] for number in numbers]


def _whole(label: str) -> bool:
  """Whether a text is how a whole number is written."""
  return label.removeprefix("-").isdecimal() and str(int(label)) == label


def column_of(df: Any, name: str) -> np.ndarray:
  """A column of a table as an array."""
  names = getattr(df, "column_names", None)  # of pyarrow, whose `columns` are the columns themselves
  if names is None:
    names = getattr(df, "columns", None)
  names = list(df if names is None else names)
  if name not in names:
    raise DataError(f"there is no column {name!r}; there are {', '.join(map(repr, names))}")
  column = df[name]
  return column.to_numpy() if hasattr(column, "to_numpy") else np.asarray(column)


def row_number(rows: np.ndarray | None, row: Any) -> int:
  """What a row is called in errors: its place in the file, where some were dropped."""
  return int(row if rows is None else rows[row])


def checked_column(name: str, values: Any, m: int, what: str = "comparisons") -> np.ndarray:
  column = as_array(name, values)
  if column.shape != (m,):
    raise DataError(f"{name} has shape {column.shape}, but there are {m} {what}")
  return column


def as_numbers(name: str, values: np.ndarray) -> np.ndarray:
  try:
    return values.astype(float)
  except (TypeError, ValueError) as error:
    raise DataError(f"{name} must hold numbers: {error}") from error


def as_flags(name: str, values: Any, m: int, rows: np.ndarray | None = None) -> np.ndarray:
  """bool[m]; the string "False" would be true to NumPy."""
  column = checked_column(name, values, m)
  if column.dtype != bool:
    known = (column == 0) | (column == 1) if column.dtype.kind in "iuf" else _are_flags(column)
    if not known.all():
      row = int(known.argmin())
      raise DataError(f"row {row_number(rows, row)}: {name} is {column.tolist()[row]!r}; it takes true and false")
  return column.astype(bool)


def _are_flags(column: np.ndarray) -> np.ndarray:
  return np.array([isinstance(x, bool | np.bool | int | float) and x in (0, 1) for x in column], bool)


def as_clusters(labels: Any, m: int, rows: np.ndarray | None = None) -> np.ndarray:
  checked_column("cluster", labels, m)
  (place,), _ = index_labels(labels, rows=rows, name="the cluster")
  return place.astype(np.int64)


def as_weights(weight: Any, m: int, rows: np.ndarray | None = None, what: str = "comparisons") -> np.ndarray | None:
  if weight is None:
    return None
  weight = as_numbers("weight", checked_column("weight", weight, m, what))
  wrong = ~(np.isfinite(weight) & (weight >= 0))
  if wrong.any():
    row = int(wrong.argmax())
    raise DataError(f"row {row_number(rows, row)}: weight is {weight[row]}; a weight is a number of at least 0")
  if m and not weight.any():
    raise DataError("all weights are 0")
  return weight


def similar_labels(labels: Iterable[Hashable]) -> tuple[tuple[str, ...], ...]:
  """Groups of texts that differ only in spaces, case, Unicode form (NFC, NFKC) or characters without a width.

  >>> similar_labels(["GPT-4", "gpt-4 ", "claude", "Claude", "llama"])
  (('Claude', 'claude'), ('GPT-4', 'gpt-4 '))
  """
  groups: dict[str, list[str]] = {}
  for label in labels:
    if isinstance(label, str):
      plain = "".join(
        c for c in unicodedata.normalize("NFKC", label) if not c.isspace() and unicodedata.category(c) != "Cf"
      )
      groups.setdefault(unicodedata.normalize("NFKC", plain.casefold()), []).append(label)
  return tuple(sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1))


def count_equal(code: np.ndarray, *values: np.ndarray | None) -> tuple[Any, ...]:
  """(distinct codes, i64 how often each came, sums over it of each of `values`, which may be None)."""
  if all(value is None for value in values):
    code = np.sort(code)  # three times as quick as finding the order
    order = None
  else:
    order = np.argsort(code, kind="stable")
    code = code[order]
  starts = np.append(0, np.flatnonzero(np.diff(code)) + 1)
  sums = [None if value is None else np.add.reduceat(value[order], starts) for value in values]
  return code[starts], np.diff(starts, append=len(code)), *sums
