"""The data doctor: what became of every row, how long examples are, how full batches get."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.data.rankings import PAIRS, TIED, WITHOUT
from dpojax.data.row_filter import DROPPED, NOTED
from dpojax.data.show import answer_names
from dpojax.data.tokenise import ODDITIES
from dpojax.screen import Table
from dpojax.terminal import filled

WIDTH = 26  # of the names on the left
BARS = " ▏▎▍▌▋▊▉█"


def facts(train: TokenDataset, held_out: TokenDataset, batches: Batches) -> dict:
  """Everything the doctor counts, as JSON can hold it: counts, lengths, packing, notes."""
  fill = batches.fill()
  return {
    "counts": train.counts,
    "held_out_counts": held_out.counts,
    "training": len(train),
    "held_out": len(held_out),
    "lengths": {name: summary(values) for name, values in lengths(train).items()},
    "packing": {**dataclasses.asdict(batches.shape), **dataclasses.asdict(fill)},
    "notes": train.notes,
    "warnings": train.warnings,
    "fingerprint": train.fingerprint,
  }


def report(train: TokenDataset, held_out: TokenDataset, batches: Batches) -> str:
  """The same as aligned text."""
  parts = [
    rows_report(train, held_out),
    lengths_report(train),
    histogram([example_tokens(train, i) for i in range(len(train))], "tokens of an example: prompt and all answers"),
    packing_report(batches),
  ]
  if train.warnings:
    parts.insert(0, "\n".join(["to look at", *(f"  {warning}" for warning in train.warnings)]))
  if train.notes:
    count = sum(train.counts[f"{DROPPED}{reason}"] for reason in NOTED)
    title = "malformed rows" + (f", the first {len(train.notes)} of {count:,}" if count > len(train.notes) else "")
    parts.append("\n".join([title, *(f"  {note}" for note in train.notes)]))
  return "\n\n".join(parts)


def rows_report(train: TokenDataset, held_out: TokenDataset) -> str:
  """Rows read, dropped by reason, kept; what is odd about the kept ones."""
  counts = train.counts
  rows, kept, answers = counts["rows"], counts["kept"], counts["answers"]
  dropped = {key.removeprefix(DROPPED): n for key, n in counts.items() if key.startswith(DROPPED)}
  lines = [line("rows read", rows)]
  lines += [line(f"  dropped: {words(reason)}", n, rows) for reason, n in dropped.items() if n]
  of = rows if len(train) <= kept else None  # a row may have made several examples
  lines += [line("kept", kept, rows), line("  for training" if of else "examples for training", len(train), of)]
  if held_out.counts is train.counts or held_out.counts == train.counts:
    lines.append(line("  held out" if of else "examples held out", len(held_out), of))
  else:
    lines.append(line("held out, read apart", len(held_out)))
  lines += [
    "",
    line("duplicate prompts", counts["duplicate_prompts"], kept),
    line("boundary mismatches", counts["boundary_mismatches"], kept),
    *(line(words(name), counts[name], kept) for name in (*ODDITIES, "contradicting_scores")),
    line("truncated prompts", counts["truncated/prompts"], kept),
    *_turns(counts),
    line("answers", answers),
    line("  that hold an EOS", counts["answers_with_eos"], answers),
    line("  with EOS before the end", counts["eos_inside_answers"], answers),
    line("  truncated", counts["truncated/answers"], answers),
    line("  repeated, left out", counts["repeated_answers"]),
    line("ties", counts["ties"], kept),
    *(line(words(name), counts[name]) for name in (PAIRS, TIED, WITHOUT) if name in counts),
    line("rows with a margin", counts["with_margin"], kept),
    line("rows with a weight", counts["with_weight"], kept),
  ]
  absent = [words(reason) for reason, n in dropped.items() if not n]
  return "\n".join([*lines, "", filled(f"none dropped as: {', '.join(absent)}", 80, indent="  ")])


def _turns(counts: Mapping[str, int]) -> list[str]:
  """Lines about the turns of conversations, none where there are none."""
  if not counts.get("turns"):
    return []
  turns = counts["turns"] + counts["turns_left_out"]
  return [
    line("turns of the assistant", turns),
    line("  learned", counts["turns"], turns),
    line("  left out", counts["turns_left_out"], turns),
    line("  apart, history differs", counts["turns_apart"], turns),
  ]


def lengths_report(dataset: TokenDataset) -> str:
  """A table of token lengths."""
  rows = []
  for name, values in lengths(dataset).items():
    s = summary(values)
    whole = (f"{s[key]:,.0f}" for key in ("median", "p95", "longest", "total"))
    rows.append([name, f"{s['mean']:,.1f}", *whole])
  return Table(["tokens", "mean", "median", "95 %", "longest", "total"], rows).text()


def packing_report(batches: Batches) -> str:
  """How full rows, row groups and scored slots are, and what other group sizes would do."""
  shape, settings, fill = batches.shape, batches.settings, batches.fill()
  return "\n".join(
    [
      f"packing {settings.size} examples a step into rows of {shape.length:,} tokens, batch.rows={shape.rows} a group",
      line("rows filled", f"{fill.rows:.1%}"),
      line("scored slots a row", shape.scored) + f"   {fill.scored:.1%} filled",
      line("example slots a row", shape.examples),
      line("row groups a step", f"{fill.groups_per_step:.2f}") + f"   of at most {shape.groups}",
      line("computed tokens in use", f"{fill.groups:.1%}") + "   with the last group's empty rows",
      line("  by batch.rows", "") + ", ".join(f"{rows}: {fraction:.0%}" for rows, fraction in by_rows(batches)),
      line("steps an epoch", batches.steps_per_epoch),
    ]
  )


def by_rows(batches: Batches) -> list[tuple[int, float]]:
  """(rows of a group, fraction of computed tokens in use) for group sizes one may choose."""
  found = []
  for rows in (1, 2, 4, 8):
    shape = dataclasses.replace(batches.shape, rows=rows, groups=-(-batches.settings.size // rows))
    found.append((rows, Batches(batches.dataset, batches.settings, shape).fill().groups))
  return found


def lengths(dataset: TokenDataset) -> dict[str, list[int]]:
  """Token lengths by part of an example."""
  examples = [dataset[i] for i in range(len(dataset))]
  found = {"prompt": [len(example.prompt) for example in examples]}
  for k, name in enumerate(answer_names(dataset, dataset.num_answers)):
    found[name] = [len(example.answers[k]) for example in examples if k < len(example.answers)]
  if any(example.learned for example in examples):
    found["learned tokens"] = [example.scored for example in examples]
  found["prompt and all answers"] = [example.row_tokens() for example in examples]
  return found


def summary(values: Sequence[int]) -> dict[str, float]:
  """Mean, median, 95th percentile, longest and total of lengths."""
  return {
    "mean": float(np.mean(values)),
    "median": float(np.median(values)),
    "p95": float(np.percentile(values, 95)),
    "longest": int(max(values)),
    "total": int(sum(values)),
  }


def histogram(values: Sequence[int], title: str, *, bins: int = 10, width: int = 40) -> str:
  """Bars of counts over bins of a round width."""
  top = max(values)
  step = next(s for s in round_numbers() if s * bins > top)
  counts = np.bincount(np.asarray(values) // step)
  lines = [title]
  for i, count in enumerate(counts.tolist()):
    eighths = round(count / counts.max() * width * 8)
    bar = "█" * (eighths // 8) + (BARS[eighths % 8] if eighths % 8 else "")
    lines.append(f"  {i * step:>6,} to {(i + 1) * step - 1:>6,} {count:>8,}  {bar}".rstrip())
  return "\n".join(lines)


def round_numbers():
  """1, 2, 5, 10, 20, 50, ..."""
  unit = 1
  while True:
    yield from (unit, 2 * unit, 5 * unit)
    unit *= 10


def example_tokens(dataset: TokenDataset, index: int) -> int:
  return dataset[index].row_tokens()


def line(name: str, value: int | str, of: int | None = None) -> str:
  """One aligned line; with `of`, the share too."""
  shown = f"{value:,}" if isinstance(value, int) else value
  fraction = f"{value / of:>8.1%}" if of and isinstance(value, int) else ""
  return f"{name:<{WIDTH + 6}}{shown:>10}{fraction}"


def words(reason: str) -> str:
  return reason.replace("_", " ")


def gist(counts: Mapping[str, int]) -> str:
  """One line for a log: what was read, kept and dropped, and what deserves a look."""
  dropped = [f"{n:,} {words(key.removeprefix(DROPPED))}" for key, n in counts.items() if key.startswith(DROPPED) and n]
  odd = [
    f"{counts[key]:,} {words(key.replace('/', ' '))}"
    for key in (
      "duplicate_prompts",
      "boundary_mismatches",
      *ODDITIES,
      "contradicting_scores",
      "truncated/prompts",
      "truncated/answers",
      "ties",
      "turns_left_out",
      "turns_apart",
    )
    if counts.get(key)
  ]
  if PAIRS in counts:
    odd.append(f"{counts[PAIRS]:,} pairs made ({counts[TIED]:,} tied and left out)")
  turns = f" ({counts['turns']:,} turns)" if counts.get("turns") else ""
  read = f"{counts['rows']:,} rows read, {counts['kept']:,} kept{turns}"
  return (
    read + (f"; dropped: {', '.join(dropped)}" if dropped else "") + (f"; among them {', '.join(odd)}" if odd else "")
  )
