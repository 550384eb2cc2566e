"""Training curves: what was measured over steps, thinned out so that a page of sixty runs stays small."""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence

import altair as alt
import numpy as np

from dpojax.report.labels import HELD_OUT, POLICY, ROLLOUT, Label
from dpojax.report.methods import loss_in_words, reward_kind
from dpojax.report.page.chart import Chart, Row, choosable, data, finished, hidden, legend, paint
from dpojax.report.page.styles import Name, Styles
from dpojax.report.stages import Stage
from dpojax.training.numbers import reward_in_words, rewards_of, tied

MOST_ROWS, MOST_POINTS, LEAST_POINTS = 20_000, 80, 20  # of all curves together, of one curve
LEARNERS, SAMPLERS = ("preference", "online"), ("policy_gradient", "online")


@dataclasses.dataclass(frozen=True)
class Panel:
  """What one chart of curves shows.

  Attributes:
    recipes: whose runs stand in it; None: all.
    split, metric: of the records of metrics.jsonl.
    kinds: a run's kind of this metric: numbers of unlike kinds are not compared, each kind has a chart of its own.
    kind: the one it shows; "": all are of one kind.
  """

  key: str
  title: str
  split: str
  metric: str
  recipes: Sequence[str] | None = None
  kinds: Callable[[Stage], str] | None = None
  kind: str = ""


def _learned_from(stage: Stage) -> str:
  return f"{reward_kind(stage)} reward"


ACCURACY, MARGIN = "rewards/accuracies", "rewards/margins"
# Those that do not depend on what is measured.
PANELS = (
  Panel("loss", "loss", "train", "loss", LEARNERS, loss_in_words),
  Panel("held_out_loss", "held-out loss", "eval", "loss", LEARNERS, loss_in_words),
  Panel("accuracy", HELD_OUT[ACCURACY].axis(), "train", ACCURACY, LEARNERS),
  Panel("held_out_accuracy", f"held-out {HELD_OUT[ACCURACY].axis()}", "eval", ACCURACY, LEARNERS),
  Panel("margin", HELD_OUT[MARGIN].axis(), "train", MARGIN, LEARNERS),
  Panel("score", "score of roll-outs", "rollout", "objective/score", SAMPLERS, _learned_from),
  Panel("rollout_kl", ROLLOUT["objective/kl"].axis(), "rollout", "objective/kl", SAMPLERS),
  Panel("reward_model_loss", "loss of reward models", "train", "loss", ("reward_model",), loss_in_words),
  Panel("reward_model_accuracy", "accuracy of reward models (%)", "train", ACCURACY, ("reward_model",)),
  Panel("sft_loss", "loss of fine-tuning", "train", "loss", ("sft",)),
)


def curve_charts(stages: Sequence[Stage], styles: Styles) -> tuple[list[Chart], list[Name]]:
  """(a chart for each metric that was measured over steps, the settings of the runs that stand in one)."""
  panels = [one for panel in (*_policy_panels(stages), *PANELS) for one in _of_one_kind(panel, stages)]
  curves = sum(bool(_curve(stage, panel)) for panel in panels for stage in stages)
  points = int(np.clip(MOST_ROWS // max(1, curves), LEAST_POINTS, MOST_POINTS))
  runs = [stage for stage in stages if any(_curve(stage, panel) for panel in panels)]
  return [_chart(panel, runs, styles, points) for panel in panels], styles.ordered(styles.runs[s.path] for s in runs)


def _policy_panels(stages: Sequence[Stage]) -> list[Panel]:
  """Panels of looks: every reward, and KL."""
  looks = dict.fromkeys(name for stage in stages for record in stage.splits.get("policy", []) for name in record)
  rewards = [
    Panel(f"reward_{i}", reward_in_words(name), "policy", name) for i, name in enumerate(rewards_of(looks), start=1)
  ]
  return [*rewards, Panel("kl", POLICY["kl/sequence"].axis(), "policy", "kl/sequence")]


def _of_one_kind(panel: Panel, stages: Sequence[Stage]) -> list[Panel]:
  """The panel for each kind of its metric that was measured; itself where all are of one kind."""
  runs = [stage for stage in stages if _curve(stage, panel)]
  kinds = list(dict.fromkeys(panel.kinds(stage) for stage in runs)) if panel.kinds is not None else []
  if len(kinds) < 2:
    return [panel] if runs else []
  found: dict[str, Panel] = {}
  for i, kind in enumerate(kinds, start=1):
    key = f"{panel.key}_{re.sub(r'[^a-z0-9]+', '_', kind.lower()).strip('_') or i}"
    key = f"{key}_{i}" if key in found else key
    found[key] = dataclasses.replace(panel, key=key, title=f"{panel.title}: {kind}", kind=kind)
  return list(found.values())


def _curve(stage: Stage, panel: Panel) -> list[tuple[int, float]]:
  """(step, value) of a run in a panel; empty where the panel is not its own, or one record is all there is."""
  if panel.recipes is not None and stage.recipe not in panel.recipes:
    return []
  if panel.kind and panel.kinds is not None and panel.kinds(stage) != panel.kind:
    return []
  metric = panel.metric
  scale = 100 if HELD_OUT.get(metric, Label("")).fraction else 1
  records = stage.splits.get(panel.split, [])
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


def _chart(panel: Panel, stages: Sequence[Stage], styles: Styles, most: int) -> Chart:
  rows: list[Row] = []
  longest = 0
  setting: dict[str, Name] = {}
  for stage in stages:
    if curve := _curve(stage, panel):
      setting[stage.name] = styles.runs[stage.path]
      longest = max(longest, len(curve))
      rows += [{"run": stage.name, "step": step, "value": value} for step, value in thinned(curve, most)]
  names = [dataclasses.replace(name, sign="line") for name in styles.ordered(setting.values())]
  of_run = json.dumps({run: name.name for run, name in setting.items()})
  one_each = len(names) == len(setting)
  chart = (
    # The setting is looked up rather than written into every row, which would make the page larger by a third.
    choosable(alt.Chart(data(rows)).transform_calculate(setting=f"({of_run})[datum.run]"), "setting")
    .mark_line(
      strokeWidth=1.5 if one_each else 0.9, point={"size": 14, "filled": True} if one_each and longest <= 30 else False
    )
    .encode(
      x=alt.X("step:Q", title="step"),
      y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(minExtent=30)),
      color=paint("setting", names, legend(names, columns=1 + len(names) // 24, orient="right")),
      detail="run:N",
      tooltip=[
        alt.Tooltip("setting:N", title="method"),
        alt.Tooltip("run:N", title="run"),
        alt.Tooltip("step:Q", title="step", format=",.0f"),
        alt.Tooltip("value:Q", title=panel.title, format=".4~g"),
      ],
    )
    .add_params(hidden())
  )
  note = f"Thinned out: a point is the mean of up to {-(-longest // most)} records." if longest > most else ""
  written = [{"setting": setting[row["run"]].name, **row} for row in rows]
  return Chart(f"curve_{panel.key}", panel.title, note, finished(chart, height=190), written, group="runs")
