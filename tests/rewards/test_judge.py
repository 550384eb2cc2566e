"""Judges: both orders asked, ties halves; and how often the interval of a win rate holds the truth."""

import numpy as np
import pytest
from scipy import stats

from dpojax.errors import ConfigError, DataError
from dpojax.rewards.build import build
from dpojax.rewards.judge import RewardJudge, build_judge
from dpojax.rewards.reward import PromptedAnswer
from dpojax.rewards.spec import read_judge, read_reward
from dpojax.rewards.win_rate import win_rate
from tests.rewards.conftest import reward_model


def said(*texts):
  return [PromptedAnswer(f"prompt {i}", text, answer_ids=np.arange(len(text))) for i, text in enumerate(texts)]


def judge(tmp_path, code):
  (tmp_path / "judges.py").write_text(code)
  return build_judge(read_judge(f"judge:{tmp_path}/judges.py:better", "monitor.judge"), pytest.fail)


def test_the_higher_reward_wins_and_equal_ones_tie():
  found = build_judge(
    read_judge("length", "monitor.judge"), lambda spec: build(spec, load=lambda path: pytest.fail(path))
  )
  assert found.name == "length"
  assert found(said("aa", "a", "a"), said("a", "aa", "b")).tolist() == [1, 0, 0.5]


@pytest.mark.slow
def test_equal_answers_tie_under_a_reward_model(chatml):
  """In rows packed beside others too, where rounding would tell them apart."""
  loaded = reward_model(chatml)
  reward = build(read_reward("model:r", "monitor.judge"), load=lambda path: loaded)
  texts = [f"{'maybe ' * (i % 7)}{i % 3}" for i in range(20)]
  both = [PromptedAnswer("hello", text) for text in texts]
  others = [PromptedAnswer("hello", text if i % 2 else "no") for i, text in enumerate(texts)]
  found = RewardJudge(reward)(both, others)
  assert np.all(found[1::2] == 0.5)
  assert set(found[0::2]) <= {0, 1}
  np.testing.assert_array_equal(RewardJudge(reward)(others, both), 1 - found)


def test_a_function_is_asked_in_both_orders(tmp_path):
  """A judge that likes length, and adds 0.2 to whichever stands first: the average knows nothing of the place."""
  code = """
def better(prompts, first, second):
  assert prompts == ["prompt 0", "prompt 1", "prompt 2"]
  return [0.2 + (0.6 if len(a) > len(b) else 0.3 if len(a) == len(b) else 0) for a, b in zip(first, second)]
"""
  found = judge(tmp_path, code).compare(said("aa", "a", "b"), said("a", "bb", "c"))
  assert found.preference.tolist() == pytest.approx([0.8, 0.2, 0.5])
  assert found.position_bias.tolist() == pytest.approx([0, 0, 0])
  always = judge(tmp_path, "def better(prompts, first, second): return [1.0] * len(first)")
  found = always.compare(said("aa", "a"), said("a", "bb"))
  assert found.preference.tolist() == [0.5, 0.5]
  assert found.position_bias.tolist() == [0.5, 0.5]
  assert always(said("aa"), said("b")).tolist() == [0.5]


@pytest.mark.parametrize(
  "code, message",
  [
    ("def better(p, a, b): return [1.5]", r"returns 1.5 for answer 0 .*from 0 to 1"),
    ("def better(p, a, b): return [-0.1]", "returns -0.1 for answer 0 .*from 0 to 1"),
    ("def better(p, a, b): return []", "returns 0 values"),
    ("def better(p, a): return [1]", r"fails with TypeError: .*; a judge is called with \(prompts, first, second\)"),
  ],
)
def test_what_a_judge_does_wrong_is_said(tmp_path, code, message):
  with pytest.raises(DataError, match=f"judges.py:better {message}"):
    judge(tmp_path, code)(said("a"), said("b"))


def test_a_judge_compares_answers_to_the_same_prompts(tmp_path):
  found = judge(tmp_path, "def better(p, a, b): return [1.0] * len(p)")
  with pytest.raises(ValueError, match="2 first answers and 1 second"):
    found(said("a", "b"), said("c"))
  with pytest.raises(ValueError, match="answers 0 are to different prompts"):
    found(said("a"), said("", "b")[1:])
  with pytest.raises(ConfigError, match=r"monitor.judge: .*has no function"):
    build_judge(read_judge(f"judge:{tmp_path}/judges.py:worse", "monitor.judge"), pytest.fail)


def test_without_ties_it_is_wilsons_interval():
  for wins, n in ((0, 5), (3, 10), (50, 64), (64, 64)):
    expected = stats.binomtest(wins, n).proportion_ci(0.95, method="wilson")
    found = win_rate(np.arange(n) < wins)
    assert (found.rate, found.low, found.high) == pytest.approx((wins / n, expected.low, expected.high), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 64])
@pytest.mark.parametrize("ties", [0.0, 0.3, 0.6])
def test_the_interval_holds_the_truth_nineteen_times_in_twenty(n, ties):
  """Wins of 0, 1/2 and 1 with P(1/2) = t and a mean drawn anew each time, since coverage at one mean is ragged.

  Brown, Cai & DasGupta (2001) give 0.95 as Wilson's mean coverage, and 0.92 as about the least from p = 0.1 on.
  """
  draws = np.random.default_rng(n)
  held = []
  for p in draws.uniform(0.5, 0.95 - ties / 2, size=4000):
    row = draws.choice([0.0, 0.5, 1.0], size=n, p=[1 - p - ties / 2, ties, p - ties / 2])
    found = win_rate(row)
    held.append(found.low <= p <= found.high)
  assert np.mean(held) >= 0.94


def test_ties_make_it_wider_than_it_need_be_by_the_factor_said():
  draws = np.random.default_rng(0).choice([0.0, 0.5, 1.0], size=(2000, 400), p=[0.2, 0.6, 0.2])
  spread = 2 * 1.96 * np.std(draws.mean(axis=1))
  widths = np.mean([one.high - one.low for one in map(win_rate, draws)])
  assert widths / spread == pytest.approx(1 / np.sqrt(1 - 0.6), rel=0.05)


@pytest.mark.parametrize("wrong", [[], [1.2], [np.nan], [[0.5]]])
def test_preferences_outside_the_unit_interval_are_refused(wrong):
  with pytest.raises(ValueError, match="preferences must be one or more numbers"):
    win_rate(np.asarray(wrong))
