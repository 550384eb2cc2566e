"""Rows of a world: reproducible, and labels that follow the Bradley-Terry model of its reward."""

import itertools

import numpy as np
import pytest

from dpojax.data.worlds import end_token, get_world, pair_rows, ranking_rows, sft_rows
from dpojax.errors import ConfigError
from dpojax.interop.tokenizer import Tokenizer

WORLD = get_world("complaint_desk")


def test_sft_rows():
  rows = sft_rows(WORLD, 20, seed=4)
  assert rows == sft_rows(WORLD, 20, seed=4) != sft_rows(WORLD, 20, seed=5)
  assert rows[:10] == sft_rows(WORLD, 10, seed=4)
  assert rows[3]["completion"] == WORLD.answer(rows[3]["prompt"], (4, 3))
  assert all(set(row) == {"prompt", "completion"} for row in rows)
  held_out = {row["prompt"] for row in sft_rows(WORLD, 2000, 0, "held_out")}
  assert not held_out & {row["prompt"] for row in sft_rows(WORLD, 5000, 0)}


def test_a_word_tokenizer_keeps_every_text():
  tokenizer = Tokenizer.from_words(WORLD.words, eos=end_token)
  texts = [text for row in sft_rows(WORLD, 200, seed=0) for text in row.values()]
  assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts


def some_answers(n: int, k: int) -> tuple[list[str], list[list[str]]]:
  prompts = WORLD.prompts(n, 0)
  return prompts, [[WORLD.answer(p, (i, j)) for j in range(k)] for i, p in enumerate(prompts)]


def test_every_two_different_answers_make_a_pair():
  prompts, answers = some_answers(5, 4)
  answers[2][3] = answers[2][0]
  rows = pair_rows(WORLD, prompts, answers, "highest", 0)
  expected = [
    (p, {a, b})
    for p, four in zip(prompts, answers, strict=True)
    for a, b in itertools.combinations(four, 2)
    if WORLD.reward(p, a) != WORLD.reward(p, b)
  ]
  assert [(r["prompt"], {r["chosen"], r["rejected"]}) for r in rows] == expected
  assert len(pair_rows(WORLD, prompts, answers, "bradley_terry", 0)) == 5 * 6 - 1
  for row in rows:
    assert row["reward_chosen"] == WORLD.reward(row["prompt"], row["chosen"]) > row["reward_rejected"]
    assert row["reward_rejected"] == WORLD.reward(row["prompt"], row["rejected"])


def test_labels_follow_bradley_terry():
  prompts, answers = some_answers(1500, 4)
  rows = pair_rows(WORLD, prompts, answers, "bradley_terry", 1)
  margin = np.array([r["reward_chosen"] - r["reward_rejected"] for r in rows])
  assert 0.74 < (margin[margin != 0] > 0).mean() < 0.80
  for low, high in ((0.2, 0.6), (0.9, 1.3), (2.0, 3.0)):  # the share that agrees is the sigmoid, bin by bin
    near = (np.abs(margin) > low) & (np.abs(margin) < high)
    expected = (1 / (1 + np.exp(-np.abs(margin[near])))).mean()
    spread = np.sqrt(expected * (1 - expected) / near.sum())
    assert abs((margin[near] > 0).mean() - expected) < 4 * spread


def test_draws_depend_on_seed_and_place_only():
  prompts, answers = some_answers(40, 3)
  rows = pair_rows(WORLD, prompts, answers, "bradley_terry", 7)
  assert rows == pair_rows(WORLD, prompts, answers, "bradley_terry", 7)
  assert rows != pair_rows(WORLD, prompts, answers, "bradley_terry", 8)
  assert rows[: 3 * 10] == pair_rows(WORLD, prompts[:10], answers[:10], "bradley_terry", 7)


def test_rankings_follow_plackett_luce():
  prompts, answers = some_answers(1500, 4)
  rows = ranking_rows(WORLD, prompts, answers, "bradley_terry", 1)
  by_prompt = {prompt: set(four) for prompt, four in zip(prompts, answers, strict=True)}
  first, likely, pairs, expected = 0, 0.0, 0, 0.0
  for row in rows:
    assert set(row["answers"]) <= by_prompt[row["prompt"]]
    assert row["rewards"] == [WORLD.reward(row["prompt"], a) for a in row["answers"]]
    rewards = np.asarray(row["rewards"])
    best = np.argmax(rewards)
    if len(rewards) == 4 and (rewards == rewards[best]).sum() == 1:
      first += best == 0
      likely += np.exp(rewards[best]) / np.exp(rewards).sum()
      # The first two answers written, in the order of a Bradley-Terry draw whatever else is ranked.
      pairs += row["answers"].index(max(row["answers"])) < row["answers"].index(min(row["answers"]))
      d = rewards[row["answers"].index(max(row["answers"]))] - rewards[row["answers"].index(min(row["answers"]))]
      expected += 1 / (1 + np.exp(-d))
  assert abs(first - likely) < 4 * np.sqrt(likely) and likely > 200
  assert abs(pairs - expected) < 4 * np.sqrt(expected)
  assert ranking_rows(WORLD, prompts[:9], answers[:9], "bradley_terry", 1) == rows[:9]


def test_rankings_of_three_are_all_choices_of_three():
  prompts, answers = some_answers(6, 4)
  whole = ranking_rows(WORLD, prompts, answers, "highest", 0)
  assert all(row["rewards"] == sorted(row["rewards"], reverse=True) for row in whole)
  three = ranking_rows(WORLD, prompts, answers, "highest", 0, size=3)
  expected = [list(c) for row in whole for c in itertools.combinations(row["answers"], 3)]
  assert [row["answers"] for row in three] == expected


def test_wrong_names():
  with pytest.raises(ConfigError, match=r"data.name: no built-in world 'zoo'; there is complaint_desk"):
    get_world("zoo")
  with pytest.raises(ConfigError, match=r"pairs.label is 'best'; choose bradley_terry or highest"):
    pair_rows(WORLD, [], [], "best", 0)
