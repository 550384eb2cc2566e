"""Curves of one run as PNG files."""

import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpojax.report.labels import HELD_OUT, POLICY, Label
from dpojax.report.records import RunRecords

BLUE, ORANGE, GREEN, GREY = "#2b5d8a", "#c8642b", "#3d8058", "#8a8f98"


def draw_run(run: RunRecords) -> list[pathlib.Path]:
  """Draws what the run measured into `plots/`: training.png, and policy.png where the policy was sampled."""
  folder = run.folder / "plots"
  folder.mkdir(exist_ok=True)
  figures = {"training.png": draw_training(run), "policy.png": draw_policy(run)}
  paths = []
  for name, figure in figures.items():
    if figure is not None:
      figure.savefig(folder / name, dpi=130)
      paths.append(folder / name)
  return paths


def draw_training(run: RunRecords) -> Figure | None:
  """Loss, accuracy, margin and rewards over steps, as far as they were measured."""
  present = {
    metric for records in (run.splits.get("train", []), run.splits.get("eval", [])) for r in records for metric in r
  }
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
    _steps(axis)
  return figure


def draw_policy(run: RunRecords) -> Figure | None:
  """True reward and exact KL of what the policy writes, over steps and against each other."""
  steps, kl = run.series("policy", "kl/sequence")
  rewarded, reward = run.series("policy", "reward/true")
  if len(steps) == 0:
    return None
  known = len(rewarded) == len(steps)
  figure, axes = new_figure(3 if known else 1)
  assert figure is not None
  _band(axes[0], run, "kl/sequence", POLICY["kl/sequence"], BLUE)
  axes[0].set_ylim(bottom=0)
  if known:
    _band(axes[1], run, "reward/true", POLICY["reward/true"], GREEN)
    _frontier(axes[2], steps, kl, reward)
  return figure


def new_figure(panels: int) -> tuple[Figure | None, list[Axes]]:
  """A figure of equal panels, at most three in a row (four: two by two); None for no panel."""
  if panels == 0:
    return None, []
  columns = {1: 1, 2: 2, 3: 3, 4: 2}.get(panels, 3)
  rows = -(-panels // columns)
  figure = Figure(figsize=(4.6 * columns, 3.3 * rows), layout="constrained")
  axes = [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]
  for axis in axes:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, color="#e4e6ea", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(color="#b0b4bb", labelsize=9)
  return figure, axes


def title(axis: Axes, text: str) -> None:
  """A panel's title, set left: it says what the y axis is."""
  axis.set_title(text, loc="left", fontsize=10.5, fontweight="bold")


def smooth(values: np.ndarray, share: float = 0.05) -> np.ndarray:
  """Exponential moving average over about `share` of the values, without the bias of its start.

  >>> smooth(np.asarray([2.0, 2.0, 2.0])).tolist()
  [2.0, 2.0, 2.0]
  """
  keep = 1 - 1 / max(1.0, share * len(values))
  out, total, weight = np.empty_like(values), 0.0, 0.0
  for i, value in enumerate(values):
    if np.isfinite(value):
      total, weight = keep * total + value, keep * weight + 1
    out[i] = total / weight if weight else np.nan
  return out


def _curves(axis: Axes, run: RunRecords, metric: str, label: Label) -> None:
  scale = 100 if label.share else 1
  steps, values = run.series("train", metric)
  if len(steps):
    axis.plot(steps, scale * values, color=GREY, alpha=0.35, linewidth=0.8)
    axis.plot(steps, scale * smooth(values), color=GREY, linewidth=1.6, label="training, smoothed")
  steps, values = run.series("eval", metric)
  if len(steps):
    axis.plot(steps, scale * values, color=BLUE, linewidth=1.8, marker="o", markersize=4, label="held out")
  title(axis, label.axis())
  _legend(axis)


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
  _legend(axis)


def _band(axis: Axes, run: RunRecords, metric: str, label: Label, colour: str) -> None:
  steps, values = run.series("policy", metric)
  _, errors = run.series("policy", f"{metric}_error")
  axis.plot(steps, values, color=colour, linewidth=1.8, marker="o", markersize=4)
  if len(errors) == len(values):
    axis.fill_between(steps, values - errors, values + errors, color=colour, alpha=0.18, linewidth=0)
  title(axis, label.axis())
  _steps(axis)


def _frontier(axis: Axes, steps: np.ndarray, kl: np.ndarray, reward: np.ndarray) -> None:
  axis.plot(kl, reward, color=GREY, linewidth=1.2)
  axis.scatter(kl, reward, color=BLUE, s=18, zorder=3)
  for i in sorted({0, len(steps) - 1}):
    axis.annotate(f"step {steps[i]}", (kl[i], reward[i]), xytext=(6, -11), textcoords="offset points", fontsize=8.5)
  title(axis, "true reward against KL")
  axis.set_xlabel(POLICY["kl/sequence"].axis())
  axis.margins(x=0.12, y=0.12)


def _steps(axis: Axes) -> None:
  axis.set_xlabel("step")
  axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend(axis: Axes) -> None:
  if len(axis.get_legend_handles_labels()[0]) > 1:
    axis.legend(frameon=False, fontsize=8.5)
