"""Top-k, the nucleus and the draw, against a sort in NumPy and against exact frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.rollout.choose import choose_tokens, column_sums, draw, everything, invert, is_leading, leading_tokens

GRID = 1024


def left_by_sorting(logits: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
  """bool[V] by a stable sort in float64: k most probable tokens, then of these the nucleus."""
  order = np.argsort(-logits.astype(np.float64), kind="stable")
  order = order[: top_k or len(order)]
  weights = np.exp(logits.astype(np.float64)[order] - logits.max())
  before = np.concatenate([[0.0], np.cumsum(weights)[:-1]]) / weights.sum()
  kept = np.zeros(len(logits), bool)
  kept[order[(before < top_p) | (top_p == 1)]] = True
  return kept


@jax.jit
def left(logits, top_k, top_p):
  return is_leading(logits, leading_tokens(logits, top_k, top_p))


@st.composite
def distributions(draws):
  """Probabilities k / GRID of 12 tokens, many of them equal, some nearly 0."""
  cuts = sorted(draws(st.lists(st.integers(0, GRID), min_size=0, max_size=11)))
  probabilities = np.zeros(12)
  probabilities[: len(cuts) + 1] = np.diff([0, *cuts, GRID]) / GRID
  return draws(st.permutations(probabilities.tolist()))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(distributions(), st.integers(0, 14), st.integers(1, GRID))
def test_what_is_left_is_what_a_sort_leaves(probabilities, top_k, numerator):
  logits = np.log(np.maximum(probabilities, 1e-30)).astype(np.float32)
  expected = left_by_sorting(logits, top_k, (numerator - 0.5) / GRID)
  if top_k:  # a share of a sum that is no power of 2 may lie on a sum of probabilities
    nearby = [left_by_sorting(logits, top_k, (numerator - 0.5) / GRID * (1 + e)) for e in (-1e-5, 1e-5)]
    if not np.array_equal(*nearby):
      return
  found = np.asarray(left(logits[None], np.int32(top_k), np.float32((numerator - 0.5) / GRID)))[0]
  np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_crossing_token_belongs_and_of_equal_tokens_the_first():
  logits = jnp.log(jnp.float32([[0.125, 0.5, 0.25, 0.125]]))
  kept = [np.flatnonzero(left(logits, 0, jnp.float32(p))[0]).tolist() for p in (0.49, 0.51, 0.74, 0.8, 0.9)]
  assert kept == [[1], [1, 2], [1, 2], [0, 1, 2], [0, 1, 2, 3]]
  equal = jnp.full((1, 4), -0.5)
  assert [np.flatnonzero(left(equal, 0, jnp.float32(p))[0]).tolist() for p in (0.24, 0.49, 0.6)] == [
    [0],
    [0, 1],
    [0, 1, 2],
  ]
  assert [np.flatnonzero(left(equal, k, jnp.float32(1))[0]).tolist() for k in (1, 3, 0)] == [
    [0],
    [0, 1, 2],
    [0, 1, 2, 3],
  ]


def test_rows_of_very_different_sizes_and_signs():
  draws = np.random.default_rng(0)
  logits = (draws.normal(size=(6, 500)) * [[1e-30], [1e-3], [1], [10], [1e4], [1e30]]).astype(np.float32)
  logits[:, ::50] = 0.0
  logits[:, 1::50] = -0.0
  for top_k in (1, 7, 255, 499):
    expected = [left_by_sorting(row, top_k, 1.0) for row in logits]
    np.testing.assert_array_equal(left(logits, np.int32(top_k), np.float32(1)), expected)


def drawn(logits, count=40_000, *, temperature=1.0, top_k=0, top_p=1.0):
  keys = jax.random.split(jax.random.key(7), count)
  rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, len(logits)))
  settings = dict(temperature=jnp.float32(temperature), top_k=jnp.int32(top_k), top_p=jnp.float32(top_p))
  return jax.jit(choose_tokens)(keys, rows, **settings)


def assert_drawn_from(tokens, probabilities):
  observed, count = np.bincount(tokens, minlength=len(probabilities)), len(tokens)
  inside = probabilities > 0
  assert observed[~inside].sum() == 0
  expected = count * probabilities[inside]
  statistic, freedom = np.sum((observed[inside] - expected) ** 2 / expected), inside.sum() - 1
  # Mean `freedom`, variance twice that; five deviations are far beyond what the fixed seed gives.
  assert statistic <= freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("temperature", "top_k", "top_p"),
  [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 0, 0.8), (1.0, 4, 1.0), (1.5, 6, 0.7), (1.0, 0, 0.01)],
)
def test_frequencies_and_logps_follow_the_tempered_distribution(temperature, top_k, top_p):
  logits = np.array([0.3, -1.0, 1.2, 0.0, -3.0, 0.9, 0.3, -0.5, 2.0])
  weights = np.exp(logits / temperature)
  kept = np.where(left_by_sorting(logits / temperature, top_k, top_p), weights, 0)
  tokens, logp = drawn(logits, temperature=temperature, top_k=top_k, top_p=top_p)
  assert_drawn_from(tokens, kept / kept.sum())
  np.testing.assert_allclose(logp, np.log(weights / weights.sum())[tokens], atol=1e-6)


@pytest.mark.slow
def test_greedy_takes_the_first_largest_at_temperature_one():
  keys = jax.random.split(jax.random.key(0), 2)
  logits = jnp.float32([[0.0, 3.0, 3.0, -1.0], [5.0, 3.0, 3.0, -1.0]])
  tokens, logp = choose_tokens(keys, logits, temperature=jnp.float32(0), top_k=jnp.int32(2), top_p=jnp.float32(0.5))
  assert tokens.tolist() == [1, 0]
  np.testing.assert_allclose(logp, jax.nn.log_softmax(logits)[jnp.arange(2), tokens], atol=1e-6)


@pytest.mark.slow
def test_draws_are_finer_than_one_uniform_number():
  """A float32 uniform number has 2^23 values: inverting one could reach only every fourth of 2^25 tokens."""
  logits = jnp.zeros((1, 2**25))
  sums, largest = column_sums(jnp.ones_like(logits)), jnp.zeros((1, 1))
  one = lambda key: draw(key[None], logits, largest, everything(logits), sums)[0]  # noqa: E731
  tokens = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(3), 1000)))
  assert_drawn_from(tokens % 4, np.full(4, 0.25))
  assert_drawn_from(tokens >> 21, np.full(16, 1 / 16))


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [1, 2, 3, 17, 156, 157])
def test_what_is_left_out_is_never_drawn_and_all_else_is(vocabulary):
  wanted = -(-vocabulary // 3)
  logits = np.where(np.arange(vocabulary) % 3 == 0, 1.0, 0.0)
  tokens, _ = drawn(logits, 6000, top_k=wanted)
  np.testing.assert_array_equal(np.unique(tokens), np.arange(0, vocabulary, 3))
  np.testing.assert_array_equal(np.unique(drawn(0 * logits, 6000)[0]), np.arange(vocabulary))


def test_the_ends_of_the_uniform_interval_draw_something_possible():
  weights = jnp.float32([[0, 0.3, 0, 0.7, 0]])
  ends = jnp.float32([0]), jnp.float32([1 - 2**-24])
  assert [int(invert(end, weights)[0]) for end in ends] == [1, 3]
