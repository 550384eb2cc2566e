import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.ops import logprobs
from dpojax.ops.logprobs import scored_logps, token_kl

jitted_scored_logps = jax.jit(scored_logps, static_argnames=("chunk", "precision"))
jitted_token_kl = jax.jit(token_kl, static_argnames=("chunk", "precision"))


def draw(number=13, width=8, words=37, seed=0, scale=1.0, dtype=np.float64):
  random = np.random.default_rng(seed)
  hidden = random.normal(size=(number, width)) * scale
  head = random.normal(size=(words, width))
  return hidden.astype(dtype), head.astype(dtype), random.integers(0, words, number).astype(np.int32)


def log_softmax(hidden, head):
  logits = hidden @ head.T
  top = logits.max(-1, keepdims=True)
  return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


@pytest.fixture(params=[4096, 7, "gpu"])
def tiles(request, monkeypatch):
  """Slots of a row in a block. Pieces of the vocabulary: one of its 37 words, six with padding, or a GPU's."""
  if request.param == "gpu":
    monkeypatch.setattr(logprobs._Tiles, "on_cpu", logprobs._Tiles.on_gpu)
    return lambda slots: -(-slots // logprobs.GPU_BLOCKS)
  monkeypatch.setattr(logprobs, "WORDS", request.param)
  return lambda slots: logprobs.SLOTS


@pytest.fixture
def tiles_of_a_processor(monkeypatch):
  """Nothing of what a GPU would do is traced."""
  monkeypatch.setattr(logprobs._Tiles, "on_gpu", logprobs._Tiles.on_cpu)


@pytest.mark.slow
@pytest.mark.usefixtures("float64", "tiles")
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_equals_brute_force(chunk):
  hidden, head, target = draw()
  scored = scored_logps(hidden, head, target, chunk=chunk, precision="float32")
  expected = log_softmax(hidden, head)
  np.testing.assert_allclose(scored.logp, expected[np.arange(13), target], atol=1e-13)
  np.testing.assert_allclose(scored.entropy, -(np.exp(expected) * expected).sum(-1), atol=1e-13)
  np.testing.assert_allclose(scored.mean_logit, (hidden @ head.T).mean(-1), atol=1e-13)
  assert np.array_equal(scored.correct, expected.argmax(-1) == target)
  assert all(x.dtype == np.float64 and x.shape == (13,) for x in jax.tree.leaves(scored))


@pytest.mark.slow
def test_correct_is_not_constant():
  hidden, head, _ = draw(dtype=np.float32)
  best = (hidden @ head.T).argmax(-1).astype(np.int32)
  target = np.where(np.arange(13) % 2 == 0, best, (best + 1) % 37).astype(np.int32)
  scored = scored_logps(hidden, head, target, chunk=4, precision="float32")
  assert np.array_equal(scored.correct, np.arange(13) % 2 == 0)


@pytest.mark.slow
@pytest.mark.usefixtures("float64", "tiles")
@pytest.mark.parametrize("chunk", [4, 13])
def test_gradient_equals_autodiff_of_the_formula(chunk):
  hidden, head, target = draw()
  toward = np.random.default_rng(1).normal(size=13)

  def ours(hidden, head):
    return jnp.sum(toward * scored_logps(hidden, head, target, chunk=chunk, precision="float32").logp)

  def formula(hidden, head):
    return jnp.sum(toward * jax.nn.log_softmax(hidden @ head.T)[np.arange(13), target])

  found = jax.jit(jax.grad(ours, (0, 1)))(hidden, head)
  for a, b in zip(found, jax.grad(formula, (0, 1))(hidden, head), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-13)


def test_only_logp_has_a_gradient():
  hidden, head, target = draw(dtype=np.float32)

  def f(hidden, head):
    scored = scored_logps(hidden, head, target, chunk=4, precision="float32")
    return jnp.sum(scored.entropy + scored.correct + scored.mean_logit)

  assert all(np.all(g == 0) for g in map(np.asarray, jax.jit(jax.grad(f, (0, 1)))(hidden, head)))


@pytest.mark.slow
def test_bfloat16_is_the_same_function_rounded():
  hidden, head, target = draw(number=60, width=64, words=301, dtype=np.float32, scale=0.1)

  def value_and_gradient(precision):
    def f(x):
      scored = scored_logps(*x, target, chunk=16, precision=precision)
      return jnp.sum(scored.logp), scored

    (_, scored), gradient = jax.jit(jax.value_and_grad(f, has_aux=True))((hidden, head))
    assert scored.logp.dtype == jnp.float32
    return scored.logp, scored.entropy, *gradient

  for a, b in zip(value_and_gradient("bfloat16"), value_and_gradient("float32"), strict=True):
    assert 0 < np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b)


