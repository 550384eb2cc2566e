"""Labels of items and their places."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from dpojax.errors import DataError


def index_labels(
  *columns: Any, items: Sequence[Hashable] | None = None
) -> tuple[tuple[np.ndarray, ...], tuple[Hashable, ...]]:
  """(i32[m] places of each column's labels, all labels).

  Without `items`, the labels are those found, sorted.

  Raises:
    DataError: columns differ in length, a label is missing (None, NaN), or it is not in `items`.
  """
  arrays = [np.asarray(column) for column in columns]
  lengths = {array.shape for array in arrays}
  if len(lengths) != 1 or arrays[0].ndim != 1:
    raise DataError(f"columns of labels have shapes {', '.join(str(a.shape) for a in arrays)}; they must be equal, [m]")
  if all(np.issubdtype(a.dtype, np.integer) for a in arrays):
    placed = _integers(arrays, items)
    if placed is not None:
      return placed
  return _any_labels(arrays, items)


def _integers(arrays, items):
  """By a table from label to place, where labels span few numbers; None where they do not."""
  size = sum(a.size for a in arrays)
  if not size:
    return tuple(a.astype(np.int32) for a in arrays), tuple(items or ())
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
      raise DataError(f"row {int((place < 0).argmax())}: {a[(place < 0).argmax()]!r} is not among the items given")
  return places, labels


def _any_labels(arrays, items):
  import pyarrow as pa

  chunks = [pa.array(a.tolist() if a.dtype == object else a) for a in arrays]
  whole = pa.concat_arrays([chunk.cast(chunks[0].type) for chunk in chunks])
  if whole.null_count or (pa.types.is_floating(whole.type) and np.isnan(whole.to_numpy()).any()):
    row = next(i for i, label in enumerate(whole.to_pylist()) if label is None or label != label)
    raise DataError(f"row {row % arrays[0].size}: a label is missing")
  coded = whole.dictionary_encode()
  found = coded.dictionary.to_pylist()
  if items is None:
    labels = tuple(sorted(found))
  else:
    labels = tuple(items)
    _distinct(labels)
  place_of = {label: place for place, label in enumerate(labels)}
  table = np.asarray([place_of.get(label, -1) for label in found], np.int32)
  places = table[coded.indices.to_numpy()] if len(found) else np.zeros(0, np.int32)
  if (places < 0).any():
    row = int((places < 0).argmax())
    raise DataError(f"row {row % arrays[0].size}: {whole[row].as_py()!r} is not among the items given")
  return tuple(np.split(places, len(arrays))), labels


def _distinct(labels) -> None:
  if len(set(labels)) != len(labels):
    raise DataError("items holds a label twice")
