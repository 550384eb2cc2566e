"""Two policies side by side, paired by prompt, and by seed where there are several."""

import collections
import dataclasses
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from dpojax.errors import InputError
from dpojax.evaluation.estimates import LEVEL
from dpojax.report.comparison_records import Comparison, comparison_of
from dpojax.report.methods import POLICIES, method_of
from dpojax.report.stages import LOOK_KEYS, Stage, find_stages

DRAWS = 4000  # of the bootstrap
ENDS = (50 * (1 - LEVEL), 50 * (1 + LEVEL))  # percentiles of its intervals
MOST_FLIPS = 16  # seeds up to which all sign flips are tried
KL, LENGTH = "kl", "length"


@dataclasses.dataclass(frozen=True)
class Answers:
  """What one policy of one seed measured, prompt by prompt.

  Attributes:
    name: of the run, or of the policy in its comparison.
    stage: that trained it; None where it is no longer there.
    keys: what prompts' random keys and sampling depend on; equal where two policies answered under the same keys.
    prompts: P different prompts.
    values: f64[P] by name: "kl", "length", "reward/NAME".
  """

  name: str
  seed: int
  stage: Stage | None
  keys: tuple[str, ...]
  prompts: Sequence[str]
  values: Mapping[str, np.ndarray]

  def at(self, metric: str, prompts: Sequence[str]) -> np.ndarray:
    """f64[N] of the metric at these of its prompts."""
    place = {prompt: i for i, prompt in enumerate(self.prompts)}
    return np.asarray([self.values[metric][place[prompt]] for prompt in prompts], np.float64)


@dataclasses.dataclass(frozen=True)
class Difference:
  """B less A of one metric; `low` and `high`: 95 % interval."""

  metric: str
  a: float
  b: float
  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Compared:
  """What `compare` found.

  Attributes:
    a, b: what was compared, a policy a seed.
    paired_by_prompt, paired_by_seed, same_keys: how.
    prompts: how many of each.
    differences: a metric each; rewards first.
    win_rate: how often B's reward is above A's on the same prompt, ties a half, (value, low, high) by reward; empty where
      prompts are not paired.
    sign_flip: (p of the exact two-sided sign-flip test over seeds, the least it can be) by metric; empty for one seed.
    settings: key -> (of A, of B) of settings that differ, seeds left out.
  """

  a: Sequence[Answers]
  b: Sequence[Answers]
  paired_by_prompt: bool
  paired_by_seed: bool
  same_keys: bool
  prompts: tuple[int, int]
  differences: Sequence[Difference]
  win_rate: Mapping[str, tuple[float, float, float]]
  sign_flip: Mapping[str, tuple[float, float]]
  settings: Mapping[str, tuple[str, str]]


