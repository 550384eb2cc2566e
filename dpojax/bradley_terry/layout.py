"""Counting comparisons into the arrays that a fit computes with.

A `Grid` counts outcomes by ordered pair and serves many games of few items; `Rows` lists every distinct combination
and serves sparse games and covariates. Either holds all that the likelihood needs.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dpojax.bradley_terry.columns import FIRST, SECOND, TIE, count_equal
from dpojax.bradley_terry.comparisons import Comparisons

GRID_ITEMS = 2048  # largest matrix of pairs: 32 MB
GRID_FILL = 0.05  # least fraction of ordered pairs that met


class Spec(NamedTuple):
  """What is static: numbers of items and of coefficients, and the tie model."""

  items: int
  coefficients: int
  model: str

  @property
  def has_tie(self) -> bool:
    """Whether the last entry of the vector is a tie parameter."""
    return self.model in ("davidson", "rao_kupper")

  @property
  def size(self) -> int:
    """Length of the vector: log-strengths, coefficients (home advantage first), tie parameter."""
    return self.items + self.coefficients + self.has_tie


class Grid(NamedTuple):
  """Outcomes by ordered pair: f64[n, n] each, row against column; the only coefficient is the row's home advantage.

  `losses` and `ties` are zeros of shape [1, 1] where the other order or nothing needs them.
  """

  wins: np.ndarray
  losses: np.ndarray
  ties: np.ndarray


class Totals(NamedTuple):
  """All that a plain Bradley-Terry likelihood needs of a grid: f64[n] wins of every item, and f64[n, n] games of every
  two, symmetric. A third of the work of a `Grid`."""

  score: np.ndarray
  games: np.ndarray


class Rows(NamedTuple):
  """Outcomes by combination of two items and coefficients: i32[R] items, f64[R] outcomes, f64[R, q] slopes."""

  first: np.ndarray
  second: np.ndarray
  wins: np.ndarray
  losses: np.ndarray
  ties: np.ndarray
  slopes: np.ndarray


def totals(spec: Spec, layout: Grid | Rows) -> Grid | Rows | Totals:
  """The grid as `Totals` where there is nothing but strengths."""
  if isinstance(layout, Grid) and spec.size == spec.items:
    return Totals(layout.wins.sum(axis=1), layout.wins + layout.wins.T)
  return layout


@dataclasses.dataclass(frozen=True)
class Cells:
  """Which cell each row of comparisons is counted in, and what counts make.

  Attributes:
    code: int[m] cell of each row.
    number: how many cells there are.
    build: f64[number] counts -> the layout.
  """

  code: np.ndarray
  number: int
  build: Callable[[np.ndarray], Grid | Rows]

  def count(self, weight: np.ndarray | None) -> np.ndarray:
    """f64[number] rows in each cell, each counting `weight` (1 without)."""
    return np.bincount(self.code, weight, self.number).astype(float, copy=False)


def lay_out(data: Comparisons, spec: Spec, home: bool, *, grid: bool | None = None) -> Grid | Rows:
  """Outcomes by pair or by row. A tie counts half for each side where ties have no model of their own."""
  plain = data.count is None and data.weight is None
  if fits_grid(data, spec, home) if grid is None else grid:
    cells = grid_cells(data, spec, home)
    return cells.build(cells.count(None if plain else data.row_weight))
  return row_cells(data, spec, home)[1]


def fits_grid(data: Comparisons, spec: Spec, home: bool) -> bool:
  """Whether outcomes go into matrices of pairs: few items, many games, no coefficient but everybody's home advantage."""
  n = spec.items
  neutral = home and data.home is not None and bool((data.home == 0).any())
  possible = spec.coefficients == int(home) and n <= GRID_ITEMS and not neutral
  return possible and (n <= 64 or len(data.first) >= GRID_FILL * n * n)


