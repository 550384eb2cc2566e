"""Comparisons of sampled answers: every two of them in one class, labels that follow the Bradley-Terry model."""

import collections
import dataclasses
import hashlib
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax.data.prompts import PromptRow
from dpojax.environments import get_environment
from dpojax.errors import ConfigError
from dpojax.rollout.answers_file import SampledAnswer
from dpojax.rollout.comparison_rows import comparison_rows
from dpojax.rollout.comparisons import CHOICES, LABELS, pairs_of, ranking_of

WORLD = get_environment("complaint_desk")
NO_IDS = np.zeros(0, np.int32)


def rows_of(prompts, answers, label, seed, **options):
  """The rows of comparisons by the world's reward."""
  rows = [PromptRow(prompt, prompt, NO_IDS, f"prompt {i}", i) for i, prompt in enumerate(prompts)]
  written = [[SampledAnswer(text, NO_IDS, np.zeros(0, np.float32), "eos") for text in several] for several in answers]
  rewards = [np.asarray([WORLD.reward(p, a) for a in several]) for p, several in zip(prompts, answers, strict=True)]
  options = {"choose": "all", "min_margin": 0.0} | options
  return comparison_rows(rows, written, rewards, reward="true", label=label, seed=seed, **options)


def pair_rows(*arguments, **options):
  return rows_of(*arguments, **options).pairs


def test_what_earlier_versions_drew_is_drawn():
  """Digests of the rows that version 0.1 wrote for these answers: stages made then are made again alike."""
  prompts = WORLD.prompts(40, 0)
  answers = [[WORLD.answer(p, (i, j % 3 if i % 5 == 0 else j)) for j in range(4)] for i, p in enumerate(prompts)]
  digests = {
    ("bradley_terry", "pairs"): "2da46bfb13b76ddc899e88612fabaecd2e99793ff9e4b1ad471cedb8f7aaec41",
    ("bradley_terry", "rankings"): "2a128aa7a9b5dbd9cdc99a391c6e45c1968809fede498b8c70ef38b27543b4e5",
    ("bradley_terry", "triples"): "00889a6592fb7662cc5053ad93a4f81cb8c8b8cd301b0728a24ce9b046437946",
    ("highest", "pairs"): "34721f64039e4388922a3875d2bf4ff263af94d15ffef86161f1cf18e0891d65",
    ("highest", "rankings"): "966998d0ec1de39bfd45eeb36397021c7b5dcfd786085aad2ba70400434e1e86",
    ("highest", "triples"): "29b0ff7ae752f7018e239fb730bfb3265347c67e355daa92c295520bd4bb31cd",
  }
  for (label, kind), digest in digests.items():
    rows = getattr(rows_of(prompts, answers, label, 7), kind)
    before = [{key: row[key] for key in row if key not in ("row", "samples", "reward")} for row in rows]
    assert hashlib.sha256(json.dumps(before).encode()).hexdigest() == digest, (label, kind)


ANSWERS = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(-2, 2)), min_size=1, max_size=7)


