"""An evaluation as people see it: the table, the page, the plots."""

import re

import numpy as np
import pytest
from matplotlib.image import imread

from dpojax.evaluation import ScoredRow, evaluate
from dpojax.report.eval_plots import draw_evaluation, draw_length, draw_reliability
from dpojax.report.eval_report import bench_table, eval_markdown, eval_text, left_out, subset_table, table


def made_rows(count=400, scale=3.0, seed=0):
  draws = np.random.default_rng(seed)
  rows = []
  for i in range(count):
    truth = draws.normal(0, 1.5, 2)
    better = int(draws.random() > 1 / (1 + np.exp(truth[1] - truth[0])))
    order = [better, 1 - better]
    tokens = draws.integers(5, 60, 2)
    rows.append(ScoredRow(scale * truth[order], tokens, np.arange(2), i, "xy"[i % 2], true_reward=truth[order]))
  return rows


def make_result(rows, **changes):
  return {
    "models": [{"path": "runs/dpo", "reference": "runs/dpo/sft", "beta": 0.1}],
    "score": "implicit",
    "data": {"path": "pairs.jsonl", "format": "explicit"},
    "rows": {"read": len(rows), "scored": len(rows), "left_out": []},
    "figures": evaluate(rows),
    **changes,
  }


@pytest.fixture(scope="module")
def result():
  return make_result(made_rows())


def cells(text):
  return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def test_the_table_shows_the_figures(result):
  figures = result["figures"]
  rows = {row[0]: row[1:] for row in table(result)}
  low, high = figures["accuracy"]["interval"]
  value = figures["accuracy"]["value"]
  assert rows["accuracy"] == [f"{100 * value:.1f} %", f"{100 * low:.1f} to {100 * high:.1f} %", "400 comparisons"]
  matched = figures["length"]["matched"]["accuracy"]["count"]
  assert rows["accuracy, lengths alike to 10 %"][2] == f"{matched} comparisons"
  assert float(rows["temperature"][0]) == pytest.approx(3, abs=0.6)
  assert float(rows["NLL after minus before"][0]) < 0
  assert rows["true reward: Spearman"] == ["1", "", "800 answers"]
  assert rows["ECE"][1].endswith("% by chance")


def test_terminal_and_page_say_the_same(result):
  text, page = eval_text(result), eval_markdown(result, [])
  for name, *values in [*table(result), *subset_table(result)]:
    assert [name, *(v for v in values if v)] in cells(text)
    assert "| " + " | ".join([name, *values]) + " |" in page.replace("&lt;", "<")
  assert text.startswith("model: runs/dpo\n") and "\nreference: runs/dpo/sft, beta 0.1\n" in text
  assert "400 comparisons of 400 prompts" in text and "400 comparisons of 400 prompts" in page


def test_what_is_missing_is_said():
  rows = [ScoredRow(np.asarray([1.0 + i, 0.0]), np.asarray([5, 5]), np.arange(2), i) for i in range(4)]
  result = make_result(rows)
  assert ["temperature", "none", "", ""] in table(result)
  expected = "No temperature: every better answer scores higher, so the likelihood rises until T is 0."
  assert expected in eval_text(result) and expected in eval_markdown(result, [])
  assert not any("cross-fitted" in row[0] for row in table(result))
  rows += [ScoredRow(np.asarray([0.0, 1.0]), np.asarray([5, 5]), np.arange(2), 9)]
  assert "No figures after temperature: on one half of the prompts every better" in eval_text(make_result(rows))
  assert subset_table(result) == []


def test_ties_and_equal_scores_are_counted():
  rows = made_rows(20)
  rows.append(ScoredRow(np.asarray([1.0, 1.0]), np.asarray([5, 5]), np.arange(2), 98))
  rows.append(ScoredRow(np.asarray([1.0, 2.0]), np.asarray([5, 5]), np.arange(2), 99, tied=True))
  text = eval_text(make_result(rows))
  assert "1 with equal scores, counted one half; 1 tied by label beside them, not in any accuracy" in text
  rows = {row[0]: row[3] for row in table(make_result(rows))}
  assert (rows["NLL (nats)"], rows["accuracy"]) == ("22 comparisons and ties", "21 comparisons")


def test_rows_left_out_are_listed_up_to_ten(result):
  gone = [{"row": i, "error": f"pairs.jsonl:{i + 1}: empty answer"} for i in range(30)]
  some = {**result, "rows": {"read": 430, "scored": 400, "left_out": gone}}
  lines = left_out(some)
  assert lines[0] == "rows left out: 30 of 430; the first 10, all in scores.jsonl"
  assert lines[1:] == [f"  pairs.jsonl:{i + 1}: empty answer" for i in range(10)]
  assert "    pairs.jsonl:10: empty answer" in eval_markdown(some, [])
  assert (
    left_out({**result, "rows": {"read": 401, "scored": 400, "left_out": gone[:1]}})[0] == "rows left out: 1 of 401"
  )


