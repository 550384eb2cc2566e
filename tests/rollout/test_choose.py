"""The nucleus and the draw from it, against a sort in float64 and against exact frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.rollout.choose import _invert, choose_tokens, draw, nucleus

GRID = 1024  # probabilities k / 1024 are exact in float32, and so are their sums


def nucleus_by_sorting(probabilities: np.ndarray, top_p: float) -> np.ndarray:
  order = np.argsort(-probabilities, kind="stable")
  kept = np.zeros(len(probabilities), bool)
  mass = 0.0
  for token in order:
    if mass >= top_p:
      break
    kept[token] = True
    mass += probabilities[token]
  return kept


@st.composite
def distributions(draws):
  cuts = sorted(draws(st.lists(st.integers(0, GRID), min_size=0, max_size=11)))
  return np.diff([0, *cuts, GRID]) / GRID


@settings(max_examples=200, deadline=None)
@given(distributions(), st.integers(1, GRID))
def test_nucleus_is_the_smallest_set_with_the_mass(probabilities, numerator):
  top_p = numerator / GRID
  padded = np.zeros(12)
  padded[: len(probabilities)] = probabilities
  kept = np.asarray(jax.jit(nucleus)(padded.astype(np.float32)[None], np.float32(top_p)))[0]
  np.testing.assert_array_equal(kept, nucleus_by_sorting(padded, top_p))
  mass = padded[kept].sum()
  assert mass >= top_p > mass - padded[kept].min()


def test_crossing_token_included():
  probabilities = jnp.float32([[0.125, 0.5, 0.25, 0.125]])
  kept = [np.flatnonzero(nucleus(probabilities, jnp.float32(p))[0]).tolist() for p in (0.5, 0.501, 0.75, 0.8, 0.9)]
  assert kept == [[1], [1, 2], [1, 2], [0, 1, 2], [0, 1, 2, 3]]


def test_of_equal_tokens_the_first_are_kept():
  uniform = jnp.full((1, 4), 0.25)
  kept = [np.flatnonzero(nucleus(uniform, jnp.float32(p))[0]).tolist() for p in (0.25, 0.5, 0.6)]
  assert kept == [[0], [0, 1], [0, 1, 2]]


def frequencies(logits, temperature, top_p, count=40_000):
  keys = jax.random.split(jax.random.key(7), count)
  rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, len(logits)))
  tokens = choose_tokens(keys, rows, temperature=jnp.float32(temperature), top_p=jnp.float32(top_p))
  return np.bincount(tokens, minlength=len(logits))


def chi_square(observed, expected):
  inside = expected > 0
  assert observed[~inside].sum() == 0
  return np.sum((observed[inside] - expected[inside]) ** 2 / expected[inside]), inside.sum() - 1


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8), (1.0, 0.6), (1.0, 0.01)])
def test_frequencies_follow_the_tempered_nucleus(temperature, top_p):
  logits = np.array([0.3, -1.0, 1.2, 0.0, -3.0, 0.9, 0.3, -0.5, 2.0])
  weights = np.exp(logits / temperature)
  probabilities = weights / weights.sum()
  probabilities = np.where(nucleus_by_sorting(probabilities, top_p), probabilities, 0)
  count = 40_000
  statistic, freedom = chi_square(
    frequencies(logits, temperature, top_p, count), count * probabilities / probabilities.sum()
  )
  # Mean `freedom`, variance twice that; five deviations are far beyond what the fixed seed gives.
  assert statistic <= freedom + 5 * np.sqrt(2 * freedom)


def test_greedy_takes_the_first_largest():
  keys = jax.random.split(jax.random.key(0), 2)
  logits = jnp.float32([[0.0, 3.0, 3.0, -1.0], [5.0, 3.0, 3.0, -1.0]])
  tokens = choose_tokens(keys, logits, temperature=jnp.float32(0), top_p=jnp.float32(0.5))
  assert tokens.tolist() == [1, 0]


def test_draws_are_finer_than_one_uniform_number():
  """A float32 uniform number has 2^23 values: inverting one could reach only every fourth of 2^25 tokens."""
  keys = jax.random.split(jax.random.key(3), 1000)
  tokens = jax.vmap(draw, in_axes=(0, None))(keys, jnp.ones(2**25))
  statistic, freedom = chi_square(np.bincount(np.asarray(tokens) % 4, minlength=4), np.full(4, 250.0))
  assert statistic <= freedom + 5 * np.sqrt(2 * freedom)
  statistic, freedom = chi_square(np.bincount(np.asarray(tokens) >> 21, minlength=16), np.full(16, 62.5))
  assert statistic <= freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 17, 156])
def test_weight_zero_is_never_drawn_and_all_else_is(vocabulary):
  weights = np.arange(vocabulary) % 3 == 0
  keys = jax.random.split(jax.random.key(1), 4000)
  tokens = jax.vmap(draw, in_axes=(0, None))(keys, jnp.asarray(weights, jnp.float32))
  np.testing.assert_array_equal(np.unique(tokens), np.flatnonzero(weights))


def test_the_ends_of_the_uniform_interval_draw_something_possible():
  weights = jnp.float32([0, 0.3, 0, 0.7, 0])
  ends = jnp.float32(0), jnp.float32(1 - 2**-23)
  assert [int(_invert(end, weights)) for end in ends] == [1, 3]
