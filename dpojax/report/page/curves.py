"""Training curves: what was measured over steps, thinned out so that a page of sixty runs stays small."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from dpojax.report.labels import HELD_OUT, POLICY, ROLLOUT, Label
from dpojax.report.page.chart import PALETTE, Chart, Row, choosable, data, finished, hidden
from dpojax.report.stages import Stage
from dpojax.training.numbers import reward_in_words, rewards_of, tied

MOST_ROWS, MOST_POINTS, LEAST_POINTS = 20_000, 80, 20  # of all curves together, of one curve
LEARNERS = ("preference", "online")

# (key, recipes, split, metric, title) of the panels that do not depend on what is measured.
PANELS = [
  ("loss", LEARNERS, "train", "loss", "loss"),
  ("accuracy", LEARNERS, "train", "rewards/accuracies", HELD_OUT["rewards/accuracies"].axis()),
  ("margin", LEARNERS, "train", "rewards/margins", HELD_OUT["rewards/margins"].axis()),
  ("held_out_loss", LEARNERS, "eval", "loss", "held-out loss"),
  ("held_out_accuracy", LEARNERS, "eval", "rewards/accuracies", f"held-out {HELD_OUT['rewards/accuracies'].axis()}"),
  ("score", ("policy_gradient", "online"), "rollout", "objective/score", "score of roll-outs"),
  ("rollout_kl", ("policy_gradient", "online"), "rollout", "objective/kl", ROLLOUT["objective/kl"].axis()),
  ("reward_model_loss", ("reward_model",), "train", "loss", "loss of reward models"),
  ("reward_model_accuracy", ("reward_model",), "train", "rewards/accuracies", "accuracy of reward models (%)"),
  ("sft_loss", ("sft",), "train", "loss", "loss of fine-tuning"),
]


def curve_charts(stages: Sequence[Stage]) -> tuple[list[Chart], dict[str, str]]:
  """(a chart for each metric that was measured over steps, the colour of each run that stands in one)."""
  panels = [panel for panel in (*_policy_panels(stages), *PANELS) if any(_curve(stage, panel) for stage in stages)]
  curves = sum(bool(_curve(stage, panel)) for panel in panels for stage in stages)
  points = int(np.clip(MOST_ROWS // max(1, curves), LEAST_POINTS, MOST_POINTS))
  runs = [stage for stage in stages if any(_curve(stage, panel) for panel in panels)]
  paint = {stage.name: PALETTE[i % len(PALETTE)] for i, stage in enumerate(runs)}
  return [_chart(panel, runs, paint, points) for panel in panels], paint


def _policy_panels(stages: Sequence[Stage]) -> list[tuple]:
  """Panels of looks: every reward, and KL."""
  looks = dict.fromkeys(name for stage in stages for record in stage.splits.get("policy", []) for name in record)
  rewards = [
    (f"reward_{i}", None, "policy", name, reward_in_words(name)) for i, name in enumerate(rewards_of(looks), start=1)
  ]
  return [*rewards, ("kl", None, "policy", "kl/sequence", POLICY["kl/sequence"].axis())]


def _curve(stage: Stage, panel: tuple) -> list[tuple[int, float]]:
  """(step, value) of a run in a panel; empty where the panel is not its own, or one record is all there is."""
  _, recipes, split, metric, _ = panel
  if recipes is not None and stage.recipe not in recipes:
    return []
  scale = 100 if HELD_OUT.get(metric, Label("")).share else 1
  records = stage.splits.get(split, [])
  found = [(r["step"], scale * float(r[metric])) for r in records if metric in r and not tied(r, metric)]
  return found if len(found) > 1 else []


def thinned(curve: Sequence[tuple[int, float]], most: int) -> list[tuple[float, float]]:
  """At most `most` points: each the mean of steps and of values of equally many neighbours; NaN counts for nothing.

  >>> thinned([(1, 1.0), (2, 3.0), (3, 5.0), (4, 9.0)], 2)
  [(1.5, 2.0), (3.5, 7.0)]
  """
  if len(curve) <= most:
    return [(float(step), float(value)) for step, value in curve]
  array = np.asarray(curve, np.float64)
  parts = [part[np.isfinite(part[:, 1])] for part in np.array_split(array, most)]
  return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts if len(part)]


def _chart(panel: tuple, stages: Sequence[Stage], paint: dict[str, str], most: int) -> Chart:
  key, _, _, _, title = panel
  rows: list[Row] = []
  longest = 0
  for stage in stages:
    curve = _curve(stage, panel)
    longest = max(longest, len(curve))
    rows += [{"run": stage.name, "step": step, "value": value} for step, value in thinned(curve, most)]
  runs = list(dict.fromkeys(row["run"] for row in rows))
  chart = (
    alt.Chart(data(rows))
    .mark_line(strokeWidth=1.5, point={"size": 14, "filled": True} if longest <= 30 else False)
    .encode(
      x=alt.X("step:Q", title="step"),
      y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
      color=alt.Color("run:N", scale=alt.Scale(domain=runs, range=[paint[run] for run in runs]), legend=_legend(runs)),
      tooltip=[
        alt.Tooltip("run:N", title="run"),
        alt.Tooltip("step:Q", title="step", format=",.0f"),
        alt.Tooltip("value:Q", title=title, format=".4~g"),
      ],
    )
  )
  chart = choosable(chart, "run").add_params(hidden())
  note = f"Thinned out: a point is the mean of up to {-(-longest // most)} records." if longest > most else ""
  return Chart(f"curve_{key}", title, note, finished(chart, height=190), rows, group="runs")


def _legend(runs: Sequence[str]) -> Any:
  return alt.Legend(orient="right", title=None, labelLimit=220, symbolLimit=60, columns=1 + len(runs) // 24)
