"""The frontier: reward against exact KL to the reference, as points, as lines along a method, and at equal KL."""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy

from dpojax.evaluation.estimates import LEVEL, Z
from dpojax.report.best_of_n import BEST_OF_N as BEST_OF_N_FILE
from dpojax.report.best_of_n import read_best_of_n
from dpojax.report.comparison_records import Comparison, with_compared
from dpojax.report.methods import POLICIES, Method, methods_of
from dpojax.report.stages import Stage, readable_stage, source_folders
from dpojax.training.numbers import rewards_of

BEST_OF_N, REFERENCE = "best of N", "reference"
KL, TRUE = "kl/sequence", "true"
CANDIDATES = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)  # nats, of equal KL
MOST_COLUMNS = 6


@dataclasses.dataclass(frozen=True)
class Point:
  """A policy: where it is, how sure that is, and what it is.

  Attributes:
    series: the method; `knob`: what was turned along it. Both are equal for runs that differ in seeds alone.
    run: name of the stage, or of a policy in a comparison.
    path: the folder of the run that is measured, the same for its looks and in comparisons; "" where there is none.
    prompts: a digest of the prompts that it was asked; "" where they are not known.
    kl: nats an answer, exact; `kl_error`, `reward_error`: standard errors over prompts, NaN where not known.
    source: "look", "comparison" or "best of N".
    final: the end of its run; else it is on the way there.
    split: the prompts, where a comparison names them.
  """

  series: str
  knob: str
  run: str
  seed: int
  step: int
  kl: float
  kl_error: float
  reward: float
  reward_error: float
  source: str = "look"
  final: bool = True
  split: str = ""
  path: str = ""
  prompts: str = ""

  @property
  def group(self) -> tuple[str, str]:
    return self.series, self.knob


def reward_names(stages: Sequence[Stage], comparisons: Sequence[Comparison]) -> list[str]:
  """Names of all rewards that were measured against KL, the one to show first first: `true` where it is known."""
  found = [name for comparison in comparisons for name in (comparison.reward, *comparison.content.get("rewards", ()))]
  for stage in stages:
    if stage.recipe in POLICIES:
      samples = dict.fromkeys(name for record in stage.splits.get("policy", []) for name in record)
      found += [name.removeprefix("reward/") for name in rewards_of(samples)]
  return sorted(dict.fromkeys(found), key=lambda name: name != TRUE)


def frontier_points(stages: Sequence[Stage], comparisons: Sequence[Comparison], reward: str) -> list[Point]:
  """All points at which `reward` was measured: policies of comparisons, looks of runs, best of N, the reference.

  The last look of a run that has ended is `final` unless a comparison has measured the run: it does so on more answers.
  """
  points: list[Point] = []
  methods = methods_of(with_compared(stages, comparisons))
  for comparison in comparisons:
    for split in comparison.content["splits"]:
      points += comparison_points(comparison, reward, split, methods)
  shown = comparisons[0].split if comparisons else ""
  measured = {pathlib.Path(point.path) for point in points if point.path and point.split == shown}
  samples = points_while_training([stage for stage in stages if stage.recipe in POLICIES], reward, methods, measured)
  best = [
    point for comparison in comparisons for point in best_of_n_points(comparison.content, comparison.stage, reward)
  ]
  for stage in stages:
    if stage.recipe != "best_of_n" or best or not (stage.path / BEST_OF_N_FILE).exists():
      continue  # those of a comparison are of the same prompts as its policies
    if not _of_a_policy(stage):  # of one the KL is that to itself, and not to the reference
      best += best_of_n_points({"best_of_n": read_best_of_n(stage.path)["points"]}, stage, reward)
  return points + best + samples


def points_while_training(
  stages: Sequence[Stage], reward: str, methods: Mapping[pathlib.Path, Method], measured: Collection[pathlib.Path] = ()
) -> list[Point]:
  """A point a look that measured `reward` and KL; looks before training are one point of the reference a seed."""
  points, starts = [], {}
  for stage in stages:
    method, ended = methods[stage.path], stage.record.ended is not None
    names = (KL, f"reward/{reward}")
    records = [r for r in stage.splits.get("policy", []) if all(name in r for name in names)]
    for record in (r for r in records if all(math.isfinite(r[name]) for name in names)):
      final = ended and record is records[-1] and stage.path not in measured
      point = Point(
        series=method.series,
        knob=method.knob,
        run=stage.name,
        seed=stage.seed,
        step=int(record["step"]),
        kl=float(record[KL]),
        kl_error=float(record.get(f"{KL}_error", math.nan)),
        reward=float(record[f"reward/{reward}"]),
        reward_error=float(record.get(f"reward/{reward}_error", math.nan)),
        final=final,
        path=str(stage.path),
        prompts=stage.looked_at,
      )
      if point.step:
        points.append(point)
      elif not measured:
        key = (point.seed, round(point.kl, 9), point.reward)
        starts[key] = dataclasses.replace(point, series=REFERENCE, knob="", run=REFERENCE, final=True)
  return points + list(starts.values())


