"""Labels of items and their places, and how outcomes are written."""

from collections.abc import Hashable, Sequence
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
  import pyarrow as pa

  try:
    chunks = [pa.array(a, from_pandas=True) for a in arrays]
    for chunk in chunks:
      if chunk.null_count:
        raise DataError(f"row {number(chunk.is_null().to_numpy(zero_copy_only=False).argmax())}: {name} is missing")
    whole = pa.concat_arrays([chunk.cast(_common(pa, [chunk.type for chunk in chunks])) for chunk in chunks])
    coded = whole.dictionary_encode()
    found = coded.dictionary.to_pylist()
    labels = tuple(sorted(found)) if items is None else tuple(items)
  except UnicodeError as error:
    raise DataError(
      f"{name} holds half of a surrogate pair, which no text does ({error}); write it as UTF-8"
    ) from error
  except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError) as error:
    kinds = sorted({type(label).__name__ for a in arrays for label in a.tolist()})
    raise DataError(f"labels must be all strings or all integers, but these are {', '.join(kinds)}") from error
  _distinct(labels)
  place_of = {label: place for place, label in enumerate(labels)}
  table = np.asarray([place_of.get(label, -1) for label in found], np.int32)
  places = table[coded.indices.to_numpy()] if len(found) else np.zeros(0, np.int32)
  if (places < 0).any():
    row = int((places < 0).argmax())
    raise DataError(f"row {number(row % arrays[0].size)}: {whole[row].as_py()!r} is not among the items given")
  return tuple(np.split(places, len(arrays))), labels


def _common(pa, kinds):
  """The type that holds all these without turning numbers into strings."""
  known = set(kinds)
  if len(known) == 1:
    return kinds[0]
  if all(pa.types.is_string(k) or pa.types.is_large_string(k) for k in known):
    return pa.large_string()
  if all(pa.types.is_integer(k) for k in known):
    return pa.int64()
  if all(pa.types.is_integer(k) or pa.types.is_floating(k) for k in known):
    return pa.float64()
  raise TypeError("several types")


def _distinct(labels) -> None:
  if len(set(labels)) != len(labels):
    raise DataError("items holds a label twice")
