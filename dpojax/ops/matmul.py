"""Matrix products whose operands may be narrower than their sums.

Two precisions: "float32" keeps the operands as they are, and "bfloat16" rounds them and sums in
float32, which is the native mode of TPU and GPU and the fast path of recent CPUs. On CPU only some
forms of the product reach that path (benchmarks/LOG.md); a product that autodiff transposes does not,
so the derivative of `dense` is written out in forms that do. A CPU without bfloat16 instructions
multiplies the rounded operands as float32: the same sums, at the speed of float32.
"""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint

PRECISIONS = ("float32", "bfloat16")


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
  """Whether this machine's processor has bfloat16 products, as far as Linux tells; True where it tells nothing."""
  try:
    told = pathlib.Path("/proc/cpuinfo").read_text()
  except OSError:
    return True
  features = re.search(r"^(?:flags|Features)\s*:(.*)$", told, re.MULTILINE)
  return features is None or not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(features[1].split())


def operand(x: jax.Array, precision: str) -> jax.Array:
  """x as products of this precision read it: unchanged for "float32" (or float64), rounded for "bfloat16"."""
  if precision not in PRECISIONS:
    raise ValueError(f"precision {precision!r} is none of {PRECISIONS}")
  return x.astype(jnp.bfloat16) if precision == "bfloat16" else x


def sum_dtype(x: jax.Array) -> jnp.dtype:
  """What products of operands like x are summed in: float32 for bfloat16, otherwise its own."""
  return jnp.dtype(jnp.float32) if x.dtype == jnp.bfloat16 else x.dtype


def tile_product(a, b, over: tuple[int, int] = (1, 0), *, precision: str, dtype: jnp.dtype) -> jax.Array:
  """The product of two tiles inside a kernel, where a device multiplies as it is told and nothing is differentiated.

  Args:
    a, b: matrices, summed over axis `over[0]` of a and `over[1]` of b.
    precision: as in `contract`.
    dtype: of the result, and of the sums.
  """
  full = None if precision == "bfloat16" else lax.Precision.HIGHEST
  dimensions = (((over[0],), (over[1],)), ((), ()))
  a, b = operand(a, precision), operand(b, precision)
  return lax.dot_general(a, b, dimensions, precision=full, preferred_element_type=dtype)


def contract(a: jax.Array, b: jax.Array, dimensions: lax.DotDimensionNumbers, *, precision: str) -> jax.Array:
  """`lax.dot_general` in the given precision; float32 result (float64 for float64 operands).

  Differentiable, but see `dense` for derivatives that are fast. In "float32" it asks for full precision
  where a device would round operands by default.
  """
  a, b = operand(a, precision), operand(b, precision)
  if precision != "bfloat16":
    return lax.dot_general(a, b, dimensions, precision=lax.Precision.HIGHEST)
  product = functools.partial(lax.dot_general, dimension_numbers=dimensions, preferred_element_type=jnp.float32)

  def widened(a, b):
    return product(a.astype(jnp.float32), b.astype(jnp.float32), precision=lax.Precision.HIGHEST)

  def apart(a, b):
    # XLA for CPU may fold a transpose of the result into the product after it has chosen how to run the
    # product, and then fails when the program runs ("Unsupported element type for DotThunk").
    return lax.optimization_barrier(product(a, b))

  return lax.platform_dependent(a, b, cpu=apart if cpu_multiplies_bfloat16() else widened, default=product)


def contract_first(a: jax.Array, b: jax.Array, *, precision: str) -> jax.Array:
  """a[T, ...], b[T, F] -> sum over t of a[t] b[t], the form of a weight gradient: [..., F]."""
  plain = functools.partial(contract, dimensions=(((0,), (0,)), ((), ())), precision=precision)
  if precision != "bfloat16" or not cpu_multiplies_bfloat16():
    return plain(a, b)

  def transposed(a, b):
    # XLA would fold the transpose into the product, and that form is half as fast on CPU. A layout
    # constraint keeps it apart.
    flat = operand(a, precision).reshape(a.shape[0], -1)
    out = contract(with_layout_constraint(flat.T, Layout((0, 1))), b, _INNER, precision=precision)
    return out.reshape(*a.shape[1:], b.shape[1])

  return lax.platform_dependent(a, b, cpu=transposed, default=plain)


def dense(x: jax.Array, w: jax.Array, *, precision: str) -> jax.Array:
  """x @ w with a derivative as fast as the product itself.

  In "bfloat16" the cotangent is rounded too, as any operand is; gradients are sums in float32.

  Args:
    x: [..., D].
    w: [D, F].
    precision: "float32" or "bfloat16".

  Returns:
    [..., F] in float32 (float64 for float64 operands).
  """
  flat = x.reshape(-1, x.shape[-1])
  if precision == "bfloat16":
    out = _rounded_dense(flat.astype(jnp.float32), w)
  else:
    out = contract(flat, w, _INNER, precision=precision)
  return out.reshape(*x.shape[:-1], w.shape[1])


_INNER = (((1,), (0,)), ((), ()))


@jax.custom_vjp
def _rounded_dense(x, w):
  return contract(x, w, _INNER, precision="bfloat16")


def _rounded_dense_forward(x, w):
  return _rounded_dense(x, w), (operand(x, "bfloat16"), w)


def _rounded_dense_backward(residuals, g):
  x, w = residuals
  g = operand(g, "bfloat16")
  dx = contract(g, w, (((1,), (1,)), ((), ())), precision="bfloat16")
  dw = contract_first(x, g, precision="bfloat16")
  return dx, dw.astype(w.dtype)


_rounded_dense.defvjp(_rounded_dense_forward, _rounded_dense_backward)


def kept(x: jax.Array, name: str, *, precision: str) -> jax.Array:
  """x under a name for remat policies; in "bfloat16" rounded, as the operand of products that it is to become.

  Then a backward pass that keeps it keeps 16 bits a value. The derivative takes no notice of the rounding.

  Args:
    x: any shape.
    name: what a policy of `jax.checkpoint` may keep.
    precision: "float32" or "bfloat16".

  Returns:
    Of x's shape and dtype.
  """
  return _kept(x, name, precision)


def kept_residual(x: jax.Array, name: str, precision: str) -> jax.Array:
  """`kept`, for the forward half of a written-out derivative: policies see no names in what differentiates itself."""
  if precision != "bfloat16":
    return checkpoint_name(x, name)
  # Stored as 16-bit integers, because XLA for CPU widens stored bfloat16 to float32.
  bits = checkpoint_name(lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16), name)
  return lax.bitcast_convert_type(bits, jnp.bfloat16).astype(x.dtype)


_kept = jax.custom_vjp(kept_residual, nondiff_argnums=(1, 2))
_kept.defvjp(lambda *given: (kept_residual(*given), None), lambda _name, _precision, _none, g: (g,))
