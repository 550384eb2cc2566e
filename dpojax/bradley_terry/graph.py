"""The graph of who beat whom, and its parts."""

import dataclasses
import functools
from collections.abc import Hashable
from typing import Protocol

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from dpojax.bradley_terry.items import FIRST, SECOND


class Games(Protocol):
  """What is read of `Comparisons`."""

  @property
  def items(self) -> tuple[Hashable, ...]: ...
  @property
  def first(self) -> np.ndarray: ...
  @property
  def second(self) -> np.ndarray: ...
  @property
  def outcome(self) -> np.ndarray: ...
  @functools.cached_property
  def row_weight(self) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Connectivity:
  """The graph of wins (ties count as a win of both).

  Attributes:
    components: strong components, the largest first; within one, everybody has beaten everybody through others.
    islands: components of who met whom, whatever the outcome.
    undefeated, winless: items that never lost, and never won, tied games counting as neither.
    label: i32[n] number of each item's strong component.
  """

  components: tuple[tuple[Hashable, ...], ...]
  islands: tuple[tuple[Hashable, ...], ...]
  undefeated: tuple[Hashable, ...]
  winless: tuple[Hashable, ...]
  label: np.ndarray

  @property
  def connected(self) -> bool:
    """Whether strengths of all items exist without home advantage, covariates or a tie parameter."""
    return len(self.components) == 1

  def explanation(self) -> str:
    """Why strengths do not exist, in words."""
    if len(self.islands) > 1:
      return f"{len(self.islands)} groups of items never met: {_listed(self.islands)}"
    what = f"{len(self.components)} groups of items have not all beaten each other: {_listed(self.components)}"
    for names, verb in ((self.undefeated, "never lost"), (self.winless, "never won")):
      if names:
        what += f"; {_shown(names)} {verb}"
    return what


def connectivity(data: Games) -> Connectivity:
  """Strong components, islands, and the undefeated and winless items of comparisons of positive weight."""
  n, there = len(data.items), data.row_weight > 0
  beats = graph(data)
  label = largest_first(csgraph.connected_components(beats, connection="strong")[1])
  met = largest_first(csgraph.connected_components(beats, directed=False)[1])
  won, lost = there & (data.outcome == FIRST), there & (data.outcome == SECOND)
  wins, losses = np.zeros(n, bool), np.zeros(n, bool)
  for winners, losers, rows in ((data.first, data.second, won), (data.second, data.first, lost)):
    wins[winners[rows]] = True
    losses[losers[rows]] = True
  of = lambda where: tuple(data.items[i] for i in np.flatnonzero(where))  # noqa: E731
  groups = lambda labels: _split(data.items, labels)  # noqa: E731
  return Connectivity(groups(label), groups(met), of(wins & ~losses), of(losses & ~wins), label)


def graph(data: Games) -> sparse.csr_array:
  """bool[n, n] whether row beat or tied with column."""
  there = data.row_weight > 0
  forward, backward = there & (data.outcome != SECOND), there & (data.outcome != FIRST)
  return edges(len(data.items), data.first, data.second, forward, backward)


def edges(items: int, first, second, forward, backward) -> sparse.csr_array:
  """bool[n, n]: from first to second where `forward`, and back where `backward`."""
  ends = np.concatenate([first[forward], second[backward]]), np.concatenate([second[forward], first[backward]])
  return sparse.csr_array((np.ones(len(ends[0]), bool), ends), shape=(items, items))


def largest_first(label: np.ndarray) -> np.ndarray:
  """Labels renumbered by how many items have them; equals by the first item."""
  found, first, place, size = np.unique(label, return_index=True, return_inverse=True, return_counts=True)
  rank = np.empty(len(found), np.int32)
  rank[np.lexsort((first, -size))] = np.arange(len(found))
  return rank[place]


def _split(items, labels) -> tuple[tuple[Hashable, ...], ...]:
  order = np.argsort(labels, kind="stable")
  cuts = np.flatnonzero(np.diff(labels[order])) + 1
  return tuple(tuple(items[i] for i in part) for part in np.split(order, cuts))


def _shown(names, most: int = 5) -> str:
  shown = ", ".join(str(name) for name in names[:most])
  return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _listed(groups, most: int = 3) -> str:
  shown = ", ".join(f"{{{_shown(group)}}}" for group in groups[:most])
  return shown + (f" and {len(groups) - most} more groups" if len(groups) > most else "")
