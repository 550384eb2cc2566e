"""Writes the tables of experiments/README.md that are made of runs: section `frontier`, from the folders of its seeds.

python experiments/make_results.py runs/frontier

What stands between `<!-- frontier -->` and `<!-- end of frontier -->` is replaced. Commit, device and dates are those that the
runs wrote down; a mean over seeds is ± the standard deviation over seeds, that of one seed ± the standard error over prompts.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.errors import CheckpointError, ConfigError, InputError
from dpojax.files import write_atomically
from dpojax.report.claims import claims
from dpojax.report.comparison import COMPARISON, read_comparison
from dpojax.report.comparison_records import comparison_of
from dpojax.report.page.content import methods_on
from dpojax.report.page.cost_table import cost_table, costs_of
from dpojax.report.page.method_table import NOTE, difference_table, method_table
from dpojax.report.page.summary import summary
from dpojax.report.stages import find_stages
from dpojax.report.tables import markdown

ALIKE: dict[str, Callable[[Any], Any]] = {  # what seeds of one experiment share
  "policies": lambda one: [policy["name"] for policy in one["policies"]],
  "rewards": lambda one: [one["reward"], one["rewards"]],
  "prompts or answers": lambda one: [one["splits"], one["prompts"], one["samples_a_prompt"]],
  "numbers of best of N": lambda one: [point["n"] for point in one["best_of_n"]],
  "tournaments": lambda one: bool(one["tournament"]),
}
README = pathlib.Path(__file__).with_name("README.md")
SECTION = "frontier"


def main(arguments: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("folder", type=pathlib.Path, help="holds a folder for each seed")
  parser.add_argument("--readme", type=pathlib.Path, default=README, help="the file to change")
  options = parser.parse_args(arguments)
  try:
    text = "\n\n".join([section(comparisons(options.folder)), *of_runs(options.folder)])
    write_atomically(options.readme, replaced(options.readme, SECTION, text))
    print(f"{options.readme}: section {SECTION} is written; look whether the text beside it still says the same")
  except InputError as error:
    print(f"make_results: {error}", file=sys.stderr)
    return 1
  return 0


def comparisons(folder: pathlib.Path) -> dict[pathlib.Path, dict[str, Any]]:
  """comparison.json of every seed, by the folder of its stage, in the order of seeds.

  Raises:
    ConfigError: there is none, or they are not of the same policies.
  """
  found = {path.parent: read_comparison(path.parent) for path in sorted(folder.glob(f"*/*/{COMPARISON}"))}
  if not found:
    raise ConfigError(f"{folder}: no SEED/STAGE/{COMPARISON} in it; make frontier writes them")
  for what, key in ALIKE.items():
    if len({repr(key(one)) for one in found.values()}) > 1:
      raise ConfigError(f"{folder}: the seeds have other {what}; give them folders of their own")
  seeds = [one["seed"] for one in found.values()]
  if len(set(seeds)) < len(seeds):
    raise ConfigError(f"{folder}: a seed is there twice ({', '.join(map(str, sorted(seeds)))}); move one away")
  return dict(sorted(found.items(), key=lambda item: item[1]["seed"]))


def section(found: Mapping[pathlib.Path, Mapping[str, Any]]) -> str:
  """The text of the section: who made it, a table of policies, one of the tournament."""
  seeds = list(found.values())
  first, judging = seeds[0]["splits"][0], seeds[0]["reward"]
  others = [name for name in seeds[0]["rewards"] if name != judging]
  rows = []
  for number, policy in enumerate(seeds[0]["policies"]):
    of_seeds = [one["policies"][number] for one in seeds]
    cells = [cell([p["splits"][first] for p in of_seeds], "kl")]
    cells += [cell([p["splits"][first] for p in of_seeds], f"reward/{judging}")]
    cells += [gained(seeds, number, first, name) for name in others]
    cells += [
      cell([p["splits"][split] for p in of_seeds], f"reward/{seeds[0]['reward']}") for split in seeds[0]["splits"][1:]
    ]
    rows.append([policy["name"], *cells, shares([p["share"] for p in of_seeds])])
  for number, point in enumerate(seeds[0]["best_of_n"]):
    of_seeds = [one["best_of_n"][number] for one in seeds]
    cells = [cell(of_seeds, name) for name in ("kl", f"reward/{judging}")]
    rows.append([f"best of {point['n']}", *cells, *[""] * len(others), *[""] * len(seeds[0]["splits"][1:]), ""])
  heads = ["", "KL, nats an answer", f"{judging} reward", *(f"{name}, gain" for name in others)]
  heads += [f"{seeds[0]['reward']} reward, {split}" for split in seeds[0]["splits"][1:]]
  parts = [about(found), markdown([*heads, "share of the oracle's gain"], rows)]
  if all(one["tournament"] for one in seeds):
    parts.append(markdown(*tournament(seeds)))
  return "\n\n".join(parts)


def of_runs(folder: pathlib.Path) -> list[str]:
  """What holds over all seeds, and the page's tables of methods at equal KL and of their cost, as `dpojax report` counts them.

  Raises:
    CheckpointError: a run's record is damaged.
  """
  stages, problems = find_stages([folder])
  if problems:
    raise CheckpointError(problems[0])
  found = [comparison for stage in stages if (comparison := comparison_of(stage)) is not None]
  methods = methods_on(stages, found, found[0].reward)
  costs = costs_of(methods)
  parts = [" ".join([*summary(methods, costs), *claims(found)])]
  for table in (method_table(methods, found), difference_table(methods), cost_table(methods, costs)):
    if table is not None:
      header = [table.title, *table.header[1:]]
      parts.append(markdown(header, [[cell.text for cell in row] for row in table.rows]))
  return [*(part for part in parts if part), f"\\* {NOTE}"]


def about(found: Mapping[pathlib.Path, Mapping[str, Any]]) -> str:
  """Commit, device, seeds, prompts and what ± is, as the runs wrote them down."""
  runs = [environment(folder) for folder in found]
  commits = sorted({f"`{run['commit'][:7]}`{'' if run['clean'] else ' (changed)'}" for run in runs if run["commit"]})
  devices = sorted({f"{run['device']['count']} x {run['device']['kind']}" for run in runs})
  days = sorted({run["started"][:10] for run in runs})
  one = next(iter(found.values()))
  seeds = ", ".join(str(each["seed"]) for each in found.values())
  spread = "standard error over prompts" if len(found) == 1 else "standard deviation over seeds"
  end = [each["oracle"]["points"][-1]["kl"] for each in found.values() if each["oracle"] and each["oracle"]["points"]]
  reach = " to ".join(dict.fromkeys(f"{nats:.1f}" for nats in (min(end), max(end)))) if end else ""
  cut = f" The oracle curve ends at {reach} nats; no share is said beyond." if end else ""
  return (
    f"Commit {', '.join(commits) or 'unknown'}, {', '.join(devices)}, {' to '.join(dict.fromkeys((days[0], days[-1])))}; "
    f"seed{'s' * (len(found) > 1)} {seeds}; {one['samples_a_prompt']} answers to each of {one['prompts']} prompts of a split; "
    f"± {spread}.{cut}"
  )


def environment(folder: pathlib.Path) -> dict[str, Any]:
  """What the last start of a stage wrote down; CheckpointError where it did not."""
  path = folder / "environment.json"
  try:
    found = json.loads(path.read_text(encoding="utf-8"))[-1]
    return {name: found[name] for name in ("commit", "clean", "device", "started")}
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise CheckpointError(f"{path}: not the environment of a run ({error})") from None


def cell(rows: Sequence[Mapping[str, Any]], name: str) -> str:
  """The mean over seeds with its spread."""
  values = np.asarray([row[name] for row in rows], np.float64)
  spread = rows[0][f"{name}_error"] if len(rows) == 1 else np.std(values, ddof=1)
  return f"{np.mean(values):.3f} ± {spread:.3f}"


def gained(seeds: Sequence[Mapping[str, Any]], number: int, split: str, name: str) -> str:
  """How much more of a learned reward a policy has than the reference: what a comparison teaches is known up to a constant."""

  def at(one: Mapping[str, Any], which: int) -> float:
    return one["policies"][which]["splits"][split][f"reward/{name}"]

  values = np.asarray([at(one, number) - at(one, 0) for one in seeds], np.float64)
  return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(seeds) > 1 else "")


def shares(values: Sequence[float | None]) -> str:
  """The mean share with its range; nothing where one seed has none."""
  known = [value for value in values if value is not None]
  if len(known) < len(values):
    return ""
  return f"{np.mean(known):.1%}" + (f" ({min(known):.1%} to {max(known):.1%})" if len(known) > 1 else "")


def tournament(seeds: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
  """(heading, rows): policies by their mean strength, with the ranks that each seed leaves open and the true ones."""
  items: dict[str, list[Mapping[str, Any]]] = {}
  for one in seeds:
    for item in one["tournament"]["items"]:
      items.setdefault(item["name"], []).append(item)
  rows = []
  for name, found in sorted(items.items(), key=lambda pair: -np.mean([item["strength"] for item in pair[1]])):
    ranks = ", ".join(f"{item['rank_low']}-{item['rank_high']}" for item in found)
    true = ", ".join(str(item["true_rank"]) for item in found)
    rows.append([name, f"{np.mean([item['strength'] for item in found]):.2f}", ranks, true])
  return ["tournament", "strength, log-odds", "ranks left open, by seed", "true rank, by seed"], rows


def replaced(path: pathlib.Path, name: str, text: str) -> str:
  """The file's text with what stands between the marks of a section replaced.

  Raises:
    ConfigError: the marks are not there, once each and in order.
  """
  before, after = f"<!-- {name} -->", f"<!-- end of {name} -->"
  old = path.read_text(encoding="utf-8")
  if old.count(before) != 1 or old.count(after) != 1 or old.index(before) > old.index(after):
    raise ConfigError(f"{path}: wants the lines {before!r} and {after!r} once each, in this order")
  return f"{old.partition(before)[0]}{before}\n{text}\n{after}{old.partition(after)[2]}"


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
