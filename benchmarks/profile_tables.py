"""The tables of benchmarks/profile.py, made from what it measured."""

import itertools
import statistics

from benchmarks.environment import table

OVERHEAD_GOAL = 0.02


def step_rows(found: dict) -> list[tuple[int, str, float, float | None]]:
  """(depth, name, seconds, necessary operations or None) of the step and its parts; parts of a depth add up."""
  s, forward = found["seconds"], found["forward_operations"]
  all_forward = sum(forward.values())
  attention_backward = s["attention gradient"] - s["attention forward"]
  head_backward = s["head gradient"] - s["head forward"]
  again = s["products forward"] if found["remat"] == "layer" else 0.0
  inner: list[tuple[int, str, float, float | None]] = [
    (2, "weight products, forward", s["products forward"], forward["products"]),
    (2, "weight products, forward again (remat)", again, None),
    (2, "weight products, backward", s["products backward"], 2 * forward["products"]),
    (2, "attention, forward", s["attention forward"], forward["attention"]),
    (2, "attention, backward", attention_backward, 2 * forward["attention"]),
    (2, "head, forward", s["head forward"], forward["head"]),
    (2, "head, backward", head_backward, 2 * forward["head"]),
    (2, "embedding's gradient", s["embedding gradient"], None),
  ]
  if not again:
    del inner[1]
  rest = s["policy"] - sum(row[2] for row in inner)
  inner.append((2, "element-wise and the rest, by difference", rest, None))
  outer = s["step"] - s["policy"] - s["reference"] - s["update"]
  return [
    (0, "whole step", s["step"], found["step_operations"]),
    (1, "policy, forward and backward", s["policy"], 3 * all_forward),
    *inner,
    (1, "reference, forward", s["reference"], all_forward),
    (1, "optimizer's update", s["update"], None),
    (1, "loss, sum of gradients and the rest, by difference", outer, None),
  ]


def step_table(found: dict) -> str:
  rows = []
  for depth, name, seconds, operations in step_rows(found):
    share = f"{seconds / found['seconds']['step']:.1%}"
    gflops = f"{operations / 1e9:.0f}" if operations else ""
    rate = f"{operations / seconds / found['rate']:.0%}" if operations and seconds > 0 else ""
    rows.append(["· " * depth + name, f"{seconds * 1e3:.0f}", share, gflops, rate])
  counts = found["counts"]
  what = (
    f"{counts['tokens']:,} tokens in {counts['row tokens']:,} places, {counts['scored']:,} of them scored, "
    f"{counts['visible']:,} visible scores a head and layer; {found['tokens'] / found['seconds']['step']:.0f} tokens/s "
    f"(each answer with its prompt). 2048^3 product: {found['rate'] / 1e9:.0f} GFLOP/s."
  )
  header = ["", "ms", "of the step", "necessary GFLOP", "share of the product's rate"]
  alone = f"The policy's forward pass alone: {found['seconds']['policy forward'] * 1e3:.0f} ms."
  return f"{what}\n\n{table(header, rows)}\n\n{alone}"


def memory_table(memory: dict) -> str:
  names = ("parameters", "optimizer", "reference", "gradient", "other temporaries")
  rows = [[name, f"{memory[name] / 1e9:.3f}"] for name in names]
  rows.append(["**planned peak of the compiled step**", f"**{memory['peak'] / 1e9:.3f}**"])
  rows.append(["all temporaries, the gradient among them", f"{memory['temporaries'] / 1e9:.3f}"])
  rows.append(["peak of this process, parts and all", f"{memory['process_peak'] / 1e9:.3f}"])
  return table(["", "GB"], rows)


def overhead_line(found: dict) -> str:
  """'Framework overhead: ...' with its goal."""
  rounds = zip(found["loop"], found["bare"], strict=True)
  shares = [statistics.fmean(loop) / statistics.fmean(bare) - 1 for loop, bare in rounds]
  error = statistics.stdev(shares) / len(shares) ** 0.5
  loop, bare = (statistics.median(itertools.chain(*found[name])) for name in ("loop", "bare"))
  return (
    f"Framework overhead, {found['pairs']} pairs a step: {statistics.fmean(shares):+.2%} (mean of {len(shares)} rounds in "
    f"turns, standard error {error:.2%}; goal: at most {OVERHEAD_GOAL:.0%}). Medians: {loop * 1e3:.1f} ms a step in "
    f"`Trainer.steps`, {found['waiting'] * 1e3:.2f} ms of it waiting for the batch; {bare * 1e3:.1f} ms bare."
  )


def shared_table(found: dict) -> str:
  repeated = found["seconds"]["repeated"]
  rows = [
    [
      f"prompt {name}",
      f"{found['row_tokens'][name]:,}",
      f"{seconds:.2f}",
      f"{found['tokens'] / seconds:.0f}",
      f"{repeated / seconds:.2f}",
    ]
    for name, seconds in found["seconds"].items()
  ]
  what = (
    f"{found['answers']} answers of {found['answer']} tokens to a prompt of {found['prompt']:,}, `plackett_luce_dpo` "
    f"with a live reference: a step of one ranking, {found['tokens']:,} tokens as each answer alone."
  )
  return f"{what}\n\n{table(['', 'tokens of the row', 's', 'tokens/s', 'times as fast'], rows)}"


def summary(found: dict) -> str:
  """Everything that was measured, in Markdown."""
  lines = [f"{found['config']}, {found['precision']}, {found['batch']} pairs a step, least {found['clock']} times."]
  if "step" in found:
    lines += [step_table(found["step"]), memory_table(found["step"]["memory"])]
  if "overhead" in found:
    lines.append(overhead_line(found["overhead"]))
  if "shared" in found:
    lines.append(shared_table(found["shared"]))
  return "\n\n".join(lines)
