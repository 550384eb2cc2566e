"""Comparisons counted from a file that may be larger than memory."""

import pathlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from dpojax.bradley_terry.blocks import Block, kind_of, read_blocks
from dpojax.bradley_terry.columns import FIRST, SECOND, TIE, Places, count_equal
from dpojax.bradley_terry.comparisons import Comparisons
from dpojax.errors import DataError

BothBad = Literal["tie", "drop", "error"]
MERGE = 1 << 18  # counted cells that may wait before they are merged into the others

OUTCOMES: Mapping[str, str] = {
  **dict.fromkeys(("a", "model_a", "1", "1.0", "win", "first", "home", "1-0"), "a"),
  **dict.fromkeys(("b", "model_b", "0", "0.0", "loss", "second", "away", "0-1"), "b"),
  **dict.fromkeys(("tie", "draw", "0.5", "1/2-1/2"), "tie"),
  **dict.fromkeys(("tie (bothbad)", "bothbad", "both_bad", "both bad"), "both_bad"),
}
YES_OR_NO: Mapping[str, bool] = {
  **dict.fromkeys(("true", "True", "TRUE", "yes", "1", "1.0", "neutral", "Neutral"), True),
  **dict.fromkeys(("false", "False", "FALSE", "no", "0", "0.0", "home", "Home"), False),
}
BOTH_BAD = 3  # of the columns read; in the comparisons they are ties, or not there
CODES = dict(a=FIRST, b=SECOND, tie=TIE, drop=-1, both_bad=BOTH_BAD)


class Progress(NamedTuple):
  """How far reading has come: rows read, those of them left out, the share of the file read, and the rows in which
  both items were found bad."""

  rows: int
  dropped: int
  share: float
  both_bad: int = 0


