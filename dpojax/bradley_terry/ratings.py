"""Ratings, their intervals, what ranks they leave open, and how well strengths explain the outcomes."""

import dataclasses
from collections.abc import Hashable, Iterator
from typing import NamedTuple

import numpy as np
import scipy

from dpojax import terminal
from dpojax.bradley_terry import likelihood, uncertainty
from dpojax.bradley_terry.existence import NoEstimate
from dpojax.bradley_terry.fitting import BradleyTerryFit
from dpojax.bradley_terry.layout import row_cells
from dpojax.bradley_terry.resampling import Bootstrap
from dpojax.bradley_terry.uncertainty import Kind
from dpojax.errors import DataError

FEW_GAMES = 20  # below which an interval is read off the profile likelihood
LEAST_ITEM = 20  # columns of items on a terminal, however narrow that is
PROFILES = 100  # most items for which that is done


@dataclasses.dataclass(frozen=True)
class Leaderboard:
  """Items by rating, the best first.

  Attributes:
    rows: one mapping per item: `rank`, `item`, `rating`, `low`, `high` (the interval), `standard_error`, `rank_low`,
      `rank_high`, `games`, `wins`, `losses`, `ties`, and `interval` ("wald", "profile", "bootstrap", or "none" where the item was
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
    return self.text()

  def text(self, width: int = 0) -> str:
    """The table and its notes; items lose their middles where lines would be wider than `width` columns, 0: any is right."""
    return "\n".join([*aligned(self.cells(), {1}, width), *self.notes])

  def cells(self) -> list[list[str]]:
    """The table's cells as texts, the heading first."""
    lines = [["rank", "item", "rating", f"{100 * self.level:g} % interval", "ranks", "games", "won", "lost", "tied"]]
    for row in self.rows:
      ranks = "" if row["rank_low"] is None else f"{row['rank_low']}-{row['rank_high']}"
      counts = [f"{row[name]:,.10g}" for name in ("games", "wins", "losses", "ties")]
      if row["interval"] == "none":
        lines.append(["-", str(row["item"]), "-", "not fitted", "", *counts])
      else:
        star = "*" if row["interval"] == "profile" else ""
        interval = f"{row['low']:.0f} to {row['high']:.0f}{star}"
        lines.append([str(row["rank"]), str(row["item"]), f"{row['rating']:.0f}", interval, ranks, *counts])
    return lines


def aligned(cells: list[list[str]], texts: set[int], width: int = 0) -> list[str]:
  """Lines of a table, numbers set right and the columns `texts` left; where lines would be wider than `width` columns
  (0: any is right), these lose their middles, down to `LEAST_ITEM` columns."""
  cells = [[terminal.in_line(cell) for cell in line] for line in cells]
  widths = [max(map(terminal.width, column)) for column in zip(*cells, strict=True)]
  excess = sum(widths) + 2 * (len(widths) - 1) - width if width else 0
  while excess > 0:
    wide = max(texts, key=lambda column: widths[column])
    second = max([widths[column] for column in texts if column != wide], default=0)
    fewer = min(excess, max(1, widths[wide] - second), widths[wide] - LEAST_ITEM)
    if fewer <= 0:
      break
    widths[wide], excess = widths[wide] - fewer, excess - fewer
  lines = []
  for line in cells:
    shown = [
      terminal.left(terminal.cut_middle(cell, w), w) if column in texts else terminal.right(cell, w)
      for column, (cell, w) in enumerate(zip(line, widths, strict=True))
    ]
    lines.append("  ".join(shown).rstrip())
  return lines


class Spread(NamedTuple):
  """How sure log-strengths are, f64[n] each but `method`: standard errors, intervals, and ranks left open (or None)."""

  errors: np.ndarray
  low: np.ndarray
  high: np.ndarray
  best: np.ndarray | None
  worst: np.ndarray | None
  method: np.ndarray
  notes: tuple[str, ...]


def leaderboard(
  fit: BradleyTerryFit,
  level: float = 0.95,
  scale: float = 400,
  base: float = 10,
  offset: float = 1000,
  kind: Kind = "hessian",
  resampled: Bootstrap | None = None,
) -> Leaderboard:
  """Ratings offset + scale * log_strength / ln(base), with intervals and ranks.

  Intervals are Wald's, from the covariance of `kind`; with "hessian" those of items of fewer than 20 games are read
  off the profile likelihood instead, for at most 100 of them. The ranks that are left open at `level` come from
  contrasts: an item's best rank is one more than the number of items that are stronger beyond chance, each judged by
  itself. With `resampled` errors, intervals and ranks are those of its refits instead.
  """
  theta, tally = fit.log_strength, fit.data.tally()
  spread = (
    _from_covariance(fit, kind, level, tally["games"]) if resampled is None else _resampled(fit, resampled, level)
  )
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
        low=float(offset + unit * spread.low[i]),
        high=float(offset + unit * spread.high[i]),
        standard_error=float(unit * spread.errors[i]),
        rank_low=None if spread.best is None or not fitted else int(spread.best[i]),
        rank_high=None if spread.worst is None or not fitted else int(spread.worst[i]),
        interval=str(spread.method[i]) if fitted else "none",
        **{name: float(tally[name][i]) for name in ("games", "wins", "losses", "ties")},
      )
    )
  return Leaderboard(tuple(rows), level, scale, base, offset, spread.notes)


