"""What roll-outs record of a normalised reward, and say of one that is the same everywhere."""

import dataclasses

import numpy as np
import pytest

from dpojax.recipes.rollouts import left_out_hint
from dpojax.rewards.combined import Normalised
from tests.training.test_online_pairs import ONLINE, ROLLOUT, LowTokens, pairs_of_policy, sampler
from tests.training.tiny import tiny_params
from tests.training.tiny_rollouts import EvenShare, make_stage

pytestmark = pytest.mark.slow


class Same(EvenShare):
  """1/3 of every answer, with rounding."""

  name = fingerprint = "same"

  def __call__(self, answers):
    return np.asarray([1 / 3 + 1e-16 * (i % 2) for i in range(len(answers))])


def test_a_policy_gradient_says_once_that_the_reward_is_the_same_everywhere(tmp_path):
  said = []
  make_stage(tmp_path / "same", reward=Same(), options={"say": said.append}).run(9)
  (line,) = said
  assert line.startswith(
    "roll-out 0: warning: the reward gives every answer the same number: same says 0.333333 of all 16"
  )
  said.clear()
  make_stage(tmp_path / "even", options={"say": said.append}).run(5)
  assert said == []


def test_the_reward_of_a_roll_out_before_it_was_normalised_is_recorded(tmp_path):
  reward = Normalised(EvenShare(), 4.0, -3.0)
  records = []
  for options in ({"reward": reward, "rollout": {"normalise": True}}, {"reward": EvenShare()}):
    stage = make_stage(tmp_path / str(len(records)), **options)
    stage.run(1)
    records.append(stage.records[0][1])
  scaled, plain = records
  assert "objective/reward_raw" not in plain
  assert scaled["objective/reward_raw"] == pytest.approx(plain["objective/reward"], rel=1e-12)
  assert scaled["objective/reward"] == pytest.approx(4 * plain["objective/reward"] - 3, rel=1e-9)


def test_the_reward_of_the_policys_answers_before_it_was_normalised_is_recorded(tmp_path):
  records = []
  for number, (reward, normalise) in enumerate([(Normalised(LowTokens(), 2.0, -1.0), True), (LowTokens(), False)]):
    rollout = dataclasses.replace(ROLLOUT, samples=2, normalise=normalise)
    options = dict(write=sampler(1), record=lambda step, metrics: records.append(metrics), opponent=tiny_params)
    online = dataclasses.replace(ONLINE, opponent="reference")
    pairs_of_policy(tmp_path / str(number), online=online, rollout=rollout, reward=reward, **options)(0)
  scaled, plain = records
  assert "objective/reward_raw" not in plain
  assert scaled["objective/reward_raw"] == pytest.approx(plain["objective/reward"], rel=1e-12)
  assert plain["objective/reward"] != plain["objective/reward_of_reference"]


def test_online_learning_says_once_that_the_reward_is_the_same_everywhere(tmp_path):
  said, online = [], dataclasses.replace(ONLINE, label="bradley_terry", refresh=1)
  reward = lambda answers: np.full(len(answers), 0.7)  # noqa: E731
  reward.name = "flat"  # pyright: ignore[reportFunctionMemberAccess]
  source = pairs_of_policy(tmp_path, online=online, reward=reward, say=said.append)
  source(0), source(1)
  (line,) = [line for line in said if "warning" in line]
  assert line.startswith("roll-out 0: warning: the reward gives every answer the same number: flat says 0.7 of all")


def test_a_hint_where_more_than_half_of_the_steps_were_left_out():
  of = lambda taken, left_out: [{"taken": 1.0}] * taken + [{"taken": 0.0}] * left_out  # noqa: E731
  assert left_out_hint(of(5, 5), 0.02) == left_out_hint([{"loss": 1.0}], 0.02) == left_out_hint([], 0.02) == ""
  said = left_out_hint(of(40, 56), 0.02)
  assert said.startswith("56 of 96 steps were left out") and "policy_gradient.update_kl_limit=0.02" in said
  assert "lower optimizer.learning_rate or policy_gradient.epochs" in said