def comparison_points(
  comparison: Comparison, reward: str, split: str, methods: Mapping[pathlib.Path, Method]
) -> list[Point]:
  """The policies of a comparison on the prompts of one split."""
  found = {policy["name"]: comparison.stage_of(policy) for policy in comparison.policies}
  points = []
  for policy in comparison.policies:
    values = policy["splits"].get(split, {})
    if values.get("kl") is None or values.get(f"reward/{reward}") is None:
      continue
    name, stage = str(policy["name"]), found[policy["name"]]
    series, _, knob = str(policy.get("label", name)).rpartition(", ")
    series, knob = (series, knob) if series else (knob, "")
    if name == comparison.content.get("reference"):
      series, knob = REFERENCE, ""
    elif stage is not None and stage.path in methods:
      series, knob = methods[stage.path].series, methods[stage.path].knob
    points.append(
      Point(
        series=series,
        knob=knob,
        run=f"{comparison.stage.name}:{name}",
        seed=_seed(policy, stage, comparison),
        step=int(policy.get("step") or 0),
        kl=float(values["kl"]),
        kl_error=_number(values.get("kl_error")),
        reward=float(values[f"reward/{reward}"]),
        reward_error=_number(values.get(f"reward/{reward}_error")),
        source="comparison",
        split=split,
        path=str(stage.path) if stage is not None else "",
        prompts=comparison.prompts_of(split),
      )
    )
  return points


def _of_a_policy(stage: Stage) -> bool:
  """Whether a stage's model is a policy that a run trained."""
  source = readable_stage(source_folders(stage).get("model.path"))
  return source is not None and source.recipe in POLICIES


def _seed(policy: Mapping[str, Any], stage: Stage | None, comparison: Comparison) -> int:
  known = policy.get("seed")
  return int(known) if known is not None else stage.seed if stage is not None else comparison.stage.seed


def best_of_n_points(content: Any, stage: Stage, reward: str) -> list[Point]:
  """The points of best of N in a comparison.json or best_of_n.json; N = 1 is the reference itself and left out."""
  points = []
  for row in content.get("best_of_n") or ():
    kl, error = (row.get("kl", row.get(KL)), row.get("kl_error", row.get(f"{KL}_error")))
    value = row.get(f"reward/{reward}")
    if kl is None or value is None or row["n"] == 1:
      continue
    splits = content.get("splits") or [""]
    name = f"N {row['n']}"
    points.append(
      Point(
        series=BEST_OF_N,
        knob=name,
        run=f"{stage.name}:best of {row['n']}",
        seed=stage.seed,
        step=0,
        kl=float(kl),
        kl_error=_number(error),
        reward=float(value),
        reward_error=_number(row.get(f"reward/{reward}_error")),
        source=BEST_OF_N,
        split=str(splits[0]),
      )
    )
  return points


def of_split(points: Iterable[Point], split: str) -> list[Point]:
  """Points of these prompts, and those of which no comparison says the prompts: looks, and a best of N of its own."""
  return [point for point in points if point.split in (split, "")]


def curve_of_series(points: Sequence[Point]) -> list[Point]:
  """The points that a series' line goes through: ends of runs where several settings of the series were run, else all
  its points, those on the way too. The look at the end of a run that a comparison has measured is not one more point."""
  final = [point for point in points if point.final]
  if len({point.group for point in final}) > 1:
    return final
  ends = {point.path: point.step for point in final if point.path}
  return [point for point in points if point.final or point.step < ends.get(point.path, math.inf)]


def lines(points: Sequence[Point]) -> list[dict[str, Any]]:
  """Vertices {"series", "line", "kl", "reward", "order"} of the lines: in order of KL through the means over seeds where
  several settings of a series were run, else in order of steps through the looks and the end of each run."""
  rows = []
  for series in dict.fromkeys(point.series for point in points):
    if series == REFERENCE:
      continue
    chosen = curve_of_series([point for point in points if point.series == series])
    groups = {point.group for point in chosen}
    found = {}
    if len(groups) > 1:
      means = []
      for group in groups:
        some = [point for point in chosen if point.group == group]
        means.append((float(np.mean([p.kl for p in some])), float(np.mean([p.reward for p in some]))))
      found[series] = sorted(means)
    else:
      for run in dict.fromkeys(point.path or point.run for point in chosen):
        some = sorted((p.step, p.kl, p.reward) for p in chosen if run in (p.path, p.run))
        found[run] = [(kl, reward) for _, kl, reward in some]
    rows += [  # a path may hold what no page may, and is nobody's business
      {"series": series, "line": f"{series}, {line}", "kl": kl, "reward": reward, "order": order}
      for line, vertices in enumerate(found.values(), 1)
      for order, (kl, reward) in enumerate(vertices)
    ]
  return rows


@dataclasses.dataclass(frozen=True)
class Interval:
  """A value with its 95 % interval, from `seeds` seeds."""

  value: float
  low: float
  high: float
  seeds: int = 1


