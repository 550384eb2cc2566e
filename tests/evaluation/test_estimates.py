"""Means and shares: against scipy and closed forms, and what repeated prompts do to them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpojax.evaluation.estimates import Z, clustered_variance, effective_count, fraction, mean, wilson


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(case):
  won, count = case
  expected = stats.binomtest(won, count).proportion_ci(confidence_level=0.95, method="wilson")
  assert wilson(won / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)
  values = np.repeat([1.0, 0.0], [won, count - won])
  estimate = fraction(values, np.arange(count))
  assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_with_every_prompt_once_the_standard_error_is_the_usual_one():
  values = np.random.default_rng(0).normal(3, 2, 57)
  estimate = mean(values, np.arange(57))
  assert estimate.standard_error == pytest.approx(stats.sem(values), rel=1e-12)
  assert estimate.high - estimate.value == pytest.approx(1.959963984540054 * stats.sem(values), rel=1e-12)
  assert pytest.approx(stats.norm.ppf(0.975), rel=1e-14) == Z


@given(st.integers(2, 5), st.integers(3, 40), st.integers(0, 99))
def test_copies_of_a_prompt_add_no_certainty(copies, count, seed):
  """A file with every row c times says as much as the file: same error, same interval."""
  values = (np.random.default_rng(seed).random(count) < 0.7).astype(float)
  prompt = np.arange(count)
  once, often = (fraction(np.tile(values, c), np.tile(prompt, c)) for c in (1, copies))
  assert often.value == pytest.approx(once.value)
  assert often.standard_error == pytest.approx(once.standard_error)
  assert effective_count(np.tile(values, copies), np.tile(prompt, copies)) == pytest.approx(count, rel=0.5)
  if 0 < once.value < 1:
    naive = wilson(once.value, count * copies)
    assert often.high - often.low > naive[1] - naive[0]


def test_clustered_variance_by_hand():
  # Prompts {1, 0} and {1, 1}: mean 3/4, deviations (1/4, -3/4) and (1/4, 1/4), sums -1/2 and 1/2.
  values, prompt = np.asarray([1.0, 0.0, 1.0, 1.0]), np.asarray([7, 7, 3, 3])
  assert clustered_variance(values, prompt) == pytest.approx(2 / 1 * (1 / 4 + 1 / 4) / 16)


def test_independent_values_of_shared_prompts_keep_their_number():
  """Where prompts do not matter, the effective number is about the number."""
  generator = np.random.default_rng(1)
  values = (generator.random(6000) < 0.6).astype(float)
  assert effective_count(values, np.arange(6000) // 3) == pytest.approx(6000, rel=0.06)


def test_what_cannot_be_known_is_none():
  assert fraction(np.zeros(0), np.zeros(0, int)).to_json() == {
    "value": None,
    "standard_error": None,
    "interval": None,
    "count": 0,
  }
  one_prompt = fraction(np.asarray([1.0, 0.0, 1.0]), np.zeros(3, int))
  assert math.isnan(one_prompt.standard_error)
  assert (one_prompt.low, one_prompt.high) == wilson(2 / 3, 1)
  assert mean(np.ones(1), np.zeros(1, int)).to_json()["interval"] is None


def test_when_all_are_right_prompts_count():
  estimate = fraction(np.ones(40), np.arange(40) // 4)
  assert estimate.low == pytest.approx(stats.binomtest(10, 10).proportion_ci(method="wilson").low)
