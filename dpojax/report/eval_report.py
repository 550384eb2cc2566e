"""An evaluation as a table: for the terminal and in Markdown, from the tree that `eval.json` holds."""

import pathlib
from collections.abc import Sequence
from typing import Any

from dpojax.markdown import escape
from dpojax.report.tables import markdown
from dpojax.screen import PROSE, Page, Table
from dpojax.terminal import filled, in_line
from dpojax.training.numbers import format_number

Tree = dict[str, Any]
HEADER = ["", "value", "95 % interval", "of"]
SUBSET_HEADER = ["subset", "accuracy", "95 % interval", "longer wins", "NLL", "of"]
SCORES = {
  "reward": "reward of a reward model",
  "implicit": "implicit reward, beta (log p - log p_reference)",
  "sum": "log-prob, summed over the answer's tokens",
  "mean": "log-prob, mean over the answer's tokens",
}
MOST_LISTED = 10  # rows left out


def eval_text(result: Tree, width: int = 0) -> Page:
  """The tables for a terminal of `width` columns; 0: any is right."""
  parts: list[str | Table] = [_heading(result), Table(HEADER, table(result), may_go=HEADER[:1:-1])]
  parts += [filled(note, width or PROSE) for note in notes(result)]
  if subsets := subset_table(result):
    parts.append(Table(SUBSET_HEADER, subsets, may_go=["longer wins", "NLL", "95 % interval"]))
  if bench := bench_table(result):
    parts.append(Table(["RewardBench", "score"], bench))
  if listed := left_out(result):
    parts.append("\n".join(listed))
  return Page(parts, width)


def eval_markdown(result: Tree, plots: Sequence[pathlib.Path]) -> str:
  """`eval.md`: the same table, and the plots by their paths relative to it."""
  parts = [
    "# Evaluation",
    "  \n".join(map(escape, _heading(result).split("\n"))),
    markdown(HEADER, table(result)),
    *map(escape, notes(result)),
  ]
  if subsets := subset_table(result):
    parts.append(markdown(SUBSET_HEADER, subsets))
  if bench := bench_table(result):
    parts.append(markdown(["RewardBench", "score"], bench))
  if listed := left_out(result):
    parts.append("\n".join([f"{listed[0]}\n", *(f"    {in_line(line.strip())}" for line in listed[1:])]))
  parts += [f"![{path.stem}]({path.as_posix()})" for path in plots]
  parts.append("What each figure is: `docs/evaluation.md` of dpojax.")
  return "\n\n".join(parts) + "\n"


def table(result: Tree) -> list[list[str]]:
  """Rows (figure, value, interval, what it is a mean of), as far as they were measured."""
  figures = result["figures"]
  length, calibration, after = figures["length"], figures["calibration"], figures["calibrated"]
  within = length["matched"]["within"]
  labelled = "comparisons and ties" if figures["tied_labels"] else "comparisons"
  rows = [
    _accuracy(figures),
    _share(f"accuracy, lengths alike to {_percent(within, 0)}", length["matched"]["accuracy"], "comparisons"),
    _share("accuracy of always taking the longer answer", length["longer_wins"], "comparisons"),
    _share("prefers the longer answer", length["prefers_longer"], "of unequal length"),
    _mean("margin", figures["margin"], "comparisons"),
  ]
  if rankings := figures.get("rankings"):
    rows += [
      _share("best answer first", rankings["top_one"], "rows"),
      _share("pairs of a row in order", rankings["ordered_pairs"], "rows"),
      _mean("Kendall's tau", rankings["kendall_tau"], "rows"),
    ]
  rows += [
    _mean("NLL (nats)", calibration["nll"], labelled),
    _mean("Brier score", calibration["brier"], labelled),
    ["ECE", _percent(calibration["ece"]), f"{_percent(calibration['ece_by_chance'])} by chance", ""],
  ]
  rows += _temperature(figures["temperature"])
  if "nll" in after:
    rows += [
      _mean("NLL after temperature (cross-fitted)", after["nll"], labelled),
      _mean("NLL after minus before", after["nll_change"], labelled),
      [
        "ECE after temperature (cross-fitted)",
        _percent(after["ece"]),
        f"{_percent(after['ece_by_chance'])} by chance",
        "",
      ],
    ]
  if gold_reward := figures.get("truth"):
    for name, key in (("Pearson", "pearson"), ("Spearman", "spearman"), ("Pearson within prompts", "pearson_within")):
      rows.append([f"true reward: {name}", _number(gold_reward[key]), "", f"{gold_reward['answers']:,} answers"])
  if ensemble := result.get("ensemble"):
    rows += _ensemble(ensemble)
  return rows


def notes(result: Tree) -> list[str]:
  """Why a figure is missing, a sentence each."""
  figures = result["figures"]
  fit, after = figures["temperature"], figures["calibrated"]
  if fit["status"] != "fitted":
    return [f"No temperature: {fit['why']}."]
  return [f"No figures after temperature: {after['why']}."] if "why" in after else []


