"""Refits of resampled comparisons."""

import concurrent.futures
import dataclasses
from collections.abc import Callable

import numpy as np

from dpojax.bradley_terry import existence, likelihood
from dpojax.bradley_terry.comparisons import Comparisons
from dpojax.bradley_terry.fitting import BradleyTerryFit
from dpojax.bradley_terry.layout import Cells, Grid, Rows, Totals, as_rows, grid_cells, row_cells, totals
from dpojax.bradley_terry.likelihood import prior_arrays
from dpojax.bradley_terry.solver import solve
from dpojax.errors import DataError

LISTED = 20_000_000  # comparisons up to which each is drawn by itself; above, counts are drawn
WORKING_MEMORY = 4e8  # bytes of arrays for the fits that run at once
CHORDS = 30  # steps with the estimate's own curvature, before Newton's method is asked
BAND = 1 << 17  # bytes of a matrix that are worked on at once: what a processor's cache holds
MOST_RESAMPLES = 1_000_000  # of a quantile nothing is gained beyond
MOST_BYTES = 4_000_000_000  # of the estimates of all resamples


@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """What `n` refits found.

  Attributes:
    log_strength: f64[n, items] relative to the fit's baseline; rows of NaN where no estimate exists.
    parameters: f64[n, q] home advantage, coefficients, and log nu or tau.
    failed: how many resamples have no estimate, because an item lost or won all its games there, say.
  """

  log_strength: np.ndarray
  parameters: np.ndarray
  failed: int

  def standard_errors(self) -> np.ndarray:
    """f64[items] standard deviations over the resamples that have an estimate."""
    return np.nanstd(self.log_strength, axis=0, ddof=1)

  def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of every log-strength: f64[items] ends."""
    ends = np.nanquantile(self.log_strength, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends[0], ends[1]

  def ranks(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of every rank (1 is the strongest): i64[items] ends."""
    there = self.log_strength[np.isfinite(self.log_strength).all(axis=1)]
    rank = 1 + np.argsort(np.argsort(-there, axis=1), axis=1)
    ends = np.quantile(rank, [(1 - level) / 2, (1 + level) / 2], axis=0, method="closest_observation")
    return ends[0].astype(int), ends[1].astype(int)


def bootstrap(fit: BradleyTerryFit, n: int = 1000, seed: int = 0, unit: str = "comparison") -> Bootstrap:
  """Refits `n` resamples drawn with replacement, of as many comparisons (or clusters) as there are.

  Each starts from the estimate. Resample r is drawn by `np.random.default_rng([seed, r])`, whatever the number of
  resamples.

  Raises:
    DataError: `unit` is "cluster" and there are no clusters, or is unknown; `n` is not from 1 to 1,000,000; or so many
      estimates of all items would take more than 4 GB.
  """
  if not 1 <= n <= MOST_RESAMPLES:
    raise DataError(f"{n} resamples; give from 1 to {MOST_RESAMPLES:,}")
  if 8 * n * len(fit.items) > MOST_BYTES:
    raise DataError(
      f"{n:,} resamples of {len(fit.items):,} items take {8e-9 * n * len(fit.items):,.0f} GB; at most "
      f"{MOST_BYTES // (8 * len(fit.items)):,} fit into {MOST_BYTES / 1e9:.0f}"
    )
  if unit not in ("comparison", "cluster"):
    raise DataError(f"unit={unit!r} is unknown; it takes 'comparison' and 'cluster'")
  if unit == "cluster" and fit.part.cluster is None:
    raise DataError("unit='cluster', but the comparisons have no clusters (Comparisons.from_pairs(cluster=...))")
  part, spec = fit.part, fit.spec
  if isinstance(fit.layout, Grid):
    cells = grid_cells(part, spec, fit.home_fitted)
  else:
    cells, _ = row_cells(part, spec, fit.home_fitted, codes=True)
  assert cells is not None
  draw = _drawer(part, cells, unit)

  def resample(numbers: range) -> dict[int, Grid | Rows]:
    layouts = {r: cells.build(draw(np.random.default_rng([seed, r]))) for r in numbers}
    return {r: layout for r, layout in layouts.items() if _exists(fit, layout)}

  vectors, refit = np.full((n, spec.size), np.nan), _Refit(fit)
  at_once = 32
  if isinstance(fit.layout, Grid):
    at_once = int(np.clip(WORKING_MEMORY / (3 * 8 * spec.items**2), 1, at_once))
  batches = [range(start, min(start + at_once, n)) for start in range(0, n, at_once)]
  with concurrent.futures.ThreadPoolExecutor(1) as ahead:  # draws the next ones while these are fitted
    drawn = [ahead.submit(resample, batch) for batch in batches[:1]]
    for following in range(1, len(batches) + 1):
      layouts = drawn.pop().result()
      drawn.extend(ahead.submit(resample, batch) for batch in batches[following : following + 1])
      for r, layout in layouts.items():
        vector = refit(layout)
        vectors[r] = np.nan if _ran_away(fit, layout, vector) else vector
  theta = vectors[:, : spec.items]
  strengths = np.full((n, len(fit.items)), np.nan)
  strengths[:, fit.kept] = theta - (theta @ fit.against)[:, None]
  return Bootstrap(strengths, vectors[:, spec.items :], int(np.isnan(theta[:, 0]).sum()))