def _from_covariance(fit: BradleyTerryFit, kind: Kind, level: float, games: np.ndarray) -> Spread:
  theta = fit.log_strength
  covariance = uncertainty.covariance(fit, kind) if fit.spec.items <= uncertainty.DENSE_ITEMS else None
  errors = (
    uncertainty.standard_errors(fit, kind) if covariance is None else np.sqrt(np.maximum(np.diagonal(covariance), 0))
  )
  z = float(scipy.stats.norm.ppf((1 + level) / 2))
  low, high = theta - z * errors, theta + z * errors
  notes = []
  method = np.full(len(theta), "wald", object)
  few = np.flatnonzero((games < FEW_GAMES) & np.isfinite(theta)) if kind == "hessian" else []
  if len(few) and len(few) <= PROFILES and fit.spec.items <= 1000:
    for i in few:
      low[i], high[i] = uncertainty.profile_interval(fit, fit.items[i], None, level)
      method[i] = "profile"
    notes.append(f"* fewer than {FEW_GAMES} games: interval of the profile likelihood")
  elif len(few):
    notes.append(f"{len(few)} items have fewer than {FEW_GAMES} games; their intervals are approximate")
  if covariance is None:
    notes.append(f"no rank intervals: they need the covariance of {fit.spec.items:,} items")
    return Spread(errors, low, high, None, None, method, tuple(notes))
  return Spread(errors, low, high, *_open_ranks(fit, covariance, z), method, tuple(notes))


def _open_ranks(fit: BradleyTerryFit, covariance: np.ndarray, z: float) -> tuple[np.ndarray, np.ndarray]:
  """f64[n] best and worst rank that contrasts leave open."""
  theta, spread = fit.log_strength, np.diagonal(covariance)
  best, worst = np.full((2, len(theta)), np.nan)
  for i in fit.kept:
    errors = np.sqrt(np.maximum(spread[i] + spread - 2 * covariance[i], 0))
    lead = theta - theta[i]
    best[i] = 1 + np.count_nonzero(lead > z * errors)
    worst[i] = len(fit.kept) - np.count_nonzero(-lead > z * errors)
  return best, worst


def _resampled(fit: BradleyTerryFit, resampled: Bootstrap, level: float) -> Spread:
  n, used = len(fit.items), len(resampled.log_strength) - resampled.failed
  if used < 2:
    raise NoEstimate(
      f"{resampled.failed:,} of {len(resampled.log_strength):,} resamples have no estimate; choose a prior "
      "(prior=Pseudo(1))"
    )
  kept = dataclasses.replace(resampled, log_strength=resampled.log_strength[:, fit.kept])
  found = np.full((5, n), np.nan)
  found[:, fit.kept] = [kept.standard_errors(), *kept.interval(level), *kept.ranks(level)]
  errors, low, high, best, worst = found
  note = f"errors, intervals and ranks by {used:,} resamples"
  if resampled.failed:
    note += f"; {resampled.failed:,} more had no estimate and were left out, so the intervals may be too short"
  return Spread(errors, low, high, best, worst, np.full(n, "bootstrap", object), (note,))


# --- goodness of fit


@dataclasses.dataclass(frozen=True)
class GoodnessOfFit:
  """Deviance (G squared) and Pearson's chi squared against free probabilities for every pair that met.

  Attributes:
    deviance, pearson: both chi-squared with `degrees_of_freedom` if the model holds and pairs met often.
    p_value, pearson_p_value: of a deviance, and a Pearson statistic, at least as large.
    pairs: pairs that met (in each arrangement of home and away, where home counts).
    sparse_share: fraction of expected counts below 5; where it is large, neither p-value can be relied on.
  """

  deviance: float
  pearson: float
  degrees_of_freedom: int
  p_value: float
  pearson_p_value: float
  pairs: int
  sparse_share: float


def goodness_of_fit(fit: BradleyTerryFit) -> GoodnessOfFit:
  """Compares outcomes with what the fit expects, pair by pair.

  Raises:
    DataError: covariates make every comparison its own, or ties were counted as halves, which no multinomial has.
  """
  if fit.data.covariate_names:
    raise DataError("goodness of fit compares pairs, and covariates tell comparisons of a pair apart")
  if fit.spec.model == "half" and fit.part.has_ties:
    raise DataError("ties counted as halves have no distribution; fit ties='davidson' or 'rao_kupper'")
  spec = fit.spec
  _, rows = row_cells(fit.part, spec, fit.home_fitted)
  _, coefficients, tie = likelihood.parts(spec, fit.vector)
  eta = fit.vector[rows.first] - fit.vector[rows.second] + rows.slopes @ coefficients
  expected = np.stack(likelihood.probabilities(spec.model, eta, float(tie) if spec.has_tie else None))
  observed = np.stack([rows.wins, np.broadcast_to(rows.ties, rows.wins.shape), rows.losses])
  if not spec.has_tie:
    expected, observed = expected[::2], observed[::2]
  expected = expected * observed.sum(axis=0)
  with np.errstate(all="ignore"):
    terms = np.where(observed > 0, observed * np.log(observed / expected), 0.0)
    pearson = float(((observed - expected) ** 2 / expected).sum())
  deviance = float(2 * terms.sum())
  pairs = expected.shape[1]
  freedom = pairs * (len(expected) - 1) - (spec.size - 1)
  return GoodnessOfFit(
    deviance,
    pearson,
    freedom,
    float(scipy.stats.chi2.sf(deviance, freedom)) if freedom > 0 else float("nan"),
    float(scipy.stats.chi2.sf(pearson, freedom)) if freedom > 0 else float("nan"),
    pairs,
    float((expected < 5).mean()),
  )
