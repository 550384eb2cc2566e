import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from dpojax.ops import matmul
from dpojax.ops.attention import packed_attention
from dpojax.ops.logprobs import scored_logps, token_kl
from dpojax.ops.matmul import contract_first, dense, kept
from tests.tolerances import assert_sums_close


@pytest.fixture(params=[True, False], ids=["bfloat16 products", "widened products"])
def products(request, monkeypatch):
  """Runs a test as on a processor with bfloat16 products, and as on one without."""
  monkeypatch.setattr(matmul, "cpu_multiplies_bfloat16", lambda: request.param)


def draw(*shapes, dtype=np.float32):
  random = np.random.default_rng(0)
  return tuple(random.normal(size=shape).astype(dtype) for shape in shapes)


def rounded(x):
  return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float64)


def test_float32_keeps_float64(float64):
  x, w = draw((3, 4, 5), (5, 6), dtype=np.float64)
  out = dense(x, w, precision="float32")
  assert out.dtype == np.float64
  np.testing.assert_allclose(out, x @ w, atol=1e-14)


@pytest.mark.usefixtures("products")
def test_bfloat16_rounds_operands_and_cotangents_only():
  x, w, g = draw((3, 20, 50), (50, 60), (3, 20, 60))
  out, pullback = jax.vjp(functools.partial(dense, precision="bfloat16"), x, w)
  dx, dw = pullback(jnp.asarray(g))
  flat_x, flat_g = rounded(x).reshape(60, 50), rounded(g).reshape(60, 60)
  for found, one, other in ((out, rounded(x), rounded(w)), (dx, rounded(g), rounded(w).T), (dw, flat_x.T, flat_g)):
    assert_sums_close(found, one @ other, abs(one) @ abs(other))
  assert out.dtype == dx.dtype == dw.dtype == jnp.float32


@pytest.mark.usefixtures("products")
def test_the_weight_gradient_survives_vmap():
  a, b = draw((2, 30, 7), (2, 30, 9))
  out = jax.jit(jax.vmap(functools.partial(contract_first, precision="bfloat16")))(a, b)
  one, other = rounded(a).swapaxes(1, 2), rounded(b)
  assert_sums_close(out, one @ other, abs(one) @ abs(other))


def test_devices_other_than_cpu_get_plain_products(monkeypatch):
  monkeypatch.setattr(matmul, "cpu_multiplies_bfloat16", lambda: True)
  x, w = draw((30, 50), (50, 60))
  gradient = jax.jit(jax.grad(lambda w: jnp.sum(jnp.sin(dense(x, w, precision="bfloat16")))))
  programs = {p: gradient.trace(w).lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "tpu", "cuda")}
  assert "LayoutConstraint" in programs["cpu"] and "optimization_barrier" in programs["cpu"]
  for platform in ("tpu", "cuda"):
    assert "dot_general" in programs[platform]
    assert "LayoutConstraint" not in programs[platform] and "optimization_barrier" not in programs[platform]


def test_rounding_is_not_struck_out_where_operands_are_widened(monkeypatch):
  """In one compiled program XLA may drop a cast to bfloat16 and back; the products must still be of rounded numbers."""
  monkeypatch.setattr(matmul, "cpu_multiplies_bfloat16", lambda: False)
  x, w = draw((30, 50), (50, 60))
  program = jax.jit(lambda x, w: dense(2 * x, w + 0, precision="bfloat16"))
  assert np.abs(program(x, w) - (2 * x).astype(np.float64) @ w).max() > 1e-3
  one, other = rounded(2 * x), rounded(w)
  assert_sums_close(program(x, w), one @ other, abs(one) @ abs(other))


@pytest.mark.parametrize(
  "told,expected",
  [
    ("flags\t\t: fpu avx2 avx512f", False),
    ("flags\t\t: fpu avx512_bf16", True),
    ("flags\t\t: amx_bf16 fpu", True),
    ("Features\t: fp asimd bf16", True),
    ("Features\t: fp asimd", False),
    ("processor: 0", True),
  ],
)
def test_what_the_processor_says_of_itself(told, expected, monkeypatch):
  monkeypatch.setattr("pathlib.Path.read_text", lambda path: f"processor\t: 0\n{told}\nbugs\t: bf16\n")
  assert matmul.cpu_multiplies_bfloat16.__wrapped__() is expected


