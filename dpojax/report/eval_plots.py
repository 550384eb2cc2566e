"""Plots of an evaluation: how far probabilities can be trusted, and what length has to do with accuracy."""

import pathlib
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpojax.report.figures import BLUE, GREEN, GREY, ORANGE, new_figure, save_figure, title

Tree = dict[str, Any]
DARK = "#50555d"
PLAIN = dict(facecolor="white", edgecolor="none", pad=1.5)  # behind text that stands on the grid


def draw_evaluation(figures: Tree, folder: pathlib.Path) -> list[pathlib.Path]:
  """Draws reliability.png and length.png into `folder`, each where there is something to draw; returns their paths."""
  folder.mkdir(exist_ok=True)
  paths = []
  for name, figure in (("reliability.png", draw_reliability(figures)), ("length.png", draw_length(figures))):
    if figure is not None:
      save_figure(figure, folder / name)
      paths.append(folder / name)
  return paths


def draw_reliability(figures: Tree) -> Figure | None:
  """Fraction of comparisons won against the probability given, as scored and at the cross-fitted temperature."""
  panels = [("as scored", figures["calibration"], ORANGE)]
  if "reliability" in figures["calibrated"]:
    panels.append(("at the cross-fitted temperature", figures["calibrated"], BLUE))
  if not panels[0][1]["reliability"]:
    return None
  figure, axes = new_figure(len(panels))
  assert figure is not None
  low = min(0.5, *(_bounds(b["observed"])[0] for _, part, _ in panels for b in part["reliability"]))
  for axis, (name, part, colour) in zip(axes, panels, strict=True):
    _reliability(axis, part, colour)
    axis.set_ylim(100 * low - 3, 103)
    title(axis, f"won (%), {name}")
  return figure


def _reliability(axis: Axes, part: Tree, colour: str) -> None:
  axis.plot([50, 100], [50, 100], color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="calibrated")
  axis.legend(frameon=False, fontsize=8.5, loc="upper left")
  x = [100 * b["predicted"] for b in part["reliability"]]
  y = [100 * b["observed"]["value"] for b in part["reliability"]]
  axis.errorbar(x, y, yerr=_errors(part["reliability"], "observed"), **_style(colour))
  axis.set_xlim(48.5, 101.5)
  axis.set_xlabel("probability given to the answer with the higher score (%)")
  text = f"ECE {100 * part['ece']:.1f} %, by chance {100 * part['ece_by_chance']:.1f} %"
  axis.text(0.97, 0.05, text, transform=axis.transAxes, ha="right", fontsize=9, color=DARK, bbox=PLAIN)


def draw_length(figures: Tree) -> Figure | None:
  """Accuracy in bins of the relative length difference, beside that of always taking the longer answer."""
  bins = [b for b in figures["length"]["bins"] if b["accuracy"]["count"]]
  if not bins:
    return None
  figure, axes = new_figure(1)
  assert figure is not None
  figure.set_size_inches(6.4, 3.9)
  axis = axes[0]
  every = figures["length"]["bins"]
  places = [i for i, b in enumerate(every) if b["accuracy"]["count"]]
  total = 100 * figures["accuracy"]["value"]
  axis.axhline(total, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
  axis.text(len(every) - 0.36, total, "all", va="center", fontsize=9, color=DARK)
  axis.errorbar(
    places,
    [100 * b["accuracy"]["value"] for b in bins],
    yerr=_errors(bins, "accuracy"),
    **{**_style(GREEN), "linestyle": "none"},
  )
  axis.set_xlim(-0.6, len(every) - 0.4)
  axis.set_ylim(min(45.0, 100 * min(_bounds(b["accuracy"])[0] for b in bins)) - 4, 104)
  labels = [f"{_edge(b['low'])} to {_edge(b['high'])}\n({b['accuracy']['count']:,})" for b in every]
  axis.set_xticks(range(len(every)), labels, fontsize=8)
  axis.set_xlabel("better answer longer by this fraction of the longer one (%), and comparisons")
  baseline = 100 * figures["length"]["longer_wins"]["value"]
  title(axis, f"accuracy (%): {total:.1f} in all; always the longer answer: {baseline:.1f}")
  return figure


def _edge(value: float) -> str:
  return f"{100 * value:+.0f}".replace("-", "\N{MINUS SIGN}")


def _style(colour: str) -> dict[str, Any]:
  return dict(color=colour, linewidth=1.8, marker="o", markersize=4.5, elinewidth=1, capsize=2.5)


def _bounds(estimate: Tree) -> tuple[float, float]:
  low, high = estimate["interval"] or (estimate["value"], estimate["value"])
  return low, high


def _errors(bins: list[Tree], key: str) -> list[list[float]]:
  """[below, above] distances in percent from each value to the ends of its interval."""
  found = [(b[key]["value"], *_bounds(b[key])) for b in bins]
  return [
    [max(0.0, 100 * (value - low)) for value, low, _ in found],
    [max(0.0, 100 * (high - value)) for value, _, high in found],
  ]
