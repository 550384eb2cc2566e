"""Packed rows of a roll-out: whatever the lengths and the minibatches, every token is read once, in its own row."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.errors import ConfigError, DataError
from dpojax.rollout.packed_rows import PackedRows, minibatch_shape, split_rows

LENGTH, LONGEST, SAMPLES = 40, 9, 5


@st.composite
def rollouts(draw):
  """(prompts, answers of each, minibatches, rows of a group) whose answers do not all fit one row together."""
  minibatches = draw(st.integers(1, 4))
  count = minibatches * draw(st.integers(1, 4))
  token = st.integers(1, 99)
  prompts = draw(st.lists(st.lists(token, min_size=2, max_size=12), min_size=count, max_size=count))
  answer = st.lists(token, min_size=1, max_size=LONGEST)
  answers = draw(st.lists(st.lists(answer, min_size=SAMPLES, max_size=SAMPLES), min_size=count, max_size=count))
  as_ids = lambda ids: np.asarray(ids, np.int32)  # noqa: E731
  return list(map(as_ids, prompts)), [list(map(as_ids, a)) for a in answers], minibatches, draw(st.integers(1, 3))


def shape_for(prompts, minibatches, rows, longest=12, shortest=2):
  return minibatch_shape(
    prompts=len(prompts),
    samples=SAMPLES,
    longest_prompt=longest,
    shortest_prompt=shortest,
    max_tokens=LONGEST,
    minibatches=minibatches,
    rows=rows,
    length=LENGTH,
  )


def walk(batch):
  """(prompt, answer) of every answer slot of a packed step, read off tokens, segments and answers alone."""
  found = []
  for tokens, segment, answer in zip(
    *(x.reshape(-1, x.shape[-1]) for x in (batch.tokens, batch.segment, batch.answer)), strict=True
  ):
    for slot in sorted(set(answer[answer >= 0].tolist())):
      own = answer == slot
      prompt = (segment == segment[own][0]) & (answer == -1)
      found.append((tuple(tokens[prompt].tolist()), tuple(tokens[own].tolist())))
  return found


@settings(max_examples=40)
@given(rollouts(), st.integers(0, 9))
def test_a_pass_holds_every_answer_once_whatever_the_minibatches(rollout, seed):
  prompts, answers, minibatches, rows = rollout
  packed = PackedRows(prompts, answers, shape_for(prompts, minibatches, rows))
  order = np.random.default_rng(seed).permutation(packed.count)
  parts = split_rows(packed.count, minibatches, order)
  assert all(len(part) for part in parts)  # a step of no rows would move by momentum
  assert np.concatenate(parts).tolist() == order.tolist()
  assert max(map(len, parts)) - min(map(len, parts)) <= 1
  seen = [pair for part in parts for pair in walk(packed.batch(part))]
  given = [(tuple(p.tolist()), tuple(a.tolist())) for p, several in zip(prompts, answers, strict=True) for a in several]
  assert sorted(seen) == sorted(given)
  assert packed.tokens.sum() == sum(len(prompt) + len(answer) for prompt, answer in given)


@settings(max_examples=40)
@given(rollouts(), st.integers(0, 9))
def test_values_go_to_the_slots_that_score_their_tokens_and_back(rollout, seed):
  prompts, answers, minibatches, rows = rollout
  packed = PackedRows(prompts, answers, shape_for(prompts, minibatches, rows))
  flat = [answer for several in answers for answer in several]
  assert packed.mask.sum(axis=1).tolist() == [len(answer) for answer in flat]
  # A value of each token that says whose it is, and the token: what the slot holds is compared with what it scores.
  names = np.zeros(packed.mask.shape, np.int64)
  names[packed.mask] = np.arange(1, packed.mask.sum() + 1)
  written = np.zeros(packed.mask.shape, np.int32)
  written[packed.mask] = np.concatenate(flat)
  slots = packed.by_slot(names)
  assert np.array_equal(packed.by_token(slots), names)
  assert np.array_equal(slots > 0, packed.filled)
  noise = np.random.default_rng(seed).normal(size=slots.shape)
  assert np.array_equal(packed.by_slot(packed.by_token(noise)), np.where(packed.filled, noise, 0))
  everything = packed.batch(np.arange(0))
  assert everything.num_groups == 0 and not everything.filled.any()
  for part in split_rows(packed.count, minibatches, np.arange(packed.count)):
    batch = packed.batch(part, {"advantage": slots[part].astype(float), "old_value": packed.by_slot(written)[part]})
    assert np.array_equal(batch.old_value[batch.filled], batch.target[batch.filled])
    assert np.array_equal(batch.advantage.reshape(-1, slots.shape[1])[: len(part)], slots[part])
    assert np.array_equal(packed.rows_of(batch.advantage, len(part)), slots[part])


@settings(max_examples=25)
@given(rollouts(), st.data())
def test_a_minibatch_is_the_rows_that_were_chosen_in_their_order(rollout, data):
  prompts, answers, minibatches, rows = rollout
  shape = shape_for(prompts, minibatches, rows)
  packed = PackedRows(prompts, answers, shape)
  alone = [packed.batch(np.asarray([row])) for row in range(packed.count)]
  most = shape.groups * shape.rows
  unique = st.lists(st.integers(0, packed.count - 1), unique=True, min_size=1, max_size=min(most, packed.count))
  chosen = np.asarray(data.draw(unique))
  batch = packed.batch(chosen)
  assert batch.num_groups == -(-len(chosen) // rows)
  for field in dataclasses.fields(batch):
    value = getattr(batch, field.name)
    if isinstance(value, np.ndarray) and value.ndim > 1:
      flat = value.reshape(-1, value.shape[-1])
      for place, row in enumerate(chosen):
        assert np.array_equal(flat[place], getattr(alone[row], field.name)[0, 0]), field.name
      assert not np.any(flat[len(chosen) :] != getattr(packed.batch(chosen[:0]), field.name)[0, 0]), field.name


@settings(max_examples=25)
@given(rollouts(), rollouts())
def test_the_shape_is_the_same_in_every_roll_out(one, other):
  """Another would compile the step anew."""
  prompts, _, minibatches, rows = one
  shape = shape_for(prompts, minibatches, rows)

  def shapes(prompts, answers):
    packed = PackedRows(prompts, answers, shape)
    parts = split_rows(packed.count, minibatches, np.arange(packed.count))
    return {
      tuple((f.name, np.shape(value)) for f in dataclasses.fields(b) if (value := getattr(b, f.name)) is not None)
      for b in map(packed.batch, parts)
    }

  others = [other[0][i % len(other[0])] for i in range(len(prompts))]
  texts = [other[1][i % len(other[1])] for i in range(len(prompts))]
  assert shapes(*one[:2]) == shapes(others, texts)
  assert len(shapes(*one[:2])) == 1


def test_a_prompt_is_paid_once_for_the_answers_that_share_its_row():
  shape = minibatch_shape(
    prompts=2, samples=4, longest_prompt=6, shortest_prompt=5, max_tokens=8, minibatches=1, rows=1, length=24
  )
  assert (shape.answers, shape.groups, shape.examples) == (2, 4, 4)  # 6 + 2 * 8 fit a row of 24, 6 + 3 * 8 do not
  prompts = [np.arange(10, 16), np.arange(20, 25)]
  answers = [[np.asarray([30 + 4 * p + k, 2]) for k in range(4)] for p in range(2)]
  rows = PackedRows(prompts, answers, shape)
  batch = rows.batch(np.arange(rows.count))
  held = batch.tokens[batch.segment >= 0]
  # Two chunks of two answers each: the prompt stands before every chunk, and not before every answer.
  assert np.sum(held == 10) == 2 and np.sum(held == 20) == 2
  assert np.sum(batch.segment >= 0) == 2 * (6 + 5) + 8 * 2
  for number in range(8):
    values = np.zeros(rows.mask.shape)
    values[number] = 1.0
    at = rows.by_slot(values) > 0
    assert batch.target.reshape(-1, shape.scored)[: rows.count][at].tolist() == [30 + number, 2]


def test_more_samples_than_a_row_holds_are_divided_and_stay_in_order():
  shape = minibatch_shape(
    prompts=1, samples=7, longest_prompt=4, shortest_prompt=4, max_tokens=5, minibatches=1, rows=2, length=19
  )
  assert shape.answers == 3
  answers = [np.full(1 + n % 5, 40 + n, np.int32) for n in range(7)]
  rows = PackedRows([np.arange(4)], [answers], shape)
  everything = rows.batch(np.arange(rows.count))
  assert np.sum(everything.answer_end > 0) == 7 and np.sum(everything.example_index >= 0) == 3
  written = rows.by_token(everything.target.reshape(-1, shape.scored)[: rows.count])
  assert [row[mask].tolist() for row, mask in zip(written, rows.mask, strict=True)] == [a.tolist() for a in answers]


def test_a_row_that_holds_no_answer_names_the_keys():
  with pytest.raises(ConfigError, match=r"batch.row_length=16 .*\(10 tokens\).*rollout.max_tokens=8.*data.max_prompt"):
    minibatch_shape(
      prompts=2, samples=1, longest_prompt=10, shortest_prompt=3, max_tokens=8, minibatches=1, rows=1, length=16
    )


def test_an_answer_longer_than_the_shape_was_made_for_is_an_error():
  shape = shape_for([0], 1, 1)
  with pytest.raises(DataError, match=r"do not fit a row of 40; raise batch.row_length"):
    PackedRows([np.arange(12)], [[np.arange(29)]], shape)
