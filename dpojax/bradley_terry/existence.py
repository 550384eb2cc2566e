"""Whether strengths exist, and of which items: the graph of who beat whom, and separation by coefficients and ties.

A maximum-likelihood estimate exists if and only if every two groups of items have beaten each other (Ford 1957):
the graph with an edge from winner to loser, ties counting for both, is strongly connected. With home advantage,
covariates or a tie parameter a direction in which every outcome only gets likelier must not exist either.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from dpojax.bradley_terry import likelihood
from dpojax.bradley_terry.columns import FIRST, SECOND, TIE
from dpojax.bradley_terry.comparisons import Comparisons
from dpojax.bradley_terry.layout import Grid, Rows, Spec, row_cells
from dpojax.bradley_terry.likelihood import Normal, Pseudo
from dpojax.errors import DataError

Disconnected = Literal["raise", "largest", "prior"]


class NoEstimate(DataError):
  """The maximum-likelihood estimate does not exist; the message says why and what to do."""


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


def connectivity(data: Comparisons) -> Connectivity:
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


def graph(data: Comparisons) -> sparse.csr_array:
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


def what_to_fit(
  data: Comparisons,
  connected: bool,
  place: int | None,
  prior: Normal | Pseudo | None,
  on_disconnected: Disconnected,
) -> tuple[Normal | Pseudo | None, np.ndarray, np.ndarray]:
  """(the prior to use, i32[n] component of each item, i[k] places of the items to fit).

  Args:
    connected: whether every two groups of items have beaten each other, without which there is no estimate.
    place: of the baseline.

  Raises:
    NoEstimate: they have not, and neither a prior nor `on_disconnected` says what to do.
    DataError: the baseline is not among what `on_disconnected="largest"` fits.
  """
  n = len(data.items)
  component, everything = np.zeros(n, np.int32), np.arange(n)
  if connected or (prior is not None and on_disconnected != "prior"):
    return (None if on_disconnected == "prior" else prior), component, everything
  found = connectivity(data)
  if on_disconnected == "prior":
    return prior or Pseudo(1), found.label, everything
  if on_disconnected == "raise":
    raise NoEstimate(
      f"the strengths do not exist: {found.explanation()}. Compare them further, fit the largest component "
      "(on_disconnected='largest'), or choose a prior (prior=Pseudo(1), or on_disconnected='prior')"
    )
  kept = np.flatnonzero(found.label == 0)
  if len(kept) < 2:
    raise NoEstimate(f"no two items have beaten each other, so no component can be fitted: {found.explanation()}")
  if place is not None and place not in kept:
    label = data.items[place]
    raise DataError(f"baseline {label!r} is not in the largest component, which on_disconnected='largest' fits")
  return None, found.label, kept


def layout_connected(layout: Grid | Rows, items: int) -> bool:
  """Whether wins and ties, counted in a layout, connect all items strongly."""
  if isinstance(layout, Grid):
    beats = layout.wins > 0
    for others in (layout.losses.T, layout.ties, layout.ties.T):
      if others.any():
        beats |= others > 0
    return _reaches_all(beats) and _reaches_all(beats.T)
  forward, backward = layout.wins + layout.ties > 0, layout.losses + layout.ties > 0
  beats = edges(items, layout.first, layout.second, forward, backward)
  return csgraph.connected_components(beats, connection="strong", return_labels=False) == 1


def wins_go_round(data: Comparisons) -> bool:
  """Whether the graph of wins alone has a cycle: then no tie parameter can grow without end.

  Along a direction that no outcome speaks against, a win needs theta_winner - theta_loser >= 2 delta and a tie
  |difference| <= 2 delta (delta for log nu; tau's half for Rao and Kupper). Round a cycle of wins the differences
  sum to 0, so delta <= 0; a tie says delta >= 0; and with delta = 0 nothing is left but strong connectivity.
  """
  decisive = data.take((data.outcome != TIE) & (data.row_weight > 0))
  if not len(decisive.first):
    return False
  return csgraph.connected_components(graph(decisive), connection="strong", return_labels=False) < len(data.items)


def _reaches_all(beats: np.ndarray) -> bool:
  """Whether item 0 has beaten everybody, through others."""
  reached = np.zeros(len(beats), bool)
  front = np.zeros(1, np.int64)
  reached[0] = True
  while len(front):
    new = beats[front].any(axis=0) & ~reached
    reached |= new
    front = np.flatnonzero(new)
  return bool(reached.all())


def raise_if_confounded(layout: Grid | Rows, items: int, names: Sequence[str], proper: bool) -> None:
  """Raises NoEstimate, naming them, if coefficients can be exchanged for strengths or for one another.

  Strengths can take a coefficient's place if its slopes are differences of some potential of the items. The potential
  is read off a spanning tree of who met whom (all items must be connected); what it leaves of the slopes of the other
  comparisons must be of full rank. With a proper prior strengths take nobody's place.
  """
  if isinstance(layout, Grid):
    first, second = np.nonzero(layout.wins + layout.losses + layout.ties > 0)
    slopes = np.ones((len(first), 1))
  else:
    met = layout.wins + layout.losses + layout.ties > 0
    first, second, slopes = layout.first[met], layout.second[met], layout.slopes[met]
  left = slopes
  if not proper:
    potential = _tree_potential(first, second, slopes, items)
    left = slopes - (potential[first] - potential[second])
  size = np.linalg.norm(slopes, axis=0)
  _, values, vectors = np.linalg.svd(np.linalg.qr(left / np.where(size > 0, size, 1), mode="r"))
  if len(values) == len(size) and values[-1] > 1e-9:
    return
  guilty = ", ".join(name for name, part in zip(names, vectors[-1], strict=True) if abs(part) > 1e-6)
  raise NoEstimate(
    f"{guilty}: there is no single estimate, since other values, with other strengths or coefficients, give the same "
    "probabilities. Leave the term out, or compare the items under other circumstances too"
  )


def _tree_potential(first, second, slopes, items) -> np.ndarray:
  """f64[n, q] potentials whose differences are the slopes along a spanning tree."""
  key = np.minimum(first, second).astype(np.int64) * items + np.maximum(first, second)
  keys, row_of = np.unique(key, return_index=True)
  met = sparse.csr_array((np.ones(len(keys), bool), np.divmod(keys, items)), shape=(items, items))
  order, above = csgraph.breadth_first_order(met, 0, directed=False)
  child, parent = order[1:].astype(np.int64), above[order[1:]].astype(np.int64)
  rows = row_of[np.searchsorted(keys, np.minimum(child, parent) * items + np.maximum(child, parent))]
  rise = np.where((first[rows] == child)[:, None], slopes[rows], -slopes[rows])
  potential = np.zeros((items, slopes.shape[1]))
  for c, p, r in zip(child, parent, rise, strict=True):
    potential[c] = potential[p] + r
  return potential


def parameter_names(data: Comparisons, home: bool, has_tie: bool) -> list[str]:
  """What errors call the parameters beside the strengths, in their order."""
  names = (["home advantage"] if home else []) + [f"coefficient of {name!r}" for name in data.covariate_names]
  return names + (["tie parameter"] if has_tie else [])


def nearly_certain(spec: Spec, layout: Grid | Rows, x: np.ndarray) -> bool:
  """Whether some outcome of a comparison has become all but impossible, so that coefficients may have run away.

  A parameter that runs away stops where the curvature along it drowns in rounding, and looks as if it had converged.
  """
  if spec.size == spec.items:
    return False  # strengths alone: the graph of wins decides
  tie = float(x[-1]) if spec.has_tie else None
  with np.errstate(all="ignore"):
    won, tied, lost = likelihood.probabilities(spec.model, likelihood.log_odds(spec, layout, x), tie)
  least = np.minimum(np.minimum(won, lost), tied) if spec.has_tie else np.minimum(won, lost)
  return bool(((least < 1e-7) & (layout.wins + layout.losses + layout.ties > 0)).any())


def raise_if_separated(data: Comparisons, spec, home: bool, proper: bool) -> None:
  """Raises NoEstimate, naming what runs away, if the outcomes are separated: see `separating_direction`."""
  n = spec.items
  if not spec.coefficients and (not spec.has_tie or wins_go_round(data)):
    return
  along = separating_direction(row_cells(data, spec, home)[1], spec, proper)
  if along is None:
    return
  names = parameter_names(data, home, spec.has_tie)
  scale = np.abs(along).max()
  run = [name for name, value in zip(names, along[n:], strict=True) if abs(value) > 1e-6 * scale]
  run += [f"strength of {data.items[i]}" for i in np.flatnonzero(np.abs(along[:n]) > 1e-6 * scale)[:5]]
  raise NoEstimate(
    f"the estimate does not exist: the outcomes are separated, so these grow without end: {', '.join(run)}. Leave the "
    "term out, compare further, or choose a prior for strengths"
  )


def separating_direction(rows: Rows, spec, proper: bool) -> np.ndarray | None:
  """f64[size] a direction along which no outcome gets less likely and one gets likelier, or None.

  A linear program over directions d = (theta, coefficients, tie parameter): of every outcome that was seen, the
  score must rise at least as fast along d as that of the outcomes it was seen instead of; the sum of all those
  leads, each at most 1, is maximal. It is 0 if and only if there is no separation. With a proper prior strengths
  cannot run away, and are left out.
  """
  from scipy.optimize import linprog

  n = spec.items
  r = np.arange(len(rows.first))
  ones = np.ones(len(r))
  differences = sparse.csr_array(
    (np.concatenate([ones, -ones]), (np.tile(r, 2), np.concatenate([rows.first, rows.second]))), shape=(len(r), n)
  )
  eta: Any = sparse.hstack([differences, sparse.csr_array(rows.slopes)], format="csr")
  tie = sparse.csr_array(np.ones((len(r), 1)))
  won, lost, tied = (np.broadcast_to(x, r.shape) > 0 for x in (rows.wins, rows.losses, rows.ties))
  if spec.has_tie:  # a win leads over a tie by eta / 2 - delta; a tie over either by delta -+ eta / 2
    leads: list[tuple[list, np.ndarray]] = [
      ([eta, -2 * tie], won),
      ([-eta, -2 * tie], lost),
      ([eta, 2 * tie], tied),
      ([-eta, 2 * tie], tied),
    ]
    blocks = [sparse.csr_array(sparse.hstack(parts))[np.flatnonzero(where)] for parts, where in leads]
  else:
    blocks = [eta[np.flatnonzero(won)], -eta[np.flatnonzero(lost)]]
  lead: Any = sparse.csr_array(sparse.vstack(blocks))
  count, width = lead.shape
  # Variables: d, free, and s in [0, 1]^count with s <= lead d; the strengths' common shift is fixed by the first.
  limits = [(0, 0) if proper or i == 0 else (None, None) for i in range(n)] + [(None, None)] * (width - n)
  constraints = sparse.hstack([-lead, sparse.eye_array(count)], format="csr")
  cost = np.concatenate([np.zeros(width), -np.ones(count)])
  found = linprog(cost, A_ub=constraints, b_ub=np.zeros(count), bounds=limits + [(0, 1)] * count, method="highs")
  if found.status != 0 or -found.fun < 0.5:  # a direction can be lengthened until some lead is 1
    return None
  return np.asarray(found.x)[:width]
