"""A tournament against games counted one by one, and what strengths must be where all games are one Bradley-Terry model."""

import itertools

import numpy as np
import pytest

from dpojax.evaluation.policies import Measured
from dpojax.evaluation.tournament import play, tournament

NAMES = ["sft", "dpo", "ppo", "a name, with a comma"]
STRENGTHS = np.array([0.0, 1.0, 0.4, -0.7])


def test_every_two_policies_meet_at_every_prompt_in_both_orders():
  rewards = np.random.default_rng(0).normal(size=(5, 4))
  games = play(rewards, NAMES, 4, seed=3)
  assert len(games) == 5 * 6 * 4 and list(games.items) == NAMES
  met = [frozenset((int(i), int(j))) for i, j in zip(games.first, games.second, strict=True)]
  for two in itertools.combinations(range(4), 2):
    assert met.count(frozenset(two)) == 5 * 4
  again = play(rewards, NAMES, 4, seed=3)
  assert np.array_equal(games.first, again.first) and np.array_equal(games.second, again.second)
  assert not np.array_equal(games.first, play(rewards, NAMES, 4, seed=4).first)


def test_a_game_is_won_as_often_as_the_model_says():
  rewards = np.tile([0.0, 1.3], (4000, 1))
  games = play(rewards, ["a", "b"], 2, seed=0)
  won = np.mean(np.asarray(games.first) == 1)  # b won
  chance = 1 / (1 + np.exp(-1.3))
  assert won == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / 8000))


def test_strengths_are_differences_of_rewards_where_every_prompt_is_alike():
  found = tournament(np.tile(STRENGTHS, (3000, 1)), NAMES, 2, seed=1)
  by_name = {item["name"]: item for item in found["items"]}
  for name, strength in zip(NAMES, STRENGTHS - STRENGTHS.mean(), strict=True):
    item = by_name[name]
    error = (item["high"] - item["low"]) / (2 * 1.96)
    assert item["strength"] == pytest.approx(strength, abs=4 * error) and 0 < error < 0.05
    assert item["games"] == 3 * 2 * 3000
  assert [item["name"] for item in found["items"]] == ["dpo", "ppo", "sft", "a name, with a comma"]
  assert [item["true_rank"] for item in found["items"]] == [1, 2, 3, 4]
  assert sum(item["wins"] for item in found["items"]) == found["games"] == 3000 * 6 * 2 and not found["prior"]


def test_intervals_count_prompts():
  """With 20 games a pair and prompt, games of one prompt are far from independent."""
  rewards = STRENGTHS + np.random.default_rng(2).normal(size=(40, 4)) * 3
  few, many = (tournament(rewards, NAMES, games)["items"][0] for games in (2, 200))
  assert many["high"] - many["low"] > 0.5 * (few["high"] - few["low"])


def test_who_wins_every_game_has_a_strength():
  found = tournament(np.tile([0.0, 0.1, 500.0], (8, 1)), ["a", "b", "c"], 2)
  assert found["prior"] and found["items"][0]["name"] == "c" and np.isfinite(found["items"][0]["strength"])


def test_equal_rewards_share_a_rank():
  found = tournament(np.tile([1.0, 1.0, 0.0], (50, 1)), ["a", "b", "c"], 2)
  assert sorted(item["true_rank"] for item in found["items"]) == [1, 1, 3]


def test_a_summary_is_of_prompts():
  kl = np.array([[1.0, 3.0], [2.0, 2.0], [0.0, 1.0]])
  measured = Measured(
    kl, {"true": -kl}, np.array([[1, 2], [3, 4], [5, 6]]), np.array([[True, True], [False, True], [True, True]])
  )
  found = measured.summary()
  means = [2.0, 2.0, 0.5]
  assert found["kl"] == pytest.approx(1.5) and found["reward/true"] == pytest.approx(-1.5)
  assert found["kl_error"] == pytest.approx(np.std(means, ddof=1) / np.sqrt(3)) == found["reward/true_error"]
  assert found["length"] == 3.5 and found["finished"] == pytest.approx(5 / 6)
  assert (found["prompts"], found["samples"]) == (3, 2)