def read_comparisons(
  path: str | pathlib.Path,
  a: str | None = None,
  b: str | None = None,
  outcome: str | None = None,
  *,
  outcome_map: Mapping[Any, str] | None = None,
  winner: str | None = None,
  loser: str | None = None,
  tie: str | None = None,
  weight: str | None = None,
  home: bool = False,
  neutral: str | None = None,
  covariates: Mapping[str, str | tuple[str, str]] | Sequence[str] = (),
  cluster: str | None = None,
  both_bad: BothBad = "tie",
  items: Sequence[Hashable] | None = None,
  progress: Callable[[Progress], None] | None = None,
) -> Comparisons:
  """Counts the comparisons in a file, reading it in blocks; memory grows with distinct cells, not with rows.

  A cell is (first item, second item, outcome, who was at home). Columns are either `a`, `b` and `outcome`, or `winner`
  and `loser` with perhaps `tie`. Covariates and clusters tell rows of a cell apart: with them every row is kept.

  Args:
    path: CSV, TSV, JSONL or JSON (a list of objects), .gz, .bz2 and .zst too, or Parquet.
    a, b: columns of the two items: texts or whole numbers. A CSV's labels are numbers if all are written as such.
    outcome: column of what happened.
    outcome_map: what each outcome means: "a", "b", "tie", "both_bad", or "drop" for rows to leave out. Numbers stand for their
      texts, so 1 and "1" are the same. Without a map, `OUTCOMES`.
    winner, loser: columns of the two items.
    tie: column that is true where nobody won (of `winner` and `loser`, either may then stand first).
    weight: column of how much a row counts, >= 0. The rows of a cell all get their mean weight.
    home: whether `a` was at home, to be kept for `fit(home=True)`.
    neutral: column that is true where nobody was at home; it implies `home`.
    covariates: columns of what favours the first item (`a`, or the winner) over the second; or a mapping of names to
      such columns, or to two columns of which the first item's less the second's is meant.
    cluster: column of who belongs together.
    both_bad: what it means that both are bad (LMArena's "tie (bothbad)"): "tie", "drop" to leave such rows out, or
      "error" to refuse them.
    items: all labels, in the order wanted; without it the labels found, sorted.
    progress: called after every block.

  Returns:
    Comparisons with `count`, one row a cell; with covariates or clusters one row a row.

  Raises:
    DataError: a column is missing, an outcome or item is unknown or missing, an item meets itself, a weight is no
      number of at least 0, or the file is damaged. The message names file, row (from 1) and column.
  """
  if winner is None and loser is None:
    if a is None or b is None or outcome is None or tie is not None:
      raise DataError("name the columns a, b and outcome, or winner and loser, and tie only with the latter")
    first, second = a, b
  else:
    if winner is None or loser is None or a or b or outcome or outcome_map is not None:
      raise DataError("winner and loser come together, without a, b, outcome and outcome_map")
    if home or neutral is not None:
      raise DataError(
        "home and neutral need the columns a and b, of which a is at home; winner and loser do not say it"
      )
    first, second = winner, loser
  if both_bad not in ("tie", "drop", "error"):
    raise DataError(f"both_bad={both_bad!r} is unknown; it takes 'tie', 'drop' and 'error'")
  named: Mapping[str, str | tuple[str, str]]
  named = covariates if isinstance(covariates, Mapping) else {name: name for name in covariates}
  sources = [name for source in named.values() for name in ((source,) if isinstance(source, str) else source)]
  codes = _outcome_codes(OUTCOMES if outcome_map is None else outcome_map)
  places = Places(items, from_text=kind_of(path) in (".csv", ".tsv"))
  clusters = Places(None, from_text=False)
  listed = _Listed() if named or cluster is not None else None
  cells = _Cells(weighted=weight is not None)
  rows = dropped = bad = 0
  others = [name for name in (outcome, tie, weight, neutral) if name is not None] + sources
  for block in read_blocks(path, [first, second, *([cluster] if cluster else [])], others):
    said = _Said(path, block)
    if outcome is not None:
      result = said.codes(outcome, codes)
    elif tie is not None:
      result = np.where(said.codes(tie, YES_OR_NO), np.int8(TIE), np.int8(FIRST))
    else:
      result = np.full(said.length, FIRST, np.int8)
    unclear = result == BOTH_BAD
    if unclear.any():
      bad += int(unclear.sum())
      if both_bad == "error":
        raise DataError(f"{said.at(int(unclear.argmax()))}: both are bad; choose both_bad='tie' or 'drop'")
      result = np.where(unclear, np.int8(TIE if both_bad == "tie" else -1), result)
    kept = None if not said.length or result.min() >= 0 else result >= 0
    one, two = said.places(first, places, kept), said.places(second, places, kept)
    itself = one == two
    if itself.any() and (kept is None or (itself & kept).any()):
      row = int((itself if kept is None else itself & kept).argmax())
      raise DataError(f"{said.at(row)}: {places.labels[one[row]]!r} is compared with itself")
    side = None
    if neutral is not None:
      side = np.where(said.codes(neutral, YES_OR_NO, kept) > 0, np.int8(0), np.int8(1))
    heavy = said.weights(weight, kept) if weight is not None else None
    x = np.stack([said.covariate(source, kept) for source in named.values()], axis=1) if named else None
    of = said.places(cluster, clusters, kept) if cluster is not None else None
    if kept is not None:
      one, two, result = one[kept], two[kept], result[kept]
      side, heavy, x, of = (None if column is None else column[kept] for column in (side, heavy, x, of))
    if listed is None and not home and neutral is None:
      one, two, result = _in_order(one, two, result)
    result = result * 2 + (1 if side is None else side)
    if listed is not None:
      listed.add(one, two, result, heavy, x, of)
    else:
      cells.add(one, two, result, heavy, len(places.labels))
    rows, dropped = rows + said.length, dropped + said.length - len(one)
    if progress is not None:
      progress(Progress(rows, dropped, block.share, bad))
  if rows == dropped:
    raise DataError(f"{path}: {f'all {rows:,} rows are to be dropped' if rows else 'it has no rows'}")
  at_home = home or neutral is not None
  more: dict[str, Any]
  if listed is not None:
    one, two, result, total, x, of = listed.found()
    labels, (one, two) = places.settled(path, one, two)
    more = dict(
      weight=total,
      covariates=x,
      covariate_names=tuple(named),
      cluster=None if of is None else of.astype(np.int64),
    )
  else:
    one, two, result, count, total = cells.found()
    labels, (one, two) = places.settled(path, one, two)
    if not at_home:
      one, two, who = _in_order(one, two, result // 2)
      result = 2 * who + result % 2
    order = np.lexsort((result, two, one))
    one, two, result, count = one[order], two[order], result[order], count[order]
    more = dict(count=count, weight=None if total is None else total[order] / count)
  if total is not None and not total.any():
    raise DataError(f"{path}: column {weight!r}: all weights are 0")
  return Comparisons(
    labels,
    one.astype(np.int32),
    two.astype(np.int32),
    (result // 2).astype(np.int8),
    home=(result % 2).astype(np.int8) if at_home else None,
    **more,
  )


def _outcome_codes(outcome_map: Mapping[Any, str]) -> dict[str, int]:
  meanings: dict[str, str] = {}
  for label, meaning in outcome_map.items():
    if meaning not in CODES:
      raise DataError(f"outcome_map[{label!r}] is {meaning!r}; it takes 'a', 'b', 'tie', 'both_bad' and 'drop'")
    before = meanings.setdefault(_text(label), meaning)
    if before != meaning:
      raise DataError(f"outcome_map says both {before!r} and {meaning!r} of {_text(label)!r}")
  return {label: CODES[meaning] for label, meaning in meanings.items()}


def _in_order(one, two, outcome):
  """The same comparisons with the smaller number first."""
  return np.minimum(one, two), np.maximum(one, two), np.where(one > two, 2 - outcome, outcome)


def _text(label: Any) -> str:
  """A label as text: 1, 1.0 and "1" are all "1", True is "true"."""
  label = label.item() if isinstance(label, np.generic) else label
  if isinstance(label, bool):
    return str(label).lower()
  if isinstance(label, float) and label.is_integer():
    label = int(label)
  return str(label)


class _Said:
  """What the columns of a block say, with the row at fault in every error."""

  def __init__(self, path: str | pathlib.Path, block: Block):
    self.path, self.block = path, block
    self.length = len(next(iter(block.columns.values())))

  def at(self, row: int) -> str:
    return f"{self.path}, row {self.block.start + row + 1:,}"

  def encoded(self, name: str) -> tuple[np.ndarray, Any]:
    """(i32[m] place among the distinct values, -1 where there is none; the distinct values)."""
    import pyarrow as pa

    column = self.block.columns[name]
    if isinstance(column, list):
      known: dict[Any, int] = {}
      place = [-1 if v is None else known.setdefault((type(v), v), len(known)) for v in column]
      return np.asarray(place, np.int32), [value for _, value in known]
    if not isinstance(column, pa.DictionaryArray):
      column = column.dictionary_encode()
    indices = column.indices
    if indices.null_count:
      indices = indices.fill_null(-1)
    return indices.to_numpy(zero_copy_only=False), column.dictionary

  def codes(self, name: str, meanings: Mapping[str, int], rows: np.ndarray | None = None) -> np.ndarray:
    """i8[m] what `meanings` says of the labels of `rows` (of all)."""
    place, found = self.encoded(name)
    self._complete(name, place, rows)
    values = found if isinstance(found, list) else found.to_pylist()
    unknown = -2
    table = np.asarray([*(meanings.get(_text(value), unknown) for value in values), unknown], np.int8)
    code = table[place]
    if unknown not in table[:-1]:
      return code
    wrong = code == unknown
    if rows is not None:
      wrong &= rows
    if wrong.any():
      row = int(wrong.argmax())
      value = values[place[row]]
      known = ", ".join(map(repr, meanings))
      if meanings is not YES_OR_NO:
        known += f"; say what it means, such as outcome_map={{{value!r}: 'tie'}}, of a, b, tie and drop"
      what = f"column {name!r} holds {value!r}"
      raise DataError(f"{self.at(row)}: {what}, which is unknown; known are {known}")
    return code

  def places(self, name: str, places: "Places", rows: np.ndarray | None) -> np.ndarray:
    """i32[m] numbers of the items; -1 or of no meaning outside `rows` (None: all)."""
    place, found = self.encoded(name)
    self._complete(name, place, rows)
    table, fault = places.table(name, found)
    number = table[place]
    if table[:-1].min(initial=0) >= 0:
      return number
    wrong = number < 0 if rows is None else (number < 0) & rows
    if wrong.any():
      row = int(wrong.argmax())
      value = found[int(place[row])]
      raise DataError(
        f"{self.at(row)}: column {name!r} holds {getattr(value, 'as_py', lambda: value)()!r:.80}, {fault}"
      )
    return number

  def weights(self, name: str, rows: np.ndarray | None) -> np.ndarray:
    """f64[m] weights; those outside `rows` may be anything."""
    return self._numbers(name, rows, lambda x: np.isfinite(x) & (x >= 0), "a weight is a number of at least 0")

  def covariate(self, source: str | tuple[str, str], rows: np.ndarray | None) -> np.ndarray:
    """f64[m] a column, or the first of two less the second; what is outside `rows` may be anything."""
    columns = (source,) if isinstance(source, str) else source
    values = [self._numbers(name, rows, np.isfinite, "a covariate is a finite number") for name in columns]
    return values[0] if len(values) == 1 else values[0] - values[1]

  def _numbers(self, name: str, rows: np.ndarray | None, valid: Callable, wanted: str) -> np.ndarray:
    place, found = self.encoded(name)
    self._complete(name, place, rows)
    values = found if isinstance(found, list) else found.to_pylist()
    table = np.asarray([*(_number(value) for value in values), np.nan])
    number = table[place]
    wrong = ~valid(number)
    if rows is not None:
      wrong &= rows
    if wrong.any():
      row = int(wrong.argmax())
      what = values[place[row]]
      raise DataError(f"{self.at(row)}: column {name!r} holds {what!r:.80}; {wanted}")
    return number

  def _complete(self, name: str, place: np.ndarray, rows: np.ndarray | None) -> None:
    missing = place < 0
    if not missing.any():
      return
    if rows is not None:
      missing &= rows
    if missing.any():
      raise DataError(f"{self.at(int(missing.argmax()))}: column {name!r} is empty")


def _number(value: Any) -> float:
  try:
    return float(value)
  except (TypeError, ValueError, OverflowError):  # a whole number of hundreds of digits overflows
    return np.nan


class _Listed:
  """Rows as they come, where covariates or clusters tell those of a cell apart."""

  def __init__(self):
    self.parts: list[tuple[np.ndarray | None, ...]] = []

  def add(self, *part: np.ndarray | None) -> None:
    self.parts.append(part)

  def found(self) -> list[Any]:
    """What was added, each of it in one piece; None where that was added."""
    return [None if column[0] is None else np.concatenate(column) for column in zip(*self.parts, strict=True)]


class _Cells:
  """How often each (first, second, result) came, result being 2 outcome + at home; and the weights' sum."""

  def __init__(self, weighted: bool):
    self.weighted = weighted
    self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []
    self.merged = self.waiting = 0

  def add(self, first, second, result, weight, items: int) -> None:
    """Counts a block whose numbers are below `items`."""
    if not len(first):
      return
    cell = (first.astype(np.int64) * items + second) * 6 + result
    size = items * items * 6
    if size <= 4 * len(cell) + 1000:
      counts = np.bincount(cell, minlength=size)
      there = np.flatnonzero(counts)
      total = np.bincount(cell, weight, size)[there] if self.weighted else None
      counts = counts[there]
    else:
      there, counts, total = count_equal(cell, weight)
    pair, result = np.divmod(there, 6)
    first, second = np.divmod(pair, items)
    self._keep((first << 34) + (second << 3) + result, counts, total)

  def _keep(self, *part) -> None:
    self.parts.append(part)
    self.waiting += len(part[0])
    if self.waiting > max(MERGE, self.merged):
      self._merge()

  def _merge(self) -> None:
    codes, counts, totals = zip(*self.parts, strict=True)
    total = np.concatenate(totals) if self.weighted else None
    code, _, count, total = count_equal(np.concatenate(codes), np.concatenate(counts), total)
    self.parts = [(code, count, total)]
    self.merged, self.waiting = len(self.parts[0][0]), 0

  def found(self):
    """(first, second, result, count, sum of weights or None) of every cell."""
    self._merge()
    code, count, total = self.parts[0]
    return code >> 34, (code >> 3) & ((1 << 31) - 1), code & 7, count, total
