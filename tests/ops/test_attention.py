import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_rows import LAYOUTS, Rows, brute_force, draw, lay_out, naive, together
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.ops.attention import packed_attention

pytestmark = pytest.mark.usefixtures("float64")

BATCHES = {"short": together("texts", "pairs", "rankings"), "long": LAYOUTS["long"]}
attend = jax.jit(packed_attention, static_argnames=("precision", "window"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("window,kv_heads", [(None, 1), (None, 4), (4, 2)])
def test_equals_brute_force(name, window, kv_heads):
  rows = BATCHES[name]
  q, k, v = draw(rows, kv_heads=kv_heads)
  out = attend(q, k, v, **rows.arrays(), precision="float32", window=window)
  assert out.dtype == np.float64
  np.testing.assert_allclose(out, brute_force(q, k, v, rows, window), atol=1e-13)


def test_segments_need_not_be_in_order():
  rows = LAYOUTS["long"]
  rows = Rows(np.where(rows.segment == 1, 7, rows.segment % 3), rows.answer, rows.position)
  rows.segment[:, 130:140] = -1
  arrays = draw(rows)
  out = attend(*arrays, **rows.arrays(), precision="float32")
  np.testing.assert_allclose(out, brute_force(*arrays, rows), atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("window", [None, 4])
def test_gradient_equals_autodiff_of_the_formula(name, window):
  rows = BATCHES[name]
  arrays = draw(rows)
  toward = np.random.default_rng(1).normal(size=arrays[0].shape)

  def gradient(attention):
    return jax.jit(jax.grad(lambda x: jnp.sum(toward * attention(*x, **rows.arrays(), window=window))))(arrays)

  found = gradient(functools.partial(packed_attention, precision="float32"))
  for a, b in zip(found, gradient(naive), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.slow
def test_bfloat16_is_the_same_function_rounded():
  rows = LAYOUTS["long"]
  q, k, v = draw(rows, width=64, dtype=np.float32)
  toward = np.random.default_rng(1).normal(size=q.shape).astype(np.float32)

  def value_and_gradient(precision, q, k, v):
    def f(x):
      out = packed_attention(*x, **rows.arrays(), precision=precision)
      return jnp.sum(toward * out), out

    (_, out), gradient = jax.jit(jax.value_and_grad(f, has_aux=True))((q, k, v))
    assert out.dtype == jnp.float32
    return (out, *gradient)

  for a, b in zip(value_and_gradient("bfloat16", q, k, v), value_and_gradient("float32", q, k, v), strict=True):
    assert 0 < np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b)


def test_empty_slots_give_zero_and_no_gradient():
  rows = LAYOUTS["pairs"]
  q, k, v = draw(rows)

  def f(q, k, v):
    return jnp.sum(packed_attention(q, k, v, **rows.arrays(), precision="float32") ** 2)

  out = attend(q, k, v, **rows.arrays(), precision="float32")
  empty = rows.segment < 0
  assert empty[2].all() and empty[0].any()
  assert np.all(np.asarray(out)[empty] == 0)
  for gradient in jax.jit(jax.grad(f, (0, 1, 2)))(q, k, v):
    assert np.all(np.isfinite(gradient))
    assert np.all(np.asarray(gradient)[empty] == 0)


# The shapes never change, so that each function is compiled once; the layouts are hypothesis's to choose.
answer_lengths = st.lists(st.integers(1, 5), min_size=1, max_size=5)
examples = st.lists(st.tuples(st.integers(0, 6), answer_lengths), min_size=1, max_size=3)


@jax.jit
def gradient_of_one_output(arrays, mask, i):
  return jax.grad(lambda x: jnp.sum(packed_attention(*x, **mask, precision="float32")[0, i]))(arrays)


@settings(max_examples=30, deadline=None)
@given(examples=examples, seed=st.integers(0, 99))
def test_a_later_token_is_never_seen(examples, seed):
  with jax.enable_x64(True):
    rows = lay_out([examples], 100)
    i = np.random.default_rng(seed).integers((rows.segment >= 0).sum())
    for gradient in gradient_of_one_output(draw(rows, seed=seed), rows.arrays(), i):
      assert np.all(np.asarray(gradient)[0, i + 1 :] == 0)
      assert np.all(np.isfinite(gradient))


@settings(max_examples=30, deadline=None)
@given(prompt=st.integers(0, 6), answers=answer_lengths, seed=st.integers(0, 99))
def test_an_answer_does_not_depend_on_its_siblings(prompt, answers, seed):
  with jax.enable_x64(True):
    rows = lay_out([[(2, [3, 1]), (prompt, answers), (1, [4])]], 60)
    arrays = draw(rows, seed=seed)
    mine = 2 + np.random.default_rng(seed).integers(len(answers))
    other = ~((rows.segment == 1) & ((rows.answer == -1) | (rows.answer == mine)))
    changed = [np.where(other[:, :, None, None], x + 1.0, x) for x in arrays]
    before = attend(*arrays, **rows.arrays(), precision="float32")
    after = attend(*changed, **rows.arrays(), precision="float32")
    assert np.array_equal(np.asarray(before)[rows.answer == mine], np.asarray(after)[rows.answer == mine])


@pytest.mark.slow
def test_a_shared_prompt_equals_a_repeated_one():
  shared = lay_out([[(7, [4, 3, 5])]], 24)
  repeated = lay_out([[(7, [4]), (7, [3]), (7, [5])]], 40)
  source = np.concatenate([np.r_[0:7, 7:11], np.r_[0:7, 11:14], np.r_[0:7, 14:19]])
  arrays = draw(shared)
  expected = np.asarray(attend(*arrays, **shared.arrays(), precision="float32"))[:, source]
  spread = [np.pad(x[:, source], [(0, 0), (0, 7), (0, 0), (0, 0)]) for x in arrays]
  out = attend(*spread, **repeated.arrays(), precision="float32")
  np.testing.assert_allclose(np.asarray(out)[:, : len(source)], expected, atol=1e-14)
