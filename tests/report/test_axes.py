"""Axes of the plots, read from the figures: shares end at 100 %, rounding is no curve, and every tick says its whole number."""

import io

import numpy as np
import pytest

from dpojax.report.figures import new_figure, percent, save_figure
from dpojax.report.labels import HELD_OUT
from dpojax.report.sweep_plot import draw_sweep
from dpojax.report.sweep_rows import SweepRow
from dpojax.training.runlog import RunLog, in_words


def drawn(tmp_path, values):
  """A panel of these values, saved."""
  figure, (axes,) = new_figure(1)
  axes.plot(np.arange(len(values)), values)
  save_figure(figure, tmp_path / "plot.png")
  return axes


def ticks(axes):
  low, high = axes.get_ylim()
  return [t.get_text() for t, at in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True) if low <= at <= high]


@pytest.mark.parametrize(
  ("values", "least"),
  [
    ([0.0, -3.2e-10, 1e-7], 0.019),  # a margin while the policy still is its reference
    ([0.693147, 0.6931471, 0.6931469], 0.0069),  # the loss of the same steps
    ([1e-9, 1e-9], 0.019),
    ([12345.678, 12345.679], 100.0),
    ([0.5, 0.7], 0.2),
  ],
)
def test_no_offset_no_power_and_no_curve_of_rounding(tmp_path, values, least):
  axes = drawn(tmp_path, values)
  low, high = axes.get_ylim()
  assert high - low >= least and low <= min(values) and max(values) <= high
  assert axes.yaxis.get_major_formatter().get_offset() == ""
  said = ticks(axes)
  assert len(said) == len(set(said)) >= 3 and not any("e" in text or "10^" in text for text in said)
  places = [at for at in axes.get_yticks() if low <= at <= high]
  assert [float(text.replace("\N{MINUS SIGN}", "-")) for text in said] == pytest.approx(places)


@pytest.mark.parametrize("values", [[100.0, 100.0], [0.0, 0.0], [97.0, 100.0], [0.0, 100.0], [50.0], [99.9, 99.8]])
def test_shares_end_at_0_and_100(tmp_path, values):
  figure, (axes,) = new_figure(1)
  axes.plot(np.arange(len(values)), values, marker="o")
  percent(axes)
  save_figure(figure, tmp_path / "plot.png")
  low, high = axes.get_ylim()
  assert all(0 <= at <= 100 for at in axes.get_yticks() if low <= at <= high)
  assert low <= min(values) and max(values) <= high and high - low >= 9.9


def test_the_accuracy_of_a_sweep_whose_points_all_win(tmp_path):
  after = {"eval": {"rewards/accuracies": 1.0, "rewards/margins": 0.5}}
  figure = draw_sweep([SweepRow({"loss.beta": beta}, {"after": after}, "finished") for beta in (0.1, 0.2)])
  save_figure(figure, tmp_path / "sweep.png")
  accuracy = figure.axes[0]
  assert accuracy.get_title(loc="left") == HELD_OUT["rewards/accuracies"].axis()
  assert max(at for at in accuracy.get_yticks() if at <= accuracy.get_ylim()[1]) == 100


def test_a_share_of_nothing_is_no_nan_percent(tmp_path):
  nan = float("nan")
  assert in_words({"loss": 0.5, "mean_token_accuracy": nan, "finished": nan}) == "loss 0.5  token accuracy -  ended -"
  assert all(label.format(nan) == "-" for label in HELD_OUT.values() if label.fraction)
  stream = io.StringIO()
  with RunLog(tmp_path, total_steps=2, stream=stream) as log:
    log.progress(1, {"loss": 0.5, "mean_token_accuracy": nan})
  assert "nan" not in stream.getvalue()