def compare(a: str, b: str, *, draws: int = DRAWS, seed: int = 0) -> Compared:
  """Compares two policies; each a run's folder, a folder with one run of each seed, or FOLDER:NAME.

  FOLDER:NAME is the policy NAME of a stage of recipe=comparison, or of all those below FOLDER (its seeds); where there is
  none, all stages called NAME below FOLDER.

  Raises:
    InputError: a name that leads to no policy or to several of one seed; or nothing that both measured.
  """
  left, right = policies_at(a), policies_at(b)
  metrics = [name for name in left[0].values if all(name in answers.values for answers in (*left, *right))]
  if not metrics:
    raise InputError(f"{a} and {b}: nothing was measured on both; set monitor.rewards alike in both runs")
  metrics.sort(key=lambda name: (not name.startswith("reward/"), name != "reward/true"))
  random = np.random.default_rng(seed)
  common = _in_all((*left, *right))
  paired = len(common) >= 2
  seeds = sorted({answers.seed for answers in left} & {answers.seed for answers in right})
  by_seed = len(seeds) == len(left) == len(right)
  if by_seed:
    left, right = (sorted(side, key=lambda answers: answers.seed) for side in (left, right))
  sides = [(side, common if paired else _shared(side)) for side in (left, right)]
  tables = {m: [np.stack([answers.at(m, prompts) for answers in side]) for side, prompts in sides] for m in metrics}
  weights = _weights(random, [len(left), len(right)], [len(p) for _, p in sides], by_seed, paired, draws)
  differences = []
  for metric, (x, y) in tables.items():
    drawn = _means(y, *weights[1]) - _means(x, *weights[0])
    low, high = np.percentile(drawn, ENDS)
    means = float(x.mean()), float(y.mean())
    differences.append(Difference(metric, *means, means[1] - means[0], float(low), float(high)))
  wins = {}
  if paired and by_seed:
    for metric in (m for m in metrics if m.startswith("reward/")):
      x, y = tables[metric]
      won = (y > x) + 0.5 * (y == x)
      low, high = np.percentile(_means(won, *weights[0]), ENDS)
      wins[metric] = (float(won.mean()), float(low), float(high))
  flips = {}
  if by_seed and len(seeds) > 1:
    flips = {metric: sign_flip(y.mean(axis=1) - x.mean(axis=1)) for metric, (x, y) in tables.items()}
  return Compared(
    left,
    right,
    paired,
    by_seed,
    len({answers.keys for answers in (*left, *right)}) == 1,
    (len(sides[0][1]), len(sides[1][1])),
    differences,
    wins,
    flips,
    settings_apart(left[0].stage, right[0].stage),
  )


def sign_flip(differences: np.ndarray) -> tuple[float, float]:
  """(p, least p) of the exact two-sided test that flips the signs of f64[S] differences; NaN for too many seeds."""
  count = len(differences)
  if count > MOST_FLIPS:
    return math.nan, 2.0 ** (1 - count)
  signs = np.asarray(list(itertools.product((-1.0, 1.0), repeat=count)))
  means, found = np.abs(signs @ differences), abs(float(differences.sum()))
  return float(np.mean(means >= found - 1e-12 * max(1.0, found))), 2.0 ** (1 - count)


def policies_at(where: str) -> list[Answers]:
  """The policies that `where` leads to, one a seed; see `compare`."""
  path, _, name = (where, "", "") if pathlib.Path(where).is_dir() else where.rpartition(":")
  stages, problems = find_stages([path or where])
  comparisons = [found for stage in stages if (found := comparison_of(stage)) is not None]
  if name:
    found = [answers for comparison in comparisons for answers in _of_comparison(comparison, name)]
    found = found or [a for stage in stages if stage.path.name == name for a in _of_looks(stage)]
  else:
    found = [answers for stage in stages if stage.recipe in POLICIES for answers in _of_looks(stage)]
  if not found:
    known = sorted(
      {str(p["name"]) for c in comparisons for p in c.policies} | {s.path.name for s in stages if s.samples()}
    )
    instead = f"; below {path or where} are {', '.join(known)}: give FOLDER:NAME" if known else ""
    broken = f"; {problems[0]}" if problems else ""
    raise InputError(f"{where}: no policy that was looked at (monitor.every) or compared is here{instead}{broken}")
  seeds = [answers.seed for answers in found]
  if len(set(seeds)) < len(seeds):
    names = ", ".join(answers.name for answers in found)
    raise InputError(f"{where}: leads to several policies of one seed ({names}); give one run, or FOLDER:NAME")
  return found


def settings_apart(a: Stage | None, b: Stage | None) -> dict[str, tuple[str, str]]:
  """Settings in which two stages differ, seeds left out; of two recipes those that both have, and the recipe."""
  if a is None or b is None:
    return {}
  one, other = a.record.settings, b.record.settings
  keys = [key for key in dict.fromkeys((*one, *other)) if key.rpartition(".")[2] != "seed"]
  if a.recipe != b.recipe:
    keys = [key for key in keys if key in one and key in other]
  found = {key: (_said(one.get(key)), _said(other.get(key))) for key in keys if one.get(key) != other.get(key)}
  methods = method_of(a).label, method_of(b).label
  return ({"method": methods} if methods[0] != methods[1] else {}) | found


