"""`dpojax compare`: two policies, paired by prompt, with intervals."""

import math
from collections.abc import Sequence

from dpojax.cli.arguments import file_path
from dpojax.cli.options import Parser
from dpojax.report.paired import Answers, Compared, compare
from dpojax.report.tables import aligned
from dpojax.training.numbers import format_number, reward_in_words

DESCRIPTION = """Compares two policies on the prompts that both answered: difference of rewards, KL and length with 95 % intervals,
win rates, and the settings in which they differ.

  dpojax compare runs/dpo runs/ppo                                  two runs, by their newest looks (monitor.every)
  dpojax compare runs/frontier/compare:dpo runs/frontier/compare:ppo   two policies of a stage of recipe=comparison
  dpojax compare runs/seeds:dpo runs/seeds:ppo                      all runs of these names below a folder: several seeds

A and B: a run's folder, a folder with one run of each seed, or FOLDER:NAME."""


ENOUGH = 8  # seeds for a claim: the least that a sign-flip test can say is then 0.008


def main(arguments: list[str]) -> int:
  """0 when the comparison is printed."""
  parser = Parser("dpojax compare", DESCRIPTION, usage="dpojax compare A B")
  parser.add_argument("a", metavar="A", type=file_path, help="a run, or FOLDER:NAME")
  parser.add_argument("b", metavar="B", type=file_path, help="what is compared with it")
  options = parser.parse_args(arguments)
  print(text(compare(options.a, options.b)))
  return 0


def text(found: Compared) -> str:
  """What is printed."""
  rows = []
  for one in found.differences:
    name = {"kl": "KL, nats an answer", "length": "length, tokens"}.get(one.metric) or reward_in_words(one.metric)
    ends = f"{one.low:+.3f} to {one.high:+.3f}"
    rows.append([name, f"{one.a:.3f}", f"{one.b:.3f}", f"{one.value:+.3f}", ends])
  parts = [
    f"A: {_named(found.a)}\nB: {_named(found.b)}",
    aligned(["", "A", "B", "B - A", "95 % interval"], rows),
    *(
      f"B wins by {reward_in_words(name)}: {value:.1%} ({100 * low:.1f} to {100 * high:.1f}), ties a half"
      for name, (value, low, high) in found.win_rate.items()
    ),
    "\n".join(_how(found)),
  ]
  if found.settings:
    parts.append(aligned(["setting", "A", "B"], [[key, *pair] for key, pair in found.settings.items()]))
  else:
    parts.append("settings: none differ but seeds, as far as both are known")
  return "\n\n".join(parts)


def _named(answers: Sequence[Answers]) -> str:
  names = ", ".join(one.name for one in answers)
  return names if len(answers) == 1 else f"{names} (seeds {', '.join(str(one.seed) for one in answers)})"


def _how(found: Compared) -> list[str]:
  """How the numbers were made, a sentence each."""
  few, many = min(found.prompts), max(found.prompts)
  lines = []
  if found.paired_by_prompt:
    keys = "under the same random keys" if found.same_keys else "under different random keys or sampling settings"
    lines.append(f"paired by prompt: {few:,} prompts that all answered, {keys}")
  else:
    lines.append(
      f"not paired: no prompts in common ({few:,} and {many:,}); each side is drawn by itself, and no win rate is had"
    )
  seeds = len(found.a), len(found.b)
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