@given(
  ANSWERS, st.sampled_from(CHOICES), st.sampled_from(LABELS), st.sampled_from([0.0, 0.5, 1.0, 1.5]), st.integers(0, 9)
)
def test_every_two_answers_are_in_one_class(answers, choose, label, min_margin, seed):
  texts = [text for text, _ in answers]
  values: dict[str, float] = {}
  for text, reward in answers:
    values.setdefault(text, reward / 2)
  rewards = np.asarray([values[text] for text in texts])
  found = pairs_of(texts, rewards, choose=choose, label=label, min_margin=min_margin, seed=seed, place=3)

  n, compared = len(texts), {frozenset(pair) for pair in found.won_lost}
  assert sum(found.counts.values()) == n * (n - 1) // 2
  assert found.counts["pairs"] == len(found.won_lost) == len(compared)
  alike = sum(k * (k - 1) // 2 for k in collections.Counter(texts).values())
  assert found.counts["identical"] == alike
  for won, lost in found.won_lost:
    assert texts[won] != texts[lost]
    assert abs(rewards[won] - rewards[lost]) >= min_margin
    assert label != "highest" or rewards[won] > rewards[lost]
  assert label == "highest" or found.counts["tied"] == 0

  everything = pairs_of(texts, rewards, label=label, seed=seed, place=3)
  assert set(found.won_lost) <= set(everything.won_lost)  # whoever wins does not depend on what is chosen
  different = len(values)
  candidates = {
    "all": n * (n - 1) // 2 - alike,
    "adjacent": different - 1,
    "best_worst": min(different - 1, 1),
    "best_random": min(different - 1, 1),
  }[choose]
  assert candidates == sum(found.counts[key] for key in ("pairs", "below_margin", "tied"))
  for pair in found.won_lost:
    high, low = max(rewards[list(pair)]), min(rewards[list(pair)])
    if choose in ("best_worst", "best_random"):
      assert high == max(rewards)
    if choose == "best_worst":
      assert low == min(rewards)
    if choose == "adjacent":
      assert not any(low < reward < high for reward in values.values())


def test_each_choice_of_five_answers():
  texts, rewards = list("abcda"), [1.0, 3.0, 2.0, -1.0, 1.0]
  chosen = {choose: pairs_of(texts, rewards, choose=choose, label="highest").won_lost for choose in CHOICES}
  assert chosen["all"] == ((1, 0), (2, 0), (0, 3), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (4, 3))
  assert chosen["best_worst"] == ((1, 3),)
  assert chosen["adjacent"] == ((2, 0), (0, 3), (1, 2))
  assert chosen["best_random"] in (((1, 0),), ((1, 2),), ((1, 3),))
  assert pairs_of(texts, rewards, choose="adjacent", label="highest", min_margin=2.0).won_lost == ((0, 3),)


def test_the_other_of_best_random_is_drawn_evenly():
  texts, rewards = list("abcd"), [0.0, 5.0, 1.0, 1.0]
  others = collections.Counter()
  for place in range(1200):
    ((_, other),) = pairs_of(texts, rewards, choose="best_random", label="highest", seed=1, place=place).won_lost
    others[other] += 1
  assert set(others) == {0, 2, 3}
  assert all(abs(count - 400) < 4 * np.sqrt(1200 * 1 / 3 * 2 / 3) for count in others.values())


@pytest.mark.parametrize("prompt", ["a text", [{"role": "user", "content": "a message"}]])
def test_rows_say_where_their_answers_stand(prompt):
  row = PromptRow(prompt, "", NO_IDS, "file:9", 8, {"author": "anna"})
  answers = [SampledAnswer(text, NO_IDS, np.zeros(0, np.float32), "length") for text in ("b", "a", "b", "c")]
  made = comparison_rows(
    [row],
    [answers],
    [np.asarray([0.7, 2.0, 0.7, -1.0])],
    reward="mine",
    choose="best_worst",
    label="highest",
    min_margin=0.0,
    seed=0,
  )
  said = ("a", "c") if isinstance(prompt, str) else [[{"role": "assistant", "content": text}] for text in "ac"]
  origin = {"row": 8, "reward": "mine"}
  answers = {"chosen": said[0], "rejected": said[1], "reward_chosen": 2.0, "reward_rejected": -1.0}
  assert made.pairs == [{"prompt": prompt, **answers, "samples": [1, 3], **origin}]
  ranked = {"prompt": prompt, "answers": ["a", "b", "c"], "rewards": [2.0, 0.7, -1.0], "samples": [1, 0, 3], **origin}
  assert made.rankings == made.triples == [ranked]
  assert made.counts == dict(
    prompts=1, answers=4, cut=4, alike=0, pairs=1, identical=1, not_chosen=4, below_margin=0, tied=0
  )
  assert made.summary == (
    "4 answers to 1 prompts, 4 cut at the limit; pairs left out: 1 of identical answers, 4 not chosen"
  )
  upside_down = dataclasses.replace(made, pairs=[made.pairs[0] | {"reward_chosen": -1.0, "reward_rejected": 2.0}] * 2)
  assert upside_down.summary == f"{made.summary}; in 2 pairs the lower reward was drawn as the winner"


def some_answers(n: int, k: int) -> tuple[list[str], list[list[str]]]:
  prompts = WORLD.prompts(n, 0)
  return prompts, [[WORLD.answer(p, (i, j)) for j in range(k)] for i, p in enumerate(prompts)]


def test_every_two_different_answers_make_a_pair():
  prompts, answers = some_answers(5, 4)
  answers[2][3] = answers[2][0]
  rows = pair_rows(prompts, answers, "highest", 0)
  expected = [
    (p, {a, b})
    for p, four in zip(prompts, answers, strict=True)
    for a, b in itertools.combinations(four, 2)
    if WORLD.reward(p, a) != WORLD.reward(p, b)
  ]
  assert [(r["prompt"], {r["chosen"], r["rejected"]}) for r in rows] == expected
  assert len(pair_rows(prompts, answers, "bradley_terry", 0)) == 5 * 6 - 1
  for row in rows:
    assert row["reward_chosen"] == WORLD.reward(row["prompt"], row["chosen"]) > row["reward_rejected"]
    assert row["reward_rejected"] == WORLD.reward(row["prompt"], row["rejected"])


@pytest.mark.slow
def test_labels_follow_bradley_terry():
  prompts, answers = some_answers(1500, 4)
  rows = pair_rows(prompts, answers, "bradley_terry", 1)
  margin = np.array([r["reward_chosen"] - r["reward_rejected"] for r in rows])
  assert 0.74 < (margin[margin != 0] > 0).mean() < 0.80
  for low, high in ((0.2, 0.6), (0.9, 1.3), (2.0, 3.0)):  # the share that agrees is the sigmoid, bin by bin
    near = (np.abs(margin) > low) & (np.abs(margin) < high)
    expected = (1 / (1 + np.exp(-np.abs(margin[near])))).mean()
    spread = np.sqrt(expected * (1 - expected) / near.sum())
    assert abs((margin[near] > 0).mean() - expected) < 4 * spread


def test_draws_depend_on_seed_and_place_only():
  prompts, answers = some_answers(40, 3)
  rows = pair_rows(prompts, answers, "bradley_terry", 7)
  assert rows == pair_rows(prompts, answers, "bradley_terry", 7)
  assert rows != pair_rows(prompts, answers, "bradley_terry", 8)
  assert rows[: 3 * 10] == pair_rows(prompts[:10], answers[:10], "bradley_terry", 7)


@pytest.mark.slow
def test_rankings_follow_plackett_luce():
  prompts, answers = some_answers(1500, 4)
  rows = rows_of(prompts, answers, "bradley_terry", 1).rankings
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
  assert rows_of(prompts[:9], answers[:9], "bradley_terry", 1).rankings == rows[:9]


def test_rankings_of_three_are_all_choices_of_three():
  prompts, answers = some_answers(6, 4)
  whole = rows_of(prompts, answers, "highest", 0).rankings
  assert all(row["rewards"] == sorted(row["rewards"], reverse=True) for row in whole)
  three = rows_of(prompts, answers, "highest", 0).triples
  expected = [list(c) for row in whole for c in itertools.combinations(row["answers"], 3)]
  assert [row["answers"] for row in three] == expected


def test_wrong_names():
  with pytest.raises(ConfigError, match=r"pairs.label is 'best'; choose bradley_terry, highest"):
    pairs_of(["a"], [0], label="best")
  with pytest.raises(ConfigError, match=r"pairs.label is 'best'; choose bradley_terry, highest"):
    ranking_of(["a"], [0], label="best")
  with pytest.raises(ConfigError, match=r"pairs.choose is 'worst'; choose all, best_worst, best_random, adjacent"):
    pairs_of(["a"], [0], choose="worst")
