"""DPO against PPO and all others: what each method reaches at equal KL, and what it spent with its whole upstream."""

import math
from collections.abc import Sequence

from dpojax.report.comparison_records import Comparison, with_compared
from dpojax.report.costs import Cost, mean_cost, models_in_memory, parameters
from dpojax.report.frontier import (
  BEST_OF_N,
  CANDIDATES,
  REFERENCE,
  Interval,
  Point,
  curve_of_series,
  difference_at,
  equal_kls,
  frontier_points,
  of_split,
  reward_at,
)
from dpojax.report.methods import methods_of
from dpojax.report.page.table import NOTHING, Cell, Table, count, duration, interval, operations
from dpojax.report.stages import Stage
from dpojax.training.numbers import reward_in_words

NOTE = (
  "Reward at equal KL: on the straight line between the two points of a method beside that KL, with its 95 % interval; "
  "\N{HYPHEN-MINUS} where the method has no points on both sides. Costs are means over the runs of a method, each with its "
  "whole upstream (stages in the order in which they ran), counted as 2 N operations a token that a model reads or writes and "
  "6 N a token that it is trained on, N parameters without embeddings; each answer with its prompt. Looks and evaluations "
  "are not counted. Time is that of the steps and roll-outs as measured, on the device of each run."
)


def method_table(stages: Sequence[Stage], comparisons: Sequence[Comparison], reward: str) -> Table | None:
  """A row for each method; None where there is no policy."""
  points = frontier_points(stages, comparisons, reward)
  splits = list(dict.fromkeys(split for c in comparisons for split in c.content["splits"]))
  first = of_split(points, splits[0] if splits else "")
  kls = equal_kls(first)
  everything = with_compared(stages, comparisons)
  methods, series = methods_of(everything), {}
  for stage in everything:
    if stage.path in methods:
      series.setdefault(methods[stage.path].series, []).append(stage)
  if not series:
    return None
  others = list(dict.fromkeys(p.series for p in first if p.series not in series and p.series != REFERENCE))
  words = reward_in_words(f"reward/{reward}")
  middles = {split: _middle([p for p in points if p.split == split], kls) for split in splits[1:]}
  header = ["method", "runs", *(f"{words} at KL {kl:g}" for kl in kls)]
  header += [f"{words} at KL {kl:g}, {split}" for split, kl in middles.items() if kl is not None]
  header += [
    "held-out prompts",
    "tokens trained on",
    "tokens sampled",
    "operations",
    "time",
    "models in memory",
    "upstream",
  ]
  rows = []
  ended = {name: [stage for stage in several if stage.record.ended] or several for name, several in series.items()}
  costs = {name: mean_cost(several) for name, several in ended.items()}
  for name in [*series, *others]:
    own = curve_of_series([point for point in first if point.series == name])
    cells = [Cell(name), count(len(series[name])) if name in series else NOTHING]
    cells += [interval(reward_at(own, kl)) for kl in kls]
    for split, kl in middles.items():
      there = curve_of_series([p for p in points if p.series == name and p.split == split])
      cells += [] if kl is None else [interval(reward_at(there, kl))]
    cells.append(_prompts(name, series.get(name, []), comparisons))
    rows.append([*cells, *_costs(name, series.get(name, []), costs.get(name))])
  notes = dict.fromkeys(note for cost in costs.values() for note in cost.notes)
  left_out = f" Not counted: {'; '.join(notes)}." if notes else ""
  return Table("methods", "What each method reaches, and what it costs", NOTE + left_out, header, rows)


def difference_table(
  stages: Sequence[Stage], comparisons: Sequence[Comparison], reward: str, against: str = "DPO"
) -> Table | None:
  """Every other method's reward less that of the method `against` at equal KL; None where nothing can be compared."""
  points = frontier_points(stages, comparisons, reward)
  splits = list(dict.fromkeys(split for c in comparisons for split in c.content["splits"]))
  points = of_split(points, splits[0] if splits else "")
  curves = {
    name: curve_of_series([point for point in points if point.series == name])
    for name in dict.fromkeys(point.series for point in points if point.series != REFERENCE)
  }
  if against not in curves:
    return None
  own = curves.pop(against)
  found = {
    name: {kl: d for kl in CANDIDATES if (d := difference_at(curve, own, kl)) is not None}
    for name, curve in curves.items()
  }
  kls = sorted({kl for differences in found.values() for kl in differences})
  if not kls:
    return None
  rows = [[Cell(name), *(_difference(of.get(kl)) for kl in kls)] for name, of in found.items() if of]
  words = reward_in_words(f"reward/{reward}")
  note = (
    f"The {words} of each method less that of {against} at the same KL, seed by seed, with the 95 % interval of the mean; above 0 "
    f"the method is better than {against} there. Errors over prompts count as independent, so the intervals are rather too wide."
  )
  return Table(
    "differences",
    f"Better or worse than {against} at equal KL",
    note,
    ["method", *(f"at KL {kl:g}" for kl in kls)],
    rows,
  )


def _difference(found: tuple[Interval, int] | None) -> Cell:
  """ "+0.66 (+0.53 to +0.79), 4 of 4 seeds above 0"."""
  if found is None:
    return NOTHING
  at, above = found
  ends = f" ({at.low:+.2f} to {at.high:+.2f})" if math.isfinite(at.low) else ""
  seeds = f", {above} of {at.seeds} seeds above 0" if at.seeds > 1 else ""
  return Cell(f"{at.value:+.2f}{ends}{seeds}", at.value)


def _costs(name: str, stages: Sequence[Stage], cost: Cost | None) -> list[Cell]:
  if cost is None:
    memory = "policy, reward: N answers a prompt, at every use" if name == BEST_OF_N else ""
    return [NOTHING, NOTHING, NOTHING, NOTHING, Cell(memory or "-"), NOTHING]
  memory = models_in_memory(stages[0])
  size = parameters(stages[0].model)
  each = f"a policy of {size:,.0f} parameters without embeddings" if size == size else ""
  return [
    count(cost.trained),
    count(cost.sampled),
    operations(cost.flops),
    duration(cost.seconds),
    Cell(f"{len(memory)}: {', '.join(memory)}", float(len(memory)), each),
    Cell(" → ".join(cost.stages)),
  ]


def _prompts(name: str, stages: Sequence[Stage], comparisons: Sequence[Comparison]) -> Cell:
  """How many prompts judge the method: of its comparison, else of its looks."""
  for comparison in comparisons:
    known = [policy["splits"].get(comparison.split, {}).get("prompts") for policy in comparison.policies]
    if found := [number for number in known if number]:
      return count(max(found))
  found = [int(stage.setting("monitor.prompts", 0)) for stage in stages if stage.splits.get("policy")]
  return count(max(found)) if found else NOTHING


def _middle(points: Sequence[Point], kls: Sequence[float]) -> float | None:
  """The KL at which methods are compared on other prompts: that which most of them reach there, of equal ones the least."""

  def reached(kl: float) -> int:
    names = dict.fromkeys(point.series for point in points)
    return sum(reward_at(curve_of_series([p for p in points if p.series == n]), kl) is not None for n in names)

  return max(kls, key=reached) if kls else None