def test_unknown_precision_is_refused():
  x, w = draw((2, 3), (3, 4))
  with pytest.raises(ValueError, match="float16"):
    dense(x, w, precision="float16")


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("rows,length,width,heads,kv_heads,ffn", [(4, 512, 576, 9, 3, 1536), (2, 96, 128, 4, 4, 384)])
@pytest.mark.usefixtures("products")
def test_every_product_in_use_can_be_dispatched(rows, length, width, heads, kv_heads, ffn, remat):
  """Some bfloat16 products compile and then fail when run ("Unsupported element type for DotThunk")."""
  d = width // heads
  words, scored = 1000, 150
  segment = np.repeat(np.arange(4, dtype=np.int32), length // 4)[None].repeat(rows, 0)
  mask = dict(segment=segment, answer=np.where(np.arange(length)[None] % 50 < 20, -1, segment), position=0 * segment)
  x, wq, wk, wo, up, down, head = draw(
    (rows, length, width),
    (2, width, width),
    (2, width, kv_heads * d),
    (2, width, width),
    (2, width, ffn),
    (2, ffn, width),
    (words, width),
  )
  product = functools.partial(dense, precision="bfloat16")

  def layer(x, weights):
    wq, wk, wo, up, down = weights
    q = product(x, wq).reshape(rows, length, heads, d)
    k = product(x, wk).reshape(rows, length, kv_heads, d)
    out = packed_attention(q, k, k, **mask, precision="bfloat16")
    x = x + product(out.reshape(x.shape), wo) * 0.01
    return x + product(jax.nn.silu(product(x, up)), down) * 1e-4, None

  def loss(x, weights, head):
    x, _ = jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, weights)
    hidden = x.reshape(-1, width)[:scored] * 0.01
    options = dict(chunk=64, precision="bfloat16")
    logp = scored_logps(hidden, head, np.zeros(scored, np.int32), **options).logp
    return jnp.sum(logp) + jnp.sum(token_kl(hidden, head, 0.9 * hidden, head, **options))

  gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(x, (wq, wk, wo, up, down), head)
  assert all(np.all(np.isfinite(g)) and np.any(g != 0) for g in jax.tree.leaves(gradients))


def residual_types(function, *given):
  return sorted({str(x.dtype) for x in jax.tree.leaves(jax.vjp(function, *given)[1]) if x.ndim == 2 and x.size > 100})


def named_and_squared(precision):
  """Squares what is kept, under a policy that keeps it: its derivative needs it again."""
  policy = jax.checkpoint_policies.save_only_these_names("it")
  return jax.checkpoint(lambda x: jnp.square(kept(jnp.sin(x), "it", precision=precision)), policy=policy)


def test_what_is_kept_in_bfloat16_is_rounded_and_takes_16_bits():
  (x,) = draw((30, 40))
  function = named_and_squared("bfloat16")
  # Of the same sine: NumPy's may lie on the other side of a tie.
  np.testing.assert_array_equal(function(x), rounded(jnp.sin(x)).astype(np.float32) ** 2)
  assert "uint16" in residual_types(function, x)
  (gradient,) = jax.vjp(function, x)[1](np.ones_like(x))
  np.testing.assert_allclose(gradient, 2 * rounded(np.sin(x)) * np.cos(x, dtype=np.float64), rtol=1e-5, atol=1e-6)


def test_what_is_kept_in_float32_is_as_it_was():
  (x,) = draw((30, 40))
  function = named_and_squared("float32")
  np.testing.assert_array_equal(function(x), jnp.square(jnp.sin(x)))
  assert residual_types(function, x) == ["float32"]


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_contract_first_takes_any_number_of_dimensions(precision):
  a, b = draw((30, 4, 5), (30, 6))
  out = jax.jit(functools.partial(contract_first, precision=precision))(a, b)
  assert out.shape == (4, 5, 6)
  as_read = rounded if precision == "bfloat16" else np.asarray
  one, other = as_read(a), as_read(b)
  product = functools.partial(np.einsum, "tij,tf->ijf")
  assert_sums_close(out, product(one, other), product(abs(one), abs(other)))
