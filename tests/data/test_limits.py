"""Limits: what is dropped, and what truncation may and may not do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax.data.limits import Limits, fit, longest_within

BOS, EOS = 1, 2


def example(prompt_length, lengths):
  """BOS 100 101 ...; answers 200 201 ... EOS."""
  prompt = [BOS, *range(100, 99 + prompt_length)]
  return prompt, [[*range(200, 199 + n), EOS] for n in lengths]


def limits(overlong="drop", prompt=0, answer=0, example=0, row=0):
  return Limits(prompt, answer, example, row, overlong, BOS)


@pytest.mark.parametrize(
  ("given_limits", "reason"),
  [
    (dict(prompt=9), "prompt_too_long"),
    (dict(answer=5), "answer_too_long"),
    (dict(example=15), "example_too_long"),
    (dict(row=19), "example_too_long"),
    (dict(prompt=10, answer=6, example=16, row=20), None),  # exactly at every limit
    ({}, None),
  ],
)
def test_over_a_limit_is_dropped_with_its_reason(given_limits, reason):
  prompt, answers = example(10, [6, 4])
  assert fit(prompt, answers, limits(**given_limits)) == (reason or (prompt, answers))


def test_prompts_are_cut_on_the_named_side_and_keep_their_bos():
  prompt, answers = example(6, [3])
  assert prompt == [BOS, 100, 101, 102, 103, 104]
  assert fit(prompt, answers, limits("truncate_left", prompt=3))[0] == [BOS, 103, 104]
  assert fit(prompt, answers, limits("truncate_right", prompt=3))[0] == [BOS, 100, 101]
  assert fit(prompt, answers, limits("truncate_left", prompt=1))[0] == [104]
  assert fit(prompt[1:], answers, limits("truncate_left", prompt=3))[0] == [102, 103, 104]


def test_a_cut_answer_ends_without_eos_and_a_whole_one_keeps_it():
  _, answers = fit(*example(4, [6, 3]), limits("truncate_left", answer=4))
  assert answers == [[200, 201, 202, 203], [200, 201, EOS]]


def test_the_prompt_gives_way_first_but_not_below_half():
  prompt, answers = fit(*example(10, [4, 3]), limits("truncate_right", example=10))
  assert (len(prompt), [len(a) for a in answers]) == (6, [4, 3])
  prompt, answers = fit(*example(10, [9, 3]), limits("truncate_right", example=10))
  assert (len(prompt), [len(a) for a in answers]) == (5, [5, 3])
  prompt, answers = fit(*example(2, [30, 20, 1]), limits("truncate_right", row=13))
  assert (len(prompt), [len(a) for a in answers]) == (2, [5, 5, 1])


@given(
  st.integers(1, 30),
  st.lists(st.integers(1, 30), min_size=1, max_size=4),
  st.sampled_from(["truncate_left", "truncate_right"]),
  st.tuples(*[st.integers(0, 25)] * 4),
)
def test_truncation_meets_every_limit_or_gives_up(prompt_length, lengths, side, numbers):
  prompt, answers = example(prompt_length, lengths)
  given_limits = limits(side, *numbers)
  fitted = fit(prompt, answers, given_limits)
  if isinstance(fitted, str):
    assert fitted == "example_too_long"
    return
  cut, cut_answers = fitted
  assert 1 <= len(cut) <= (given_limits.prompt or len(cut))
  longest = max(map(len, cut_answers))
  assert longest <= (given_limits.answer or longest)
  assert len(cut) + longest <= (given_limits.example or 10**9)
  assert len(cut) + sum(map(len, cut_answers)) <= (given_limits.row or 10**9)
  for whole, short in zip(answers, cut_answers, strict=True):
    assert short == whole[: len(short)] and short
    assert (short[-1] == EOS) == (len(short) == len(whole))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 60))
def test_the_cap_is_the_largest_that_fits(lengths, total):
  def fits(cap):
    return sum(min(n, cap) for n in lengths) <= total

  best = max(cap for cap in range(0, max(lengths) + 1) if fits(cap))
  assert longest_within(lengths, total) == best
