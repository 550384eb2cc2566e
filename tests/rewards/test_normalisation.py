"""What a normalisation says of a reward that is the same everywhere, and what a normalised reward was before."""

import numpy as np
import pytest

from dpojax.rewards.combined import Sum, SumTerm
from dpojax.rewards.normalisation import apply, constant_terms, measure, same_everywhere, with_unnormalised
from dpojax.rewards.reward import PromptedAnswer

ANSWERS = [PromptedAnswer("p", text) for text in ("a", "bb", "cccc", "ddddddd")]


class Counted:
  """a * length + b; counts how often it is asked."""

  def __init__(self, name, a, b):
    self.name = self.fingerprint = name
    self.a, self.b, self.asked = a, b, 0

  def __call__(self, answers):
    self.asked += 1
    return np.asarray([self.a * len(answer.answer) + self.b for answer in answers], np.float64)


LENGTHS = np.asarray([1.0, 2.0, 4.0, 7.0])


def test_a_reward_before_it_was_normalised_without_asking_twice():
  reward = Counted("length", 3.0, 100.0)
  scaled = apply(reward, measure(reward, ANSWERS))
  reward.asked = 0
  values, before = with_unnormalised(scaled, ANSWERS)
  assert reward.asked == 1
  np.testing.assert_allclose(values, (LENGTHS - LENGTHS.mean()) / LENGTHS.std(), rtol=1e-12)
  np.testing.assert_array_equal(before, 3 * LENGTHS + 100)


def test_a_sum_before_its_terms_were_normalised():
  one, other = Counted("one", 2.0, 1.0), Counted("other", -1.0, 50.0)
  total = Sum("both", (SumTerm("one", 1.0, one), SumTerm("other", 0.5, other)))
  scaled = apply(total, measure(total, ANSWERS))
  one.asked = other.asked = 0
  values, before = with_unnormalised(scaled, ANSWERS)
  assert (one.asked, other.asked) == (1, 1)
  unit = (LENGTHS - LENGTHS.mean()) / LENGTHS.std()
  np.testing.assert_allclose(values, unit - 0.5 * unit, atol=1e-12)
  np.testing.assert_allclose(before, (2 * LENGTHS + 1) + 0.5 * (50 - LENGTHS), rtol=1e-15)


def test_a_reward_as_it_is_is_what_it_was_before():
  reward = Counted("length", 3.0, 100.0)
  values, before = with_unnormalised(reward, ANSWERS)
  np.testing.assert_array_equal(values, 3 * LENGTHS + 100)
  np.testing.assert_array_equal(before, values)


def test_terms_that_are_the_same_everywhere_are_named():
  total = Sum(
    "both", (SumTerm("length", 1.0, Counted("length", 1.0, 0.0)), SumTerm("flat", 1.0, Counted("flat", 0.0, 0.3)))
  )
  (said,) = constant_terms(measure(total, ANSWERS))
  assert said.startswith("warning: the reward flat gives every answer the same number: 0.3 for all 4 answers")
  assert constant_terms(measure(Counted("length", 1.0, 0.0), ANSWERS)) == []


@pytest.mark.parametrize(
  "values, same",
  [
    ([0.0, 0.0], True),
    ([0.1 + 0.2, 0.3], True),
    ([1e6, 1e6 + 1e-9], True),
    ([0.0, 1e-30], False),
    ([1.0, 1.0001], False),
  ],
)
def test_rounding_is_no_difference(values, same):
  assert same_everywhere(np.asarray(values)) is same