def reward_at(points: Sequence[Point], kl: float) -> Interval | None:
  """The reward of a series at a KL, on the straight line between the two points beside it; None out of their range.

  With one seed the interval is that of the two points' errors over prompts: rewards', and KLs' times the slope. With several
  each seed has a line of its own, and the interval is that of their mean (Student's t). Where they have prompts of their own
  that spread holds the error over prompts; where all were asked the same, it is added as root of the sum of squares.
  """
  return _over_seeds(_by_seed(points, kl))


def difference_at(points: Sequence[Point], others: Sequence[Point], kl: float) -> tuple[Interval, int] | None:
  """(reward of a series less that of another at a KL, in how many seeds it is above 0); None where no seed has both.

  Seeds are paired: the interval is that of `reward_at`, of differences. The errors over prompts of the two are taken as
  independent; where both answer the same prompts, which is so in a comparison, that is too wide rather than too narrow.
  """
  one, other = _by_seed(points, kl), _by_seed(others, kl)
  found = {
    seed: Between(
      one[seed].value - other[seed].value, math.hypot(one[seed].error, other[seed].error), one[seed].prompts
    )
    for seed in one
    if seed in other
  }
  interval = _over_seeds(found)
  return None if interval is None else (interval, sum(between.value > 0 for between in found.values()))


@dataclasses.dataclass(frozen=True)
class Between:
  """What one seed's line says at a KL: the value, its standard error over prompts, and a digest of these ("": not known)."""

  value: float
  error: float
  prompts: str = ""


def _by_seed(points: Sequence[Point], kl: float) -> dict[int, Between]:
  """What each seed that has points on both sides says."""
  found = {}
  for seed in sorted({point.seed for point in points}):
    own = _once([point for point in points if point.seed == seed])
    between = interpolate(own, kl)
    if between is not None:
      found[seed] = Between(*between, "".join(sorted({point.prompts for point in own})))
  return found


def _once(points: Sequence[Point]) -> list[Point]:
  """Points of one seed, those of equal settings and steps, as of an experiment made twice, as their mean."""
  found: dict[tuple, list[Point]] = {}
  for point in points:
    found.setdefault((point.group, point.step, point.final), []).append(point)
  return [
    dataclasses.replace(
      some[0],
      **{
        name: float(np.mean([getattr(p, name) for p in some])) for name in ("kl", "kl_error", "reward", "reward_error")
      },
    )
    for some in found.values()
  ]


def _over_seeds(found: Mapping[int, Between]) -> Interval | None:
  """The mean over seeds with its interval; None of nothing."""
  if not found:
    return None
  values, errors = (
    [one.value for one in found.values()],
    [one.error for one in found.values() if math.isfinite(one.error)],
  )
  value, half = float(np.mean(values)), Z * float(np.mean(errors)) if errors else math.nan
  if len(found) > 1:
    spread = (
      float(scipy.stats.t.ppf(0.5 + LEVEL / 2, len(found) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(found))
    )
    asked = [one.prompts for one in found.values()]
    own = all(asked) and len(set(asked)) == len(asked)
    half = spread if own else math.hypot(0.0 if math.isnan(half) else half, spread)
  return Interval(value, value - half, value + half, len(found))


def interpolate(points: Sequence[Point], kl: float) -> tuple[float, float] | None:
  """(reward, standard error) at a KL between two points in order of KL, or at the KL of one; None out of their range."""
  ordered = sorted(points, key=lambda point: point.kl)
  there = [point for point in ordered if point.kl == kl]
  if len(there) == 1:
    return there[0].reward, there[0].reward_error
  for left, right in itertools.pairwise(ordered):
    if left.kl <= kl <= right.kl:
      width = right.kl - left.kl
      weight = (kl - left.kl) / width if width else 0.5
      slope = (right.reward - left.reward) / width if width else 0.0
      parts = [(1 - weight, left), (weight, right)]
      value = sum(w * point.reward for w, point in parts)
      error = math.hypot(*(w * e for w, p in parts for e in (p.reward_error, slope * _or_zero(p.kl_error))))
      return value, error
  return None


def equal_kls(points: Sequence[Point]) -> list[float]:
  """The KLs at which methods are compared: up to `MOST_COLUMNS` of `CANDIDATES` that most trained methods reach, rising."""
  reach = []
  for series in dict.fromkeys(p.series for p in points if p.series not in (REFERENCE, BEST_OF_N)):
    kls = [point.kl for point in curve_of_series([p for p in points if p.series == series])]
    reach.append((min(kls), max(kls)))
  counts = {kl: sum(low <= kl <= high for low, high in reach) for kl in CANDIDATES}
  best = sorted((kl for kl, count in counts.items() if count), key=lambda kl: (-counts[kl], kl))
  return sorted(best[:MOST_COLUMNS])


def _number(value: Any) -> float:
  return math.nan if value is None else float(value)


def _or_zero(value: float) -> float:
  return 0.0 if math.isnan(value) else value
