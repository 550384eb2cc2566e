"""Rankings, correlations with a known reward, ensembles."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import pair
from scipy import stats

from dpojax.evaluation import ScoredRow, compare, evaluate
from dpojax.evaluation.ensemble import combine, ensemble_figures, stack_margins
from dpojax.evaluation.gold_reward import against_gold_reward
from dpojax.evaluation.rankings import kendall_tau, top_one


def ranking(scores, level=None, prompt=0, truth=None):
  scores = np.asarray(scores, np.float64)
  level = np.arange(len(scores)) if level is None else np.asarray(level)
  return ScoredRow(scores, np.full(len(scores), 5), level, prompt, true_reward=truth)


lists = st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=7)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8, unique=True))
def test_tau_is_scipys(scores):
  level = np.arange(len(scores))
  assert kendall_tau(np.asarray(scores), level) == pytest.approx(stats.kendalltau(scores, -level).statistic)


@given(st.lists(lists, min_size=1, max_size=6))
def test_ordered_pairs_by_brute_force(rows):
  found = evaluate([ranking(scores, prompt=i) for i, scores in enumerate(rows)])
  points = [
    [1 if a > b else 0.5 if a == b else 0 for a, b in itertools.combinations(scores, 2)]  # best first
    for scores in rows
  ]
  assert found["accuracy"]["value"] == pytest.approx(np.mean(np.concatenate(points)))
  assert found["accuracy"]["count"] == sum(map(len, points))
  if max(map(len, rows)) > 2:
    by_row = found["rankings"]
    assert by_row["ordered_pairs"]["value"] == pytest.approx(np.mean([np.mean(p) for p in points]))
    assert by_row["kendall_tau"]["value"] == pytest.approx(2 * by_row["ordered_pairs"]["value"] - 1)
    first = [(s[0] == max(s)) / s.count(max(s)) for s in rows]
    assert by_row["top_one"]["value"] == pytest.approx(np.mean(first))
    assert by_row["top_one"]["count"] == len(rows)
  else:
    assert "rankings" not in found


def test_answers_of_equal_level_are_not_compared():
  row = ranking([5.0, 3.0, 4.0, 1.0], level=[0, 0, 1, 1])
  assert sorted(compare([row]).margin) == [-1, 1, 2, 4]
  assert kendall_tau(row.scores, row.level) == 0.5
  assert top_one(row.scores, row.level) == 1
  assert top_one(np.asarray([1.0, 2.0, 2.0]), np.asarray([0, 0, 1])) == 0.5
  assert evaluate([ranking([1.0, 2.0, 3.0], level=[0, 0, 0])])["accuracy"]["count"] == 0


def test_pairs_of_one_ranking_are_not_independent():
  """Six pairs a row, all right or all wrong: only as sure as the rows."""
  rows = [ranking([4, 3, 2, 1] if i % 4 else [1, 2, 3, 4], prompt=i) for i in range(40)]
  found = evaluate(rows)["accuracy"]
  low, high = stats.binomtest(30, 40).proportion_ci(method="wilson")
  assert found["count"] == 240
  assert found["interval"] == pytest.approx([low, high], rel=0.02)


@given(st.integers(0, 999), st.integers(3, 30))
def test_correlations_are_scipys(seed, count):
  generator = np.random.default_rng(seed)
  truth = generator.integers(-3, 4, (count, 2)).astype(float)
  truth[0] = [9.0, 8.0]  # not constant
  scores = truth + generator.normal(size=(count, 2))
  found = against_gold_reward(
    [pair(*s, prompt=i // 2, truth=t) for i, (s, t) in enumerate(zip(scores, truth, strict=True))]
  )
  assert found["answers"] == 2 * count
  assert found["pearson"] == pytest.approx(stats.pearsonr(scores.ravel(), truth.ravel()).statistic)
  assert found["spearman"] == pytest.approx(stats.spearmanr(scores.ravel(), truth.ravel()).statistic)


def test_a_constant_for_each_prompt_hides_in_one_correlation_only():
  generator = np.random.default_rng(0)
  truth = generator.normal(size=(50, 2))
  shift = 100 * generator.normal(size=50)
  rows = [pair(*(3 * t + c), prompt=i, truth=t) for i, (t, c) in enumerate(zip(truth, shift, strict=True))]
  found = against_gold_reward(rows)
  assert abs(found["pearson"]) < 0.5
  assert evaluate(rows)["truth"] == found
  assert found["pearson_within"] == pytest.approx(1)


def test_what_does_not_vary_has_no_correlation():
  rows = [pair(0.1, 0.1, prompt=i, truth=[i, 0.3]) for i in range(3)]
  assert against_gold_reward(rows) == {"pearson": None, "spearman": None, "pearson_within": None, "answers": 6}
  assert against_gold_reward([pair(1, 2)]) is None
  assert "truth" not in evaluate([pair(1, 2)])


def test_an_ensemble_that_differs_by_constants_agrees():
  scores = np.asarray([[1.0, 0.0, 3.0], [11.0, 10.0, 13.0]])
  joint, disagreement = combine(scores)
  assert joint.tolist() == [6, 5, 8]
  assert disagreement == pytest.approx([0, 0, 0], abs=1e-12)
  opposed = combine(np.asarray([[1.0, -1.0], [-1.0, 1.0]]))
  assert opposed[0].tolist() == [0, 0] and opposed[1].tolist() == [1, 1]


def test_members_are_counted_in_the_order_of_comparisons():
  rows = [np.asarray([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5]]), np.asarray([[1.0, 0.0], [2.0, 0.0]])]
  levels = [np.arange(3), np.arange(2)]
  margins = stack_margins(rows, levels)
  mean_rows = [
    ranking(scores.mean(axis=0), level, i) for i, (scores, level) in enumerate(zip(rows, levels, strict=True))
  ]
  assert margins.mean(axis=0) == pytest.approx(compare(mean_rows).margin)
  found = ensemble_figures(margins, np.asarray([0, 0, 0, 1]))
  assert [member["value"] for member in found["accuracy_of_each"]] == [1, 0.5]
  assert found["unanimous"]["value"] == 0.5  # 1 against 2, and the second row
  assert found["accuracy_when_unanimous"] == {**found["accuracy_when_unanimous"], "value": 1, "count": 2}
  both_wrong = ensemble_figures(np.asarray([[-1.0, 1.0], [-2.0, -1.0]]), np.arange(2))
  assert both_wrong["unanimous"]["value"] == 0.5 and both_wrong["accuracy_when_unanimous"]["value"] == 0
  assert found["margin_disagreement"]["value"] == pytest.approx(np.mean(np.std(margins, axis=0)))
