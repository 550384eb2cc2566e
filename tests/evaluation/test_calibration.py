"""NLL, Brier, reliability and ECE: brute force both ways round, closed forms, calibrated and distorted simulations."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import drawn, from_margins
from scipy.special import expit

from dpojax.evaluation import calibration as cal
from dpojax.evaluation import compare

margins = st.lists(st.tuples(st.floats(-8, 8), st.booleans()), min_size=1, max_size=60)


def made(drawn_margins):
  return compare(from_margins([m for m, _ in drawn_margins], tied=[t for _, t in drawn_margins]))


@given(margins)
def test_nll_and_brier_by_the_textbook(drawn_margins):
  comparisons = made(drawn_margins)
  nll, brier = [], []
  for margin, tied in drawn_margins:
    p, y = 1 / (1 + math.exp(-margin)), 0.5 if tied else 1.0
    nll.append(-y * math.log(p) - (1 - y) * math.log(1 - p))
    brier.append((p - y) ** 2)
  assert cal.nll(comparisons).value == pytest.approx(np.mean(nll), rel=1e-9)
  assert cal.brier(comparisons).value == pytest.approx(np.mean(brier), rel=1e-9, abs=1e-15)


def test_a_judge_that_knows_nothing():
  comparisons = compare(from_margins(np.zeros(50)))
  assert cal.nll(comparisons).value == pytest.approx(math.log(2), rel=1e-15)
  assert cal.brier(comparisons).value == 0.25
  (only,) = cal.reliability(comparisons)
  assert (only.predicted, only.observed.value, only.observed.count) == (0.5, 0.5, 50)
  assert cal.ece([only]) == 0


def test_extreme_margins_stay_finite():
  comparisons = compare(from_margins([1e4, -1e4, 1e100, -1e100]))
  assert cal.nll(comparisons).value == pytest.approx((1e4 + 1e100) / 4)
  assert cal.brier(comparisons).value == 0.5
  assert cal.ece(cal.reliability(comparisons)) == 0.5


@given(margins, st.integers(1, 12))
def test_half_the_curve_is_the_whole_one(drawn_margins, bins):
  """ECE of p(first wins) with each comparison both ways round, in bins mirrored at 1/2, is that of the confidence."""
  comparisons = made(drawn_margins)
  sure, _ = cal.confidence(comparisons)
  place = cal.bin_of(sure, bins)
  d, y = comparisons.margin, cal.targets(comparisons)
  total = 0.0
  for b in np.unique(place):
    for side in (1, -1):  # bins above and below 1/2; a margin of 0 is halved between the two
      p, label, weight = [], [], []
      for i in np.flatnonzero(place == b):
        for margin, target in ((d[i], y[i]), (-d[i], 1 - y[i])):
          if margin * side >= 0:
            p.append(expit(margin))
            label.append(target)
            weight.append(0.5 if margin == 0 else 1.0)
      total += sum(weight) * abs(np.average(label, weights=weight) - np.average(p, weights=weight))
  assert cal.ece(cal.reliability(comparisons, bins)) == pytest.approx(total / (2 * len(comparisons)), abs=1e-12)


@given(margins)
def test_every_comparison_is_in_one_bin_and_equal_ones_in_the_same(drawn_margins):
  comparisons = made(drawn_margins)
  curve = cal.reliability(comparisons)
  assert sum(b.observed.count for b in curve) == len(comparisons)
  assert all(b.low <= b.predicted + 1e-15 and b.predicted <= b.high + 1e-15 for b in curve)
  assert all(one.high < other.low for one, other in itertools.pairwise(curve))
  assert len(curve) <= max(1, len(comparisons) // 10)


def test_bins_have_equal_mass():
  curve = cal.reliability(compare(drawn(1000)))
  assert [b.observed.count for b in curve] == [100] * 10


@pytest.mark.long
def test_a_calibrated_judge_has_the_ece_of_chance():
  """Mean over 60 simulations: the formula is met to 5 %, and both shrink as one over the root of the count."""
  found, by_chance = [], []
  for count in (500, 8000):
    made = [compare(drawn(count, seed=seed)) for seed in range(60)]
    found.append(np.mean([cal.ece(cal.reliability(c)) for c in made]))
    by_chance.append(np.mean([cal.ece_by_chance(c) for c in made]))
  assert found == pytest.approx(by_chance, rel=0.05)
  assert found[0] / found[1] == pytest.approx(4, rel=0.1)


@pytest.mark.slow
def test_an_overconfident_judge_is_found_out():
  """ECE of margins three times too large is |sigmoid(3d) - sigmoid(d)| averaged over |d|, d ~ N(0, 1.5^2)."""
  comparisons = compare(drawn(200_000, scale=3.0))
  d = np.abs(1.5 * np.random.default_rng(5).standard_normal(400_000))
  expected = np.mean(expit(3 * d) - expit(d))
  assert cal.ece(cal.reliability(comparisons)) == pytest.approx(expected, abs=0.004)
  assert all(b.observed.value < b.predicted for b in cal.reliability(comparisons)[1:])
