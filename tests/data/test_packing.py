"""Packing: every example can be read back from its row, whatever the lengths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.config.schema import BatchSettings
from dpojax.data import BatchShape, TokenDataset, TokenExample, choose_shape, pack
from dpojax.data.packing import plan_rows
from dpojax.errors import DataError

ids = st.lists(st.integers(0, 99), min_size=1, max_size=12)
example_lists = st.lists(st.tuples(ids, st.lists(ids, min_size=1, max_size=4)), min_size=1, max_size=12)


def read_back(batch, num_answers):
  """{index: (prompt, answers)} by walking each answer alone: its segment's prompt tokens, then its own.

  Checks on the way that positions count up along that walk and that the scored slots of the answer
  are exactly (place of the predecessor, token) in order.
  """
  found = {}
  for g in range(batch.tokens.shape[0]):
    for r in range(batch.tokens.shape[1]):
      answer_row, segment_row = batch.answer[g, r], batch.segment[g, r]
      for slot in sorted(set(answer_row[answer_row >= 0].tolist())):
        own = np.flatnonzero(answer_row == slot)
        segment = segment_row[own[0]]
        prompt = np.flatnonzero((segment_row == segment) & (answer_row == -1))
        walk = np.concatenate([prompt, own])
        assert (np.diff(walk) > 0).all()
        assert batch.position[g, r, walk].tolist() == list(range(len(walk)))
        scored = np.flatnonzero(batch.answer_of[g, r] == slot)
        assert batch.scored_at[g, r, scored].tolist() == walk[len(prompt) - 1 : -1].tolist()
        assert batch.target[g, r, scored].tolist() == batch.tokens[g, r, own].tolist()
        assert batch.answer_end[g, r, slot] == own[-1]
        index = int(batch.example_index[g, r, slot // num_answers])
        prompts, answers = found.setdefault(index, ([], {}))
        prompts.append(batch.tokens[g, r, prompt].tolist())
        answers[slot % num_answers] = batch.tokens[g, r, own].tolist()
  return found


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(example_lists, st.integers(1, 4), st.booleans())
def test_every_example_reads_back_from_its_row(raw, rows, share_prompt):
  dataset = TokenDataset.from_examples(raw)
  batch_settings = BatchSettings(size=len(raw), rows=rows, row_length=128, share_prompt=share_prompt)
  shape = choose_shape(dataset, batch_settings)
  batch = pack([dataset[i] for i in range(len(raw))], shape, share_prompt=share_prompt)

  found = read_back(batch, shape.answers)
  assert sorted(found) == list(range(len(raw)))
  for index, (prompt, answers) in enumerate(raw):
    prompts, read = found[index]
    assert all(p == prompt for p in prompts)
    assert [read[k] for k in sorted(read)] == answers


@settings(max_examples=40, deadline=None)
@given(example_lists, st.booleans())
def test_a_scored_prompt_is_the_last_answer_slot_and_leaves_the_answers_as_they_are(raw, share_prompt):
  dataset = TokenDataset.from_examples(raw)
  batch_settings = BatchSettings(size=len(raw), rows=2, row_length=128, share_prompt=share_prompt)
  shape = choose_shape(dataset, batch_settings, score_prompt=True)
  assert shape.answers == dataset.num_answers + 1
  batch = pack([dataset[i] for i in range(len(raw))], shape, share_prompt=share_prompt)
  assert batch.score_prompt
  found = read_back(batch, shape.answers)
  assert {i: [read[k] for k in sorted(read)] for i, (_, read) in found.items()} == {
    i: answers for i, (_, answers) in enumerate(raw)
  }
  slots = locate_prompts(batch)
  assert slots == {i: prompt[1:] for i, (prompt, _) in enumerate(raw)}


def locate_prompts(batch):
  """{index: scored prompt tokens}, checking that each is predicted at its predecessor in the row."""
  found = {}
  for g, r, e in np.argwhere(batch.example_index >= 0):
    scored = np.flatnonzero(batch.answer_of[g, r] == (e + 1) * batch.answers_per_example - 1)
    at, target = batch.scored_at[g, r, scored], batch.target[g, r, scored]
    assert batch.tokens[g, r, at + 1].tolist() == target.tolist()
    assert (batch.answer[g, r, at + 1] == -1).all()
    assert (batch.segment[g, r, at + 1] == batch.segment[g, r, at]).all()
    found[int(batch.example_index[g, r, e])] = target.tolist()
  return found


def test_what_was_observed_of_an_example_travels_with_it():
  given = [TokenExample(np.arange(3), (np.arange(2), np.arange(4)), weight=0.5, label=0.5, margin=1.25)]
  batch = pack(given, BatchShape(1, 1, 16, 8, 2, 2))
  assert batch.example_label.tolist() == [[[0.5, 0.0]]]
  assert batch.example_margin.tolist() == [[[1.25, 0.0]]]
  assert batch.answer_end.tolist() == [[[4, 8, 0, 0]]]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(example_lists, st.integers(1, 3))
def test_empty_places_hold_the_documented_fillers(raw, rows):
  dataset = TokenDataset.from_examples(raw)
  shape = choose_shape(dataset, BatchSettings(size=len(raw), rows=rows, row_length=96))
  batch = pack([dataset[i] for i in range(len(raw))], shape)

  empty = batch.segment == -1
  assert empty.sum() == empty.size - sum(dataset[i].row_tokens() for i in range(len(raw)))
  for field in (batch.tokens, batch.position):
    assert (field[empty] == 0).all()
  assert (batch.answer[empty] == -1).all()
  unscored = batch.answer_of == shape.examples * shape.answers
  assert unscored.sum() == unscored.size - sum(dataset[i].scored for i in range(len(raw)))
  assert (batch.scored_at[unscored] == 0).all() and (batch.target[unscored] == 0).all()
  assert (batch.example_weight[batch.example_index == -1] == 0).all()
  used = (batch.segment >= 0).any(axis=(1, 2))
  assert used.tolist() == [g < batch.num_groups for g in range(shape.groups)]


def test_the_picture_of_the_container():
  """The row drawn in `PackedBatch`, by hand."""
  dataset = TokenDataset.from_examples([([10, 11, 12], [[1, 2], [3, 4, 5]]), ([20, 21], [[6, 7], [8, 9, 6]])])
  shape = BatchShape(groups=1, rows=1, length=16, scored=12, examples=2, answers=2)
  batch = pack([dataset[0], dataset[1]], shape)
  assert batch.tokens[0, 0].tolist() == [10, 11, 12, 1, 2, 3, 4, 5, 20, 21, 6, 7, 8, 9, 6, 0]
  assert batch.position[0, 0].tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 2, 3, 2, 3, 4, 0]
  assert batch.segment[0, 0].tolist() == [0] * 8 + [1] * 7 + [-1]
  assert batch.answer[0, 0].tolist() == [-1, -1, -1, 0, 0, 1, 1, 1, -1, -1, 2, 2, 3, 3, 3, -1]
  assert batch.scored_at[0, 0].tolist() == [2, 3, 2, 5, 6, 9, 10, 9, 12, 13, 0, 0]
  assert batch.target[0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 6, 0, 0]
  assert batch.answer_of[0, 0].tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4]
  assert int(batch.num_groups) == 1


def test_repeated_prompts_get_one_segment_an_answer():
  dataset = TokenDataset.from_examples([([10, 11], [[1, 2], [3]])])
  shape = BatchShape(groups=1, rows=1, length=8, scored=4, examples=1, answers=2)
  batch = pack([dataset[0]], shape, share_prompt=False)
  assert batch.tokens[0, 0].tolist() == [10, 11, 1, 2, 10, 11, 3, 0]
  assert batch.segment[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, -1]
  assert batch.answer[0, 0].tolist() == [-1, -1, 0, 0, -1, -1, 1, -1]
  assert batch.scored_at[0, 0].tolist() == [1, 2, 5, 0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 60), st.integers(1, 40)), min_size=1, max_size=40), st.integers(1, 6))
def test_plans_respect_every_capacity_and_miss_nothing(sizes, most):
  tokens, scored = [t for t, _ in sizes], [min(s, t - 1) for t, s in sizes]
  plan = plan_rows(tokens, scored, length=60, slots=40, examples=most)
  assert sorted(i for row in plan for i in row) == list(range(len(sizes)))
  for row in plan:
    assert sum(tokens[i] for i in row) <= 60
    assert sum(scored[i] for i in row) <= 40
    assert len(row) <= most


def test_a_plan_is_as_short_as_the_best_of_brute_force_on_small_cases():
  rng = np.random.default_rng(0)
  for _ in range(20):
    tokens = rng.integers(2, 10, 6).tolist()
    plan = plan_rows(tokens, tokens, length=12, slots=12, examples=6)
    assert len(plan) <= fewest_rows(tokens, 12) + 1  # first- and best-fit decreasing: 11/9 of the optimum + 6/9


def test_nearby_orders_save_rows():
  rng = np.random.default_rng(1)
  steps = [np.clip(rng.lognormal(5.3, 0.6, 32).astype(int), 1, 1000).tolist() for _ in range(20)]  # as in HH
  counts = {
    tries: sum(len(plan_rows(tokens, tokens, length=1024, slots=1024, examples=32, tries=tries)) for tokens in steps)
    for tries in (0, None)
  }
  assert counts[None] < counts[0]


def fewest_rows(tokens, length):
  best = len(tokens)
  for code in range(len(tokens) ** len(tokens) // 6):
    rows, left = {}, code
    for t in tokens:
      rows[left % 6] = rows.get(left % 6, 0) + t
      left //= 6
    if max(rows.values()) <= length:
      best = min(best, len(rows))
  return best


@pytest.mark.parametrize(
  ("prompt", "answers", "message"),
  [
    ([], [[1]], "example 0: the prompt is empty, so nothing predicts an answer's first token; begin it with the BOS"),
    ([1], [[2], []], "example 0: an answer is empty; an answer needs at least its EOS token"),
    ([1], [], "example 0: an answer is empty"),
    ([1] * 30, [[2], [3]], "example 0: its 32 tokens do not fit a row of 24; raise batch.row_length or set data.max_"),
    ([1], [[2] * 5, [3] * 6], "example 0: its 11 answer tokens do not fit 10 scored slots; raise batch.scored"),
    ([1], [[2], [3], [4]], "example 0: it has 3 answers, but the batch has room for 2"),
  ],
)
def test_an_example_that_cannot_be_packed_is_named(prompt, answers, message):
  example = TokenExample(np.asarray(prompt, np.int32), tuple(np.asarray(a, np.int32) for a in answers))
  shape = BatchShape(groups=1, rows=1, length=24, scored=10, examples=1, answers=2)
  with pytest.raises(DataError, match=message):
    pack([example], shape)
