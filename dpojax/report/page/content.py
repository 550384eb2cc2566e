"""What a page holds, in its order, and what it would hold if more were measured."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from dpojax.errors import CheckpointError, InputError
from dpojax.report.comparison_records import Comparison, comparison_of, with_compared
from dpojax.report.costs import WRITES, answer_tokens
from dpojax.report.frontier import KL, frontier_points, reward_names
from dpojax.report.methods import POLICIES, in_order, methods_of
from dpojax.report.page.chart import Chart
from dpojax.report.page.cost_table import cost_table, costs_of
from dpojax.report.page.curves import curve_charts
from dpojax.report.page.frontier_chart import frontier_chart
from dpojax.report.page.method_table import Methods, difference_table, method_table
from dpojax.report.page.samples import sample_sets
from dpojax.report.page.styles import Name, Styles, styles_of
from dpojax.report.page.summary import summary
from dpojax.report.page.table import Table
from dpojax.report.page.tables import bradley_terry_table, policy_tables, runs_table, tournament_tables
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
    summary: sentences that stand first.
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
  summary: Sequence[str] = ()


def content_of(stages: Sequence[Stage], problems: Sequence[str] = (), reward: str = "") -> Content:
  """What the page of these stages holds.

  Args:
    reward: the name of the reward that policies are compared by; "": the true one, else that of the comparison, else the first measured.

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
  main_reward = reward or (names[0] if names else None)
  sections: list[Section] = []
  missing: list[tuple[str, str]] = []

  def add(key: str, title: str, kind: str, parts: Sequence[Any], otherwise: str) -> None:
    if not parts:
      missing.append((title, otherwise))
    elif kind == "tables":
      sections.append(Section(key, title, kind, tables=parts))
    else:
      sections.append(Section(key, title, kind, charts=parts))

  methods = None if main_reward is None else methods_on(stages, comparisons, main_reward)
  points = methods.on() if methods else []
  by_main_reward = [comparison for comparison in comparisons if comparison.reward == main_reward]
  styles = styles_of(in_order(with_compared(stages, comparisons)), points)
  frontier = None if main_reward is None else frontier_chart(points, by_main_reward, main_reward, styles)
  split = comparisons[0].split if comparisons else ""
  for other in (comparison for comparison in comparisons if comparison.split != split):
    missing.append(
      (f"Frontier of {other.stage.name}", f"its prompts are {other.split}, these {split}; make a page of its folder")
    )
  problems += _diverged(stages, main_reward)
  add(
    "frontier",
    "Frontier",
    "charts",
    _there([frontier]),
    "set monitor.every, and monitor.rewards where no true reward is known",
  )
  if frontier and not any(comparison.content.get("oracle") for comparison in by_main_reward):
    missing.append(("Oracle curve on the frontier", "a stage of recipe=comparison where the true reward is known"))
  costs = costs_of(methods) if methods else {}
  tables = (
    [method_table(methods, comparisons), difference_table(methods), cost_table(methods, costs)] if methods else []
  )
  add("methods", _of_methods(methods), "tables", _there(tables), "train a policy with monitor.every set")
  pairs = bradley_terry_table(stages)
  add(
    "bradley_terry",
    "Bradley-Terry against DPO",
    "tables",
    _there([pairs]),
    "a stage of recipe=reward_model and one of recipe=preference, both with held-out pairs (data.eval_fraction or data.eval_path)",
  )
  policies = policy_tables(comparisons)
  add("policies", "Other distributions", "tables", policies, "a stage of recipe=comparison")
  add(
    "tournament",
    "Tournament",
    "tables",
    tournament_tables(comparisons),
    "a stage of recipe=comparison that holds a tournament",
  )
  two = [] if main_reward is None else two_rewards_charts(stages, main_reward, styles)
  add("two_rewards", "Learned against true reward", "charts", two, "monitor.rewards with two rewards or more")
  curves, names_of_curves = curve_charts(stages, styles)
  add("curves", "Training curves", "curves", curves, "a run of two steps or more")
  samples, note = sample_sets(stages, comparisons)
  if samples:
    sections.append(Section("samples", "Samples side by side", "samples"))
  else:
    missing.append(("Samples side by side", "set monitor.every, or a stage of recipe=comparison"))
  sections.append(Section("runs", "All runs", "tables", tables=[runs_table(stages, main_reward)]))
  first = summary(methods, costs) if methods else []
  return Content(stages, main_reward, sections, missing, problems, styles, names_of_curves, samples, note, first)


def methods_on(stages: Sequence[Stage], comparisons: Sequence[Comparison], reward: str) -> Methods:
  """The methods of these runs, and of those that comparisons measured, with their points."""
  everything = with_compared(stages, comparisons)
  found, series = methods_of(everything), {}
  for stage in everything:
    if stage.path in found:
      series.setdefault(found[stage.path].series, []).append(stage)
  splits = list(dict.fromkeys(split for comparison in comparisons for split in comparison.content["splits"]))
  return Methods(reward, frontier_points(stages, comparisons, reward), series, splits or [""])


def _diverged(stages: Sequence[Stage], reward: str | None) -> list[str]:
  """A line for each run whose last look is not finite: it has no end on the frontier."""
  lines = []
  for stage in stages:
    last = stage.last("policy")
    if stage.recipe in POLICIES and any(not math.isfinite(last.get(name, 0.0)) for name in (KL, f"reward/{reward}")):
      lines.append(
        f"{stage.name}: its last look, of step {last['step']}, is not finite, so it has no end on the frontier"
      )
  return lines


def _of_methods(methods: Methods | None) -> str:
  names = {name.partition(",")[0] for name in methods.series} if methods else set()
  return "DPO against PPO" if {"DPO", "PPO"} <= names else "Methods"


def _readable(stage: Stage, problems: list[str]) -> bool:
  """Whether what the page reads of a stage can be read; else `problems` has why not."""
  try:
    _ = stage.splits, stage.model, stage.environment, stage.seconds
    if stage.recipe in POLICIES:
      stage.samples()
    if stage.recipe in WRITES:
      answer_tokens(stage)
  except CheckpointError as error:
    problems.append(str(error))
    return False
  return True


def _comparisons(stages: Sequence[Stage], problems: list[str]) -> list[Comparison]:
  found = []
  for stage in stages:
    try:
      comparison = comparison_of(stage)
      _ = comparison and comparison.answers
    except CheckpointError as error:
      problems.append(str(error))
      continue
    if comparison is not None:
      found.append(comparison)
  return found


def _there(parts: Sequence[Any]) -> list[Any]:
  return [part for part in parts if part is not None]
