"""A page and all its charts and tables as files of one folder."""

import copy
import csv
import datetime
import io
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import vl_convert

from dpojax.errors import ConfigError
from dpojax.files import parse_json, write_atomically, write_json
from dpojax.plot_text import legible
from dpojax.report.page.chart import WIDTH, Chart
from dpojax.report.page.content import Content
from dpojax.report.page.html import page
from dpojax.report.page.table import to_csv
from dpojax.terminal import width as columns

INDEX, LIST = "index.html", "files.json"
# The first that is installed is taken, and characters that it lacks are looked for in the others.
FONTS = (
  "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', 'Noto Sans', 'Noto Sans CJK SC', 'Noto Sans SC', "
  "'Source Han Sans SC', 'WenQuanYi Micro Hei', 'WenQuanYi Zen Hei', 'Microsoft YaHei', 'PingFang SC', sans-serif"
)
COLUMN_INCHES = 3.25  # of a figure in one of two columns
CHARACTER = 0.58  # the width of one, in font sizes; Chinese ones are two
POINTS = 72  # an inch; a unit of Vega is one in a PDF


def write_page(
  content: Content, folder: pathlib.Path, title: str, *, say: Callable[[str], None] = lambda text: None
) -> list[str]:
  """Writes index.html, charts/ and tables/ into `folder` and returns their paths in it, index.html first.

  Files of an earlier page that this one does not have are deleted.

  Raises:
    ConfigError: the folder cannot be written, or is one of a run.
  """
  if (folder / "stage.json").exists():
    raise ConfigError(f"--out={folder} is the folder of a run; name another")
  try:
    for name in ("charts", "tables"):
      (folder / name).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(f"--out={folder}: {error.strerror}; name a folder that can be written") from None
  versions = vl_convert.get_vegalite_versions()
  say("drawing the page")
  library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=versions[-1])
  html = page(content, title, made(content), library)
  write_atomically(folder / INDEX, html.encode("utf-8", "replace"))
  paths = [INDEX]
  for chart in (chart for section in content.sections for chart in section.charts):
    say(f"drawing {chart.key}")
    for name, body in chart_files(chart, versions[-1]):
      write_atomically(folder / "charts" / name, body)
      paths.append(f"charts/{name}")
  for table in (table for section in content.sections for table in section.tables):
    text = to_csv(table.header, table.rows)
    write_atomically(folder / "tables" / f"{table.key}.csv", text.encode("utf-8", "replace"))
    paths.append(f"tables/{table.key}.csv")
  _forget(folder, paths)
  return paths


def made(content: Content) -> str:
  """Of how many runs, in which states of the sources, on which devices and when."""
  commits = sorted({str(s.environment["commit"])[:10] for s in content.stages if s.environment.get("commit")})
  devices = sorted({str(d["kind"]) for s in content.stages if (d := s.environment.get("device", {})).get("kind")})
  seeds = sorted({stage.seed for stage in content.stages})
  now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
  listed = ", ".join(map(str, seeds[:12])) + (", …" if len(seeds) > 12 else "")
  count = len(content.stages)
  parts = ["1 run" if count == 1 else f"{count} runs", f"seed{'s' if len(seeds) > 1 else ''} {listed}"]
  parts += [f"commit {', '.join(commits)}"] if commits else []
  parts += [f"on {', '.join(devices)}"] if devices else []
  return "; ".join([*parts, f"page made {now}"])


def chart_files(chart: Chart, version: str) -> Iterator[tuple[str, bytes]]:
  """(name, content) of a chart as PNG, SVG, PDF and CSV, and as a PDF of a column's width where it has one."""
  spec = as_file(chart.file or chart.spec, WIDTH)
  if chart.group:  # small charts: on the page the title stands in the place of the y axis's
    spec["title"] = {"text": chart.title, "anchor": "start", "fontSize": 12, "font": FONTS}
  yield f"{chart.key}.png", vl_convert.vegalite_to_png(spec, vl_version=version, scale=2)
  yield f"{chart.key}.svg", vl_convert.vegalite_to_svg(spec, vl_version=version).encode()
  yield f"{chart.key}.pdf", vl_convert.vegalite_to_pdf(spec, vl_version=version)
  yield f"{chart.key}.csv", rows_csv(chart).encode("utf-8", "replace")
  if chart.column is not None:
    column = as_file(chart.column, round(COLUMN_INCHES * POINTS), small=True)
    yield f"{chart.key}_column.pdf", vl_convert.vegalite_to_pdf(column, vl_version=version)


