"""The end of a run: result.json, report.md, curves, and the text for a terminal."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpojax import digests
from dpojax.config.describe import in_one_line
from dpojax.config.record import difference, to_json
from dpojax.config.resolved import autos
from dpojax.config.schema import RunConfig
from dpojax.errors import CheckpointError
from dpojax.files import parse_json, to_json_number, write_atomically
from dpojax.markdown import escape
from dpojax.report.labels import HELD_OUT, Label, policy_labels, rollout_labels, shown
from dpojax.report.records import RunRecords, newest_tenth, read_run
from dpojax.report.rollouts import SPLIT, cost, first_and_last, rollout_records
from dpojax.report.samples import display_of, displayed, side_by_side, side_by_side_markdown
from dpojax.report.tables import markdown
from dpojax.screen import PROSE, Page, Table
from dpojax.terminal import filled, in_line
from dpojax.training.model_files import critic_description
from dpojax.training.numbers import format_duration, format_number, tied

RESULT = "result.json"
FEW_PROMPTS = 16  # a look at fewer says little: win rates move by 6 % and more with a single answer
OF_STEPS = (
  "Of the steps from a roll-out, the largest move and the largest variance of ratios are over all that were computed, the "
  "one that was refused included; what else is of steps is a mean over those that were taken."
)
HEADER = ["", "before", "after"]


def write_report(folder: str | pathlib.Path, *, reason: str = "finished") -> None:
  """Writes result.json, report.md and `plots/` from what the run left in `folder`.

  Args:
    folder: the working directory, with config.json, metrics.jsonl and `samples/`.
    reason: how the run ended.

  Raises:
    CheckpointError, ConfigError: `folder` is not that of a run.
  """
  run = read_run(folder)
  result = summarise(run, reason)
  plots: list[pathlib.Path] = []
  if run.config.logging.plots:
    from dpojax.report.plots import draw_run  # matplotlib takes long to import

    plots = draw_run(run)
  write_atomically(run.folder / "report.md", _markdown(run, result, plots))
  # Last, because its presence says that the run is done.
  digests.write_json(run.folder, RESULT, result)


def terminal_report(folder: str | pathlib.Path, *, width: int = 100) -> Page:
  """The report of a finished run: table, samples, where the curves are.

  Args:
    width: columns of the terminal; 0: a file, whose tables are as wide as they need.
  """
  run = read_run(folder)
  result = read_result(run.folder)
  prose = width or PROSE
  parts: list[str | Table] = [Table(HEADER, table(result)), _speed(result)]
  if notes := footnotes(result):
    parts.append("\n".join(filled(note, prose) for note in notes))
  if run.when_to_stop is not None and (sentences := run.when_to_stop.sentences()):
    parts.append("\n".join(filled(sentence, prose, indent="  ") for sentence in sentences))
  samples = _shown(run)
  if samples:
    parts.append(side_by_side(*samples, width=prose))
  plots = sorted((run.folder / "plots").glob("*.png"))
  parts.append("\n".join(["report: " + str(run.folder / "report.md"), *(f"curves: {path}" for path in plots)]))
  return Page(parts, width)


def read_result(folder: str | pathlib.Path) -> dict[str, Any]:
  """`folder`/result.json; CheckpointError when it is missing or damaged."""
  path = pathlib.Path(folder, RESULT)
  try:
    content = path.read_text(encoding="utf-8")
    if found := digests.damage(folder, [RESULT]):
      raise CheckpointError(f"{found}; delete it and run the same command again")
    result = parse_json(content)
    if not isinstance(result, dict):
      raise ValueError(f"holds a {type(result).__name__}")
    return result
  except FileNotFoundError:
    raise CheckpointError(f"{path}: no such file; the run in {folder} has not ended") from None
  except CheckpointError:
    raise
  except ValueError as error:
    raise CheckpointError(f"{path}: not JSON ({error}); delete it and run the same command again") from None


def summarise(run: RunRecords, reason: str) -> dict[str, Any]:
  """result.json: the settings, the first and last measurement of each split, and what the run cost.

  `train` compares the first step with the mean of the last tenth of the steps, `rollout` the first roll-out with the
  last tenth of them (`report.rollouts`); `eval` and `policy` compare the first and the last record.
  """
  train = run.splits.get("train", [])
  steps = train[-1]["step"] if train else 0
  result: dict[str, Any] = {"reason": reason, "steps": steps, "config": to_json(run.config), "before": {}, "after": {}}
  for split, records in run.splits.items():
    if split == "train":
      tail = newest_tenth(records)
      first = _metrics(records[0])
      last = {m: float(np.mean([r[m] for r in tail if m in r])) for m in first if any(m in r for r in tail)}
    elif split == SPLIT:
      first, last = first_and_last(rollout_records(run))
    else:
      first, last = _metrics(records[0]), _metrics(records[-1])
    result["before"][split] = {m: to_json_number(v) for m, v in first.items()}
    result["after"][split] = {m: to_json_number(v) for m, v in last.items()}
  result["skipped_steps"] = int(train[-1].get("skipped", 0)) if train else 0
  result["seconds"] = float(sum(r.get("time/step", 0.0) for r in train))
  speeds = [r["tokens_per_second"] for r in train if "tokens_per_second" in r]
  result["tokens_per_second"] = float(np.median(speeds)) if speeds else None
  if "policy" in run.splits and run.samples:
    result["policy_prompts"] = len(list(run.samples.values())[-1])
  return result | cost(run)


def with_ties(result: dict[str, Any]) -> dict[str, Any]:
  """The same result.json with 'tied' in the place of fractions that say nothing (`training.numbers.tied`)."""
  times = {
    time: {
      split: {name: "tied" if tied(metrics, name) else value for name, value in metrics.items()}
      for split, metrics in result[time].items()
    }
    for time in ("before", "after")
  }
  return result | times


def table(result: dict[str, Any]) -> list[list[str]]:
  """Rows (metric, before, after) of what was measured, sections first to last: held out, policy, roll-outs, training."""
  rows = []
  normalised = bool(result["config"].get("rollout", {}).get("normalise"))
  for split, heading, labels in (
    ("eval", "held out", lambda names: HELD_OUT),
    ("policy", "what it writes (± standard error)", policy_labels),
    (
      SPLIT,
      f"roll-outs (first, {last_tenth(result.get('rollouts', 0), 'last')})",
      lambda names: _rollout_labels(names, normalised),
    ),
  ):
    before, after = result["before"].get(split), result["after"].get(split)
    if after is None:
      continue
    looked_at = result.get("policy_prompts") if split == "policy" else None
    rows.append([f"{heading}, {prompts_in_words(looked_at)}" if looked_at else heading, "", ""])
    for metric, label in labels(after).items():
      if metric in after:
        cells = [shown(label, s or {}, metric) for s in (before, after)]
        name = f"{label.name}, {label.unit}" if label.unit else label.name
        rows.append([f"  {name}", *cells])
  before, after = result["before"].get("train"), result["after"].get("train")
  # The loss of a policy gradient says nothing: `report.plots.draw_training`. Its last steps may have none, without rows.
  if after and not any("policy/loss" in metrics for metrics in (before or {}, after)):
    rows.append([f"training (first step, {last_tenth(result.get('steps', 0), 'last step')})", "", ""])
    for metric in ("loss", "rewards/accuracies", "rewards/margins"):
      if metric in after:
        label = HELD_OUT[metric]
        rows.append([f"  {label.name}", *(shown(label, metrics or {}, metric) for metrics in (before, after))])
  return rows


def last_tenth(count: int, one: str) -> str:
  """What stands for the end of a run of `count` steps or roll-outs: their last tenth, of fewer than 20 the last `one`."""
  return "last tenth" if count >= 20 else one


def footnotes(result: Mapping[str, Any]) -> list[str]:
  """What a reader of the table has to know."""
  notes, prompts = [], result.get("policy_prompts", FEW_PROMPTS)
  if prompts < FEW_PROMPTS:
    notes.append(
      f"What it writes was measured at {prompts_in_words(prompts)} only, which says little of others: raise monitor.prompts "
      f"to {FEW_PROMPTS} or more."
    )
  if "policy/ratio_variance" in result["after"].get(SPLIT, {}):
    notes.append(OF_STEPS)
  return notes


def prompts_in_words(count: int) -> str:
  """`1 prompt`, `64 prompts`."""
  return f"{count:,} prompt{'s' * (count != 1)}"


def _rollout_labels(metrics: Mapping[str, Any], normalised: bool) -> Mapping[str, Label]:
  same = metrics.get("objective/reward") == metrics.get("objective/score")
  return {
    name: label
    for name, label in rollout_labels(normalised=normalised).items()
    if not (same and name == "objective/reward")
  }


def _metrics(record: dict[str, Any]) -> dict[str, float]:
  return {k: v for k, v in record.items() if k not in ("step", "split") and not k.startswith("time/")}


def _speed(result: dict[str, Any]) -> str:
  text = f"{result['steps']} steps in {format_duration(result['seconds'])}"
  if "rollouts" in result:
    taken = "" if result["steps_taken"] == result["steps"] else f", {result['steps_taken']:,} of them taken,"
    text = (
      f"{result['rollouts']:,} roll-outs, {result['steps']:,} steps{taken} in {format_duration(result['seconds'])}, "
      f"{result['sampling']:.0%} of it sampling"
    )
  if result["tokens_per_second"]:
    text += f", {format_number(result['tokens_per_second'])} tokens/s"
  if result["skipped_steps"]:
    text += f", {result['skipped_steps']} steps skipped because loss or gradient was not finite"
  return text if result["reason"] == "finished" else f"{text} ({result['reason']})"


def _shown(run: RunRecords) -> tuple[list[dict], list[dict]] | None:
  """The first samples of the first and the last look at the policy, or None where it was not looked at twice."""
  count = run.config.monitor.show
  if len(run.samples) < 2 or count == 0:
    return None
  looks, display = list(run.samples.values()), display_of(run.config.data.source, run.config.data.name)
  return displayed(looks[0][:count], display), displayed(looks[-1][:count], display)


def _markdown(run: RunRecords, result: dict[str, Any], plots: list[pathlib.Path]) -> str:
  parts = [
    f"# {escape(run.folder.resolve().name)}",
    escape(in_one_line(run.config)),
    markdown(HEADER, table(result)),
    _speed(result) + ".",
    *footnotes(result),
  ]
  if start := (critic_description(run.folder) or {}).get("start"):
    parts.append(escape(f"The critic starts from {start}."))
  if run.when_to_stop is not None and (sentences := run.when_to_stop.sentences()):
    parts.append("## When to stop\n\n" + "\n".join(f"- {escape(sentence)}" for sentence in sentences))
  changed = difference(RunConfig(), run.config)
  if changed:
    lines = [*changed, *autos(run.config)]
    parts.append("Settings that differ from the defaults:\n\n" + "\n".join(f"    {in_line(line)}" for line in lines))
  parts += [f"![{path.stem}]({path.relative_to(run.folder).as_posix()})" for path in plots]
  samples = _shown(run)
  if samples:
    parts.append("## Before and after\n\n" + side_by_side_markdown(*samples))
  return "\n\n".join(parts) + "\n"
