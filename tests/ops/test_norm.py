import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.ops.norm import rms_norm
from tests.tolerances import assert_gradients_close


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_value_and_gradient_equal_those_of_the_formula(shape):
  random = np.random.default_rng(0)
  x, gain, toward = random.normal(size=shape), random.normal(size=shape[-1]), random.normal(size=shape)

  def formula(x, gain):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-2) * gain.reshape((1,) * (x.ndim - 1) + (-1,))

  np.testing.assert_allclose(rms_norm(x, gain, 1e-2), formula(x, gain), atol=1e-14)
  found = jax.grad(lambda *a: jnp.sum(toward * rms_norm(*a, 1e-2)), (0, 1))(x, gain)
  expected = jax.grad(lambda *a: jnp.sum(toward * formula(*a)), (0, 1))(x, gain)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-13)


def test_float32_gradients_are_those_of_float64():
  """The sum over tokens asks for the full precision of its operands."""
  random = np.random.default_rng(1)
  x, gain, toward = (random.normal(size=s).astype(np.float32) for s in ((700, 64), (64,), (700, 64)))
  found = jax.grad(lambda g: jnp.sum(toward * rms_norm(x, g, 1e-5)))(gain)
  exact = np.sum(toward * x / np.sqrt(np.mean(np.float64(x) ** 2, -1, keepdims=True) + 1e-5), 0)
  # 700 terms of either sign, added one by one, lose up to about sqrt(700) eps of their sum; rounded to bfloat16, 1e4 eps.
  assert_gradients_close(found, exact, roundings=64)
