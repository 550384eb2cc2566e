"""The chart of reward against KL."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import altair as alt

from dpojax.evaluation.estimates import Z
from dpojax.report.claims import claims
from dpojax.report.comparison_records import Comparison
from dpojax.report.frontier import BEST_OF_N, Point, lines
from dpojax.report.page.chart import (
  WIDTH,
  Chart,
  Row,
  choosable,
  data,
  finished,
  hidden,
  legend,
  paint,
  titled,
  tooltips,
  with_error,
)
from dpojax.report.page.point_labels import placed
from dpojax.report.page.shades import shade
from dpojax.report.page.styles import GREY, Name, Styles
from dpojax.report.page.ticks import sqrt_values
from dpojax.training.numbers import reward_in_words

FAR, TOO_FAR = 4, 12  # times the median KL: from where the axis is squeezed, and where nothing is drawn
X, ORACLE = "KL to the reference (nats an answer)", "oracle"
BAND, LOOKS = Name("oracle, 95 % band", GREY, "dashes"), Name("looks on the way", GREY, "ring")
HEIGHT, COLUMN_WIDTH, COLUMN_HEIGHT = 380, 234, 170  # of the page's chart and of a column's, in points
AXIS, COLUMN_AXIS = 46, 28  # of a width, beside the plot
TOOLTIP = {
  "series": "method",
  "knob": "setting",
  "run": "run",
  "seed": "seed",
  "step": "step",
  "KL": "KL, nats",
  "value": "reward",
  "from": "measured in",
}


def frontier_chart(
  points: Sequence[Point], comparisons: Sequence[Comparison], reward: str, styles: Styles
) -> Chart | None:
  """Reward against KL; None where no point is."""
  if not points:
    return None
  words = reward_in_words(f"reward/{reward}")
  every = [_row(point, styles) for point in points]
  points, left_out = drawable(points)
  oracle = oracle_rows(comparisons)
  drawing = _Drawing(points, oracle, words, styles)
  samples = any(not point.final for point in points)
  small = (
    " Small circles: looks on the way, joined along each run where a method was run with one setting."
    if samples
    else ""
  )
  curve = " Dashed: the oracle, the most reward at each KL, with its 95 % band." if oracle else ""
  note = (
    "Large points: the end of each run, with 95 % intervals over prompts; shades are settings, the same as in the charts below. "
    f"Lines join the settings of a method in order of KL, means over seeds.{small}{curve}{left_out}"
  )
  return Chart(
    "frontier",
    f"{titled(words)} against KL",
    " ".join([note, *claims(comparisons)]),
    finished(drawing.chart(), height=HEIGHT),
    [*every, *({"series": ORACLE, **row} for row in oracle)],
    names=drawing.names,
    file=finished(drawing.chart(size=(WIDTH - AXIS, HEIGHT), font=9, radius=5), height=HEIGHT),
    column=finished(
      drawing.chart(size=(COLUMN_WIDTH - COLUMN_AXIS, COLUMN_HEIGHT), font=6, radius=3, samples=False),
      height=COLUMN_HEIGHT,
    ),
  )


class _Drawing:
  """The layers of the frontier, for the page and for files."""

  def __init__(self, points: Sequence[Point], oracle: Sequence[Row], words: str, styles: Styles):
    self.points, self.oracle, self.styles = points, oracle, styles
    self.rows, self.lines = [_row(point, styles) for point in points], lines(points)
    self.spread = far_apart([point.kl for point in points if point.final and point.kl > 0])
    ticks: dict[str, Any] = {"values": sqrt_values(), "labelOverlap": "greedy"} if self.spread else {}
    across = alt.Axis(title="KL to the reference (nats, √ scale)" if self.spread else X, format="~g", **ticks)
    scale = alt.Scale(type="sqrt" if self.spread else "linear", zero=True)
    self.x = lambda field: alt.X(f"{field}:Q", axis=across, scale=scale)
    self.y = lambda field: alt.Y(f"{field}:Q", title=words, scale=alt.Scale(zero=False))
    series = {point.series for point in points}
    self.methods = [name for name in styles.methods.values() if name.name in series]
    on_the_way = [LOOKS] if any(not row["final"] for row in self.rows) else []
    self.names = [*self.methods, *([BAND] if oracle else []), *on_the_way]

  def chart(
    self, *, size: tuple[float, float] | None = None, font: float = 9, radius: float = 5, samples: bool = True
  ) -> Any:
    """All layers; with the settings beside their points where a plot of this `size` has room for them."""
    named = [name for name in self.names if samples or name is not LOOKS]
    settings = self.styles.ordered(self.styles.settings[point.group] for point in self.points)
    all_names = {name.name: name for name in [*settings, *named]}  # a method without settings is called as they are
    paints = {field: paint(field, list(all_names.values()), legend(named)) for field in ("series", "setting")}
    layers = [*self._oracle(), *self._joined(paints)]
    if samples and LOOKS in named:
      layers.append(self._policy_samples(paints))
    layers += self._ends(paints)
    if size is not None:
      layers += self._texts(size, font, radius, samples)
    return alt.layer(*layers).add_params(hidden())

  def _oracle(self) -> list[Any]:
    if not self.oracle:
      return []
    base = choosable(alt.Chart(data(self.oracle)), name=BAND.name)
    seen = tooltips({"what": "curve", "KL": "KL, nats", "value": "most reward", "ess": "effective answers"})
    band = base.mark_area(color=GREY, opacity=0.16)
    line = base.mark_line(color=GREY, strokeDash=[5, 3], strokeWidth=1.5)
    return [
      band.encode(self.x("kl"), self.y("reward_low"), y2="reward_high:Q", detail="of:N"),
      line.encode(self.x("kl"), self.y("reward"), detail="of:N", tooltip=seen),
    ]

  def _joined(self, paints: dict[str, Any]) -> list[Any]:
    joined = choosable(alt.Chart(data(self.lines)), "series").mark_line(strokeWidth=1.6, opacity=0.75)
    return [joined.encode(self.x("kl"), self.y("reward"), paints["series"], detail="line:N", order="order:Q")]

  def _policy_samples(self, paints: dict[str, Any]) -> Any:
    on_the_way = choosable(alt.Chart(data([row for row in self.rows if not row["final"]])), "series", LOOKS.name)
    circles = on_the_way.mark_point(size=22, filled=False, strokeWidth=1.1, opacity=0.7)
    return circles.encode(self.x("kl"), self.y("reward"), paints["setting"], tooltip=tooltips(TOOLTIP))

  def _ends(self, paints: dict[str, Any]) -> list[Any]:
    ends = choosable(alt.Chart(data([row for row in self.rows if row["final"]])), "series")
    rule = ends.mark_rule(strokeWidth=1.2)
    marks = ends.mark_point(size=70, filled=True, strokeWidth=0, opacity=1)
    scale = alt.Scale(domain=[name.name for name in self.methods], range=[name.sign for name in self.methods])
    shape = alt.Shape("series:N", scale=scale, legend=None)
    return [
      rule.encode(self.x("kl"), self.y("low"), paints["setting"], y2="high:Q"),
      rule.encode(self.x("kl_low"), self.y("reward"), paints["setting"], x2="kl_high:Q"),
      marks.encode(self.x("kl"), self.y("reward"), paints["setting"], shape, tooltip=tooltips(TOOLTIP)),
    ]

  def _texts(self, size: tuple[float, float], font: float, radius: float, samples: bool) -> list[Any]:
    ends = [point for point in self.points if point.final]
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in ends:
      groups.setdefault(point.group, []).append(point)
    middles = [
      {
        "text": knob,
        "places": [(point.kl, point.reward) for point in some],
        "ink": shade(self.styles.methods[series].colour, 0.45),
      }
      for (series, knob), some in sorted(groups.items(), key=lambda item: -sum(s == item[0][0] for s, _ in groups))
      if knob
    ]
    drawn: dict[str, list[tuple[float, float]]] = {}
    for row in self.lines:
      drawn.setdefault(f"line {row['line']} {row['series']}", []).append((row["kl"], row["reward"]))
    for row in self.oracle:
      for side in ("reward_low", "reward", "reward_high"):
        drawn.setdefault(f"{side} {row['of']}", []).append((row["kl"], row[side]))
    for i, row in enumerate(row for row in self.rows if row["final"]):
      drawn[f"rewards {i}"] = [(row["kl"], row[end]) for end in ("low", "high") if math.isfinite(row[end])]
      drawn[f"KLs {i}"] = [(row[end], row["reward"]) for end in ("kl_low", "kl_high") if math.isfinite(row[end])]
    marks = [(point.kl, point.reward) for point in (self.points if samples else ends)]
    texts = placed(middles, drawn.values(), marks, size=size, font=font, radius=radius, sqrt=self.spread)
    text = alt.Chart(data(texts)).mark_text(fontSize=font)
    ink = alt.Color("ink:N", scale=None, legend=None)
    return [text.encode(self.x("kl"), self.y("reward"), ink, text="text:N")] if texts else []


def drawable(points: Sequence[Point]) -> tuple[list[Point], str]:
  """(the points that are not so far out that the others would stand in a corner, a sentence about those that are)."""
  kls = [point.kl for point in points if point.final and point.kl > 0]
  limit = TOO_FAR * statistics.median(kls) if kls else math.inf
  near = [point for point in points if point.kl <= limit]
  if len(near) == len(points):
    return list(points), ""
  far: dict[str, float] = {}
  for point in points:
    if point.kl > limit:
      far[point.series] = max(point.kl, far.get(point.series, 0.0))
  named = ", ".join(f"{series} (up to {kl:,.0f} nats)" for series, kl in far.items())
  return near, f" Not drawn, as they lie beyond {limit:.3g} nats: {named}; tables and CSV have them."


def far_apart(kls: Sequence[float]) -> bool:
  """Whether one KL is so far out that the others would be squeezed together on a linear axis."""
  return bool(kls) and max(kls) > FAR * statistics.median(kls)


def oracle_rows(comparisons: Sequence[Comparison]) -> list[Row]:
  """The points of each comparison's oracle curve, in order of KL."""
  rows = []
  for comparison in comparisons:
    for point in (comparison.content.get("oracle") or {}).get("points", ()):
      rows.append(
        {
          "of": comparison.stage.name,
          "what": f"oracle of {comparison.stage.name}",
          "kl": float(point["kl"]),
          "reward": float(point["reward"]),
          "reward_low": float(point["reward_low"]),
          "reward_high": float(point["reward_high"]),
          "KL": f"{point['kl']:.3f}",
          "value": f"{point['reward']:.3f} ({point['reward_low']:.3f} to {point['reward_high']:.3f})",
          "ess": f"{point.get('ess', math.nan):,.0f}",
        }
      )
  return sorted(rows, key=lambda row: (row["of"], row["kl"]))


def _row(point: Point, styles: Styles) -> Row:
  return {
    "series": point.series,
    "knob": point.knob or "-",
    "setting": styles.settings[point.group].name,
    "run": point.run,
    "seed": point.seed,
    "step": "-" if point.source == BEST_OF_N else point.step,
    "kl": point.kl,
    "kl_low": max(0.0, point.kl - Z * point.kl_error) if point.kl_error == point.kl_error else math.nan,
    "kl_high": point.kl + Z * point.kl_error,
    "reward": point.reward,
    "low": point.reward - Z * point.reward_error,
    "high": point.reward + Z * point.reward_error,
    "KL": with_error(point.kl, point.kl_error),
    "value": with_error(point.reward, point.reward_error),
    "from": {"look": "its looks", "comparison": "the comparison"}.get(point.source, point.source),
    "final": point.final,
  }
