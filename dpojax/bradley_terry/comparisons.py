"""Comparisons of items: who met whom, and who won."""

import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.bradley_terry.columns import (
  FIRST,
  SECOND,
  TIE,
  as_array,
  as_clusters,
  as_flags,
  as_numbers,
  as_weights,
  checked_column,
  column_of,
  index_labels,
  row_number,
)
from dpojax.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Comparisons:
  """Rows of comparisons between two items each.

  Attributes:
    items: labels; an item is known by its place here.
    first, second: i32[m] items that met.
    outcome: i8[m] FIRST, TIE or SECOND.
    count: i64[m] identical comparisons that a row stands for, or None for 1 each.
    weight: f64[m] >= 0, how much each of them counts, or None for 1 each.
    home: i8[m] 1 where the first item played at home, -1 the second, 0 neither; None where nothing is known.
    cluster: i64[m] which comparisons belong together (a rater's, say), or None.
    covariates: f64[m, p] what favours the first item over the second (its value less the other's), or None.
    covariate_names: p names.
    orderings: i32[M, K] items of each ranking, best first, padded by -1, where rankings are what was given.
  """

  items: tuple[Hashable, ...]
  first: np.ndarray
  second: np.ndarray
  outcome: np.ndarray
  count: np.ndarray | None = None
  weight: np.ndarray | None = None
  home: np.ndarray | None = None
  cluster: np.ndarray | None = None
  covariates: np.ndarray | None = None
  covariate_names: tuple[str, ...] = ()
  orderings: np.ndarray | None = None

  def __len__(self) -> int:
    """Number of comparisons."""
    return int(self.count.sum()) if self.count is not None else len(self.first)

  # --- where comparisons come from

  @classmethod
  def from_games(cls, games: Any, items: Sequence[Hashable] | None = None) -> "Comparisons":
    """From a list of games, each (winner, loser), or (one, other, "tie"); or from a mapping of such games to how often
    they came, a `collections.Counter`, say. Numbers that are not whole become weights.

    >>> Comparisons.from_games({("a", "b"): 3, ("b", "a"): 1, ("a", "b", "tie"): 2}).tally()["ties"].tolist()
    [2.0, 2.0]

    Raises:
      DataError: a game is something else, an item meets itself, or a label is not in `items`.
    """
    number = None
    if isinstance(games, Mapping):
      number = as_weights(list(games.values()), len(games))
      games = list(games)
    elif not isinstance(games, np.ndarray):
      games = list(games)
    for place, game in enumerate(games):
      if (
        isinstance(game, str)
        or not hasattr(game, "__len__")
        or not (len(game) == 2 or (len(game) == 3 and game[2] == "tie"))
      ):
        raise DataError(f"games[{place}] is {game!r:.80}; a game is (winner, loser) or (one, other, 'tie')")
    tie = [len(game) == 3 for game in games]
    found = cls.from_pairs([game[0] for game in games], [game[1] for game in games], tie, number, items)
    if number is None or (number != np.floor(number)).any():
      return found
    return dataclasses.replace(found, count=number.astype(np.int64), weight=None)

  @classmethod
  def from_pairs(
    cls,
    winner: Any,
    loser: Any,
    tie: Any = None,
    weight: Any = None,
    items: Sequence[Hashable] | None = None,
    cluster: Any = None,
    covariates: Any = None,
    home: Any = None,
  ) -> "Comparisons":
    """One row for each comparison.

    Args:
      winner, loser: m labels each (strings or integers). Of a tie the order does not matter.
      tie: bool[m].
      weight: f[m] >= 0; 0 leaves a comparison out.
      items: all labels, in the order wanted; without it the labels found, sorted.
      cluster: m labels of who belongs together.
      covariates: f[m, p], f[m], or a mapping of names to f[m]: what favours the winner over the loser.
      home: m of 1 (the winner was at home), -1 (the loser was) and 0.

    Raises:
      DataError: lengths differ, an item meets itself, a label is not in `items`, or a value is not a number.
    """
    (first, second), labels = index_labels(winner, loser, items=items)
    m = len(first)
    outcome = np.full(m, FIRST, np.int8)
    if tie is not None:
      outcome[as_flags("tie", tie, m)] = TIE
    values, names = _covariates(covariates, m)
    at_home = None
    if home is not None:
      at_home = checked_column("home", home, m)
      wrong = np.flatnonzero(~np.isin(at_home, (-1, 0, 1)))
      if len(wrong):
        raise DataError(f"home[{wrong[0]}] is {at_home[wrong[0]]}; it takes 1, -1 and 0")
    return cls(
      labels,
      first,
      second,
      outcome,
      weight=as_weights(weight, m),
      home=None if at_home is None else at_home.astype(np.int8),
      cluster=None if cluster is None else as_clusters(cluster, m),
      covariates=values,
      covariate_names=names,
    )._checked()

  @classmethod
  def from_matrix(cls, wins: Any, ties: Any = None, items: Sequence[Hashable] | None = None) -> "Comparisons":
    """From counts: wins[i, j] times i beat j, ties[i, j] = ties[j, i] times they tied.

    Counts that are not whole become weights.

    Raises:
      DataError: a matrix is not square, has negative entries or a diagonal, or ties are not symmetric.
    """
    wins = _square("wins", wins)
    n = len(wins)
    if items is not None and len(items) != n:
      raise DataError(f"{len(items)} items for a {n} x {n} matrix")
    parts = [(wins, FIRST)]
    if ties is not None:
      ties = _square("ties", ties)
      if ties.shape != wins.shape or not np.array_equal(ties, ties.T):
        raise DataError("ties must be symmetric and of the shape of wins: a tie of i with j is one of j with i")
      parts.append((np.triu(ties), TIE))
    places = [np.nonzero(counts) for counts, _ in parts]
    number = np.concatenate([counts[at] for (counts, _), at in zip(parts, places, strict=True)])
    first, second = (np.concatenate([at[k] for at in places]).astype(np.int32) for k in (0, 1))
    outcome = np.concatenate([np.full(len(at[0]), o, np.int8) for (_, o), at in zip(parts, places, strict=True)])
    whole = bool(np.all(number == np.floor(number)))
    labels = tuple(items) if items is not None else tuple(range(n))
    if len(set(labels)) != n:
      raise DataError("items holds a label twice")
    count, weight = (number.astype(np.int64), None) if whole else (None, number)
    return cls(labels, first, second, outcome, count=count, weight=weight)._checked()

  @classmethod
  def from_rankings(cls, orderings: Any, items: Sequence[Hashable] | None = None, weight: Any = None) -> "Comparisons":
    """Every pair of a ranking as a comparison, the rankings being its clusters: `fit` reads the pairs,
    `plackett_luce` the rankings.

    Args:
      orderings: M sequences of two or more distinct labels, best first; lengths may differ.
      weight: f[M] >= 0 of each ranking.

    Raises:
      DataError: a ranking has fewer than two items, or one twice.
    """
    orderings = list(orderings)
    lengths = np.asarray([len(ordering) for ordering in orderings], np.int64)
    if not len(lengths):
      raise DataError("there are no rankings")
    if lengths.min() < 2:
      raise DataError(f"orderings[{lengths.argmin()}] has {lengths.min()} item; a ranking needs two or more")
    flat = [label for ordering in orderings for label in ordering]
    (places,), labels = index_labels(flat, items=items, rows=np.repeat(np.arange(len(lengths)), lengths))
    ranked = np.full((len(lengths), lengths.max()), -1, np.int32)
    ranked[np.arange(lengths.max()) < lengths[:, None]] = places
    in_order = np.sort(ranked, axis=1)
    twice = np.flatnonzero(((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any(axis=1))
    if len(twice):
      raise DataError(f"orderings[{twice[0]}] names an item twice")
    above, below = np.triu_indices(ranked.shape[1], 1)
    there = ranked[:, below] >= 0
    cluster = np.broadcast_to(np.arange(len(ranked))[:, None], there.shape)[there]
    first, second = ranked[:, above][there], ranked[:, below][there]
    outcome = np.full(len(first), FIRST, np.int8)
    weights = as_weights(weight, len(ranked), what="rankings")
    pair_weight = None if weights is None else weights[cluster]
    return cls(labels, first, second, outcome, weight=pair_weight, cluster=cluster, orderings=ranked)

  @classmethod
  def from_frame(
    cls,
    df: Any,
    a: str,
    b: str,
    outcome: str,
    outcome_map: Mapping[Any, str],
    *,
    weight: str | None = None,
    cluster: str | None = None,
    covariates: Sequence[str] = (),
    neutral: str | None = None,
    items: Sequence[Hashable] | None = None,
  ) -> "Comparisons":
    """From columns of a table (a pandas or Polars frame, a pyarrow table, or a mapping of columns).

    Args:
      a, b: columns of the two items; `a` is at home.
      outcome: column of what happened.
      outcome_map: what each outcome means: "a", "b", "tie", or "drop" for rows to leave out.
      weight, cluster, covariates: columns; covariates favour a over b.
      neutral: column that is true where nobody was at home.

    Raises:
      DataError: a column is missing, an outcome is not in the map, or an item is missing.
    """
    meanings = dict(a=FIRST, b=SECOND, tie=TIE, drop=-1)
    for label, meaning in outcome_map.items():
      if meaning not in meanings:
        raise DataError(f"outcome_map[{label!r}] is {meaning!r}; it takes 'a', 'b', 'tie' and 'drop'")
    labels = column_of(df, outcome)
    (place,), found = index_labels(labels, name=f"a value of column {outcome!r}")
    codes = np.empty(len(found), np.int8)
    for i, label in enumerate(found):
      if label not in outcome_map:
        row = int(np.flatnonzero(place == i)[0])
        known = ", ".join(map(repr, outcome_map))
        raise DataError(f"row {row}: column {outcome!r} holds {label!r}, which outcome_map does not know ({known})")
      codes[i] = meanings[outcome_map[label]]
    code = codes[place]
    kept = np.flatnonzero(code >= 0)  # and the number in the file of every row that stays
    (first, second), known_items = index_labels(
      column_of(df, a)[kept], column_of(df, b)[kept], items=items, rows=kept, name=f"a value of column {a!r} or {b!r}"
    )
    m = len(first)
    at_home = np.ones(m, np.int8)
    if neutral is not None:
      at_home[as_flags(f"column {neutral!r}", column_of(df, neutral)[kept], m, kept)] = 0
    values, names = _covariates({name: column_of(df, name)[kept] for name in covariates} or None, m, kept)
    return cls(
      known_items,
      first,
      second,
      code[kept],
      weight=None if weight is None else as_weights(column_of(df, weight)[kept], m, kept),
      home=at_home,
      cluster=None if cluster is None else as_clusters(column_of(df, cluster)[kept], m, kept),
      covariates=values,
      covariate_names=names,
    )._checked(kept)

  # --- what they say

  @functools.cached_property
  def total_weight(self) -> float:
    """Number of comparisons, weighted."""
    return float(self.row_weight.sum())

  @functools.cached_property
  def row_weight(self) -> np.ndarray:
    """f64[m] count times weight of each row."""
    ones = np.ones(len(self.first)) if self.count is None else self.count.astype(float)
    return ones if self.weight is None else ones * self.weight

  @property
  def has_ties(self) -> bool:
    """Whether some comparison of positive weight was a tie."""
    return bool(((self.outcome == TIE) & (self.row_weight > 0)).any())

  def take(self, rows: np.ndarray) -> "Comparisons":
    """The rows at `rows` (indices or bool), of the same items."""
    per_row = ("first", "second", "outcome", "count", "weight", "home", "cluster", "covariates")
    return dataclasses.replace(
      self,
      **{name: None if (value := getattr(self, name)) is None else value[rows] for name in per_row},
      orderings=None,
    )

  def standardised(self) -> tuple["Comparisons", dict[str, float]]:
    """The same comparisons with every covariate divided by its root mean square, and these by name.

    That is its standard deviation if sides were drawn by lot. Nothing is subtracted, so that exchanging the sides of a
    comparison changes only the sign. A covariate that is 0 everywhere stays as it is.
    """
    if self.covariates is None:
      return self, {}
    largest = np.abs(self.covariates).max(axis=0, initial=0)
    largest = np.where(largest > 0, largest, 1.0)  # whose square may overflow, or vanish
    with np.errstate(all="ignore"):
      relative = self.row_weight / self.row_weight.max()
      size = largest * np.sqrt(relative @ (self.covariates / largest) ** 2 / relative.sum())
    size = np.where(size > 0, size, 1.0)
    scales = dict(zip(self.covariate_names, size.tolist(), strict=True))
    return dataclasses.replace(self, covariates=self.covariates / size), scales

  def restricted(self, places: np.ndarray) -> "Comparisons":
    """Comparisons between the items at `places` only, renumbered."""
    new = np.full(len(self.items), -1, np.int32)
    new[places] = np.arange(len(places), dtype=np.int32)
    rows = np.flatnonzero((new[self.first] >= 0) & (new[self.second] >= 0))
    part = self.take(rows)
    return dataclasses.replace(
      part, items=tuple(self.items[i] for i in places), first=new[part.first], second=new[part.second]
    )

  def tally(self) -> dict[str, np.ndarray]:
    """Games, wins, losses and ties of every item: f64[n] each, weighted."""
    n, weight = len(self.items), self.row_weight
    won, lost, tied = self.outcome == FIRST, self.outcome == SECOND, self.outcome == TIE
    at = lambda items, rows: np.bincount(items[rows], weight[rows], n)  # noqa: E731
    wins, losses = at(self.first, won) + at(self.second, lost), at(self.second, won) + at(self.first, lost)
    ties = at(self.first, tied) + at(self.second, tied)
    return dict(games=wins + losses + ties, wins=wins, losses=losses, ties=ties)

  def _checked(self, rows: np.ndarray | None = None) -> "Comparisons":
    if not len(self.first):
      raise DataError("there are no comparisons")
    itself = self.first == self.second
    if itself.any():
      row = int(itself.argmax())
      raise DataError(f"row {row_number(rows, row)}: {self.items[self.first[row]]!r} is compared with itself")
    return self


def _covariates(given: Any, m: int, rows: np.ndarray | None = None) -> tuple[np.ndarray | None, tuple[str, ...]]:
  if given is None or (isinstance(given, Mapping) and not given):
    return None, ()
  if isinstance(given, Mapping):
    names = tuple(str(name) for name in given)
    columns = [checked_column(f"covariate {name!r}", given[name], m) for name in given]
    columns = np.stack([as_numbers(f"covariate {n!r}", c) for n, c in zip(names, columns, strict=True)], axis=1)
  else:
    columns = as_array("covariates", given)
    columns = columns[:, None] if columns.ndim == 1 else columns
    names = tuple(f"covariate_{k}" for k in range(columns.shape[-1] if columns.ndim else 0))
  if columns.shape != (m, len(names)):
    raise DataError(f"covariates have shape {columns.shape}, but there are {m} comparisons")
  columns = as_numbers("covariates", columns)
  wrong = ~np.isfinite(columns)
  if wrong.any():
    row, k = np.argwhere(wrong)[0]
    raise DataError(f"row {row_number(rows, row)}: covariate {names[k]!r} is {columns[row, k]}")
  return columns, names


def _square(name: str, counts: Any) -> np.ndarray:
  counts = as_numbers(name, as_array(name, counts))
  if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
    raise DataError(f"{name} has shape {counts.shape}; it must be square")
  if not np.isfinite(counts).all() or (counts < 0).any():
    raise DataError(f"{name} must hold numbers of at least 0")
  if counts.diagonal().any():
    i = int(counts.diagonal().argmax())
    raise DataError(f"{name}[{i}, {i}] is {counts[i, i]:g}, but no item is compared with itself")
  return counts
