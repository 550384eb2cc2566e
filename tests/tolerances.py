"""What float32's rounding may move, where two programs add and multiply the same numbers in another order.

Shapes, threads and the processor (AVX2, AVX-512, AMX) choose that order and which products are fused with sums. A sum
that cancels keeps the rounding of its terms: how far it may move is a share of their size, never of its own.
"""

import jax
import numpy as np

EPS = float(np.finfo(np.float32).eps)


def assert_sums_close(found, expected, size, roundings=16, err_msg=""):
  """|found - expected| <= roundings * eps * size, elementwise, where `size` is the sum of |terms|.

  Adding terms in whatever order moves their sum by about 1 eps; the rest of 16 is for what terms bring along that a
  tiny model's products made.
  """
  arrays = (np.asarray(x, np.float64) for x in (found, expected, size))
  found, expected, size = np.broadcast_arrays(*arrays)
  apart = np.abs(found - expected) / (EPS * size)
  worst = np.unravel_index(np.argmax(apart), apart.shape)
  assert apart[worst] <= roundings, (
    f"{err_msg} {found[worst]} and {expected[worst]} are {apart[worst]:.1f} eps of {size[worst]} apart"
  )


def assert_gradients_close(found, expected, roundings=256):
  """Pytrees: ||found - expected|| <= roundings * eps * ||expected||, normwise over all leaves together.

  A gradient is a sum over tokens and examples, which pull against one another, of products on the way there and back.
  """
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
  squares = [(np.sum(np.square(np.subtract(a, b, dtype=np.float64))), np.sum(np.square(b))) for a, b in pairs]
  difference, size = np.sqrt(np.sum(squares, axis=0))
  assert difference <= roundings * EPS * size, f"{difference / (EPS * size):.0f} eps apart"
