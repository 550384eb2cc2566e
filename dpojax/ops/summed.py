"""Parameters whose gradient is added to a sum in place.

A step sums its gradient over groups of rows. Differentiated by JAX, stacked layers and embeddings give their gradients as
arrays of their own, which are then added to the sum: for a moment there are two arrays as large as the parameters. Here
the sum itself travels through the backward pass, and every layer's gradient is added to its place.

How: the *carrier*, an array of the parameters' shape that nothing reads, passes unchanged through the forward scan. Its
cotangent passes through the backward scan: it begins as the sum so far, and each layer adds its gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Summed:
  """Parameters whose gradient is to be added to a sum: the derivative by `carrier` is total + gradient.

  Read them by `scan_layers` or by `take`, once: each begins with the total. Besides, `plain` may be read anywhere.
  It is no array and no pytree, so that nothing else reads it unseen; `misread` says whether it was read as it must be.

  Attributes:
    value: [N, ...], a slice for each layer or word.
    carrier: like value; never read.
    total: like value, the sum so far.
  """

  def __init__(self, value: jax.Array, carrier: jax.Array, total: jax.Array):
    self.value, self.carrier, self.total = value, carrier, total
    self._reads, self._inside = 0, False

  def note_read(self, out: jax.Array) -> None:
    """Takes down that a read gave `out`."""
    self._reads += 1
    # In the body of a loop, a branch or a vmap it would be a tracer of theirs.
    self._inside |= type(out) is not type(self.carrier)

  def misread(self) -> str:
    """Why the derivative is not total + gradient, once the function that reads it is traced; "" where it is."""
    if self._inside:
      return "is read inside another transformation (a loop, a branch, vmap, jit, checkpoint)"
    return "" if self._reads == 1 else f"is read {self._reads} times by scan_layers or take and not once"


def scan_layers(body: Callable[[Any, Any], tuple[Any, None]], carry: Any, layers: Any) -> Any:
  """`lax.scan(body, carry, layers)[0]`, of stacked arrays or of `Summed`; gradients of a mixture are added as ever."""
  leaves, tree = jax.tree.flatten(layers)
  if not all(isinstance(leaf, Summed) for leaf in leaves):
    return lax.scan(body, carry, jax.tree.map(plain, layers))[0]

  def step(carry, numbered):
    carry, carriers = carry
    index, layer = numbered
    carriers, layer = _tap(carriers, layer, index)
    carry, _ = body(carry, jax.tree.unflatten(tree, layer))
    return (carry, carriers), None

  values, carriers, totals = ([getattr(leaf, name) for leaf in leaves] for name in ("value", "carrier", "total"))
  index = jnp.arange(values[0].shape[0], dtype=jnp.int32)
  (carry, carriers), _ = lax.scan(step, (carry, carriers), (index, lax.stop_gradient(values)))
  out = _begin(carry, carriers, lax.stop_gradient(totals))
  for leaf in leaves:
    leaf.note_read(jax.tree.leaves(out)[0])
  return out


@jax.custom_vjp
def _tap(carriers, layer, index):
  """Both as they are; backwards, the layer's gradient is added to the carriers' cotangent at `index`."""
  return carriers, layer


def _add_layer(index, cotangents):
  sums, gradients = cotangents

  def add(total, gradient):
    here = lax.dynamic_index_in_dim(total, index, 0, keepdims=False)
    return lax.dynamic_update_index_in_dim(total, here + gradient, index, 0)

  return [*map(add, sums, gradients)], [*map(jnp.zeros_like, gradients)], np.zeros((), jax.dtypes.float0)


_tap.defvjp(lambda carriers, layer, index: ((carriers, layer), index), _add_layer)


@jax.custom_vjp
def _begin(carry, carriers, totals):
  """The carry; backwards, the carriers' cotangent begins as `totals`."""
  return carry


_begin.defvjp(
  lambda carry, carriers, totals: (carry, totals), lambda totals, g: (g, totals, [*map(jnp.zeros_like, totals)])
)


def add_rows(total: jax.Array, index: jax.Array, rows: jax.Array) -> jax.Array:
  """total.at[index].add(rows), the same bits every time: a GPU's scatter adds in whatever order its threads come.

  There rows of one index are brought together and added up in pairs, and each sum is written once.

  Args:
    total: [N, D].
    index: i32[M] in [0, N), in any order, with repetitions.
    rows: [M, D].
  """
  if index.shape[0] == 0:
    return total

  def in_order(total, index, rows):
    order = jnp.argsort(index, stable=True)
    index, rows = index[order].astype(jnp.int32), rows[order]
    changes = index[1:] != index[:-1]
    first, last = jnp.pad(changes, (1, 0), constant_values=True), jnp.pad(changes, (0, 1), constant_values=True)

    def join(left, right):
      (left_first, left_sum), (right_first, right_sum) = left, right
      return left_first | right_first, jnp.where(right_first[:, None], right_sum, left_sum + right_sum)

    _, sums = lax.associative_scan(join, (first, rows))
    beyond = total.shape[0] + jnp.arange(index.shape[0], dtype=index.dtype)
    place = jnp.where(last, index, beyond)
    return total.at[place].add(sums, mode="drop", unique_indices=True)

  return lax.platform_dependent(total, index, rows, cuda=in_order, default=lambda total, *x: total.at[x[0]].add(x[1]))


def plain(array: jax.Array | Summed) -> jax.Array:
  """The array itself; of a `Summed`, its value with a gradient that is added like any other."""
  return _attached(lax.stop_gradient(array.value), array.carrier) if isinstance(array, Summed) else array


def take(array: jax.Array | Summed, index: jax.Array) -> jax.Array:
  """Rows of [V, D] by i32[...] index: [..., D]."""
  if not isinstance(array, Summed):
    return jnp.take(array, index, axis=0)
  out = _taken(lax.stop_gradient(array.value), array.carrier, lax.stop_gradient(array.total), index)
  array.note_read(out)
  return out


@jax.custom_vjp
def _attached(value, carrier):
  return value


_attached.defvjp(lambda value, carrier: (value, None), lambda _, g: (jnp.zeros_like(g), g))


@jax.custom_vjp
def _taken(value, carrier, total, index):
  return jnp.take(value, index, axis=0)


def _taken_backward(residuals, g):
  total, index = residuals
  none = jnp.zeros_like(total)
  flat = index.reshape(-1), g.reshape(-1, g.shape[-1])
  return none, add_rows(total, *flat), none, np.zeros(index.shape, jax.dtypes.float0)


_taken.defvjp(lambda value, carrier, total, index: (jnp.take(value, index, axis=0), (total, index)), _taken_backward)