def subset_table(result: Tree) -> list[list[str]]:
  """Rows of the subsets; empty where the data name none."""
  return [
    [
      name or "(none)",
      _percent(part["accuracy"]["value"]),
      _interval(part["accuracy"], fraction=True),
      _percent(part["longer_wins"]["value"]),
      _number(part["nll"]["value"]),
      f"{part['accuracy']['count']:,}",
    ]
    for name, part in result["figures"]["subsets"].items()
  ]


def bench_table(result: Tree) -> list[list[str]]:
  """Rows (section or subset, score) of RewardBench; empty where the data are others."""
  bench = result.get("rewardbench")
  if bench is None:
    return []
  rows = [[name, _percent(value)] for name, value in bench.get("sections", bench["subsets"]).items()]
  if bench.get("prior_sets") is not None:
    rows.append(["Prior Sets (half weight)", _percent(bench["prior_sets"])])
  return [*rows, ["score", _percent(bench["score"]) if bench["score"] is not None else "- (subsets are missing)"]]


def left_out(result: Tree) -> list[str]:
  """A line that counts the rows left out and one for each of the first; empty where there are none."""
  rows = result["rows"]["left_out"]
  if not rows:
    return []
  shown = rows[:MOST_LISTED]
  more = f"; the first {len(shown)}, all in scores.jsonl" if len(shown) < len(rows) else ""
  return [f"rows left out: {len(rows):,} of {result['rows']['read']:,}{more}", *(f"  {row['error']}" for row in shown)]


def _heading(result: Tree) -> str:
  models, rows = result["models"], result["rows"]
  lines = [
    f"model: {', '.join(model['path'] for model in models)}",
    f"data: {result['data']['path']}, format {result['data']['format']}: {rows['scored']:,} of {rows['read']:,} rows",
    f"score: {SCORES[result['score']]}",
  ]
  for model in models:
    if model["reference"]:
      lines.append(f"reference: {model['reference']}, beta {format_number(model['beta'])}")
  figures = result["figures"]
  counts = [f"{figures['comparisons']:,} comparisons of {figures['prompts']:,} prompts"]
  if figures["equal_scores"]:
    counts.append(f"{figures['equal_scores']:,} with equal scores, counted one half")
  if figures["tied_labels"]:
    counts.append(f"{figures['tied_labels']:,} tied by label beside them, not in any accuracy")
  return "\n".join([*lines, "; ".join(counts)])


def _temperature(fit: Tree) -> list[list[str]]:
  if fit["status"] != "fitted":
    return [["temperature", "none", "", ""]]
  interval = fit["interval"]
  shown = (
    "" if interval is None else f"{_number(interval[0])} to {'∞' if interval[1] is None else _number(interval[1])}"
  )
  return [["temperature", _number(fit["value"]), shown, ""]]


def _ensemble(ensemble: Tree) -> list[list[str]]:
  each = [member["value"] for member in ensemble["accuracy_of_each"]]
  return [
    [f"accuracy of its {ensemble['members']} members", _percent(min(each)), f"to {_percent(max(each))}", ""],
    _mean("disagreement over a margin", ensemble["margin_disagreement"], "comparisons"),
    _share("members unanimous", ensemble["unanimous"], "comparisons"),
    _share("accuracy where unanimous", ensemble["accuracy_when_unanimous"], "comparisons"),
    _share("accuracy elsewhere", ensemble["accuracy_otherwise"], "comparisons"),
  ]


def _accuracy(figures: Tree) -> list[str]:
  """As `_share`, but for ties alone, by label or by score: a half that no answer won is no accuracy."""
  name, value, *others = _share("accuracy", figures["accuracy"], "comparisons")
  by_label = figures["comparisons"] == 0 and figures["tied_labels"] > 0
  by_score = figures["equal_scores"] == figures["comparisons"] > 0
  return [name, "tied" if by_label or by_score else value, *others]


def _share(name: str, estimate: Tree, what: str) -> list[str]:
  return [name, _percent(estimate["value"]), _interval(estimate, fraction=True), f"{estimate['count']:,} {what}"]


def _mean(name: str, estimate: Tree, what: str) -> list[str]:
  return [name, _number(estimate["value"]), _interval(estimate, fraction=False), f"{estimate['count']:,} {what}"]


def _interval(estimate: Tree, *, fraction: bool) -> str:
  if estimate["interval"] is None:
    return "-"
  low, high = estimate["interval"]
  return f"{100 * low:.1f} to {100 * high:.1f} %" if fraction else f"{_number(low)} to {_number(high)}"


def _percent(value: float | None, decimals: int = 1) -> str:
  return "-" if value is None else f"{100 * value:.{decimals}f} %"


def _number(value: float | None) -> str:
  return "-" if value is None else format_number(value)
