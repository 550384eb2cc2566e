"""Pictures of a leaderboard: ratings, ranks that are left open, and who beats whom. They need matplotlib."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpojax.bradley_terry import likelihood
from dpojax.files import replacing_path
from dpojax.plot_text import make_legible, text_width
from dpojax.terminal import cut, width

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

  from dpojax.bradley_terry.fitting import BradleyTerryFit
  from dpojax.bradley_terry.ratings import Leaderboard

BLUE, LIGHT, DARK, SOFT, GRID = "#2b5d8a", "#b5cde1", "#50555d", "#b0b4bb", "#e4e6ea"
NUMBERED = 16  # items up to which the matrix says its numbers
LONGEST = 36  # columns of a label, of which Chinese characters take two

# Inches. Every item is a row of the same height in all panels; the rest is what surrounds them.
ROW, NUMBERED_ROW = 0.25, 0.36
TOP, BOTTOM, LEFT, RIGHT, GAP = 0.62, 0.42, 0.15, 0.2, 0.4
RATINGS, VALUES, RANKS, LEAST_MATRIX, BAR = 4.2, 0.5, 2.9, 2.2, 0.75


def plot_ratings(board: "Leaderboard", most: int = 60) -> "Figure":
  """Ratings with their intervals, the best on top; the first `most` of them."""
  rows, cut = _first(board, most)
  figure, axes = _panels(_names(rows), ROW, [(RATINGS, len(rows))], VALUES)
  _ratings(axes[0], rows, f"rating, {100 * board.level:g} % interval{cut}")
  return figure


def plot_rank_intervals(board: "Leaderboard", most: int = 60) -> "Figure":
  """The ranks that contrasts of ratings leave open to each item; the first `most` of them."""
  rows, cut = _first(board, most)
  figure, axes = _panels(_names(rows), ROW, [(RATINGS, len(rows))], 0.0)
  _ranks(axes[0], rows, f"ranks left open{cut}")
  return figure


def plot_win_probability(fit: "BradleyTerryFit", most: int = 30) -> "Figure":
  """P(row beats column) on neutral ground, given that one of them wins, between the `most` strongest items.

  Items are in order of strength and columns numbered by it. Up to 16 items the cells say it in percent.
  """
  order = _strongest(fit, most)
  n, row = len(order), _row_height(len(order))
  names = [f"{_short(fit.items[i])}  {rank}" for rank, i in enumerate(order, start=1)]
  figure, axes = _panels(names, row, [(n * row, n)], _room_beside_matrix(n, row))
  _matrix(axes[0], fit, order, row)
  axes[0].set_yticks(range(n), names, fontsize=9)
  return figure


def plot_board(fit: "BradleyTerryFit", board: "Leaderboard", path: str | pathlib.Path, most: int = 40) -> None:
  """Writes ratings, ranks and win probabilities side by side; `path` says the format (PNG, SVG, PDF).

  All panels share their rows. Of many items they show the first `most`.
  """
  rows, cut = _first(board, most)
  order = _strongest(fit, len(rows))
  n, row = len(order), _row_height(len(rows))
  panels = [(RATINGS, len(rows)), (RANKS, len(rows)), (n * row, n)]
  figure, axes = _panels(_names(rows), row, panels, _room_beside_matrix(n, row))
  _ratings(axes[0], rows, f"rating, {100 * board.level:g} % interval{cut}")
  _ranks(axes[1], rows, "ranks left open")
  axes[1].tick_params(labelleft=False)
  _matrix(axes[2], fit, order, row)
  axes[2].set_yticks(range(n), [str(rank) for rank in range(1, n + 1)], fontsize=9 if row > ROW else 7.5)
  make_legible(figure)
  with replacing_path(path) as part:
    figure.savefig(part, dpi=140)


def _panels(
  names: Sequence[str], row: float, panels: Sequence[tuple[float, int]], beside: float
) -> "tuple[Figure, list[Axes]]":
  """A figure of panels (width in inches, number of rows) whose first rows are level, with room for labels and `beside`.

  The layout is computed, not left to matplotlib's, which would make rows of different heights.
  """
  from matplotlib.figure import Figure

  labels = max([text_width(name, 9) for name in names if name.strip()], default=0)
  start = LEFT + labels + 0.12
  gaps = [VALUES + GAP if i == 0 else GAP for i in range(len(panels) - 1)]
  width = start + sum(width for width, _ in panels) + sum(gaps) + beside + RIGHT
  height = TOP + row * max(3, *(rows for _, rows in panels)) + BOTTOM
  figure = Figure(figsize=(width, height))
  axes = []
  for (panel, rows), gap in zip(panels, [*gaps, 0.0], strict=True):
    tall = row * max(rows, 1)
    axis = figure.add_axes((start / width, 1 - (TOP + tall) / height, panel / width, tall / height))
    axis.set_ylim(rows - 0.5, -0.5)
    axes.append(axis)
    start += panel + gap
  return figure, axes


def _ratings(axis: "Axes", rows: list[dict[str, Any]], title: str) -> None:
  y = np.arange(len(rows))
  rating, low, high = (np.asarray([row[name] for row in rows], float) for name in ("rating", "low", "high"))
  left, right = _limits(rating, low, high)
  axis.hlines(y, np.maximum(low, left), np.minimum(high, right), color=BLUE, linewidth=1.6)
  for beyond, edge, marker in ((low < left, left, "<"), (high > right, right, ">")):
    axis.plot(np.full(beyond.sum(), edge), y[beyond], marker, color=BLUE, markersize=5, clip_on=False)
  axis.plot(rating, y, "o", color=BLUE, markersize=5.5, markeredgecolor="white", markeredgewidth=0.8)
  axis.set_xlim(left, right)
  for place, value in enumerate(rating.tolist()):
    axis.text(
      1.02, place, f"{value:.0f}", transform=axis.get_yaxis_transform(), va="center_baseline", fontsize=9, color=DARK
    )
  _list(axis, rows, title)


def _ranks(axis: "Axes", rows: list[dict[str, Any]], title: str) -> None:
  from matplotlib.ticker import FixedLocator, MaxNLocator

  known = [(place, row["rank_low"], row["rank_high"]) for place, row in enumerate(rows) if row["rank_low"] is not None]
  y, low, high = np.asarray(known, float).reshape(-1, 3).T
  axis.hlines(y, low - 0.3, high + 0.3, color=LIGHT, linewidth=6)
  axis.plot([row["rank"] for row in rows], np.arange(len(rows)), "o", color=BLUE, markersize=4.5)
  last = int(max([*high, *(row["rank"] for row in rows), 1]))
  ticks = range(1, last + 1) if last <= 10 else [1, *(t for t in MaxNLocator(6).tick_values(1, last) if 2 < t <= last)]
  edge = max(0.8, 0.03 * last)
  axis.set_xlim(1 - edge, last + edge)
  axis.xaxis.set_major_locator(FixedLocator([float(tick) for tick in ticks]))
  _list(axis, rows, title if known else "rank (intervals not computed)")


def _matrix(axis: "Axes", fit: "BradleyTerryFit", order: np.ndarray, row: float) -> None:
  from matplotlib import colormaps

  n, theta = len(order), fit.log_strength[order]
  tie = float(fit.vector[-1]) if fit.spec.has_tie else None
  win, _, loss = likelihood.probabilities(fit.spec.model, theta[:, None] - theta[None, :], tie)
  percent = np.where(np.eye(n, dtype=bool), np.nan, 100 * win / (win + loss))
  colours = colormaps["RdBu"].with_extremes(bad="#f3f4f6")
  image = axis.imshow(np.ma.masked_invalid(percent), cmap=colours, vmin=0, vmax=100, aspect="auto")
  axis.set_xticks(range(n), [str(rank) for rank in range(1, n + 1)], fontsize=9 if row > ROW else 7.5)
  axis.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, pad=2)
  axis.set_xticks(np.arange(n + 1) - 0.5, minor=True)
  axis.set_yticks(np.arange(n + 1) - 0.5, minor=True)
  axis.grid(which="minor", color="white", linewidth=1)
  axis.tick_params(which="minor", length=0)
  axis.spines[:].set_visible(False)
  if n <= NUMBERED:
    for i, j in zip(*np.nonzero(np.isfinite(percent)), strict=True):
      value = float(percent[i, j])
      colour = "white" if abs(value - 50) > 33 else "#23262b"
      axis.text(j, i, _percent(value), ha="center", va="center", fontsize=8.5, color=colour)
  inches = n * row
  bar = axis.inset_axes((1 + 0.15 / inches, 0.0, 0.11 / inches, min(1.0, 2.6 / inches)))
  axis.figure.colorbar(image, cax=bar, ticks=[0, 25, 50, 75, 100] if n > 4 else [0, 50, 100])
  bar.spines[:].set_visible(False)
  bar.tick_params(labelsize=8.5, length=0)
  what = "row beats column" + (", ties apart" if fit.spec.has_tie else "") + " (%)"
  axis.set_title(what + (_cut(n, len(fit.items)) if n < len(fit.items) else ""), pad=18, **TITLE)


TITLE: dict[str, Any] = dict(loc="left", fontsize=10.5, fontweight="bold")


def _list(axis: "Axes", rows: list[dict[str, Any]], title: str) -> None:
  axis.set_yticks(range(len(rows)), _names(rows), fontsize=9)
  axis.tick_params(axis="y", length=0)
  axis.tick_params(axis="x", labelsize=9, color=SOFT)
  axis.spines[["top", "right", "left"]].set_visible(False)
  axis.spines["bottom"].set_color(SOFT)
  axis.grid(True, axis="x", color=GRID, linewidth=0.8)
  axis.set_axisbelow(True)
  axis.set_title(title, pad=18, **TITLE)


def _first(board: "Leaderboard", most: int) -> tuple[list[dict[str, Any]], str]:
  """The rows to show, and what a title says of those that are not."""
  shown = [row for row in board.rows if np.isfinite(row["rating"])][:most]
  return shown, _cut(len(shown), len(board.rows))


def _cut(shown: int, total: int) -> str:
  return f", first {shown:,} of {total:,}" if shown < total else ""


def _strongest(fit: "BradleyTerryFit", most: int) -> np.ndarray:
  """Places of the strongest items that were fitted, the best first."""
  theta = fit.log_strength
  return np.argsort(-theta, kind="stable")[: min(int(np.isfinite(theta).sum()), most)]


def _row_height(items: int) -> float:
  return NUMBERED_ROW if items <= NUMBERED else ROW


def _room_beside_matrix(items: int, row: float) -> float:
  """For the colour bar, and for a title that is longer than the matrix is wide."""
  return max(BAR, LEAST_MATRIX + BAR - items * row)


def _limits(rating: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
  """Ends of the axis: all intervals, unless a few are so wide that the others could not be read."""
  if not len(rating):
    return 0.0, 1.0
  room = max(float(np.ptp(rating)), 2 * float(np.median(high - low)), 1e-6)
  left = max(float(low.min()), float(rating.min()) - room)
  right = min(float(high.max()), float(rating.max()) + room)
  edge = 0.03 * (right - left)
  return left - edge, right + edge


def _names(rows: list[dict[str, Any]]) -> list[str]:
  return [f"{_short(row['item'])}  {row['rank']}" for row in rows]


def _short(label: Any) -> str:
  """A label as text that is not too long."""
  text = " ".join(str(label).split())
  return text if width(text) <= LONGEST else cut(text, LONGEST - 1) + "…"


def _percent(value: float) -> str:
  """Whole percents; never 0 or 100, which no model says.

  >>> [_percent(value) for value in (0.2, 49.6, 99.9)]
  ['<1', '50', '>99']
  """
  if value < 0.5:
    return "<1"
  return ">99" if value >= 99.5 else f"{value:.0f}"
