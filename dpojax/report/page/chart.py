"""A chart: one Vega-Lite specification, drawn by the browser on the page and by vl-convert in files."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

Row = dict[str, Any]
# Told apart in light and dark, and by most who see colours otherwise (Okabe and Ito 2008, black and yellow exchanged).
PALETTE = ("#2f7fc1", "#e06c1f", "#1f9e77", "#b75fa5", "#c9a227", "#57a9d9", "#d1495b", "#7a6ff0", "#5f8f3a", "#8d6e63")
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")
GREY = "#8a8f98"
WIDTH, HEIGHT = 560, 340  # of a chart's file, in points; on the page it is as wide as there is room


@dataclasses.dataclass(frozen=True)
class Chart:
  """A chart of the page.

  Attributes:
    key: the name of its files, and of its element on the page.
    title: above it.
    note: what is drawn, below it.
    spec: Vega-Lite, its data inside; `width` is "container".
    rows: its data, for a CSV file.
    names: (name, colour, shape) of what its legend tells apart, by the field `field` of its data.
    group: charts of one group share a legend on the page; "": it has its own.
  """

  key: str
  title: str
  note: str
  spec: dict[str, Any]
  rows: Sequence[Row]
  names: Sequence[tuple[str, str, str]] = ()
  field: str = "run"
  group: str = ""


def finished(chart: Any, *, height: int = HEIGHT) -> dict[str, Any]:
  """The specification of an Altair chart: as wide as its place, its data inside."""
  with alt.data_transformers.enable("default", max_rows=None):
    spec = chart.properties(width="container", height=height).to_dict(validate=False)  # takes as long as drawing
  return spec | {"autosize": {"type": "fit-x", "contains": "padding"}, "config": {}}


def data(rows: Sequence[Row]) -> alt.Data:
  """Rows as a chart holds them: numbers to six digits, no NaN, which JSON does not have."""
  return alt.Data(values=[{name: rounded(value) for name, value in row.items()} for row in rows])


def rounded(value: Any) -> Any:
  """A number to six significant digits, None where it is not finite; anything else as it is."""
  if not isinstance(value, float):
    return value
  return float(f"{value:.6g}") if math.isfinite(value) else None


def colours(names: Sequence[str]) -> alt.Scale:
  """A colour for each name, in turn."""
  return alt.Scale(domain=list(names), range=[PALETTE[i % len(PALETTE)] for i in range(len(names))])


def shapes(names: Sequence[str]) -> alt.Scale:
  """A shape for each name, in turn."""
  return alt.Scale(domain=list(names), range=[SHAPES[i % len(SHAPES)] for i in range(len(names))])


def marked(names: Sequence[str], *, by_shape: bool = False) -> list[tuple[str, str, str]]:
  """(name, colour, shape) of each name, as `colours` and `shapes` give them."""
  return [
    (name, PALETTE[i % len(PALETTE)], SHAPES[i % len(SHAPES)] if by_shape else "circle") for i, name in enumerate(names)
  ]


def choosable(chart: Any, field: str) -> Any:
  """The chart without the data whose `field` is listed in its parameter `hidden`, which the page sets."""
  return chart.transform_filter(f"indexof(hidden, datum.{field}) < 0")


def hidden() -> Any:
  """The parameter that `choosable` reads."""
  return alt.param(name="hidden", value=[])


def legend() -> alt.Legend:
  """Below the chart, of files: on the page stands one of its own."""
  return alt.Legend(orient="bottom", title=None, columns=3, labelLimit=240, symbolLimit=0, direction="horizontal")


def tooltips(names: Mapping[str, str]) -> list[alt.Tooltip]:
  """Lines of a tooltip: field -> its title; numbers are formatted beforehand."""
  return [alt.Tooltip(field=field, type="nominal", title=title) for field, title in names.items()]


def with_error(value: float, error: float, digits: int = 3) -> str:
  """ "1.895 ± 0.023", without the error where it is not known."""
  if value is None or not math.isfinite(value):
    return "-"
  return (
    f"{value:.{digits}f} ± {error:.{digits}f}" if error is not None and math.isfinite(error) else f"{value:.{digits}f}"
  )