@pytest.mark.slow
def test_extreme_logits_stay_finite():
  hidden, head, target = draw(scale=3e4, dtype=np.float32)

  def f(hidden, head):
    return jnp.sum(scored_logps(hidden, head, target, chunk=4, precision="float32").logp)

  scored = scored_logps(hidden, head, target, chunk=4, precision="float32")
  kl = token_kl(hidden, head, -hidden, head, chunk=4, precision="float32")
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((scored, kl, jax.jit(jax.grad(f, (0, 1)))(hidden, head))))


def test_no_array_exceeds_one_chunk_of_logits():
  number, words, chunk = 256, 1000, 32
  hidden, head, target = draw(number=number, words=words, dtype=np.float32)

  def f(hidden, head):
    scored = scored_logps(hidden, head, target, chunk=chunk, precision="float32")
    kl = token_kl(hidden, head, 0.9 * hidden, head, chunk=chunk, precision="float32")
    return jnp.sum(scored.logp) + jnp.sum(kl)

  def sizes(jaxpr):
    for equation in jaxpr.eqns:
      yield from (v.aval.size for v in equation.outvars)
      for inner in jax.extend.core.jaxprs_in_params(equation.params):
        yield from sizes(inner)

  jaxpr = jax.make_jaxpr(jax.value_and_grad(f, (0, 1)))(hidden, head)
  assert max(sizes(jaxpr.jaxpr)) == chunk * words


def largest_temporary(words):
  """Entries of the largest array in a gradient that is not of the head's own size."""
  hidden, head, target = draw(number=64, words=words, dtype=np.float32)
  f = lambda *x: jnp.sum(scored_logps(*x, target, chunk=64, precision="float32").logp)  # noqa: E731

  def sizes(jaxpr):
    for equation in jaxpr.eqns:
      yield from (v.aval.size for v in equation.outvars if v.aval.size != head.size)
      for inner in jax.extend.core.jaxprs_in_params(equation.params):
        yield from sizes(inner)

  return max(sizes(jax.make_jaxpr(jax.grad(f, (0, 1)))(hidden, head).jaxpr))


@pytest.mark.usefixtures("tiles_of_a_processor")
def test_temporaries_do_not_grow_with_the_vocabulary():
  assert largest_temporary(4096) == largest_temporary(16 * 4096) == 64 * 4096


