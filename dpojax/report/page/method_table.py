"""DPO against PPO and all others: what each method reaches at equal KL, and how that differs from DPO."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from dpojax.report.comparison_records import Comparison
from dpojax.report.frontier import (
  BEST_OF_N,
  CANDIDATES,
  REFERENCE,
  Interval,
  Point,
  curve_of_series,
  difference_at,
  equal_kls,
  of_split,
  reward_at,
)
from dpojax.report.page.table import NOTHING, Cell, Table, count, interval
from dpojax.report.stages import Stage
from dpojax.training.numbers import reward_in_words

DPO = "DPO"
NOTE = (
  "On the straight line between the two points of a method beside that KL, with its 95 % interval; \N{HYPHEN-MINUS} where the "
  "method has no points on both sides. The points of a method that was run with several settings are the ends of its runs; of one "
  "with a single setting they are also its looks on the way (*)."
)


@dataclasses.dataclass(frozen=True)
class Methods:
  """The methods of a page and their points.

  Attributes:
    reward: that policies are compared by.
    points: on all prompts.
    series: method -> its runs, in the order of the page.
    splits: sets of prompts; the first is that of the frontier, [""] where there are none.
  """

  reward: str
  points: Sequence[Point]
  series: Mapping[str, Sequence[Stage]]
  splits: Sequence[str]

  @property
  def names(self) -> list[str]:
    """All of them; those without runs, such as best of N, last."""
    found = dict.fromkeys(point.series for point in self.on() if point.series != REFERENCE)
    return [*self.series, *(name for name in found if name not in self.series)]

  def on(self, split: str | None = None) -> list[Point]:
    """Points on the prompts of a split, of the first where none is given."""
    return of_split(self.points, self.splits[0]) if split is None else [p for p in self.points if p.split == split]

  def curve(self, name: str, split: str | None = None) -> list[Point]:
    return curve_of_series([point for point in self.on(split) if point.series == name])

  def along_runs(self, name: str) -> bool:
    """Whether the points of a method are looks on the way too."""
    return any(not point.final for point in self.curve(name))


def method_table(methods: Methods, comparisons: Sequence[Comparison]) -> Table | None:
  """A row for each method; None where there is no policy."""
  if not methods.series:
    return None
  kls = equal_kls(methods.on())
  words = reward_in_words(f"reward/{methods.reward}")
  middles = {split: _middle(methods, split, kls) for split in methods.splits[1:]}
  header = ["method", "runs", *(f"{words} at KL {kl:g}" for kl in kls)]
  header += [f"{words} at KL {kl:g}, {split}" for split, kl in middles.items() if kl is not None]
  header += ["held-out prompts"]
  rows = []
  for name in methods.names:
    own = methods.curve(name)
    seeds = len({point.seed for point in own})
    cells = [_named(methods, name), count(len(methods.series[name])) if name in methods.series else NOTHING]
    cells += [interval(reward_at(own, kl), seeds) for kl in kls]
    cells += [
      interval(reward_at(methods.curve(name, split), kl), seeds) for split, kl in middles.items() if kl is not None
    ]
    rows.append([*cells, _prompts(name, methods.series.get(name, []), comparisons)])
  return Table("methods", "What each method reaches at equal KL", NOTE, header, rows)


def difference_table(methods: Methods, against: str = DPO) -> Table | None:
  """Every other method's reward less that of the method `against` at equal KL; None where nothing can be compared."""
  if against not in methods.series:
    return None
  own, found = methods.curve(against), {}
  for name in (name for name in methods.names if name != against):
    curve = methods.curve(name)
    found[name] = {kl: d for kl in CANDIDATES if (d := difference_at(curve, own, kl)) is not None}
  kls = sorted({kl for differences in found.values() for kl in differences})
  if not kls:
    return None
  rows = [[_named(methods, name), *(_difference(of.get(kl)) for kl in kls)] for name, of in found.items() if of]
  note = (
    f"The {reward_in_words(f'reward/{methods.reward}')} of each method less that of {against} at the same KL, seed by seed, with the "
    f"95 % interval of the mean; above 0 the method is better than {against} there. Errors over prompts count as independent, so the "
    "intervals are rather too wide."
  )
  header = ["method", *(f"at KL {kl:g}" for kl in kls)]
  return Table("differences", f"Better or worse than {against} at equal KL", note, header, rows)


def _named(methods: Methods, name: str) -> Cell:
  return Cell(f"{name} *") if methods.along_runs(name) else Cell(name)


def _difference(found: tuple[Interval, int] | None) -> Cell:
  """ "+0.66 (+0.53 to +0.79), 4 of 4 seeds above 0"."""
  if found is None:
    return NOTHING
  at, above = found
  ends = f" ({at.low:+.2f} to {at.high:+.2f})" if math.isfinite(at.low) else ""
  seeds = f", {above} of {at.seeds} seeds above 0" if at.seeds > 1 else ""
  return Cell(f"{at.value:+.2f}{ends}{seeds}", at.value, low=at.low, high=at.high)


def _prompts(name: str, stages: Sequence[Stage], comparisons: Sequence[Comparison]) -> Cell:
  """How many prompts the method is evaluated on: of the comparison that measured its runs, else of their looks."""
  paths = {stage.path for stage in stages}
  for comparison in comparisons:
    own = [p for p in comparison.policies if (stage := comparison.stage_of(p)) is not None and stage.path in paths]
    known = [policy["splits"].get(comparison.split, {}).get("prompts") for policy in own]
    if name == BEST_OF_N and comparison.content.get("best_of_n"):
      known = [comparison.content.get("prompts")]
    if found := [number for number in known if number]:
      return count(max(found))
  found = [int(stage.setting("monitor.prompts", 0)) for stage in stages if stage.splits.get("policy")]
  return count(max(found)) if found else NOTHING


def _middle(methods: Methods, split: str, kls: Sequence[float]) -> float | None:
  """The KL at which methods are compared on other prompts: that which most of them reach there, of equal ones the least."""
  names = [name for name in methods.names if name != BEST_OF_N]
  curves = [methods.curve(name, split) for name in names]
  return max(kls, key=lambda kl: sum(reward_at(curve, kl) is not None for curve in curves)) if kls else None
