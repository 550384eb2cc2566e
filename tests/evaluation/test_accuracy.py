"""Accuracy, lengths and subsets: brute force over rows, and what must not matter."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import pair

from dpojax.evaluation import ScoredRow, compare, evaluate
from dpojax.evaluation import accuracy as acc

scores = st.integers(-3, 3).map(float)
tokens = st.integers(1, 30)
rows = st.lists(
  st.builds(
    lambda a, b, m, n, prompt, subset, tied: pair(a, b, tokens=(m, n), prompt=prompt, subset=subset, tied=tied),
    scores,
    scores,
    tokens,
    tokens,
    st.integers(0, 5),
    st.sampled_from("xyz"),
    st.booleans(),
  ),
  min_size=1,
  max_size=30,
)


def half_points(rows, key):
  """Mean over decided pairs of 1, 1/2, 0 by comparing key(first) with key(second), the slow way."""
  points = []
  for row in rows:
    if not row.tied:
      first, second = key(row, 0), key(row, 1)
      points.append(1 if first > second else 0.5 if first == second else 0)
  return sum(points) / len(points) if points else None


@given(rows)
def test_shares_by_brute_force(rows):
  found = evaluate(rows)
  assert found["accuracy"]["value"] == pytest.approx(half_points(rows, lambda r, i: r.scores[i]))
  assert found["length"]["longer_wins"]["value"] == pytest.approx(half_points(rows, lambda r, i: r.tokens[i]))
  for name, part in found["subsets"].items():
    inside = [row for row in rows if row.subset == name]
    assert part["accuracy"]["value"] == pytest.approx(half_points(inside, lambda r, i: r.scores[i]))
  alike = [row for row in rows if abs(row.tokens[0] - row.tokens[1]) <= 0.1 * max(row.tokens)]
  matched = found["length"]["matched"]["accuracy"]
  assert matched["value"] == pytest.approx(half_points(alike, lambda r, i: r.scores[i]))
  assert matched["count"] == sum(not row.tied for row in alike)
  unequal = [row for row in rows if row.tokens[0] != row.tokens[1]]
  prefers = [
    1.0 if gap > 0 else 0.5 if gap == 0 else 0.0
    for row in unequal
    for gap in [row.scores[np.argmax(row.tokens)] - row.scores[np.argmin(row.tokens)]]
  ]
  assert found["length"]["prefers_longer"]["value"] == (pytest.approx(np.mean(prefers)) if prefers else None)
  assert found["tied_labels"] == sum(row.tied for row in rows)
  assert found["equal_scores"] == sum(row.scores[0] == row.scores[1] for row in rows if not row.tied)


@given(rows)
def test_bins_of_length_part_the_decided_pairs(rows):
  comparisons = compare(rows)
  bins = acc.by_length(comparisons)
  assert sum(b.accuracy.count for b in bins) == len(comparisons.decided)
  assert bins[3].accuracy.to_json() == acc.length_matched(comparisons).to_json()
  decided = [row for row in rows if not row.tied]
  for b in bins:
    inside = [r for r in decided if b.low < (r.tokens[0] - r.tokens[1]) / max(r.tokens) < b.high]
    assert b.accuracy.count >= len(inside)


def test_an_edge_belongs_to_the_bin_nearer_zero():
  made = [pair(1, 0, tokens=t) for t in [(10, 9), (9, 10), (4, 3), (3, 4), (2, 1), (1, 2), (10, 1)]]
  assert [b.accuracy.count for b in acc.by_length(compare(made))] == [0, 1, 1, 2, 1, 1, 1]


@pytest.mark.slow
@given(rows, st.lists(st.integers(-50, 50), min_size=6, max_size=6), st.randoms(use_true_random=False))
def test_neither_a_constant_for_each_prompt_nor_the_order_of_rows_matters(rows, shifts, random):
  """Scores are whole numbers, so that the shift changes no bit of a difference."""
  shifted = [
    ScoredRow(row.scores + shifts[row.prompt], row.tokens, row.level, row.prompt, row.subset, row.tied) for row in rows
  ]
  assert evaluate(shifted) == evaluate(rows)
  random.shuffle(shifted)
  same(evaluate(shifted), evaluate(rows))


def same(found, expected):
  """Equal but for the rounding of sums in another order."""
  assert type(found) is type(expected) or isinstance(found, int | float)
  if isinstance(expected, dict):
    assert found.keys() == expected.keys()
    for key in expected:
      same(found[key], expected[key])
  elif isinstance(expected, list):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
      same(one, other)
  elif isinstance(expected, float):
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
  else:
    assert found == expected


@pytest.mark.slow
@given(rows)
def test_json_can_hold_it(rows):
  assert json.loads(json.dumps(evaluate(rows), allow_nan=False)) == evaluate(rows)


def test_a_judge_of_length_scores_as_the_baseline():
  generator = np.random.default_rng(0)
  made = [
    pair(float(m), float(n), tokens=(m, n), prompt=i) for i, (m, n) in enumerate(generator.integers(1, 40, (99, 2)))
  ]
  found = evaluate(made)
  assert found["accuracy"] == found["length"]["longer_wins"]
  assert found["length"]["prefers_longer"]["value"] == 1


def test_pairs_without_a_subset_have_none():
  assert evaluate([pair(1, 0)])["subsets"] == {}
