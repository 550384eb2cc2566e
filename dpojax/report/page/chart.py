"""A chart: one Vega-Lite specification, drawn by the browser on the page and by vl-convert in files."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from dpojax.report.page.styles import Name

Row = dict[str, Any]
LINES = ("line", "dashes")  # signs of a legend that are strokes
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
    names: what its legend on the page hides and shows: what its parameter `hidden` may hold.
    group: charts of one group share a legend on the page; "": it has its own.
    file: the specification of its files, where that is another; `column`: of one as wide as a column, where there is one.
  """

  key: str
  title: str
  note: str
  spec: dict[str, Any]
  rows: Sequence[Row]
  names: Sequence[Name] = ()
  group: str = ""
  file: dict[str, Any] | None = None
  column: dict[str, Any] | None = None


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


def paint(field: str, names: Sequence[Name], legend: Any = None) -> alt.Color:
  """Colours by a field whose values are these names."""
  scale = alt.Scale(domain=[name.name for name in names], range=[name.colour for name in names])
  return alt.Color(f"{field}:N", scale=scale, legend=legend)


def choosable(chart: Any, field: str = "", name: str = "") -> Any:
  """The chart without the data whose `field` is listed in its parameter `hidden`, which the page sets; of a `name`: without
  any where the name is listed."""
  tests = [f"indexof(hidden, datum.{field}) < 0"] if field else []
  tests += [f"indexof(hidden, {json.dumps(name)}) < 0"] if name else []
  return chart.transform_filter(" && ".join(tests))


def hidden() -> Any:
  """The parameter that `choosable` reads."""
  return alt.param(name="hidden", value=[])


def legend(names: Sequence[Name], *, columns: int = 1, orient: str = "bottom") -> dict[str, Any]:
  """A legend of these names with a sign of its own each, for files: on the page stands one of its own."""

  def rule(values: Mapping[str, Any], otherwise: Any) -> dict[str, Any]:
    tests = [{"test": f"datum.value === {json.dumps(name)}", "value": value} for name, value in values.items()]
    return {"condition": tests, "value": otherwise} if tests else {"value": otherwise}

  drawn = [name for name in names if name.sign in (*LINES, "ring")]
  symbols = {
    "shape": rule(
      {n.name: "stroke" if n.sign in LINES else n.sign for n in names if n.sign not in ("circle", "ring")}, "circle"
    ),
    "stroke": rule({name.name: name.colour for name in names}, "transparent"),
    "strokeDash": rule({name.name: [3, 2] for name in names if name.sign == "dashes"}, []),
    "fillOpacity": rule({name.name: 0 for name in drawn}, 1),
    "opacity": {"value": 1},
  }
  looks = {"columns": columns, "labelLimit": 240, "symbolLimit": 0, "symbolStrokeWidth": 1.5, "symbolOpacity": 1}
  return {"orient": orient, "title": None, "values": [n.name for n in names], "encoding": {"symbols": symbols}} | looks


def titled(words: str) -> str:
  """Words as a title begins: with a capital letter, but for a name such as "reward_model"."""
  return words if "_" in words else words[:1].upper() + words[1:]


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
