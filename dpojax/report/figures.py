"""What all plots have in common: colours, a figure of panels, their titles, axes and legends."""

import pathlib

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from dpojax.files import replacing_path
from dpojax.plot_text import make_legible

BLUE, ORANGE, GREEN, GREY = "#2b5d8a", "#c8642b", "#3d8058", "#8a8f98"
COLOURS = (BLUE, ORANGE, GREEN, "#7a5195", "#b5892f", GREY)  # of lines that a legend tells apart

ROUNDING = 2e-5  # what stays below is 0 but for rounding
STILL = 0.005  # of its size, by which a curve that moves at all moves


def new_figure(
  panels: int, columns: int | None = None, size: tuple[float, float] = (4.6, 3.3)
) -> tuple[Figure | None, list[Axes]]:
  """A figure of equal panels of `size` inches, `columns` in a row or at most three (four: two by two); None for no panel."""
  if panels == 0:
    return None, []
  columns = min(columns, panels) if columns else {1: 1, 2: 2, 3: 3, 4: 2}.get(panels, 3)
  rows = -(-panels // columns)
  figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
  axes = [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]
  for axis in axes:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, color="#e4e6ea", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(color="#b0b4bb", labelsize=9)
  return figure, axes


def title(axis: Axes, text: str, size: float = 10.5) -> None:
  """A panel's title, set left: it says what the y axis is."""
  axis.set_title(text, loc="left", fontsize=size, fontweight="bold")


def over_steps(axis: Axes) -> None:
  """Makes steps the x axis."""
  axis.set_xlabel("step")
  axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def legend(axis: Axes) -> None:
  """A legend where there is more than one thing to tell apart."""
  if len(axis.get_legend_handles_labels()[0]) > 1:
    axis.legend(frameon=False, fontsize=8.5)


def percent(axis: Axes, least: float = 10.0) -> None:
  """Keeps a y axis of shares in percent within 0 to 100, and at least `least` high; a margin beyond has no tick."""
  low, high = axis.get_ylim()
  middle = min(max((low + high) / 2, least / 2), 100 - least / 2)
  low, high = min(low, middle - least / 2), max(high, middle + least / 2)
  margin = 0.03 * (high - low)
  axis.set_ylim(max(low, -margin), min(high, 100 + margin))


def settle(figure: Figure) -> None:
  """Axes as people read them: ticks say all of a number, without an offset or a power apart, and rounding is no curve.

  What moves by less than half a percent of its size is drawn within one, and what is 0 but for rounding within 0.01 of it.
  """
  for axes in figure.axes:
    for axis, limits, set_limits in (
      (axes.xaxis, axes.get_xlim(), axes.set_xlim),
      (axes.yaxis, axes.get_ylim(), axes.set_ylim),
    ):
      if axis.get_scale() != "linear" or not isinstance(axis.get_major_formatter(), ScalarFormatter):
        continue
      low, high = sorted(limits)
      size = max(abs(low), abs(high))
      if size < ROUNDING:
        set_limits(-0.01, 0.01)
      elif high - low < STILL * size:
        set_limits((low + high) / 2 - STILL * size, (low + high) / 2 + STILL * size)
      formatter = ScalarFormatter(useOffset=False)
      formatter.set_scientific(False)
      axis.set_major_formatter(formatter)


def save_figure(figure: Figure, path: pathlib.Path) -> None:
  """Writes a figure whole or not at all; the name's ending says the format. Errors as `files.replacing_path`."""
  settle(figure)
  make_legible(figure)
  with replacing_path(path) as part:
    figure.savefig(part, dpi=130)
