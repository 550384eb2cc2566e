"""The plot of a sweep: what the points reached against the setting that was varied."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpojax.report.figures import COLOURS, new_figure, percent, title
from dpojax.report.labels import Label
from dpojax.report.sweep_rows import SweepRow, measured_columns
from dpojax.training.numbers import tied

NAMES = {"loss.beta": "β (loss.beta)", "optimizer.learning_rate": "learning rate"}


def draw_sweep(rows: Sequence[SweepRow]) -> Figure:
  """A panel for each metric against the first setting of the grid, a line for each value of the others.

  The x axis is logarithmic when the values are positive numbers that span a factor of four or more.
  """
  key = axis_key(rows)
  columns = measured_columns(rows)
  figure, axes = new_figure(max(1, len(columns)))
  assert figure is not None
  places = _places([row.values[key] for row in rows])
  groups: dict[str, list[SweepRow]] = {}
  for row in rows:
    others = ", ".join(f"{name}={value}" for name, value in row.values.items() if name != key)
    groups.setdefault(others, []).append(row)
  for axis, (split, metric, label) in zip(axes, columns, strict=False):
    for colour, (name, members) in zip(_cycle(len(groups)), groups.items(), strict=True):
      _line(axis, members, places, key, split, metric, label, colour, name)
    if label.fraction:
      percent(axis)
    title(axis, label.axis())
    axis.set_xlabel(NAMES.get(key, key))
    _scale(axis, places)
  if len(groups) > 1:
    axes[0].legend(frameon=False, fontsize=8.5)
  return figure


def axis_key(rows: Sequence[SweepRow]) -> str:
  """The setting of the x axis: the first of the grid that is not the seed and takes several values."""
  several = [key for key in rows[0].values if len({row.values[key] for row in rows}) > 1]
  return next((key for key in several if key != "seed"), (several or list(rows[0].values))[0])


def _places(values: Sequence[Any]) -> Mapping[Any, float]:
  """Where each value stands on the x axis: at itself, or at 0, 1, 2, ... when it is no number."""
  distinct = list(dict.fromkeys(values))
  if all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct):
    return {v: float(v) for v in sorted(distinct)}
  return {v: float(i) for i, v in enumerate(distinct)}


def _scale(axis: Axes, places: Mapping[Any, float]) -> None:
  at = list(places.values())
  if min(at) > 0 and max(at) >= 4 * min(at):
    axis.set_xscale("log")
  axis.set_xticks(at, [f"{v:g}" if isinstance(v, float) else str(v) for v in places], minor=False)
  axis.set_xticks([], minor=True)


def _cycle(count: int) -> list[str]:
  return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _line(
  axis: Axes,
  rows: Sequence[SweepRow],
  places: Mapping[Any, float],
  key: str,
  split: str,
  metric: str,
  label: Label,
  colour: str,
  name: str,
) -> None:
  points = [
    (places[row.values[key]], value, row.last(split, f"{metric}_error") or 0.0)
    for row in rows
    if (value := row.last(split, metric)) is not None and not tied(row.after(split), metric)
  ]
  if not points:
    return
  x, y, errors = zip(*sorted(points), strict=True)
  scale = 100 if label.fraction else 1
  axis.errorbar(
    x,
    [scale * v for v in y],
    yerr=[scale * e for e in errors] if any(errors) else None,
    color=colour,
    linewidth=1.8,
    marker="o",
    markersize=4.5,
    elinewidth=1,
    capsize=2.5,
    label=name or None,
  )
