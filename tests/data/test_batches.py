"""Steps: pure in (fingerprint, seed, step), nothing dropped; shapes and fill; background computation."""

import threading
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.config.schema import BatchSettings
from dpojax.data import Batches, TokenDataset, choose_shape, prefetch
from dpojax.errors import DataError


def lognormal_pairs(count, seed=0):
  """Pairs with lengths like those of HH: about 100 prompt tokens and 2 answers of 44."""
  rng = np.random.default_rng(seed)

  def ids(mean):
    return rng.integers(0, 50, min(300, 1 + int(rng.lognormal(np.log(mean), 0.7))))

  return TokenDataset.from_examples([(ids(80), [ids(35), ids(35)]) for _ in range(count)])


def members(batch):
  return sorted(batch.example_index[batch.example_index >= 0].tolist())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 3), st.integers(1, 5))
def test_every_epoch_of_the_stream_holds_each_example_once(count, size, seed, epochs):
  batches = Batches(lognormal_pairs(count), BatchSettings(size=size, rows=2, row_length=1024, seed=seed))
  stream = np.concatenate([batches.indices(step) for step in range(-(-count * epochs // size))])
  for epoch in range(epochs):
    assert sorted(stream[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))


def test_a_step_does_not_depend_on_what_was_asked_before():
  dataset, batch = lognormal_pairs(50), BatchSettings(size=16, rows=2)
  straight, jumping = Batches(dataset, batch), Batches(dataset, batch)
  expected = [straight(step) for step in range(9)]
  for step in (8, 0, 5, 3, 3, 7):
    jax.tree.map(np.testing.assert_array_equal, jumping(step), expected[step])


def test_order_follows_seed_and_data():
  dataset = lognormal_pairs(64)
  first = Batches(dataset, BatchSettings(size=32)).indices(0)
  assert (first != Batches(dataset, BatchSettings(size=32, seed=1)).indices(0)).any()
  assert (first != Batches(lognormal_pairs(64, seed=1), BatchSettings(size=32)).indices(0)).any()
  assert (first != Batches(dataset, BatchSettings(size=32)).indices(2)).any()


def test_the_order_is_pinned():
  """A changed permutation would silently change every resumed run."""
  dataset = TokenDataset.from_examples([([1], [[i]]) for i in range(6)])
  batches = Batches(dataset, BatchSettings(size=4, rows=1, row_length=8))
  assert batches.indices(0).tolist() + batches.indices(1).tolist() == [3, 4, 2, 5, 0, 1, 1, 0]


def test_in_order_gives_each_example_once_in_one_shape():
  batches = Batches(lognormal_pairs(21), BatchSettings(size=8, rows=2))
  steps = list(batches.in_order())
  assert [members(step) for step in steps] == [list(range(8)), list(range(8, 16)), list(range(16, 21))]
  assert len({tuple(leaf.shape for leaf in jax.tree.leaves(step)) for step in steps}) == 1


def test_hh_like_lengths_fill_rows():
  batches = Batches(lognormal_pairs(1000), BatchSettings(size=32, rows=1))
  fill = batches.fill()
  assert fill.rows >= 0.88
  assert fill.rows == fill.groups  # one row a group: nothing computed is empty
  assert fill.scored >= 0.6


def test_fill_is_what_the_batches_show():
  batches = Batches(lognormal_pairs(100), BatchSettings(size=16, rows=2))
  packed = [batches(step) for step in range(4)]
  fill = batches.fill(steps=4)
  tokens = sum((b.segment >= 0).sum() for b in packed)
  rows = sum((b.segment >= 0).any(-1).sum() for b in packed)
  scored = sum((b.answer_of < batches.shape.examples * 2).sum() for b in packed)
  assert fill.rows == pytest.approx(tokens / (rows * 1024))
  assert fill.scored == pytest.approx(scored / (rows * batches.shape.scored))
  assert fill.groups_per_step == np.mean([b.num_groups for b in packed])
  assert fill.groups == pytest.approx(tokens / (fill.groups_per_step * 4 * 2 * 1024))


def test_the_shape_takes_the_longest_example_of_both_splits():
  train = TokenDataset.from_examples([([1] * 10, [[2] * 20, [3] * 20])] * 8)
  held_out = TokenDataset.from_examples([([1] * 10, [[2] * 300, [3] * 200, [4]])])
  batch = BatchSettings(size=8, rows=2)
  assert choose_shape(train, batch).answers == 2
  shape = choose_shape(train, batch, held_out)
  assert shape.scored >= 501 and shape.scored % 64 == 0 and shape.answers == 3
  Batches(held_out, batch, shape)
  with pytest.raises(DataError, match="example 0: its 501 answer tokens do not fit"):
    Batches(held_out, batch, choose_shape(train, batch))


def test_settings_override_the_chosen_capacities():
  shape = choose_shape(lognormal_pairs(50), BatchSettings(size=9, rows=2, scored=700, examples=3))
  assert (shape.groups, shape.rows, shape.scored, shape.examples) == (5, 2, 700, 3)


def test_no_examples_is_said_plainly():
  with pytest.raises(DataError, match="no examples to pack: all rows were dropped"):
    Batches(TokenDataset.from_examples([]), BatchSettings())


def test_prefetch_keeps_order_and_limits_what_waits():
  asked = []
  stream = prefetch(lambda step: asked.append(step) or step * step, 3, 20, depth=2)
  assert next(stream) == (3, 9)
  time.sleep(0.1)
  assert max(asked) <= 3 + 1 + 2 + 1  # given, computing, waiting
  assert list(stream) == [(step, step * step) for step in range(4, 20)]


def test_prefetch_raises_where_the_step_would_have_come():
  def function(step):
    if step == 2:
      raise DataError("row 7 is wrong")
    return step

  stream = prefetch(function, 0, 5)
  assert [next(stream)[0], next(stream)[0]] == [0, 1]
  with pytest.raises(DataError, match="row 7 is wrong"):
    next(stream)


def test_leaving_early_ends_the_thread():
  before = threading.active_count()
  for _, value in prefetch(lambda step: step, 0, 1000):
    if value == 3:
      break
  deadline = time.time() + 5
  while threading.active_count() > before and time.time() < deadline:
    time.sleep(0.01)
  assert threading.active_count() == before
