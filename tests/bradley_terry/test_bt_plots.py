"""What the pictures show is what the leaderboard says, nothing is cut off, and many items are cut to the first."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dpojax.bradley_terry import Comparisons, fit, leaderboard
from dpojax.bradley_terry.plots import plot_board, plot_rank_intervals, plot_ratings, plot_win_probability


def a_fit(items=5, games=600, names=None, ties="davidson", **options):
  draw = np.random.default_rng(1)
  a = draw.integers(0, items, games)
  b = (a + draw.integers(1, items, games)) % items
  strength = np.linspace(1, -1, items)
  lost = draw.random(games) > 1 / (1 + np.exp(strength[b] - strength[a]))
  names = np.asarray(names or [f"team {i}" for i in range(items)])
  winner, loser = names[np.where(lost, b, a)], names[np.where(lost, a, b)]
  tie = draw.random(games) < 0.2 if ties != "error" else None
  return fit(Comparisons.from_pairs(winner, loser, tie=tie), ties=ties, **options)


def texts(axis):
  return [text.get_text() for text in axis.texts]


def labels(axis):
  return [label.get_text() for label in axis.get_yticklabels()]


def test_ratings_stand_where_the_board_says():
  board = leaderboard(a_fit())
  axis = plot_ratings(board).axes[0]
  assert labels(axis) == [f"{row['item']}  {row['rank']}" for row in board.rows]
  assert texts(axis) == [f"{row['rating']:.0f}" for row in board.rows]
  dots = axis.lines[-1].get_xydata()
  np.testing.assert_allclose(dots[:, 0], [row["rating"] for row in board.rows])
  ends = np.asarray([line[:, 0] for line in axis.collections[0].get_segments()])
  np.testing.assert_allclose(ends, [(row["low"], row["high"]) for row in board.rows])
  top, bottom = axis.get_ylim()[1], axis.get_ylim()[0]
  assert top < dots[0, 1] < dots[-1, 1] < bottom  # the best on top


def test_ranks_stand_where_the_board_says():
  board = leaderboard(a_fit())
  axis = plot_rank_intervals(board).axes[0]
  ends = np.asarray([line[:, 0] for line in axis.collections[0].get_segments()])
  np.testing.assert_allclose(ends, [(row["rank_low"] - 0.3, row["rank_high"] + 0.3) for row in board.rows])


@pytest.mark.parametrize("ties", ["error", "davidson", "rao_kupper"])
def test_the_matrix_gives_the_chance_to_win_where_one_wins(ties):
  found = a_fit(ties=ties)
  axis = plot_win_probability(found).axes[0]
  order = sorted(found.items, key=lambda item: -found.log_strength[found.place(item)])
  percent = np.asarray(axis.images[0].get_array().filled(np.nan))
  for i, one in enumerate(order):
    for j, other in enumerate(order):
      if i == j:
        assert np.isnan(percent[i, j])
        continue
      win, _, loss = found.outcome_probabilities(one, other)
      assert percent[i, j] == pytest.approx(100 * win / (win + loss))
  assert len(texts(axis)) == 20  # numbered where there is room
  assert ("ties apart" in axis.get_title(loc="left")) == (ties != "error")


def test_the_first_of_many_items_are_shown_and_the_title_says_so():
  found = a_fit(70, 20_000)
  board = leaderboard(found)
  for figure, shown in (
    (plot_ratings(board), 60),
    (plot_rank_intervals(board, most=10), 10),
    (plot_win_probability(found), 30),
  ):
    axis = figure.axes[0]
    assert labels(axis)[0] == f"{board.rows[0]['item']}  1"
    assert len(labels(axis)) == shown
    assert f"first {shown} of 70" in axis.get_title(loc="left")
  assert texts(plot_win_probability(found).axes[0]) == []


def test_items_that_were_not_fitted_are_left_out():
  pairs = [("a", "b"), ("b", "a"), ("c", "d"), ("a", "b")]
  found = fit(Comparisons.from_pairs(*zip(*pairs, strict=True)), on_disconnected="largest")
  board = leaderboard(found)
  assert labels(plot_ratings(board).axes[0]) == ["a  1", "b  2"]
  assert plot_win_probability(found).axes[0].images[0].get_array().shape == (2, 2)
  assert "first 2 of 4" in plot_ratings(board).axes[0].get_title(loc="left")


def test_one_huge_interval_does_not_squash_the_others():
  """It is cut at the edge, where an arrow says so."""
  board = leaderboard(a_fit())
  board.rows[2].update(low=board.rows[2]["low"] - 1e6)
  axis = plot_ratings(board).axes[0]
  left, right = axis.get_xlim()
  assert right - left < 3 * (board.rows[0]["rating"] - board.rows[-1]["rating"]) + 1000
  arrows = [line for line in axis.lines if line.get_marker() == "<"]
  np.testing.assert_allclose(arrows[0].get_xydata(), [(left, 2)])


@pytest.mark.slow
@pytest.mark.parametrize("items", [2, 5, 42])
def test_nothing_is_cut_off(items, tmp_path, monkeypatch):
  """All texts lie inside the picture, and no two labels of an axis lie on each other."""
  from matplotlib.figure import Figure

  kept = []
  save = Figure.savefig
  monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (kept.append(figure), save(figure, *a, **k)))
  names = [f"$model_{i} of an uncommonly long name (2024-{i:02d}-01)" for i in range(items)]
  found = a_fit(items, 400 * items, names)
  board = leaderboard(found)
  plot_board(found, board, tmp_path / "board.png")
  for figure in (*kept, plot_ratings(board), plot_rank_intervals(board), plot_win_probability(found)):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    for axis in [*figure.axes, *(child for parent in figure.axes for child in parent.child_axes)]:
      ticks = [axis.get_xticklabels(), axis.get_yticklabels()]
      title = axis.get_title(loc="left")
      for group in (*ticks, axis.texts, [axis._left_title] if title else []):
        boxes = [text.get_window_extent() for text in group if text.get_text() and text.get_visible()]
        for box in boxes:
          assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
      for group in ticks:
        boxes = [text.get_window_extent() for text in group if text.get_text() and text.get_visible()]
        for one, other in itertools.pairwise(boxes):
          assert not one.overlaps(other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["board.png", "board.svg", "board.pdf"])
def test_the_board_is_written(name, tmp_path):
  found = a_fit()
  plot_board(found, leaderboard(found), tmp_path / name)
  if name.endswith("png"):
    pixels = image.imread(tmp_path / name)
    assert pixels.shape[1] > 1000
    assert pixels[..., :3].std() > 0.05
  else:
    assert (tmp_path / name).stat().st_size > 3000


@pytest.mark.slow
def test_matplotlib_is_loaded_only_to_draw():
  code = "import sys, dpojax.bradley_terry.plots; sys.exit('matplotlib' in sys.modules or 'pyarrow' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True)
