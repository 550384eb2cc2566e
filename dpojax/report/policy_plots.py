"""Curves of what the policy wrote over a run: rewards, KL and its budget, reward against KL, win rate, form of answers."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpojax.report.figures import BLUE, COLOURS, GREY, ORANGE, legend, new_figure, over_steps, title
from dpojax.report.labels import Label, policy_labels
from dpojax.report.records import RunRecords
from dpojax.report.when_to_stop import WhenToStop
from dpojax.terminal import cut_middle
from dpojax.training.numbers import rewards_of

SAME_SCALE = 4  # rewards share a panel while together they span at most this many times what each does
FAR_BUDGET = 4  # a budget of more than this many times the highest KL is named, not drawn
MANY = 30  # looks, from which on each has a smaller point
MARK = "#1d1f23"


@dataclasses.dataclass(frozen=True)
class Curve:
  """A metric over the looks that have it: steps i64[K], values f64[K], and low and high ends f64[K], NaN where unknown."""

  name: str
  label: Label
  steps: np.ndarray
  values: np.ndarray
  low: np.ndarray
  high: np.ndarray

  @property
  def span(self) -> tuple[float, float]:
    """Least and greatest of values and ends; (0, 0) where none is finite."""
    all_ = np.concatenate([self.values, self.low, self.high])
    all_ = all_[np.isfinite(all_)]
    return (float(all_.min()), float(all_.max())) if len(all_) else (0.0, 0.0)

  def at(self, step: int) -> float | None:
    """The value at `step`, or None."""
    return next((float(v) for s, v in zip(self.steps, self.values, strict=True) if s == step), None)


def draw_policy(run: RunRecords) -> Figure | None:
  """A panel for each that was measured, two in a row; None where the policy was not sampled.

  Every `reward/LABEL` with its band of one standard error (several in a panel where their scales allow); KL in nats a
  token with the budget, the step that the run was stopped at and the best look within the budget; the first reward
  against KL an answer; the win rate against the reference with its interval; how many answers end and how many pairs
  of tokens are distinct; length.
  """
  names = [name for record in run.splits.get("policy", []) for name in record]
  curves = {name: curve_of(run, name, label) for name, label in policy_labels(names).items()}
  stop = run.when_to_stop or WhenToStop()
  groups = same_scale([curves[name] for name in rewards_of(curves)])
  sequence = next((curves[name] for name in ("kl/sequence", "path_kl/sequence") if name in curves), None)
  token = next((curves[name] for name in ("kl/token", "path_kl/token") if name in curves), None)
  panels: list[Callable[[Axes], None]] = [functools.partial(_rewards, curves=group, stop=stop) for group in groups]
  if token is not None:
    panels.append(functools.partial(_kl, curve=token, budget=run.config.stop.kl_budget, stop=stop))
  if groups and sequence is not None and len(sequence.steps) > 1:
    panels.append(functools.partial(_frontier, reward=groups[0][0], kl=sequence, stop=stop))
  if "win_rate" in curves:
    panels.append(functools.partial(_win_rate, curve=curves["win_rate"]))
  if form := [curves[name] for name in ("finished", "distinct/2") if name in curves]:
    panels.append(functools.partial(_form, curves=form))
  if "length/policy" in curves:
    panels.append(functools.partial(_length, curve=curves["length/policy"]))
  figure, axes = new_figure(len(panels), columns=2)
  steps = [record["step"] for record in run.splits.get("policy", [])]
  for draw, axis in zip(panels, axes, strict=True):
    draw(axis)
    if axis.get_xlabel() == "step":  # the same steps below one another
      margin = 0.04 * (steps[-1] - steps[0]) or 1
      axis.set_xlim(steps[0] - margin, steps[-1] + margin)
  return figure


def curve_of(run: RunRecords, name: str, label: Label) -> Curve:
  """The metric over the records of `policy` that have it; its ends are `name_low` and `name_high`, or ± `name_error`."""
  records = [record for record in run.splits.get("policy", []) if name in record]
  of = lambda metric: np.asarray([float(r.get(metric, np.nan)) for r in records], np.float64)  # noqa: E731
  values, error = of(name), of(f"{name}_error")
  low, high = of(f"{name}_low"), of(f"{name}_high")
  low, high = (np.where(np.isfinite(a), a, b) for a, b in ((low, values - error), (high, values + error)))
  return Curve(name, label, np.asarray([r["step"] for r in records], np.int64), values, low, high)


def same_scale(curves: Sequence[Curve]) -> list[list[Curve]]:
  """Curves that one panel can show together, in their order: see `SAME_SCALE`."""
  groups: list[list[Curve]] = []
  for curve in curves:
    for group in groups:
      spans = [member.span for member in (*group, curve)]
      whole = max(high for _, high in spans) - min(low for low, _ in spans)
      if len(group) < len(COLOURS) and whole <= SAME_SCALE * min(high - low for low, high in spans):
        group.append(curve)
        break
    else:
      groups.append([curve])
  return groups


def short(text: str, longest: int = 34) -> str:
  """Text without its middle where it is longer than a panel is wide: a reward's label may be a path.

  >>> short("reward model:/home/me/experiments/runs/reward")
  'reward model:/hom…ents/runs/reward'
  """
  return cut_middle(text, longest)


def _rewards(axis: Axes, curves: Sequence[Curve], stop: WhenToStop) -> None:
  for curve, colour in zip(curves, COLOURS, strict=False):
    _line(axis, curve, colour, name=short(curve.label.name))
    if stop.best is not None and _watched(stop, curve, curves):
      _star(axis, stop.best.step, curve.at(stop.best.step))
  title(axis, short(curves[0].label.axis()) if len(curves) == 1 else "rewards")
  legend(axis)
  _stopped(axis, stop)


def _watched(stop: WhenToStop, curve: Curve, curves: Sequence[Curve]) -> bool:
  """Whether the best look is best by this reward."""
  assert stop.best is not None
  if stop.best.label:
    return curve.name == f"reward/{stop.best.label}"
  value = curve.at(stop.best.step)
  return value is not None and math.isclose(value, stop.best.reward, rel_tol=1e-6)


def _kl(axis: Axes, curve: Curve, budget: float, stop: WhenToStop) -> None:
  _line(axis, curve, BLUE)
  top = max(curve.span[1], 1e-6)
  drawn = budget > 0 and (budget <= FAR_BUDGET * top or len(curve.steps) == 1)
  axis.set_ylim(0, 1.12 * max(top, budget if drawn else 0))
  if drawn:
    axis.axhline(budget, color=ORANGE, linewidth=1.4, linestyle="--")
  if budget:
    text, y, below = (f"budget {budget:g}", budget, False) if drawn else (f"budget {budget:g}, above", 1.0, True)
    x, coordinates = (stop.stopped_at, "data") if stop.stopped_at is not None else (1, "axes fraction")
    where = (coordinates, "data" if drawn else "axes fraction")
    _note(axis, text, x, y, ORANGE, right=True, below=below, where=where)
  if stop.best is not None:
    within = " within the budget" if budget else ""
    _star(axis, stop.best.step, curve.at(stop.best.step), f"best{within}, step {stop.best.step:,}")
  title(axis, curve.label.axis())
  _stopped(axis, stop, named=True)


def _frontier(axis: Axes, reward: Curve, kl: Curve, stop: WhenToStop) -> None:
  points = [(step, k, reward.at(step)) for step, k in zip(kl.steps.tolist(), kl.values, strict=True)]
  points = [(step, k, value) for step, k, value in points if value is not None]
  if not points:
    return
  steps, x, y = zip(*points, strict=True)
  axis.plot(x, y, color=GREY, linewidth=1.0)
  axis.scatter(x, y, c=steps, cmap="Blues", vmin=-0.6 * steps[-1], s=22 if len(steps) < MANY else 12, zorder=3)
  _note(axis, f"step {steps[0]:,}", x[0], y[0], MARK)
  if len(steps) > 1:  # above its point: curves end at the top, where only the margin is
    _note(axis, f"step {steps[-1]:,}", x[-1], y[-1], MARK, right=x[-1] > max(x) / 2, below=False)
  for step, k, value in points:
    if stop.best is not None and step == stop.best.step:
      _star(axis, k, value)
  title(axis, f"{short(reward.label.name)} against KL")
  axis.set_xlabel(kl.label.axis())
  axis.margins(x=0.14, y=0.14)


def _win_rate(axis: Axes, curve: Curve) -> None:
  _line(axis, curve, COLOURS[2])
  axis.axhline(50, color="#b0b4bb", linewidth=1.0)
  low, high = axis.get_ylim()
  axis.set_ylim(max(0.0, min(low, 45)), min(101.0, max(high, 55)))
  title(axis, curve.label.axis())
  over_steps(axis)


def _form(axis: Axes, curves: Sequence[Curve]) -> None:
  for curve, colour in zip(curves, (BLUE, ORANGE), strict=False):
    _line(axis, curve, colour, name=curve.label.name)
  axis.set_ylim(0, 105)
  title(axis, curves[0].label.axis() if len(curves) == 1 else "form of answers (%)")
  legend(axis)
  over_steps(axis)


def _length(axis: Axes, curve: Curve) -> None:
  _line(axis, curve, GREY)
  axis.set_ylim(0, 1.12 * max(curve.span[1], 1))
  title(axis, curve.label.axis())
  over_steps(axis)


def _line(axis: Axes, curve: Curve, colour: str, name: str = "") -> None:
  scale = 100 if curve.label.fraction else 1
  size = 4 if len(curve.steps) < MANY else 0
  values, low, high = scale * curve.values, scale * curve.low, scale * curve.high
  axis.plot(curve.steps, values, color=colour, linewidth=1.8, marker="o" if size else None, markersize=size, label=name)
  if len(curve.steps) == 1:  # a band of no width cannot be seen
    if np.all(np.isfinite([low, high])):
      axis.vlines(curve.steps, low, high, color=colour, alpha=0.5, linewidth=2)
  elif np.any(np.isfinite(low)):
    axis.fill_between(curve.steps, low, high, color=colour, alpha=0.18, linewidth=0)


def _star(axis: Axes, x: float, y: float | None, name: str = "") -> None:
  if y is None:
    return
  axis.plot([x], [y], marker="*", color=MARK, markersize=11, linestyle="none", zorder=4, label=name)
  if name:
    axis.legend(frameon=False, fontsize=8.5)


def _stopped(axis: Axes, stop: WhenToStop, *, named: bool = False) -> None:
  over_steps(axis)
  if stop.stopped_at is None:
    return
  axis.axvline(stop.stopped_at, color=MARK, linewidth=1.0, linestyle=":")
  if named:
    _note(axis, "stopped", stop.stopped_at, 0, MARK, right=True, below=False, where=("data", "axes fraction"))


def _note(
  axis: Axes,
  text: str,
  x: float,
  y: float,
  colour: str,
  *,
  right: bool = False,
  below: bool = True,
  where: tuple[str, str] = ("data", "data"),
) -> None:
  """Text beside a point: left of it when `right`, its right end is there."""
  axis.annotate(
    text,
    (x, y),
    xycoords=where,
    xytext=(-6 if right else 6, -5 if below else 3),
    textcoords="offset points",
    ha="right" if right else "left",
    va="top" if below else "bottom",
    fontsize=8.5,
    color=colour,
    zorder=5,
  )