def _drawer(part: Comparisons, cells: Cells, unit: str) -> Callable[[np.random.Generator], np.ndarray]:
  """A function that draws one resample and counts it: f64[cells.number]."""
  code = cells.code
  if unit == "cluster":
    assert part.cluster is not None
    _, cluster = np.unique(part.cluster, return_inverse=True)
    clusters, row_weight = int(cluster.max()) + 1, part.row_weight

    def by_cluster(rng):
      times = np.bincount(rng.integers(0, clusters, clusters), minlength=clusters)
      return np.bincount(code, row_weight * times[cluster], cells.number)

    return by_cluster
  total = len(part)
  if part.count is not None and total > LISTED:
    probability = part.count / total
    worth = 1.0 if part.weight is None else part.weight
    return lambda rng: np.bincount(code, rng.multinomial(total, probability) * worth, cells.number)
  order = np.argsort(code, kind="stable")  # what is drawn block by block is then counted in neighbouring cells
  if part.count is not None:
    order = np.repeat(order, part.count[order])
  code = code[order].astype(np.int32 if cells.number < 2**31 else np.int64)
  weight = None if part.weight is None else part.weight[order]

  def one_by_one(rng):
    places = draw_places(rng, total)
    picked = code.take(places, mode="wrap")  # no place is out of bounds: to check that would take half the time
    return np.bincount(picked, None if weight is None else weight[places], cells.number).astype(float)

  return one_by_one


def draw_places(rng: np.random.Generator, number: int) -> np.ndarray:
  """i32[number] places of `number`, each drawn with equal probability, with replacement; not in random order.

  How many fall in each of some blocks is drawn first, and then where within it. Blocks have powers of two places, at
  most 2^16, so that 16 random bits are a place: a quarter of the random numbers, and no division or rejection.
  """
  sizes = [1 << 16] * (number >> 16) + [1 << bit for bit in range(16) if number >> bit & 1]
  begins = np.cumsum([0, *sizes[:-1]])
  times = rng.multinomial(number, np.asarray(sizes) / number)
  bits = rng.integers(0, 2**64 - 1, -(-number // 4), np.uint64, endpoint=True).view(np.uint16)[:number]
  within = bits & np.repeat(np.asarray(sizes, np.int32) - 1, times).astype(np.uint16)
  return within + np.repeat(begins.astype(np.int32), times)


def _exists(fit: BradleyTerryFit, layout: Grid | Rows) -> bool:
  """Whether the resample has an estimate, as far as the graph of wins tells."""
  if fit.spec.has_tie and not layout.ties.any():
    return False
  return fit.prior is not None or existence.layout_connected(layout, fit.spec.items)


def _ran_away(fit: BradleyTerryFit, layout: Grid | Rows, vector: np.ndarray) -> bool:
  """Whether coefficients or the tie parameter only seem to have an estimate, because the outcomes are separated."""
  if not np.isfinite(vector).all() or not existence.nearly_certain(fit.spec, layout, vector):
    return False
  rows = as_rows(layout, fit.home_fitted)
  return existence.separating_direction(rows, fit.spec, fit.prior is not None) is not None


class _Refit:
  """Estimates of resampled counts, f64[size]; NaN where there is no convergence.

  In a grid every step is the inverse of the estimate's own curvature times the gradient: counts that differ from the
  estimate's by little more than chance need a few such steps, none of which forms a curvature.
  """

  def __init__(self, fit: BradleyTerryFit):
    self.fit, self.tol = fit, 1e-9
    self.bound = self.tol * fit.part.total_weight
    self.prior = prior_arrays(fit.prior, fit.spec.items)
    self.inverse = fit.inverse if isinstance(fit.layout, Grid) else None
    self.work = np.empty((max(1, BAND // (8 * fit.spec.items)), fit.spec.items))

  def __call__(self, layout: Grid | Rows) -> np.ndarray:
    fit = self.fit
    found = None if self.inverse is None else self._by_chords(totals(fit.spec, layout), self.inverse)
    if found is None:
      state, _ = solve(fit.spec, layout, fit.prior, "auto", fit.part.total_weight, self.tol, 50, fit.vector)
      found = state.x if np.abs(state.gradient).max() <= self.bound else np.full(fit.spec.size, np.nan)
    return found

  def _by_chords(self, data: Grid | Rows | Totals, inverse: np.ndarray) -> np.ndarray | None:
    x = self.fit.vector
    with np.errstate(all="ignore"):
      for _ in range(CHORDS + 1):
        gradient = self._gradient(data, x)
        largest = np.abs(gradient).max()
        if not largest > self.bound:  # NaN too
          break
        x = x + inverse @ gradient
    return x if largest <= self.bound else None

  def _gradient(self, data: Grid | Rows | Totals, x: np.ndarray) -> np.ndarray:
    if not isinstance(data, Totals):
      return likelihood.derivatives(self.fit.spec, data, self.prior, x)[0]
    gradient = likelihood.strength_gradients(data, x, self.work)
    return gradient if self.fit.prior is None else gradient + likelihood.prior_terms(self.prior, x)[0]