def grid_cells(data: Comparisons, spec: Spec, home: bool) -> Cells:
  """Cells of a `Grid`: planes of [n, n] for wins of the first and, where they occur, ties and losses."""
  n = spec.items
  # At home, or the winner where home does not matter, comes first.
  if home:
    assert data.home is not None
    turned = data.home < 0
  else:
    turned = data.outcome == SECOND
  first, second, outcome = swapped(data.first, data.second, data.outcome, turned)
  tied = outcome == TIE
  planes = [FIRST, *([TIE] if tied.any() else []), *([SECOND] if home else [])]
  code = np.multiply(first, n, dtype=np.int64) + second
  if len(planes) > 1:
    plane = np.zeros(3, np.int64)
    plane[planes] = np.arange(len(planes)) * n * n
    code += plane[outcome]
  none = np.zeros((1, 1))

  def build(counts: np.ndarray) -> Grid:
    found = dict(zip(planes, counts.reshape(len(planes), n, n), strict=True))
    wins, ties, losses = (found.get(name, none) for name in (FIRST, TIE, SECOND))
    if TIE in found and not spec.has_tie:
      if home:
        wins, losses = wins + ties / 2, losses + ties / 2
      else:
        wins = wins + (ties + ties.T) / 2
      ties = none
    return Grid(wins, losses, ties)

  return Cells(code, len(planes) * n * n, build)


def row_cells(data: Comparisons, spec: Spec, home: bool, *, codes: bool = False) -> tuple[Cells | None, Rows]:
  """`Rows`, and with `codes` the cells that they were counted in: three for each row, lost, tied and won."""
  turned = data.first > data.second
  first, second, outcome = swapped(data.first, data.second, data.outcome, turned)
  side = None
  if home:
    assert data.home is not None
    side = np.where(turned, -data.home, data.home)
  if spec.coefficients > int(home):  # covariates make every row its own
    assert data.covariates is not None
    slopes = np.where(turned[:, None], -data.covariates, data.covariates)
    if side is not None:
      slopes = np.concatenate([side[:, None].astype(float), slopes], axis=1)
    code = 3 * np.arange(len(first)) + outcome
    counts = np.bincount(code, data.row_weight, 3 * len(first))
  else:
    key = np.multiply(first, spec.items, dtype=np.int64) + second
    if side is not None:
      key = key * 3 + (side + 1)
    keys, counts = _counted(key * 3 + outcome, data)
    code = 3 * np.searchsorted(keys, key) + outcome if codes else None
    slopes = np.zeros((len(keys), 0))
    if side is not None:
      keys, side = np.divmod(keys, 3)
      slopes = (side - 1.0)[:, None]
    first, second = (part.astype(np.int32) for part in np.divmod(keys, spec.items))

  def build(counts: np.ndarray) -> Rows:
    lost, tied, won = counts.reshape(-1, 3).T.astype(float)
    if not spec.has_tie:
      won, lost, tied = won + tied / 2, lost + tied / 2, np.zeros(1)
    return Rows(first, second, won, lost, tied, slopes)

  return (Cells(code, 3 * len(first), build) if code is not None else None), build(counts)


def as_rows(layout: Grid | Rows, home: bool) -> Rows:
  """A grid's cells with games as rows."""
  if isinstance(layout, Rows):
    return layout
  wins, losses, ties = np.broadcast_arrays(*layout)
  first, second = np.nonzero(wins + losses + ties)
  slopes = np.ones((len(first), int(home)))
  return Rows(first, second, wins[first, second], losses[first, second], ties[first, second], slopes)


def _counted(code: np.ndarray, data: Comparisons) -> tuple[np.ndarray, np.ndarray]:
  """(distinct keys, f64[3 * keys] how often each outcome was seen) of codes 3 * key + outcome."""
  plain = data.count is None and data.weight is None
  code, number, weight = count_equal(code, None if plain else data.row_weight)
  key, outcome = np.divmod(code, 3)
  new = np.append(True, np.diff(key) > 0)
  counts = np.zeros(3 * int(new.sum()))
  counts[3 * (np.cumsum(new) - 1) + outcome] = number if weight is None else weight
  return key[new], counts


def swapped(first, second, outcome, where):
  """The same comparisons, with first and second exchanged `where` it is true."""
  if not where.any():
    return first, second, outcome
  return np.where(where, second, first), np.where(where, first, second), np.where(where, 2 - outcome, outcome)
