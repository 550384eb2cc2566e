"""Draws what experiments/staleness.py measured: python experiments/staleness_figure.py runs/staleness [--out=FILE.png]."""

import argparse
import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from dpojax.training.runlog import read_metrics

PASSES = (1, 2, 4, 8, 16)
MINIBATCHES = 4
KINDS = {
  "ppo": ("PPO, true reward", "C0", "o"),
  "unclipped": ("the same without clipping", "C3", "s"),
  "learned": ("PPO, learned reward", "C1", "^"),
  "dpo": ("DPO, passes over its pairs", "C2", "D"),
}


def measured(folder: pathlib.Path) -> dict[str, float]:
  """Means over roll-outs of what the last pass saw, and the true reward of what the policy writes at the end."""
  rows = read_metrics(folder / "metrics.jsonl")
  config = json.loads((folder / "config.json").read_text())
  looks = [row for row in rows if row["split"] == "policy"]
  found = {"reward": looks[-1]["reward/true"], "error": looks[-1]["reward/true_error"], "kl": looks[-1]["kl/sequence"]}
  if config["recipe"] != "policy_gradient":
    return found
  updates = config["policy_gradient"]["epochs"] * MINIBATCHES
  last = [r for r in rows if r["split"] == "train" and (r["step"] - 1) % updates >= updates - MINIBATCHES]
  mean = lambda name: float(np.mean([row[name] for row in last]))  # noqa: E731
  share = [row["policy/answer_ratio"] ** 2 / row["policy/answer_ratio_square"] for row in last]
  return found | {
    "variance": mean("policy/ratio_variance"),
    "answer_variance": float(np.mean([r["policy/answer_ratio_square"] - r["policy/answer_ratio"] ** 2 for r in last])),
    "effective": float(np.mean(share)),
    "clipped": mean("policy/clip_fraction"),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--out", type=pathlib.Path)
  options = parser.parse_args()
  found = {
    kind: {n: measured(folder) for n in PASSES if (folder := options.folder / f"{kind}_{n}").is_dir()} for kind in KINDS
  }
  panels = {
    "variance": "variance of a token's weight",
    "effective": "share of answers that still count",
    "clipped": "tokens beyond the clip",
    "reward": "true reward at the end",
  }
  figure, axes = plt.subplots(2, 2, figsize=(9, 6.2), layout="constrained", sharex=True)
  for axis, (name, title) in zip(axes.flat, panels.items(), strict=True):
    for kind, (label, colour, marker) in KINDS.items():
      points = {n: values for n, values in found[kind].items() if name in values}
      if not points or (name == "clipped" and kind == "unclipped"):
        continue
      heights = [values[name] for values in points.values()]
      errors = [values["error"] for values in points.values()] if name == "reward" else None
      axis.errorbar(list(points), heights, errors, label=label, color=colour, marker=marker, ms=5, lw=1.5, capsize=2)
    axis.set_xscale("log", base=2)
    axis.set_xticks(PASSES, [str(n) for n in PASSES])
    axis.set_title(title, loc="left", fontsize=11)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
  axes[0, 0].set_yscale("log")
  axes[0, 1].set_ylim(0, 1.05)
  for axis in axes[1]:
    axis.set_xlabel("passes over each roll-out")
  figure.legend(*axes[1, 1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
  out = options.out or options.folder / "staleness.png"
  figure.savefig(out, dpi=150)
  print(
    f"{'':12}"
    + "".join(
      f"{name:>17}" for name in ("passes", "variance", "answer_variance", "effective", "clipped", "reward", "kl")
    )
  )
  for kind, points in found.items():
    for n, values in points.items():
      cells = (
        f"{values[x]:17.4g}" if x in values else " " * 17
        for x in ("variance", "answer_variance", "effective", "clipped", "reward", "kl")
      )
      print(f"{kind:12}{n:17d}" + "".join(cells))
  print(out)


if __name__ == "__main__":
  main()
