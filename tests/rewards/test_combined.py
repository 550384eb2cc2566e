"""Sums, weights and scales: arithmetic is what it says, orders stay, and a record makes the same reward again."""

import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from dpojax.errors import DataError
from dpojax.rewards.build import build
from dpojax.rewards.normalisation import apply, measure
from dpojax.rewards.reward import PromptedAnswer
from dpojax.rewards.spec import read_reward


class Given:
  """A reward that is the number in an answer's details."""

  fingerprint = "given"

  def __init__(self, name="given", key="value"):
    self.name, self.key = name, key

  def __call__(self, answers):
    return np.asarray([a.details[self.key] for a in answers], np.float64)


def answers(values):
  return [PromptedAnswer("p", "a", details={"value": value}) for value in values]


def make(text):
  return build(read_reward(text, "pairs.reward"), load=pytest.fail)


def said(*texts):
  return [PromptedAnswer("p", text, answer_ids=np.arange(len(text.split()))) for text in texts]


def test_a_sum_is_the_weighted_sum_of_its_terms():
  texts = said("sorry we are sorry", "no", "yes sorry")
  assert make("0.7*regex:sorry + -0.1*length")(texts).tolist() == pytest.approx([0.7 - 0.4, -0.1, 0.7 - 0.2])
  assert make("-2*length")(texts).tolist() == [-8, -2, -4]
  assert make("s=length + regex:sorry").name == "s"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.lists(st.floats(-1e6, 1e6), max_size=20))
def test_normalising_changes_no_order_and_makes_the_samples_standard(samples, others):
  recorded = measure(Given(), answers(samples))
  reward = apply(Given(), recorded)
  values, scaled = np.asarray(samples + others), reward(answers(samples + others))
  assert recorded["given"]["gain"] > 0
  # Rounding may make close values equal, but never changes their order.
  assert np.all(np.diff(scaled[np.argsort(values, kind="stable")]) >= 0)
  size = np.abs(values).max() * recorded["given"]["gain"] + 1
  mine = scaled[: len(samples)]
  assert abs(np.mean(mine)) <= 1e-9 * size
  if recorded["given"]["constant"]:
    assert recorded["given"]["gain"] == 1 and np.std(mine) <= 1e-9 * size
  else:
    assert np.std(mine) == pytest.approx(1, abs=1e-9 * size)


def test_terms_of_a_sum_are_normalised_each_before_its_weight():
  reward = make("2*length + regex:sorry")
  samples = said("sorry a b c", "no", "yes sorry", "a b")
  scaled = apply(reward, measure(reward, samples))
  length, found = np.asarray([4.0, 1, 2, 2]), np.asarray([1.0, 0, 1, 0])
  standard = [(x - x.mean()) / x.std() for x in (length, found)]
  np.testing.assert_allclose(scaled(samples), 2 * standard[0] + standard[1], rtol=1e-12)
  negative = make("-1*length")
  order = apply(negative, measure(negative, samples))(samples)
  assert np.argmax(order) == 1 and np.argmin(order) == 0  # a weight below 0 still turns the order round


def test_a_record_outlives_the_process():
  """Written and read as JSON, it makes the same reward to the last bit, whatever is sampled later."""
  reward = make("0.3*length + regex:sorry")
  recorded = measure(reward, said("sorry a b c", "no", "yes sorry"))
  again = apply(make("0.3*length + regex:sorry"), json.loads(json.dumps(recorded)))
  later = said("a b c d e", "sorry")
  np.testing.assert_array_equal(again(later), apply(reward, recorded)(later))
  assert again.fingerprint == apply(reward, recorded).fingerprint != reward.fingerprint


def test_a_constant_reward_loses_its_mean_only():
  recorded = measure(make("length"), said("a b", "c d"))
  assert recorded == {"length": {"gain": 1.0, "bias": -2.0, "mean": 2.0, "sd": 0.0, "answers": 2, "constant": True}}
  assert apply(make("length"), recorded)(said("a b c")).tolist() == [1.0]


@pytest.mark.parametrize(
  "recorded, message",
  [
    ({}, "recorded for nothing, but its terms are length"),
    ({"other": {"gain": 1.0, "bias": 0.0}}, "recorded for other, but its terms are length; measure it anew"),
    ({"length": {"gain": -1.0, "bias": 0.0}}, "has gain -1.0 and bias 0.0; a gain is above 0"),
    ({"length": {"gain": 1.0}}, "has gain 1.0 and bias None"),
    ({"length": {"gain": float("inf"), "bias": 0.0}}, "has gain inf"),
  ],
)
def test_a_record_of_another_reward_is_refused(recorded, message):
  with pytest.raises(DataError, match=f"reward length: .*{message}"):
    apply(make("length"), recorded)


def test_nothing_is_measured_on_nothing():
  with pytest.raises(DataError, match="no answers of the reference"):
    measure(make("length"), [])
