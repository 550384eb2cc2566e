"""Counting comparisons into the layout that a fit computes with."""

import numpy as np

from dpojax.bradley_terry.comparisons import FIRST, SECOND, TIE, Comparisons
from dpojax.bradley_terry.problem import Grid, Rows, Spec

GRID_ITEMS = 2048  # largest matrix of pairs: 32 MB
GRID_FILL = 0.05  # least share of ordered pairs that met


def lay_out(data: Comparisons, spec: Spec, home: bool, *, grid: bool | None = None) -> Grid | Rows:
  """Outcomes by pair or by row. A tie counts half for each side where ties have no model of their own."""
  n = spec.items
  possible = spec.coefficients == int(home) and n <= GRID_ITEMS and (not home or bool((data.home != 0).all()))
  if grid is None:
    grid = possible and (n <= 64 or len(data.first) >= GRID_FILL * n * n)
  if grid:
    return _grid(data, spec, home)
  return _rows(data, spec, home)


def _grid(data: Comparisons, spec: Spec, home: bool) -> Grid:
  n = spec.items
  none = np.zeros((1, 1))
  first, second, outcome = data.first, data.second, data.outcome
  if home:
    assert data.home is not None
    first, second, outcome = swapped(first, second, outcome, data.home < 0)
  else:
    first, second, outcome = swapped(first, second, outcome, outcome == SECOND)
  weight = None if data.count is None and data.weight is None else data.row_weight

  def count(rows, a, b):
    if rows.all():
      rows = slice(None)
    cells = np.multiply(a[rows], n, dtype=np.int64) + b[rows]
    return np.bincount(cells, None if weight is None else weight[rows], n * n).reshape(n, n).astype(float)

  won, tied = outcome == FIRST, outcome == TIE
  wins = count(won, first, second)
  losses = count(outcome == SECOND, first, second) if home else none
  ties = none
  if tied.any():
    ties = count(tied, first, second)
    if not spec.has_tie:
      if home:
        wins, losses = wins + ties / 2, losses + ties / 2
      else:
        wins = wins + (ties + ties.T) / 2
      ties = none
  return Grid(wins, losses, ties)


def _rows(data: Comparisons, spec: Spec, home: bool) -> Rows:
  first, second, outcome = data.first, data.second, data.outcome
  turn = first > second
  if spec.coefficients > int(home):
    slopes = np.asarray(data.covariates, float)
    if home:
      assert data.home is not None
      slopes = np.concatenate([data.home[:, None].astype(float), slopes], axis=1)
    first, second, outcome = swapped(first, second, outcome, turn)
    slopes = np.where(turn[:, None], -slopes, slopes)
    weight = data.row_weight
    won, tied = weight * (outcome == FIRST), weight * (outcome == TIE)
    lost = weight - won - tied
  else:
    side = None
    if home:
      assert data.home is not None
      side = np.where(turn, -data.home, data.home)
    first, second, outcome = swapped(first, second, outcome, turn)
    first, second, side, (lost, tied, won) = _counted(data, spec.items, first, second, outcome, side)
    slopes = np.zeros((len(first), 0)) if side is None else side[:, None].astype(float)
  if not spec.has_tie:
    won, lost, tied = won + tied / 2, lost + tied / 2, np.zeros(1)
  return Rows(first, second, won, lost, tied, slopes)


def _counted(data, n, first, second, outcome, side):
  """Distinct (first, second, side) and f64[3, R], how often each outcome was seen there."""
  key = np.multiply(first, n, dtype=np.int64) + second
  if side is not None:
    key = key * 3 + (side + 1)
  code = key * 3 + outcome
  if data.count is None and data.weight is None:
    code = np.sort(code)
    ends = np.append(np.flatnonzero(np.diff(code)), len(code) - 1)
    code, number = code[ends], np.diff(ends, prepend=-1).astype(float)
  else:
    order = np.argsort(code, kind="stable")
    code = code[order]
    starts = np.append(0, np.flatnonzero(np.diff(code)) + 1)
    code, number = code[starts], np.add.reduceat(data.row_weight[order], starts)
  key, outcome = np.divmod(code, 3)
  new = np.append(True, np.diff(key) > 0)
  place = np.cumsum(new) - 1
  key = key[new]
  counts = np.zeros((3, len(key)))
  counts[outcome, place] = number
  if side is not None:
    key, side = np.divmod(key, 3)
    side = side - 1
  first, second = np.divmod(key, n)
  return first.astype(np.int32), second.astype(np.int32), side, counts


def swapped(first, second, outcome, where):
  """The same comparisons, with first and second exchanged `where` it is true."""
  if not where.any():
    return first, second, outcome
  return np.where(where, second, first), np.where(where, first, second), np.where(where, 2 - outcome, outcome)