def test_sections_of_rewardbench(result):
  sections = {"Chat": 0.5, "Chat Hard": None, "Safety": 1.0, "Reasoning": 0.25}
  bench = {"subsets": {}, "sections": sections, "prior_sets": 0.75, "score": None}
  assert bench_table({**result, "rewardbench": bench}) == [
    ["Chat", "50.0 %"],
    ["Chat Hard", "-"],
    ["Safety", "100.0 %"],
    ["Reasoning", "25.0 %"],
    ["Prior Sets (half weight)", "75.0 %"],
    ["score", "- (subsets are missing)"],
  ]
  second = {"subsets": {"Math": 0.5, "Ties": None}, "score": 0.5}
  assert bench_table({**result, "rewardbench": second}) == [["Math", "50.0 %"], ["Ties", "-"], ["score", "50.0 %"]]


def test_an_ensemble_has_rows_of_its_own(result):
  estimate = {"value": 0.5, "standard_error": 0.1, "interval": [0.3, 0.7], "count": 4}
  ensemble = {
    "members": 2,
    "accuracy_of_each": [{**estimate, "value": 0.6}, estimate],
    "margin_disagreement": estimate,
    "unanimous": estimate,
    "accuracy_when_unanimous": estimate,
    "accuracy_otherwise": estimate,
  }
  rows = table({**result, "ensemble": ensemble})
  assert ["accuracy of its 2 members", "50.0 %", "to 60.0 %", ""] in rows
  assert ["members unanimous", "50.0 %", "30.0 to 70.0 %", "4 comparisons"] in rows


def test_plots_are_pictures_with_something_on_them(result, tmp_path):
  paths = draw_evaluation(result["figures"], tmp_path / "plots")
  assert [path.name for path in paths] == ["reliability.png", "length.png"]
  for path in paths:
    picture = imread(path)
    assert picture.shape[0] > 300 and picture.shape[1] > 700
    assert picture[..., :3].std() > 0.02  # a blank page has no spread


def test_points_stand_where_the_figures_are(result):
  figures = result["figures"]
  before, after = draw_reliability(figures).axes
  for axis, part in ((before, figures["calibration"]), (after, figures["calibrated"])):
    points = next(line for line in axis.lines if len(line.get_xdata()) > 2)
    assert points.get_xdata() == pytest.approx([100 * b["predicted"] for b in part["reliability"]])
    assert points.get_ydata() == pytest.approx([100 * b["observed"]["value"] for b in part["reliability"]])
    assert f"ECE {100 * part['ece']:.1f} %" in axis.texts[0].get_text()
  (axis,) = draw_length(figures).axes
  heights = next(line for line in axis.lines if len(line.get_xdata()) == 7)
  assert heights.get_ydata() == pytest.approx([100 * b["accuracy"]["value"] for b in figures["length"]["bins"]])
  counts = [int(re.search(r"\((\d+)\)", label.get_text())[1]) for label in axis.get_xticklabels()]
  assert counts == [b["accuracy"]["count"] for b in figures["length"]["bins"]]


def test_without_a_temperature_there_is_one_panel():
  rows = [ScoredRow(np.asarray([1.0, 0.0]), np.asarray([9, 5]), np.arange(2), i) for i in range(3)]
  figures = evaluate(rows)
  assert len(draw_reliability(figures).axes) == 1
  assert len(draw_length(figures).axes) == 1


def test_ties_alone_have_no_accuracy_to_draw(tmp_path):
  rows = [ScoredRow(np.asarray([1.0, 0.0]), np.asarray([9, 5]), np.arange(2), i, tied=True) for i in range(3)]
  figures = evaluate(rows)
  assert draw_length(figures) is None
  assert [path.name for path in draw_evaluation(figures, tmp_path)] == ["reliability.png"]
  assert ["accuracy", "tied", "-", "0 comparisons"] in table(make_result(rows))


def test_equal_scores_alone_are_tied():
  rows = [ScoredRow(np.asarray([1.0, 1.0]), np.asarray([9, 5]), np.arange(2), i) for i in range(3)]
  assert table(make_result(rows))[0][:2] == ["accuracy", "tied"]
  rows.append(ScoredRow(np.asarray([1.0, 0.5]), np.asarray([9, 5]), np.arange(2), 3))
  assert table(make_result(rows))[0][:2] == ["accuracy", "62.5 %"]
