"""Ratings, their intervals, and what ranks they leave open."""

import dataclasses
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from dpojax.bradley_terry import uncertainty

if TYPE_CHECKING:
  from dpojax.bradley_terry.result import BradleyTerryFit

FEW_GAMES = 20  # below which an interval is read off the profile likelihood
PROFILES = 100  # most items for which that is done


@dataclasses.dataclass(frozen=True)
class Leaderboard:
  """Items by rating, the best first.

  Attributes:
    rows: one mapping per item: `rank`, `item`, `rating`, `low`, `high` (the interval), `standard_error`, `rank_low`,
      `rank_high`, `games`, `wins`, `losses`, `ties`, and `interval` ("wald", "profile", or "none" where the item was
      not fitted, whose rating is NaN).
    level, scale, base, offset: an item `scale` points above another wins `base` times as often as it loses to it;
      the baseline has `offset`.
    notes: what a reader should know.
  """

  rows: tuple[dict, ...]
  level: float
  scale: float
  base: float
  offset: float
  notes: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.rows)

  def __iter__(self) -> Iterator[dict]:
    return iter(self.rows)

  def row(self, item: Hashable) -> dict:
    """The row of an item."""
    return next(row for row in self.rows if row["item"] == item)

  def __str__(self) -> str:
    head = ["rank", "item", "rating", f"{100 * self.level:g} % interval", "ranks", "games", "won", "lost", "tied"]
    lines = [head]
    for row in self.rows:
      ranks = "" if row["rank_low"] is None else f"{row['rank_low']}-{row['rank_high']}"
      counts = [f"{row[name]:,.10g}" for name in ("games", "wins", "losses", "ties")]
      if row["interval"] == "none":
        lines.append(["-", str(row["item"]), "-", "not fitted", "", *counts])
      else:
        star = "*" if row["interval"] == "profile" else ""
        interval = f"{row['low']:.0f} to {row['high']:.0f}{star}"
        lines.append([str(row["rank"]), str(row["item"]), f"{row['rating']:.0f}", interval, ranks, *counts])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = {1}
    text = [
      "  ".join(
        cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
      )
      for line in lines
    ]
    return "\n".join([*(line.rstrip() for line in text), *self.notes])


def leaderboard(
  fit: "BradleyTerryFit",
  level: float = 0.95,
  scale: float = 400,
  base: float = 10,
  offset: float = 1000,
  kind: uncertainty.Kind = "hessian",
) -> Leaderboard:
  """Ratings offset + scale * log_strength / ln(base), with intervals and ranks.

  Intervals are Wald's, from the covariance of `kind`; with "hessian" those of items of fewer than 20 games are read
  off the profile likelihood instead, for at most 100 of them. The ranks that are left open at `level` come from
  contrasts: an item's best rank is one more than the number of items that are stronger beyond chance, each judged by
  itself.
  """
  theta, errors = fit.log_strength, fit.standard_errors(kind)
  z = float(stats.norm.ppf((1 + level) / 2))
  low, high = theta - z * errors, theta + z * errors
  tally = fit.data.tally()
  notes = []
  method = np.where(np.isfinite(theta), "wald", "none").astype(object)
  few = np.flatnonzero((tally["games"] < FEW_GAMES) & np.isfinite(theta)) if kind == "hessian" else []
  if len(few) and len(few) <= PROFILES and fit.spec.items <= 1000:
    for i in few:
      low[i], high[i] = uncertainty.profile_interval(fit, fit.items[i], None, level)
      method[i] = "profile"
    notes.append(f"* fewer than {FEW_GAMES} games: interval of the profile likelihood")
  elif len(few):
    notes.append(f"{len(few)} items have fewer than {FEW_GAMES} games; their intervals are approximate")
  best, worst = rank_intervals(fit, kind, z)
  order = np.lexsort((np.arange(len(theta)), -theta))
  order = np.concatenate([order[np.isfinite(theta[order])], np.flatnonzero(~np.isfinite(theta))])
  unit = scale / np.log(base)
  rows = []
  for place, i in enumerate(order):
    fitted = bool(np.isfinite(theta[i]))
    rows.append(
      dict(
        rank=place + 1 if fitted else None,
        item=fit.items[i],
        rating=float(offset + unit * theta[i]),
        low=float(offset + unit * low[i]),
        high=float(offset + unit * high[i]),
        standard_error=float(unit * errors[i]),
        rank_low=None if best is None or not fitted else int(best[i]),
        rank_high=None if worst is None or not fitted else int(worst[i]),
        interval=str(method[i]),
        **{name: float(tally[name][i]) for name in ("games", "wins", "losses", "ties")},
      )
    )
  if best is None:
    notes.append(f"no rank intervals: they need the covariance of {fit.spec.items:,} items")
  return Leaderboard(tuple(rows), level, scale, base, offset, tuple(notes))


def rank_intervals(
  fit: "BradleyTerryFit", kind: uncertainty.Kind, z: float
) -> tuple[np.ndarray | None, np.ndarray | None]:
  """f64[n] best and worst rank that contrasts leave open; None for too many items."""
  if fit.spec.items > uncertainty.DENSE_ITEMS:
    return None, None
  theta, covariance = fit.log_strength, fit.covariance(kind)
  n = len(theta)
  best, worst = np.full(n, np.nan), np.full(n, np.nan)
  spread = np.diagonal(covariance)
  for i in fit.kept:
    errors = np.sqrt(np.maximum(spread[i] + spread - 2 * covariance[i], 0))
    lead = theta - theta[i]
    best[i] = 1 + np.count_nonzero(lead > z * errors)
    worst[i] = len(fit.kept) - np.count_nonzero(-lead > z * errors)
  return best, worst
