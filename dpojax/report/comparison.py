"""The report of a stage of recipe=comparison: a row for each policy, and how a tournament of them ended."""

import math
import pathlib
from typing import Any

from dpojax.files import write_atomically
from dpojax.markdown import escape
from dpojax.report.records import read_made
from dpojax.report.tables import markdown
from dpojax.screen import PROSE, Page
from dpojax.screen import Table as ScreenTable
from dpojax.terminal import filled

COMPARISON, ANSWERS, SCORES, REPORT = "comparison.json", "answers.jsonl", "scores.npz", "report.md"
Table = tuple[list[str], list[list[str]]]


def write_comparison(folder: pathlib.Path) -> None:
  """Writes report.md from comparison.json; CheckpointError where that is missing or damaged."""
  found = read_comparison(folder)
  parts = [f"# {escape(folder.resolve().name)}", markdown(*policies_table(found)), escape(_sentence(found))]
  if found["tournament"]:
    parts += ["## Tournament", markdown(*tournament_table(found)), escape(_about_tournament(found))]
  write_atomically(folder / REPORT, "\n\n".join(parts) + "\n")


def comparison_report(folder: pathlib.Path, *, width: int = 100) -> Page:
  """The same for a terminal of `width` columns; 0: a file, whose tables are as wide as they need."""
  found = read_comparison(folder)
  header, rows = policies_table(found)
  others = header[3:-1] if found["oracle"] else header[3:]  # the KL, the main reward and the share stay
  prose = width or PROSE
  parts: list[str | ScreenTable] = [ScreenTable(header, rows, may_go=others[::-1]), filled(_sentence(found), prose)]
  if found["tournament"]:
    header, rows = tournament_table(found)
    parts += [ScreenTable(header, rows, may_go=("true rank", "games won")), filled(_about_tournament(found), prose)]
  return Page([*parts, f"report: {folder / REPORT}"], width)


def read_comparison(folder: pathlib.Path) -> dict[str, Any]:
  """`folder`/comparison.json; CheckpointError where it is missing or damaged."""
  return read_made(folder / COMPARISON, "comparison", _check)


def _check(content: Any) -> None:
  """Fails where something has another shape than `recipes.comparison` writes."""
  texts = [content["reward"], content["splits"][0], *(content.get("rewards") or ())]
  texts += [policy["name"] for policy in content["policies"]]
  numbers = [
    point[n]
    for point in (content.get("oracle") or {}).get("points", ())
    for n in ("kl", "reward", "reward_low", "reward_high")
  ]
  numbers += [point[name] for point in content.get("best_of_n") or () for name in ("n", "kl")]
  tournament: Any = content.get("tournament") or {"items": []}
  numbers += [tournament[name] for name in ("prompts", "games") if tournament["items"]]
  numbers += [item["strength"] for item in tournament["items"]]
  lacking = [
    key for item in tournament["items"] for key in ("name", "rank_low", "rank_high", "true_rank") if key not in item
  ]
  kls = [values.get("kl") for policy in content["policies"] for values in policy["splits"].values()]
  numbers += [kl for kl in kls if kl is not None]
  if lacking or not all(isinstance(text, str) for text in texts) or any(map(math.isnan, map(float, numbers))):
    raise ValueError("something of it is missing, or of another kind")


def policies_table(found: dict[str, Any]) -> Table:
  """(heading, rows): every policy by its KL, after the reference."""
  first, *others = found["splits"]
  rewards = found["rewards"]
  heads = ["KL, nats", *rewards, *(f"{rewards[0]}, {split}" for split in others)]
  heads += ["share of the oracle's gain"] * bool(found["oracle"])
  reference, *rest = found["policies"]
  rows = []
  for policy in (reference, *sorted(rest, key=lambda policy: policy["splits"][first]["kl"])):
    own = policy["splits"][first]
    cells = [_with_error(own, "kl"), *(_with_error(own, f"reward/{name}") for name in rewards)]
    cells += [_with_error(policy["splits"][split], f"reward/{rewards[0]}") for split in others]
    rows.append([policy["name"], *cells, *([_share(policy)] if found["oracle"] else [])])
  for point in found["best_of_n"]:
    cells = [_with_error(point, "kl"), *(_with_error(point, f"reward/{name}") for name in rewards)]
    rows.append([f"best of {point['n']}", *cells, *[""] * (len(heads) - len(cells))])
  return ["", *heads], rows


def tournament_table(found: dict[str, Any]) -> Table:
  """(heading, rows): the strongest first."""
  rows = []
  for item in found["tournament"]["items"]:
    ranks = "-" if item["rank_low"] is None else f"{item['rank_low']}-{item['rank_high']}"
    strength = f"{item['strength']:.2f} ({item['low']:.2f} to {item['high']:.2f})"
    won = f"{item['wins'] / item['games']:.1%}"
    rows.append([item["name"], strength, ranks, str(item["true_rank"]), f"{item['reward']:.3f}", won])
  return ["", "strength (95 %)", "ranks left open", "true rank", found["reward"], "games won"], rows


def _with_error(row: dict[str, Any], name: str) -> str:
  return f"{row[name]:.3f} ± {row[f'{name}_error']:.3f}" if name in row else "-"


def _share(policy: dict[str, Any]) -> str:
  low, high = policy["share_low"], policy["share_high"]
  if policy["share"] is None:
    return ""
  return f"{policy['share']:.1%}" + (f" ({low:.1%} to {high:.1%})" if low is not None and high is not None else "")


def _sentence(found: dict[str, Any]) -> str:
  text = (
    f"{found['samples_a_prompt']} answers to each of {found['prompts']:,} prompts, under the same random keys for every "
    f"policy; mean ± standard error over prompts; KL to {found['reference']}, an answer."
  )
  points = (found["oracle"] or {}).get("points")
  if points:
    end = points[-1]
    text += (
      f" The oracle curve ends at {end['kl']:.2f} nats, where its reward is {end['reward']:.3f}, with "
      f"{end['ess']:,.0f} effective answers; no share is said beyond."
    )
  return text


def _about_tournament(found: dict[str, Any]) -> str:
  played = found["tournament"]
  prior = " A policy won or lost every game, so draws with all others were added." if played["prior"] else ""
  return (
    f"{played['games']:,} games at {played['prompts']:,} prompts, won with probability sigmoid(difference of "
    f"{found['reward']}). Strength is log-odds, its mean 0; intervals and ranks count prompts as independent, not "
    f"games.{prior}"
  )
