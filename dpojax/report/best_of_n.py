"""The report of a stage of recipe=best_of_n: what each N gains, and how far it is from the policy that writes."""

import math
import pathlib
from typing import Any

from dpojax.files import write_atomically
from dpojax.markdown import escape
from dpojax.report.records import read_made
from dpojax.report.tables import markdown
from dpojax.screen import PROSE, Page, Table
from dpojax.terminal import filled

BEST_OF_N, REPORT = "best_of_n.json", "report.md"
MAY_GO = ("ended", "length", "at most")  # columns, where a terminal is narrow


def write_best_of_n(folder: pathlib.Path) -> None:
  """Writes report.md from best_of_n.json; CheckpointError where that is missing or damaged."""
  found = read_best_of_n(folder)
  parts = [f"# {escape(folder.resolve().name)}", markdown(*table(found)), escape(_sentence(found))]
  write_atomically(folder / REPORT, "\n\n".join(parts) + "\n")


def best_of_n_report(folder: pathlib.Path, *, width: int = 100) -> Page:
  """The same for a terminal of `width` columns; 0: a file, whose tables are as wide as they need."""
  found = read_best_of_n(folder)
  said = filled(_sentence(found), width or PROSE)
  return Page([Table(*table(found), may_go=MAY_GO), said, f"report: {folder / REPORT}"], width)


def read_best_of_n(folder: pathlib.Path) -> dict[str, Any]:
  """`folder`/best_of_n.json; CheckpointError where it is missing or damaged."""
  return read_made(folder / BEST_OF_N, "best_of_n", _check)


def _check(content: Any) -> None:
  if not all(math.isfinite(float(point[name])) for point in content["points"] for name in ("n", "kl/sequence")):
    raise ValueError("a point is not finite")


def table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
  """(heading, rows): a row for each N."""
  points = found["points"]
  rewards = [name for name in points[0] if name.startswith("reward/") and not name.endswith("_error")]
  names = [*(name.removeprefix("reward/") for name in rewards), "KL, nats", "at most", "length", "ended"]
  rows = []
  for point in points:
    cells = [f"{point[name]:.3f} ± {point[f'{name}_error']:.3f}" for name in (*rewards, "kl/sequence")]
    bound = f"{point['kl/bound']:.3f}"
    rows.append([f"best of {point['n']}", *cells, bound, f"{point['length/policy']:.1f}", f"{point['finished']:.1%}"])
  return ["", *names], rows


def _sentence(found: dict[str, Any]) -> str:
  different = found.get("different_prompts", found["prompts"])
  twice = f", {different:,} of them different" if different < found["prompts"] else ""
  return (
    f"{found['chooses']} chooses; from {found['answers']['samples']} answers to each of {found['prompts']:,} prompts{twice}. Mean "
    "± standard error over different prompts; KL to the policy that writes, an answer; at most: log N - (N - 1) / N."
  )
