"""What a page holds, in its order, and what it would hold if more were measured."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dpojax.errors import CheckpointError, InputError
from dpojax.report.comparison_records import Comparison, comparison_of, with_compared
from dpojax.report.frontier import frontier_points, of_split, reward_names
from dpojax.report.methods import in_order
from dpojax.report.page.chart import Chart
from dpojax.report.page.curves import curve_charts
from dpojax.report.page.frontier_chart import frontier_chart
from dpojax.report.page.method_table import difference_table, method_table
from dpojax.report.page.samples import sample_sets
from dpojax.report.page.styles import Name, Styles, styles_of
from dpojax.report.page.table import Table
from dpojax.report.page.tables import bradley_terry_table, policy_table, runs_table, tournament_tables
from dpojax.report.page.two_rewards import two_rewards_charts
from dpojax.report.stages import Stage


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the page under a heading of its own.

  Attributes:
    key: names its element.
    kind: "charts", "curves" (charts under the list of runs), "tables" or "samples".
  """

  key: str
  title: str
  kind: str
  charts: Sequence[Chart] = ()
  tables: Sequence[Table] = ()


@dataclasses.dataclass(frozen=True)
class Content:
  """The whole page.

  Attributes:
    missing: (title, what would give it) of sections without data.
    problems: what could not be read, a line each.
    styles: how methods and settings are drawn; `names`: the settings whose runs stand in the curves.
    samples: see `samples.sample_sets`; `samples_note`: what is left out of them.
  """

  stages: Sequence[Stage]
  reward: str | None
  sections: Sequence[Section]
  missing: Sequence[tuple[str, str]]
  problems: Sequence[str]
  styles: Styles
  names: Sequence[Name]
  samples: Sequence[dict[str, Any]]
  samples_note: str


def content_of(stages: Sequence[Stage], problems: Sequence[str] = (), reward: str = "") -> Content:
  """What the page of these stages holds.

  Args:
    reward: the name of the reward that judges; "": the true one, else that of the comparison, else the first measured.

  Raises:
    InputError: no run measured a reward of that name.
  """
  problems = list(problems)
  stages = in_order([stage for stage in stages if _readable(stage, problems)])
  comparisons = _comparisons(stages, problems)
  names = reward_names(stages, comparisons)
  if reward and reward not in names:
    known = (
      f"measured are {', '.join(names)}" if names else "no reward is measured, set monitor.every and monitor.rewards"
    )
    raise InputError(f"--reward={reward}: no run measured it; {known}")
  judge = reward or (names[0] if names else None)
  sections: list[Section] = []
  missing: list[tuple[str, str]] = []

  def add(key: str, title: str, kind: str, parts: Sequence[Any], otherwise: str) -> None:
    if not parts:
      missing.append((title, otherwise))
    elif kind == "tables":
      sections.append(Section(key, title, kind, tables=parts))
    else:
      sections.append(Section(key, title, kind, charts=parts))

  split = comparisons[0].split if comparisons else ""
  points = [] if judge is None else of_split(frontier_points(stages, comparisons, judge), split)
  styles = styles_of(in_order(with_compared(stages, comparisons)), points)
  frontier = None if judge is None else frontier_chart(points, comparisons, judge, styles)
  add(
    "frontier",
    "Frontier",
    "charts",
    _some(frontier),
    "set monitor.every, and monitor.rewards where no true reward is known",
  )
  if frontier and not any(comparison.content.get("oracle") for comparison in comparisons):
    missing.append(("Oracle curve on the frontier", "a stage of recipe=comparison where the true reward is known"))
  methods = (
    [] if judge is None else [method_table(stages, comparisons, judge), difference_table(stages, comparisons, judge)]
  )
  methods = [table for table in methods if table is not None]
  add("methods", "DPO against PPO", "tables", methods, "train a policy with monitor.every set")
  pairs = bradley_terry_table(stages)
  add(
    "bradley_terry",
    "Bradley-Terry against DPO",
    "tables",
    _some(pairs),
    "a stage of recipe=reward_model and one of recipe=preference, both with held-out pairs (data.eval_fraction or data.eval_path)",
  )
  policies = policy_table(comparisons)
  add("policies", "Other distributions", "tables", _some(policies), "a stage of recipe=comparison")
  add(
    "tournament",
    "Tournament",
    "tables",
    tournament_tables(comparisons),
    "a stage of recipe=comparison that holds a tournament",
  )
  two = [] if judge is None else two_rewards_charts(stages, judge, styles)
  add("two_rewards", "Learned against true reward", "charts", two, "monitor.rewards with two rewards or more")
  curves, names_of_curves = curve_charts(stages, styles)
  add("curves", "Training curves", "curves", curves, "a run of two steps or more")
  samples, note = sample_sets(stages, comparisons)
  if samples:
    sections.append(Section("samples", "Samples side by side", "samples"))
  else:
    missing.append(("Samples side by side", "set monitor.every, or a stage of recipe=comparison"))
  sections.append(Section("runs", "All runs", "tables", tables=[runs_table(stages, judge)]))
  return Content(stages, judge, sections, missing, problems, styles, names_of_curves, samples, note)


def _readable(stage: Stage, problems: list[str]) -> bool:
  """Whether what the page reads of a stage can be read; else `problems` has why not."""
  try:
    _ = stage.splits, stage.model, stage.environment
  except CheckpointError as error:
    problems.append(str(error))
    return False
  return True


def _comparisons(stages: Sequence[Stage], problems: list[str]) -> list[Comparison]:
  found = []
  for stage in stages:
    try:
      comparison = comparison_of(stage)
    except CheckpointError as error:
      problems.append(str(error))
      continue
    if comparison is not None:
      found.append(comparison)
  return found


def _some(part: Any) -> list[Any]:
  return [] if part is None else [part]
