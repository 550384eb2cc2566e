"""Curves of one run as PNG files."""

import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpojax.report.figures import BLUE, GREEN, GREY, ORANGE, legend, new_figure, over_steps, percent, save_figure, title
from dpojax.report.labels import HELD_OUT, Label
from dpojax.report.policy_plots import draw_policy
from dpojax.report.records import RunRecords
from dpojax.report.rollout_plots import draw_rollouts


def draw_run(run: RunRecords) -> list[pathlib.Path]:
  """Draws what the run measured into `plots/`: training.png or rollouts.png, and policy.png where the policy was sampled."""
  folder = run.folder / "plots"
  folder.mkdir(exist_ok=True)
  figures = {"training.png": draw_training(run), "rollouts.png": draw_rollouts(run), "policy.png": draw_policy(run)}
  paths = []
  for name, figure in figures.items():
    if figure is not None:
      save_figure(figure, folder / name)
      paths.append(folder / name)
  return paths


def draw_training(run: RunRecords) -> Figure | None:
  """Loss, accuracy, margin and rewards over steps, as far as they were measured; None for a policy gradient.

  Its loss is about 0 at each roll-out's first step whatever was learned: `draw_rollouts` says more.
  """
  present = {
    metric for records in (run.splits.get("train", []), run.splits.get("eval", [])) for r in records for metric in r
  }
  if "policy/loss" in present:
    return None
  metrics = [m for m in ("loss", "rewards/accuracies", "rewards/margins", "mean_token_accuracy") if m in present]
  if "rewards/margins" in metrics:
    metrics = [m for m in metrics if m != "mean_token_accuracy"]
  rewards = {"rewards/chosen", "rewards/rejected"} <= present
  figure, axes = new_figure(len(metrics) + rewards)
  if figure is None:
    return None
  for axis, metric in zip(axes, metrics, strict=False):
    _curves(axis, run, metric, HELD_OUT[metric])
  if rewards:
    _chosen_and_rejected(axes[-1], run)
  for axis in axes:
    over_steps(axis)
  return figure


def smooth(values: np.ndarray, fraction: float = 0.05) -> np.ndarray:
  """Exponential moving average over about `share` of the values, without the bias of its start.

  >>> smooth(np.asarray([2.0, 2.0, 2.0])).tolist()
  [2.0, 2.0, 2.0]
  """
  keep = 1 - 1 / max(1.0, fraction * len(values))
  out, total, weight = np.empty_like(values), 0.0, 0.0
  for i, value in enumerate(values):
    if np.isfinite(value):
      total, weight = keep * total + value, keep * weight + 1
    out[i] = total / weight if weight else np.nan
  return out


def _curves(axis: Axes, run: RunRecords, metric: str, label: Label) -> None:
  scale = 100 if label.fraction else 1
  steps, values = run.series("train", metric)
  if len(steps):
    axis.plot(steps, scale * values, color=GREY, alpha=0.35, linewidth=0.8)
    axis.plot(steps, scale * smooth(values), color=GREY, linewidth=1.6, label="training, smoothed")
  steps, values = run.series("eval", metric)
  if len(steps):
    axis.plot(steps, scale * values, color=BLUE, linewidth=1.8, marker="o", markersize=4, label="held out")
  if label.fraction:
    percent(axis)
  title(axis, label.axis())
  legend(axis)


def _chosen_and_rejected(axis: Axes, run: RunRecords) -> None:
  split = "eval" if len(run.series("eval", "rewards/chosen")[0]) > 1 else "train"
  for metric, colour, name in (("rewards/chosen", GREEN, "chosen"), ("rewards/rejected", ORANGE, "rejected")):
    steps, values = run.series(split, metric)
    if split == "eval":
      axis.plot(steps, values, color=colour, linewidth=1.8, marker="o", markersize=4, label=name)
    else:
      axis.plot(steps, smooth(values), color=colour, linewidth=1.8, label=name)
  axis.axhline(0, color="#b0b4bb", linewidth=0.8)
  title(axis, "reward of chosen and rejected, " + ("held out" if split == "eval" else "training, smoothed"))
  legend(axis)