def test_a_gpu_has_few_tiles_and_none_larger_than_a_chunk_of_logits():
  for rows, slots, vocabulary, chunk in ((4, 1024, 151936, 512), (8, 1000, 49152, 64), (1, 3, 37, 4), (2, 64, 100, 1)):
    tiles = logprobs._Tiles.on_gpu(rows, slots, vocabulary, chunk)
    assert tiles.blocks <= logprobs.GPU_BLOCKS
    for positions in (rows * tiles.width, tiles.blocks * rows * tiles.width):
      pieces = jax.eval_shape(lambda tiles=tiles, p=positions, v=vocabulary: tiles.pieces(jnp.zeros((v, 1)), p))
      assert pieces.shape[0] * pieces.shape[1] >= vocabulary
      assert pieces.shape[1] == 1 or positions * pieces.shape[1] <= chunk * vocabulary


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_rows_are_scored_up_to_their_last_used_slot(tiles):
  """Values and gradients by the formula; NaN in slots beyond the last block reaches neither."""
  rows, slots = 2, 160
  hidden, head, target = draw(number=rows * slots, seed=3)
  hidden, target = hidden.reshape(rows, slots, -1), target.reshape(rows, slots)
  toward = np.random.default_rng(1).normal(size=target.shape)

  def ours(hidden, head, used, there):
    scored = scored_logps(hidden, head, target, used=used, chunk=128, precision="float32")
    return jnp.sum(jnp.where(there, toward * scored.logp, 0.0)), scored

  def formula(hidden, head, there):
    every = jax.nn.log_softmax(hidden @ head.T)
    logp = jnp.take_along_axis(every, target[..., None], -1)[..., 0]
    return jnp.sum(jnp.where(there, toward * logp, 0.0)), (logp, -jnp.sum(jnp.exp(every) * every, -1))

  gradient_of_formula, gradient = (jax.jit(jax.grad(f, (0, 1), has_aux=True)) for f in (formula, ours))
  width = tiles(slots)
  for used in (0, 1, 64, 65, 159, 160, 300):
    there = np.broadcast_to(np.arange(slots) < used, target.shape)
    expected, (logp, entropy) = gradient_of_formula(hidden, head, there)
    spoilt = hidden.copy()
    spoilt[:, -(-used // width) * width :] = np.nan
    found, scored = gradient(spoilt, head, used, there)
    for a, b in zip(found, expected, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-12, err_msg=f"{used} slots")
    np.testing.assert_allclose(scored.logp, np.where(there, logp, 0), atol=1e-12)
    np.testing.assert_allclose(scored.entropy, np.where(there, entropy, 0), atol=1e-12)


# The shapes are few, so that each is compiled once; the numbers are hypothesis's to choose.
chunks, seeds, scales = st.sampled_from([4, 9]), st.integers(0, 9999), st.floats(0, 100)


@settings(max_examples=30, deadline=None)
@given(chunk=chunks, seed=seeds, scale=scales)
def test_probabilities_of_all_targets_sum_to_one(chunk, seed, scale):
  with jax.enable_x64(True):
    hidden, head, _ = draw(3, words=19, seed=seed, scale=scale)
    every, target = np.repeat(hidden, 19, axis=0), np.tile(np.arange(19, dtype=np.int32), 3)
    logp = jitted_scored_logps(every, head, target, chunk=chunk, precision="float32").logp
    np.testing.assert_allclose(np.exp(logp).reshape(3, 19).sum(-1), 1, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(chunk=chunks, seed=seeds, scale=scales)
def test_kl_is_exact_non_negative_and_zero_between_equals(chunk, seed, scale):
  with jax.enable_x64(True):
    hidden, head, _ = draw(9, words=19, seed=seed, scale=scale)
    other, other_head, _ = draw(9, width=5, words=19, seed=seed + 1)
    kl = jitted_token_kl(hidden, head, other, other_head, chunk=chunk, precision="float32")
    log_p, log_q = log_softmax(hidden, head), log_softmax(other, other_head)
    np.testing.assert_allclose(kl, (np.exp(log_p) * (log_p - log_q)).sum(-1), rtol=1e-12, atol=1e-12)
    assert np.all(kl >= -1e-13)
    assert np.all(jitted_token_kl(hidden, head, hidden, head, chunk=chunk, precision="float32") == 0)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_kl_gradient_equals_autodiff_of_the_formula():
  hidden, head, _ = draw()
  other, other_head, _ = draw(width=5, seed=1)

  def ours(*x):
    return jnp.sum(token_kl(*x, chunk=4, precision="float32"))

  def formula(hidden, head, other, other_head):
    log_p, log_q = jax.nn.log_softmax(hidden @ head.T), jax.nn.log_softmax(other @ other_head.T)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))

  arguments = (hidden, head, other, other_head)
  found = jax.jit(jax.grad(ours, (0, 1, 2, 3)))(*arguments)
  for a, b in zip(found, jax.grad(formula, (0, 1, 2, 3))(*arguments), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-12)