def as_file(spec: dict[str, Any], width: int, *, small: bool = False) -> dict[str, Any]:
  """The specification at a width in points, axes and legends included; `small`: for a column, in type of 7 points."""
  label, title = (7, 7.5) if small else (11, 12)
  text = {"labelFontSize": label, "titleFontSize": title, "titleFontWeight": "normal"}
  config = {
    "font": FONTS,
    "axis": text
    | {
      "gridColor": "#e4e6ea",
      "domainColor": "#8a8f98",
      "tickColor": "#8a8f98",
      "labelOverlap": True,
      "labelSeparation": 6,
      "labelFlush": False,
    },
    "legend": text | {"symbolSize": 35 if small else 90, "rowPadding": 1 if small else 2},
    "view": {"stroke": "transparent"},
  }
  found = legible(copy.deepcopy(spec)) | {
    "width": width,
    "background": "white",
    "padding": 2 if small else 6,
    "config": config,
  }
  found["autosize"] = {"type": "fit-x", "contains": "padding"}
  for legend in _legends(found):
    if legend["orient"] == "bottom":
      longest = max(map(columns, legend["values"]))
      legend["columns"] = max(1, min(3, int(width / (CHARACTER * label * longest + 3 * label))))
      legend["labelLimit"] = width - 4 * label
  if small:
    found["config"]["axis"] |= {"gridWidth": 0.5, "domainWidth": 0.6, "tickWidth": 0.6, "tickSize": 3}
    found["config"]["legend"] |= {"offset": 4}
    _shrink(found)
  return found


def _legends(part: Any) -> Iterator[dict[str, Any]]:
  """Every legend of a specification."""
  if isinstance(part, dict):
    if isinstance(part.get("legend"), dict):
      yield part["legend"]
    part = [inner for name, inner in part.items() if name not in ("data", "datasets", "config")]
  for inner in part if isinstance(part, list) else ():
    yield from _legends(inner)


def _shrink(part: Any) -> None:
  """Thinner lines and smaller points, wherever they stand in a specification."""
  if isinstance(part, list):
    for inner in part:
      _shrink(inner)
  elif isinstance(part, dict):
    mark = part.get("mark")
    if isinstance(mark, dict):
      mark.update({name: mark[name] * by for name, by in (("size", 0.35), ("strokeWidth", 0.6)) if name in mark})
    for name, inner in part.items():
      if name not in ("data", "datasets"):
        _shrink(inner)


def rows_csv(chart: Chart) -> str:
  """A chart's data as a CSV file; a column for each field of any row."""
  names = list(dict.fromkeys(name for row in chart.rows for name in row))
  out = io.StringIO()
  writer = csv.DictWriter(out, names, lineterminator="\n")
  writer.writeheader()
  writer.writerows(chart.rows)
  return out.getvalue()


def _forget(folder: pathlib.Path, paths: list[str]) -> None:
  """Deletes files of an earlier page that are not among `paths`, and remembers these."""
  try:
    earlier = parse_json((folder / LIST).read_text(encoding="utf-8"))
  except (OSError, ValueError):
    earlier = []
  for path in earlier if isinstance(earlier, list) else []:
    parts = pathlib.PurePosixPath(str(path)).parts
    if str(path) not in paths and len(parts) == 2 and parts[0] in ("charts", "tables") and parts[1] != "..":
      (folder / str(path)).unlink(missing_ok=True)
  write_json(folder / LIST, paths)
