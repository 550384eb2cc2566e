"""Small panels of what a policy gradient's roll-outs measured, one after another."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpojax.config.schema import RunConfig
from dpojax.report.figures import BLUE, ORANGE, legend, new_figure, title
from dpojax.report.labels import NORMALISED, ROLLOUT
from dpojax.report.records import Records, RunRecords
from dpojax.report.rollouts import TAKEN, rollout_records

SIZE = (3.3, 2.2)  # inches of a panel: two in a row can be read on a telephone
LOG_FROM = 20.0  # a positive quantity whose greatest value is this many times its least has a logarithmic axis
MANY = 40  # roll-outs, from which on they have no points


@dataclasses.dataclass(frozen=True)
class Panel:
  """What a panel shows.

  Attributes:
    metrics: drawn together, the first is the main one.
    name: its title; empty: the metric's.
    positive: the axis begins at 0, unless an estimate is below.
    spans: it goes over magnitudes, so the axis is logarithmic where values differ much.
    line: of the settings: a level to compare with and its name, or None.
  """

  metrics: tuple[str, ...]
  name: str = ""
  positive: bool = True
  spans: bool = False
  line: Callable[[RunConfig], tuple[float, str] | None] = lambda config: None


def _target(config: RunConfig) -> tuple[float, str] | None:
  settings = config.policy_gradient
  return None if settings.kl_controller == "fixed" else (settings.kl_target, f"target {settings.kl_target:g}")


def _limit(config: RunConfig) -> tuple[float, str] | None:
  limit = config.policy_gradient.update_kl_limit
  return (limit, f"limit {limit:g}") if limit else None


PANELS = (
  Panel(("objective/score", "objective/rlhf_reward"), "score of roll-outs", positive=False),
  Panel(("objective/reward_raw",), "reward of roll-outs, not normalised", positive=False),
  Panel(("objective/kl",), line=_target),
  Panel(("objective/kl_coef",), spans=True),
  Panel(("policy/approx_kl",), "largest move (½ log-ratio²)", spans=True, line=_limit),
  Panel((TAKEN,)),
  Panel(("policy/clip_fraction",)),
  Panel(("policy/ratio_variance",), spans=True),
  Panel(("value/loss",), spans=True),
  Panel(("value/explained_variance",), positive=False),
  Panel(("objective/entropy",)),
  Panel(("rollout/length",)),
  Panel(("rollout/eos_share",), "answers that end (%)"),
)


def draw_rollouts(run: RunRecords) -> Figure | None:
  """A panel for each of `PANELS` that was measured, over the number of the roll-out; None where there was none."""
  records = rollout_records(run)
  panels = [panel for panel in PANELS if any(panel.metrics[0] in record for record in records)]
  if run.config.policy_gradient.kl_controller == "fixed":
    panels = [panel for panel in panels if panel.metrics[0] != "objective/kl_coef"]  # a number of the settings
  figure, axes = new_figure(len(panels), columns=2, size=SIZE)
  for axis, panel in zip(axes, panels, strict=True):
    _draw(axis, panel, records, run.config)
  for axis in axes[-2:]:
    axis.set_xlabel("roll-out", fontsize=9)
  return figure


def _draw(axis: Axes, panel: Panel, records: Records, config: RunConfig) -> None:
  main = ROLLOUT[panel.metrics[0]]
  scale = 100 if main.fraction else 1
  drawn: list[np.ndarray] = []
  for metric, colour in zip(panel.metrics, (BLUE, ORANGE), strict=False):
    numbers, values = series(records, metric)
    if not np.isfinite(values).any():
      continue
    drawn.append(scale * values)
    points: dict[str, Any] = {} if len(records) > MANY else {"marker": "o", "markersize": 3}
    axis.plot(numbers, scale * values, color=colour, linewidth=1.5, label=ROLLOUT[metric].name, **points)
  values = np.concatenate(drawn)
  values = values[np.isfinite(values)]
  line = panel.line(config)
  shown = np.append(values, line[0]) if line else values
  _limits(axis, panel, shown, fraction=main.fraction)
  if line:
    axis.axhline(line[0], color=ORANGE, linewidth=1.2, linestyle="--")
    axis.annotate(  # beside the panel, where no curve runs
      line[1].replace(" ", "\n"), (1, line[0]), xycoords=("axes fraction", "data"), xytext=(3, 0),
      textcoords="offset points", ha="left", va="center", fontsize=8, color=ORANGE, annotation_clip=False,
    )  # fmt: skip
  normalised = " (normalised)" * (config.rollout.normalise and panel.metrics[0] in NORMALISED)
  title(axis, f"{panel.name}{normalised}" if panel.name else main.axis(), size=9.5)
  legend(axis)
  axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  if len(records) == 1:
    axis.set_xticks([0])


def _limits(axis: Axes, panel: Panel, shown: np.ndarray, *, fraction: bool) -> None:
  """The y axis: from 0 of what cannot be below, logarithmic where its values differ much; of shares up to 100 %."""
  low = float(np.min(shown, initial=0.0))
  if not panel.positive or low < 0:  # an estimate of KL may be below 0
    if panel.positive:
      axis.axhline(0, color="#b0b4bb", linewidth=0.8)
    if fraction:  # a variance explained may be far below 0 while a critic starts
      axis.set_ylim(max(-100.0, 1.1 * low), _top_of_fractions(shown))
      axis.axhline(0, color="#b0b4bb", linewidth=0.8)
    return
  above = shown[shown > 0]
  if fraction:
    axis.set_ylim(0, _top_of_fractions(shown))
  elif panel.spans and len(above) > 2 and np.max(above) > LOG_FROM * np.quantile(above, 0.1):
    axis.set_yscale("log")
    # What rounding leaves of nothing, as in a step at the roll-out's own policy, is not worth its decades.
    top = float(np.max(above))
    axis.set_ylim(max(float(np.min(above)), 1e-4 * top) / 1.5, 2 * top)
  else:
    axis.set_ylim(0, 1.2 * float(np.max(shown, initial=1e-9)))


def _top_of_fractions(shown: np.ndarray) -> float:
  top = float(np.max(shown, initial=0.0))
  return 105 if top > 50 else max(1.15 * top, 1e-3)


def series(records: Records, metric: str) -> tuple[np.ndarray, np.ndarray]:
  """(numbers i64[N], values f64[N]) of all roll-outs, NaN where one has no such number: a line has a gap there."""
  values = np.asarray([float(record.get(metric, np.nan)) for record in records], np.float64)
  return np.arange(len(records)), np.where(np.isfinite(values), values, np.nan)
