"""Two policies side by side, paired by prompt, and by seed where there are several."""

import collections
import dataclasses
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.errors import InputError
from dpojax.evaluation.estimates import LEVEL
from dpojax.report.comparison_records import Comparison, comparison_of
from dpojax.report.methods import POLICIES, method_of
from dpojax.report.samples import prompt_in_words
from dpojax.report.stages import Stage, find_stages
from dpojax.screen import PROSE, Page, Table
from dpojax.terminal import filled
from dpojax.training.numbers import format_number, reward_in_words

DRAWS = 4000  # of the bootstrap
ENDS = (50 * (1 - LEVEL), 50 * (1 + LEVEL))  # percentiles of its intervals
MOST_FLIPS = 16  # seeds up to which all sign flips are tried
ENOUGH = 8  # seeds for a claim: the least that a sign-flip test can say is then 0.008
KEYS = ("max_tokens", "temperature", "top_k", "top_p", "stop")  # beside the seed: what an answer depends on
KL, LENGTH = "kl", "length"


@dataclasses.dataclass(frozen=True)
class Answers:
  """What one policy of one seed measured, prompt by prompt.

  Attributes:
    name: of the run, or of the policy in its comparison.
    stage: that trained it; None where it is no longer there.
    keys: what the random keys of its first answer to a prompt, and the answer's length, depend on; equal where two policies
      answered under the same keys.
    prompts: P different prompts.
    values: f64[P] by name: "kl", "length", "reward/NAME"; of a comparison means over a prompt's answers.
    first: f64[P] of the first answer to each prompt, by name of the reward.
  """

  name: str
  seed: int
  stage: Stage | None
  keys: tuple[str, ...]
  prompts: Sequence[str]
  values: Mapping[str, np.ndarray]
  first: Mapping[str, np.ndarray]

  def at(self, values: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """f64[N] of f64[P] values at these of its prompts."""
    place = {prompt: i for i, prompt in enumerate(self.prompts)}
    return np.asarray([values[place[prompt]] for prompt in prompts], np.float64)


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
  """What `compare` found; as text what `dpojax compare` prints.

  Attributes:
    a, b: what was compared, a policy a seed.
    paired_by_prompt, paired_by_seed, same_keys: how; the last two of each A with its B.
    shared_prompts: whether all seeds answered the same prompts; else each has its own.
    prompts: how many of A and of B were used, fewest of a seed.
    unused: answers, of both and all seeds, to prompts that the other side did not answer.
    differences: a metric each; rewards first.
    win_rate: how often B's answer has the higher reward, of the first answers to the same prompt, ties a half, (value, low,
      high) by reward; empty where prompts are not paired.
    sign_flip: (p of the exact two-sided sign-flip test over seeds, the least it can be) by metric; empty for one seed.
    settings: key -> (of A, of B) of settings that differ, seeds left out.
    problems: runs that could not be read and are left out, a line each.
  """

  a: Sequence[Answers]
  b: Sequence[Answers]
  paired_by_prompt: bool
  paired_by_seed: bool
  same_keys: bool
  shared_prompts: bool
  prompts: tuple[int, int]
  unused: int
  differences: Sequence[Difference]
  win_rate: Mapping[str, tuple[float, float, float]]
  sign_flip: Mapping[str, tuple[float, float]]
  settings: Mapping[str, tuple[str, str]]
  problems: Sequence[str] = ()

  def __str__(self) -> str:
    return compared_in_words(self)


def compare(a: str, b: str, *, draws: int = DRAWS, seed: int = 0) -> Compared:
  """Compares two policies; each a run's folder, a folder with one run of each seed, or FOLDER:NAME.

  FOLDER:NAME is the policy NAME of a stage of recipe=comparison, or of all those below FOLDER (its seeds); where there is
  none, all stages called NAME below FOLDER. Where A and B have the same seeds, the two of a seed are paired, by the prompts
  that both answered: seeds may have prompts of their own.

  Raises:
    InputError: a name that leads to no policy or to several of one seed; or nothing that both measured.
  """
  problems: list[str] = []
  left, right = policies_at(a, problems), policies_at(b, problems)
  metrics = [name for name in left[0].values if all(name in answers.values for answers in (*left, *right))]
  if not metrics:
    raise InputError(f"{a} and {b}: nothing was measured on both; set monitor.rewards alike in both runs")
  metrics.sort(key=lambda name: (not name.startswith("reward/"), name != "reward/true"))
  by_seed = {answers.seed for answers in left} == {answers.seed for answers in right}
  if by_seed:
    left, right = (sorted(side, key=lambda answers: answers.seed) for side in (left, right))
  matched = by_seed or len(left) == len(right) == 1
  pairs = list(zip(left, right, strict=True)) if matched else []
  common = [_in_both(x, y) for x, y in pairs]
  paired = bool(common) and min(map(len, common)) >= 2
  asked = [common if paired else [list(answers.prompts) for answers in side] for side in (left, right)]
  tables = {
    metric: [
      [answers.at(answers.values[metric], some) for answers, some in zip(side, prompts, strict=True)]
      for side, prompts in zip((left, right), asked, strict=True)
    ]
    for metric in metrics
  }
  weights = _weights(np.random.default_rng(seed), asked, matched, paired, draws)
  differences = []
  for metric, (x, y) in tables.items():
    drawn = _means(y, *weights[1]) - _means(x, *weights[0])
    low, high = np.percentile(drawn, ENDS)
    means = _mean(x), _mean(y)
    differences.append(Difference(metric, *means, means[1] - means[0], float(low), float(high)))
  wins = {}
  names = (
    [name for name in left[0].first if all(name in answers.first for answers in (*left, *right))] if paired else []
  )
  for name in names:
    won = []
    for (one, other), some in zip(pairs, common, strict=True):
      x, y = one.at(one.first[name], some), other.at(other.first[name], some)
      won.append((y > x) + 0.5 * (y == x))
    low, high = np.percentile(_means(won, *weights[0]), ENDS)
    wins[f"reward/{name}"] = (_mean(won), float(low), float(high))
  flips = {}
  if by_seed and len(left) > 1:
    flips = {
      metric: sign_flip(np.asarray([np.mean(v) - np.mean(u) for u, v in zip(x, y, strict=True)]))
      for metric, (x, y) in tables.items()
    }
  return Compared(
    left,
    right,
    paired,
    by_seed,
    matched and all(one.keys == other.keys for one, other in pairs),
    all(_same_prompts(prompts) for prompts in asked),
    (min(map(len, asked[0])), min(map(len, asked[1]))),
    sum(len(answers.prompts) for answers in (*left, *right)) - sum(len(some) for side in asked for some in side),
    differences,
    wins,
    flips,
    settings_apart(left[0].stage, right[0].stage),
    list(dict.fromkeys(problems)),
  )


def sign_flip(differences: np.ndarray) -> tuple[float, float]:
  """(p, least p) of the exact two-sided test that flips the signs of f64[S] differences; NaN for too many seeds."""
  count = len(differences)
  if count > MOST_FLIPS:
    return math.nan, 2.0 ** (1 - count)
  signs = np.asarray(list(itertools.product((-1.0, 1.0), repeat=count)))
  means, found = np.abs(signs @ differences), abs(float(differences.sum()))
  return float(np.mean(means >= found - 1e-12 * max(1.0, found))), 2.0 ** (1 - count)


def policies_at(where: str, problems: list[str]) -> list[Answers]:
  """The policies that `where` leads to, one a seed; see `compare`. What could not be read is added to `problems`."""
  path, _, name = (where, "", "") if pathlib.Path(where).is_dir() else where.rpartition(":")
  stages, broken = find_stages([path or where])
  problems += broken
  comparisons = [found for stage in stages if (found := comparison_of(stage)) is not None]
  if name:
    found = [answers for comparison in comparisons for answers in _of_comparison(comparison, name)]
    found = found or [a for stage in stages if stage.path.name == name for a in _while_training(stage)]
  else:
    found = [answers for stage in stages if stage.recipe in POLICIES for answers in _while_training(stage)]
  if not found:
    known = sorted(
      {str(p["name"]) for c in comparisons for p in c.policies} | {s.path.name for s in stages if s.samples()}
    )
    instead = f"; below {path or where} are {', '.join(known)}: give FOLDER:NAME" if known else ""
    why = f"; {broken[0]}" if broken else ""
    raise InputError(f"{where}: no policy that was looked at (monitor.every) or compared is here{instead}{why}")
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


def _weights(random, prompts: Sequence[Sequence[Sequence[str]]], by_seed: bool, paired: bool, draws: int):
  """Of each side (f64[D, S], S of f64[D, P]): how often each seed, and each prompt of each seed, is drawn, as weights of a
  mean. What is paired is drawn together, and so are prompts that all seeds answered."""

  def drawn(count: int) -> np.ndarray:
    return random.multinomial(count, np.full(count, 1 / count), size=draws) / count

  def of_prompts(side: Sequence[Sequence[str]]) -> list[np.ndarray]:
    if not _same_prompts(side):
      return [drawn(len(some)) for some in side]
    once = drawn(len(side[0]))
    return [once if list(some) == list(side[0]) else once[:, _places(side[0], some)] for some in side]

  first = drawn(len(prompts[0])), of_prompts(prompts[0])
  return first, (first[0] if by_seed else drawn(len(prompts[1])), first[1] if paired else of_prompts(prompts[1]))


def _places(first: Sequence[str], other: Sequence[str]) -> list[int]:
  place = {prompt: i for i, prompt in enumerate(first)}
  return [place[prompt] for prompt in other]


def _mean(values: Sequence[np.ndarray]) -> float:
  """Over seeds of the mean over each seed's prompts."""
  return float(np.mean([np.mean(each) for each in values]))


def _means(values: Sequence[np.ndarray], seeds: np.ndarray, prompts: Sequence[np.ndarray]) -> np.ndarray:
  """f64[D] means of S times f64[P] under each draw of seeds and prompts."""
  of_seeds = np.stack([drawn @ each for each, drawn in zip(values, prompts, strict=True)], axis=1)
  return np.sum(seeds * of_seeds, axis=1)


def _in_both(one: Answers, other: Answers) -> list[str]:
  """Prompts that both answered, in the order of the first."""
  there = set(other.prompts)
  return [prompt for prompt in one.prompts if prompt in there]


def _same_prompts(several: Sequence[Sequence[str]]) -> bool:
  return all(set(prompts) == set(several[0]) for prompts in several[1:])


def _while_training(stage: Stage) -> list[Answers]:
  newest = stage.samples()
  if newest is None:
    return []
  records = {prompt_in_words(record["prompt"]): record for record in newest[1]}
  of = list(records.values())
  first = {name: np.asarray([r["rewards"][name] for r in of], np.float64) for name in _rewards_of_all(of)} if of else {}
  values = {f"reward/{name}": array for name, array in first.items()}
  values |= {
    name: np.asarray([r[key] for r in of], np.float64)
    for name, key in ((KL, "kl"), (LENGTH, "tokens"))
    if of and all(r.get(key) is not None for r in of)
  }
  monitor = {key: stage.setting(f"monitor.{key}") for key in KEYS}
  keys = _keys(int(stage.setting("monitor.seed", 0)) + stage.seed, monitor)
  return [Answers(stage.name, stage.seed, stage, keys, list(records), values, first)]


def _rewards_of_all(records: Sequence[Mapping[str, Any]]) -> list[str]:
  """Names of the rewards that every answer has."""
  several = [record.get("rewards") or {} for record in records]
  return [name for name in several[0] if all(one.get(name) is not None for one in several)]


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
  prompts = [prompt_in_words(record["prompt"]) for record in records]
  times = collections.Counter(prompts)
  prompts = [prompt if times[prompt] == 1 else f"{i}: {prompt}" for i, prompt in enumerate(prompts)]
  fits = {key: array for key, array in values.items() if len(array) == len(prompts)}
  if not fits:
    raise InputError(
      f"{comparison.stage.path}: scores.npz has nothing of {name} that fits its answers.jsonl; make both anew"
    )
  of = [record["answers"].get(name, {}).get("rewards") or {} for record in records]
  first = {
    reward: np.asarray([rewards[reward] for rewards in of], np.float64)
    for reward in (of[0] if of else ())
    if all(reward in rewards for rewards in of)
  }
  content, stage = comparison.content, comparison.stage_of(policy)
  rollout = content.get("settings") or {}
  keys = _keys(int(rollout.get("seed", 0)) + int(content.get("seed", 0)), {"top_k": 0, "top_p": 1.0, **rollout})
  seed = stage.seed if stage is not None else comparison.stage.seed
  return [Answers(f"{comparison.stage.name}:{name}", seed, stage, keys, prompts, fits, first)]


def _keys(seed: int, settings: Mapping[str, object]) -> tuple[str, ...]:
  numbers = [settings.get(key) for key in KEYS]
  return (str(seed), *(f"{n:g}" if isinstance(n, int | float) else str(n or "") for n in numbers))


def _said(value: object) -> str:
  return "-" if value is None else str(value) if value != "" else '""'


def compared_in_words(found: Compared, width: int = 0) -> Page:
  """What `dpojax compare` prints on a terminal of `width` columns; 0: any is right."""
  rows, prose = [], width or PROSE
  for one in found.differences:
    name = {KL: "KL, nats an answer", LENGTH: "length, tokens"}.get(one.metric) or reward_in_words(one.metric)
    ends = f"{one.low:+.3f} to {one.high:+.3f}"
    rows.append([name, f"{one.a:.3f}", f"{one.b:.3f}", f"{one.value:+.3f}", ends])
  parts: list[str | Table] = [f"A: {_named(found.a)}\nB: {_named(found.b)}"]
  parts += [
    Table(["", "A", "B", "B - A", "95 % interval"], rows, may_go=["A", "B"]),
    *(
      filled(
        f"B's answer has the higher {reward_in_words(name)} for {value:.1%} of prompts ({100 * low:.1f} to {100 * high:.1f}), "
        "ties a half; of the first answers",
        prose,
      )
      for name, (value, low, high) in found.win_rate.items()
    ),
    "\n".join(filled(line, prose, indent="  ") for line in _how(found)),
  ]
  settings = Table(["setting", "A", "B"], [[key, *pair] for key, pair in found.settings.items()])
  parts.append(settings if found.settings else "settings: none differ but seeds, as far as both are known")
  if found.problems:
    parts.append("\n".join(f"left out: {line}" for line in found.problems))
  return Page(parts, width)


def _named(answers: Sequence[Answers]) -> str:
  names = ", ".join(one.name for one in answers)
  return names if len(answers) == 1 else f"{names} (seeds {', '.join(str(one.seed) for one in answers)})"


def _how(found: Compared) -> list[str]:
  """How the numbers were made, a sentence each."""
  few, many = min(found.prompts), max(found.prompts)
  seeds = len(found.a), len(found.b)
  each = "" if max(seeds) == 1 else ", the same for all seeds" if found.shared_prompts else " of each seed, its own"
  lines = []
  if found.paired_by_prompt:
    keys = "under the same random keys" if found.same_keys else "under different random keys or sampling settings"
    unused = f"; {found.unused:,} answers to other prompts are not used" if found.unused else ""
    lines.append(f"paired by prompt: {few:,} prompts{each}, that both answered, {keys}{unused}")
  else:
    lines.append(
      f"not paired: no prompts in common ({few:,} and {many:,}); each side is drawn by itself, and no win rate is had"
    )
  kl = next((one for one in found.differences if one.metric == KL), None)
  if kl is not None and (kl.low > 0 or kl.high < 0):
    lines.append("KLs differ: rewards at equal KL are on the page of `dpojax report`")
  if max(seeds) == 1:
    lines.append("intervals: bootstrap over prompts; of one seed they say nothing of other seeds")
    return lines
  enough = "" if min(seeds) >= ENOUGH else f"; with fewer than {ENOUGH} seeds the result is exploratory"
  pairs = "paired by seed" if found.paired_by_seed else f"seeds not paired ({seeds[0]} and {seeds[1]})"
  lines.append(f"intervals: hierarchical bootstrap over seeds and prompts, {pairs}{enough}")
  if found.sign_flip:
    least = next(iter(found.sign_flip.values()))[1]
    tested = ", ".join(f"{name} {format_number(p)}" for name, (p, _) in found.sign_flip.items() if not math.isnan(p))
    lines.append(
      f"exact sign-flip test over {seeds[0]} seeds, which cannot go below 2^(1-{seeds[0]}) = {format_number(least)}: p of {tested}"
    )
  return lines
