"""The charts of one reward against another."""

import math
from collections.abc import Sequence

import altair as alt

from dpojax.report.frontier import KL
from dpojax.report.methods import POLICIES
from dpojax.report.page.chart import (
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
from dpojax.report.page.frontier_chart import X
from dpojax.report.page.styles import GREY, Name, Styles
from dpojax.report.stages import Stage
from dpojax.training.numbers import reward_in_words


def two_rewards_rows(stages: Sequence[Stage], main_reward: str, styles: Styles) -> list[Row]:
  """A row a look and learned reward of policies that measured `main_reward` and others: both, and their changes since step 0."""
  rows = []
  for stage in stages:
    records = [r for r in stage.splits.get("policy", []) if f"reward/{main_reward}" in r and KL in r]
    if stage.recipe not in POLICIES or len(records) < 2:
      continue
    others = [
      n for n in records[0] if n.startswith("reward/") and not n.endswith("_error") and n != f"reward/{main_reward}"
    ]
    for name in others:
      for record in (r for r in records if name in r):
        rows.append(
          {
            "run": stage.name,
            "setting": styles.runs[stage.path].name,
            "reward": name.removeprefix("reward/"),
            "step": int(record["step"]),
            "kl": float(record[KL]),
            "judge": float(record[f"reward/{main_reward}"]),
            "other": float(record[name]),
            "judge_change": float(record[f"reward/{main_reward}"] - records[0][f"reward/{main_reward}"]),
            "other_change": float(record[name] - records[0].get(name, math.nan)),
            "true": with_error(record[f"reward/{main_reward}"], record.get(f"reward/{main_reward}_error", math.nan)),
            "learned": with_error(record[name], record.get(f"{name}_error", math.nan)),
            "KL": with_error(record[KL], record.get(f"{KL}_error", math.nan)),
          }
        )
  return rows


def two_rewards_charts(stages: Sequence[Stage], main_reward: str, styles: Styles) -> list[Chart]:
  """Other rewards against `main_reward`: along each run, and both over KL; [] where no run measured two."""
  rows = two_rewards_rows(stages, main_reward, styles)
  if not rows:
    return []
  runs = {row["run"] for row in rows}
  names = styles.ordered(styles.runs[stage.path] for stage in stages if stage.name in runs)
  thin = 1.6 if len(names) == len(runs) else 0.9
  words, others = reward_in_words(f"reward/{main_reward}"), list(dict.fromkeys(row["reward"] for row in rows))
  other = reward_in_words(f"reward/{others[0]}") if len(others) == 1 else "the other reward"
  seen = tooltips(
    {
      "setting": "method",
      "run": "run",
      "reward": "reward",
      "step": "step",
      "KL": "KL, nats",
      "true": words,
      "learned": "that reward" if len(others) > 1 else other,
    }
  )
  base = choosable(alt.Chart(data(rows)), "setting").add_params(hidden())
  along = base.mark_line(point={"size": 34, "filled": True}, strokeWidth=thin).encode(
    x=alt.X("other:Q", title=other, scale=alt.Scale(zero=False)),
    y=alt.Y("judge:Q", title=words, scale=alt.Scale(zero=False)),
    color=paint("setting", names, legend(names)),
    detail=["run:N", "reward:N"],
    order="step:Q",
    tooltip=seen,
  )
  changes = [
    {**row, "which": which, "change": row[key]}
    for row in rows
    for which, key in ((words, "judge_change"), (other, "other_change"))
  ]
  strokes = [Name(words, GREY, "line"), Name(other, GREY, "dashes")]
  dash = alt.Scale(domain=[words, other], range=[[1, 0], [5, 3]])
  over = (
    choosable(alt.Chart(data(changes)), "setting")
    .add_params(hidden())
    .mark_line(point={"size": 24, "filled": True}, strokeWidth=thin)
    .encode(
      x=alt.X("kl:Q", title=X, axis=alt.Axis(format="~g")),
      y=alt.Y("change:Q", title="change since step 0"),
      color=paint("setting", [*names, *strokes], legend([*names, *strokes])),
      strokeDash=alt.StrokeDash("which:N", scale=dash, legend=None),
      detail=["run:N", "reward:N"],
      order="step:Q",
      tooltip=seen,
    )
  )
  each = "A line is a run, its points in order of steps."
  return [
    Chart(
      "two_rewards",
      f"{titled(words)} against {other if len(others) == 1 else 'other rewards'}",
      f"{each} Where it bends down, {other} goes on rising and the {words} falls: over-optimisation.",
      finished(along),
      rows,
      names=names,
    ),
    Chart(
      "two_rewards_over_kl",
      "Both over KL" if len(others) == 1 else "All over KL",
      f"Solid: {words}; dashed: {other}, each as its change since step 0, in its own unit.",
      finished(over),
      changes,
      names=names,
    ),
  ]
