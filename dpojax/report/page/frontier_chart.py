"""The charts of reward against KL, and of one reward against another."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import altair as alt

from dpojax.evaluation.estimates import Z
from dpojax.report.claims import claims
from dpojax.report.comparison_records import Comparison
from dpojax.report.frontier import BEST_OF_N, KL, REFERENCE, Point, lines
from dpojax.report.methods import POLICIES, method_of
from dpojax.report.page.chart import (
  GREY,
  Chart,
  Row,
  choosable,
  colours,
  data,
  finished,
  hidden,
  legend,
  marked,
  shapes,
  tooltips,
  with_error,
)
from dpojax.report.stages import Stage
from dpojax.training.numbers import reward_in_words

FAR, TOO_FAR = 4, 12  # times the median KL: from where the axis is squeezed, and where nothing is drawn
X, ORACLE = "KL to the reference (nats an answer)", "oracle"
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


def frontier_chart(points: Sequence[Point], comparisons: Sequence[Comparison], reward: str) -> Chart | None:
  """Reward against KL; None where no point is."""
  if not points:
    return None
  words = reward_in_words(f"reward/{reward}")
  every = [_row(point) for point in points]
  points, left_out = drawable(points)
  spread = far_apart([point.kl for point in points if point.final and point.kl > 0])
  across = alt.Axis(title="KL to the reference (nats, √ scale)" if spread else X)
  scale = alt.Scale(type="sqrt" if spread else "linear", zero=True)

  def x(field: str) -> alt.X:
    return alt.X(f"{field}:Q", axis=across, scale=scale)

  def y(field: str) -> alt.Y:
    return alt.Y(f"{field}:Q", title=words, scale=alt.Scale(zero=False))

  order, rows, oracle = _order(points), [_row(point) for point in points], oracle_rows(comparisons)
  paint = alt.Color("series:N", scale=colours(order), legend=legend())
  layers: list[Any] = []
  if oracle:
    base = alt.Chart(data(oracle))
    seen = tooltips({"what": "curve", "KL": "KL, nats", "value": "most reward", "ess": "effective answers"})
    layers.append(
      base.mark_area(color=GREY, opacity=0.16).encode(x("kl"), y("reward_low"), y2="reward_high:Q", detail="of:N")
    )
    line = base.mark_line(color=GREY, strokeDash=[5, 3], strokeWidth=1.5)
    layers.append(line.encode(x("kl"), y("reward"), detail="of:N", tooltip=seen))
  joined = choosable(alt.Chart(data(lines(points))), "series").mark_line(strokeWidth=1.6, opacity=0.75)
  layers.append(joined.encode(x("kl"), y("reward"), paint, detail="line:N", order="order:Q"))
  on_the_way = [row for row in rows if not row["final"]]
  if on_the_way:
    circles = choosable(alt.Chart(data(on_the_way)), "series").mark_point(
      size=22, filled=False, strokeWidth=1.1, opacity=0.7
    )
    layers.append(circles.encode(x("kl"), y("reward"), paint, tooltip=tooltips(TOOLTIP)))
  ends = choosable(alt.Chart(data([row for row in rows if row["final"]])), "series")
  rule = ends.mark_rule(strokeWidth=1.2)
  layers.append(rule.encode(x("kl"), y("low"), paint, y2="high:Q"))
  layers.append(rule.encode(x("kl_low"), y("reward"), paint, x2="kl_high:Q"))
  shape = alt.Shape("series:N", scale=shapes(order), legend=legend())
  marks = ends.mark_point(size=70, filled=True, strokeWidth=0, opacity=1)
  layers.append(marks.encode(x("kl"), y("reward"), paint, shape, tooltip=tooltips(TOOLTIP)))
  small = (
    " Small circles: looks on the way, joined along each run where a method was run with one setting."
    if on_the_way
    else ""
  )
  curve = " Dashed: the oracle, the most reward at each KL, with its 95 % band." if oracle else ""
  note = (
    "Large points: the end of each run, with 95 % intervals over prompts. Lines join the settings of a method in order of KL, "
    f"means over seeds.{small}{curve}{left_out}"
  )
  return Chart(
    "frontier",
    f"{words.capitalize()} against KL",
    " ".join([note, *claims(comparisons)]),
    finished(alt.layer(*layers).add_params(hidden()), height=380),
    [*every, *({"series": ORACLE, **row} for row in oracle)],
    names=marked(order, by_shape=True),
    field="series",
  )


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


def two_rewards_rows(stages: Sequence[Stage], judge: str) -> list[Row]:
  """A row a look and learned reward of policies that measured `judge` and others: both, and their changes since step 0."""
  rows = []
  for stage in stages:
    records = [r for r in stage.splits.get("policy", []) if f"reward/{judge}" in r and KL in r]
    if stage.recipe not in POLICIES or len(records) < 2:
      continue
    others = [n for n in records[0] if n.startswith("reward/") and not n.endswith("_error") and n != f"reward/{judge}"]
    for name in others:
      for record in (r for r in records if name in r):
        rows.append(
          {
            "run": stage.name,
            "series": method_of(stage).label,
            "reward": name.removeprefix("reward/"),
            "step": int(record["step"]),
            "kl": float(record[KL]),
            "judge": float(record[f"reward/{judge}"]),
            "other": float(record[name]),
            "judge_change": float(record[f"reward/{judge}"] - records[0][f"reward/{judge}"]),
            "other_change": float(record[name] - records[0].get(name, math.nan)),
            "true": with_error(record[f"reward/{judge}"], record.get(f"reward/{judge}_error", math.nan)),
            "learned": with_error(record[name], record.get(f"{name}_error", math.nan)),
            "KL": with_error(record[KL], record.get(f"{KL}_error", math.nan)),
          }
        )
  return rows


def two_rewards_charts(stages: Sequence[Stage], judge: str) -> list[Chart]:
  """Other rewards against `judge`: along each run, and both over KL; [] where no run measured two."""
  rows = two_rewards_rows(stages, judge)
  if not rows:
    return []
  runs = list(dict.fromkeys(row["run"] for row in rows))
  words = reward_in_words(f"reward/{judge}")
  paint = alt.Color("run:N", scale=colours(runs), legend=legend())
  seen = tooltips(
    {
      "run": "run",
      "series": "method",
      "reward": "reward",
      "step": "step",
      "KL": "KL, nats",
      "true": words,
      "learned": "that reward",
    }
  )
  base = choosable(alt.Chart(data(rows)), "run").add_params(hidden())
  along = base.mark_line(point={"size": 34, "filled": True}, strokeWidth=1.6).encode(
    x=alt.X("other:Q", title="another reward that was measured", scale=alt.Scale(zero=False)),
    y=alt.Y("judge:Q", title=words, scale=alt.Scale(zero=False)),
    color=paint,
    detail="reward:N",
    order="step:Q",
    tooltip=seen,
  )
  changes = [
    {**row, "which": which, "change": row[key]}
    for row in rows
    for which, key in ((words, "judge_change"), ("the other reward", "other_change"))
  ]
  over = (
    choosable(alt.Chart(data(changes)), "run")
    .add_params(hidden())
    .mark_line(point={"size": 24, "filled": True}, strokeWidth=1.6)
    .encode(
      x=alt.X("kl:Q", title=X),
      y=alt.Y("change:Q", title="change since step 0"),
      color=paint,
      strokeDash=alt.StrokeDash(
        "which:N", scale=alt.Scale(domain=[words, "the other reward"], range=[[1, 0], [5, 3]]), legend=legend()
      ),
      detail="reward:N",
      order="step:Q",
      tooltip=seen,
    )
  )
  return [
    Chart(
      "two_rewards",
      f"Other rewards against the {words}",
      f"A line is a run, its points in order of steps. Where it bends down, the other reward goes on rising and the {words} "
      "falls: over-optimisation.",
      finished(along),
      rows,
      names=marked(runs),
    ),
    Chart(
      "two_rewards_over_kl",
      "Both over KL",
      f"Solid: {words}; dashed: the other reward, each as its change since step 0, in its own unit.",
      finished(over),
      changes,
      names=marked(runs),
    ),
  ]


def _row(point: Point) -> Row:
  return {
    "series": point.series,
    "knob": point.knob or "-",
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


def _order(points: Sequence[Point]) -> list[str]:
  """Methods in the order in which the legend names them: the reference and best of N last."""
  found = list(dict.fromkeys(point.series for point in points))
  return sorted(found, key=lambda series: (series in (BEST_OF_N, REFERENCE), series == REFERENCE, found.index(series)))