def _weights(random, seeds: Sequence[int], prompts: Sequence[int], by_seed: bool, paired: bool, draws: int):
  """Of each side (f64[D, S], f64[D, P]): how often each seed and prompt is drawn, as weights of a mean. What is paired
  is drawn together."""

  def drawn(count: int) -> np.ndarray:
    return random.multinomial(count, np.full(count, 1 / count), size=draws) / count

  first = drawn(seeds[0]), drawn(prompts[0])
  return first, (first[0] if by_seed else drawn(seeds[1]), first[1] if paired else drawn(prompts[1]))


def _means(values: np.ndarray, seeds: np.ndarray, prompts: np.ndarray) -> np.ndarray:
  """f64[D] means of f64[S, P] under each draw of seeds and prompts."""
  return np.sum((seeds @ values) * prompts, axis=1)


def _in_all(several: Sequence[Answers]) -> list[str]:
  """Prompts that all of them answered, in the order of the first."""
  others = [set(answers.prompts) for answers in several[1:]]
  return [prompt for prompt in several[0].prompts if all(prompt in other for other in others)]


def _shared(side: Sequence[Answers]) -> list[str]:
  """Prompts that all seeds of a side answered."""
  found = _in_all(side)
  if len(found) < 2:
    raise InputError(f"{side[0].name} and {side[-1].name}: seeds of one side have no prompts in common")
  return found


def _of_looks(stage: Stage) -> list[Answers]:
  newest = stage.samples()
  if newest is None:
    return []
  records = {str(record["prompt"]): record for record in newest[1]}
  of = list(records.values())
  values = {f"reward/{name}": [r["rewards"][name] for r in of] for name in of[0].get("rewards", {})} if of else {}
  values |= {name: [r[key] for r in of] for name, key in ((KL, "kl"), (LENGTH, "tokens")) if of and key in of[0]}
  keys = tuple(repr(stage.setting(f"monitor.{key}")) for key in LOOK_KEYS)
  arrays = {name: np.asarray(several, np.float64) for name, several in values.items()}
  return [Answers(stage.name, stage.seed, stage, keys, list(records), arrays)]


def _of_comparison(comparison: Comparison, name: str) -> list[Answers]:
  """The policy of that name on the comparison's first split; [] where it has none."""
  policy = next((p for p in comparison.policies if p["name"] == name), None)
  if policy is None:
    return []
  split, scores = comparison.split, comparison.scores()
  start = f"{name}/{split}/"
  values = {key.removeprefix(start): scores[key] for key in scores if key.startswith(start)}
  records = [record for record in comparison.answers if record.get("split", "") == split]
  if f"reward/{LENGTH}" in values:
    values[LENGTH] = values.pop(
      f"reward/{LENGTH}"
    )  # a mean over a prompt's samples; else there is that of the first only
  elif LENGTH not in values and all(name in record["answers"] for record in records):
    values[LENGTH] = np.asarray([record["answers"][name].get("tokens", math.nan) for record in records], np.float64)
  prompts = [str(record["prompt"]) for record in records]
  times = collections.Counter(prompts)
  prompts = [prompt if times[prompt] == 1 else f"{i}: {prompt}" for i, prompt in enumerate(prompts)]
  fits = {key: array for key, array in values.items() if len(array) == len(prompts)}
  if not fits:
    raise InputError(
      f"{comparison.stage.path}: scores.npz has nothing of {name} that fits its answers.jsonl; make both anew"
    )
  content, stage = comparison.content, comparison.stage_of(policy)
  keys = (repr(content.get("seed")), repr(content.get("samples_a_prompt")), split)
  seed = stage.seed if stage is not None else comparison.stage.seed
  return [Answers(f"{comparison.stage.name}:{name}", seed, stage, keys, prompts, fits)]


def _said(value: object) -> str:
  return "-" if value is None else str(value) if value != "" else '""'
