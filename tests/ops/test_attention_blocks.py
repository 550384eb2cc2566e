import jax
import numpy as np
import pytest
from attention_rows import lay_out
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.ops.attention_blocks import key_lists, unpack, visible_blocks, visits

ROWS, BLOCKS, BLOCK = 2, 5, 8
blocks_of = jax.jit(visible_blocks, static_argnames=("block", "window"))
key_lists_of, visits_of = jax.jit(key_lists), jax.jit(visits)


def pairs(segment, answer, position, window):
  """bool[R, L, L], from the rule as written in `PackedBatch`."""
  index = np.arange(segment.shape[1])
  seen = (segment[:, :, None] == segment[:, None]) & (segment >= 0)[:, None] & (index[:, None] >= index[None])
  seen &= (answer < 0)[:, None] | (answer[:, :, None] == answer[:, None])
  return seen & (position[:, :, None] - position[:, None] < (window or np.inf))


def expected_blocks(arrays, window):
  seen = pairs(*arrays, window)
  return seen.reshape(len(seen), BLOCKS, BLOCK, BLOCKS, BLOCK).any((2, 4))


# Runs of tokens of one segment and answer, in any order and with any positions: what no packer makes must be right too.
run = st.tuples(st.integers(-1, 3), st.integers(-1, 3), st.integers(0, 9), st.integers(1, 12))


@pytest.mark.slow
@settings(max_examples=100)
@given(runs=st.lists(run, max_size=20), window=st.sampled_from([None, 1, 3]), seed=st.integers(0, 99))
def test_exactly_the_blocks_with_a_visible_pair(runs, window, seed):
  segment, answer = np.full((2, ROWS * BLOCKS * BLOCK), -1, np.int32)
  position = np.zeros(ROWS * BLOCKS * BLOCK, np.int32)
  at = 0
  for s, a, p, length in runs:
    run = slice(at, min(at + length, len(segment)))
    segment[run], answer[run] = s, a
    position[run] = p + np.random.default_rng(seed).permutation(length)[: run.stop - run.start]
    at = run.stop
  arrays = [x.reshape(ROWS, -1) for x in (segment, answer, position)]
  expected = expected_blocks(arrays, window)
  assert np.array_equal(blocks_of(*arrays, block=BLOCK, window=window), expected)

  count, lists = key_lists_of(expected)
  for i in range(BLOCKS):
    assert np.array_equal(lists[i, : count[i]], np.flatnonzero(expected.any(0)[i]))

  for visible in (expected, expected.swapaxes(1, 2)):
    number, codes = visits_of(visible)
    codes = np.asarray(codes)
    found = np.stack(unpack(codes), 1)[: int(number)]
    assert np.array_equal(found, np.argwhere(visible) if visible.any() else np.zeros((1, 3)))
    assert unpack(codes[number])[0] >= ROWS  # what follows is of no row


def test_blocks_that_hold_only_siblings_are_skipped():
  # Prompt: block 0. Answers: blocks 1 and 2, 3 and 4.
  rows = lay_out([[(8, [16, 16])]], BLOCKS * BLOCK)
  visible = blocks_of(rows.segment, rows.answer, rows.position, block=BLOCK)
  assert np.argwhere(np.asarray(visible)[0]).tolist() == [
    [0, 0], [1, 0], [1, 1], [2, 0], [2, 1], [2, 2], [3, 0], [3, 3], [4, 0], [4, 3], [4, 4],
  ]  # fmt: skip
