"""Rotary embedding against complex numbers, its relative-position theorem, and published scaling values."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.ops.rotary import RopeScaling, apply_rotary, rotary_angles, rotary_frequencies


def rotate(x, position, frequencies):
  return apply_rotary(jnp.asarray(x), *rotary_angles(jnp.asarray(position, jnp.int32), frequencies, jnp.float32))


def test_rotation_is_multiplication_by_a_unit_complex_number():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 5, 3, 8)).astype(np.float32)
  position = rng.integers(0, 100, (2, 5))
  frequencies = rotary_frequencies(8, 10_000.0)
  turned = np.asarray(rotate(x, position, frequencies))
  z = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * position[:, :, None, None] * frequencies)
  np.testing.assert_allclose(turned, np.concatenate([z.real, z.imag], -1), atol=2e-5)


def test_scores_depend_on_the_distance_only():
  rng = np.random.default_rng(1)
  q, k = rng.normal(size=(2, 1, 1, 1, 16)).astype(np.float32)
  frequencies = rotary_frequencies(16, 500.0)

  def score(i, j):
    return float(jnp.sum(rotate(q, [[i]], frequencies) * rotate(k, [[j]], frequencies)))

  assert score(7, 3) == pytest.approx(score(107, 103), abs=1e-4)
  assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-3)


def test_linear_scaling_divides_positions():
  plain = rotary_frequencies(16, 10_000.0)
  np.testing.assert_allclose(rotary_frequencies(16, 10_000.0, RopeScaling("linear", 4.0)) * 4, plain)


def test_llama3_scaling_keeps_short_waves_and_divides_long_ones():
  scaling = RopeScaling("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192)
  plain = rotary_frequencies(128, 500_000.0)
  ratio = plain / rotary_frequencies(128, 500_000.0, scaling)
  wavelength = 2 * np.pi / plain
  np.testing.assert_allclose(ratio[wavelength < 8192 / 4], 1.0)
  np.testing.assert_allclose(ratio[wavelength > 8192], 8.0)
  assert np.all(np.diff(ratio) >= -1e-12)
  between = ratio[(wavelength > 8192 / 4) & (wavelength < 8192)]
  assert between.size and np.all((between > 1) & (between < 8))


def test_unknown_scaling_is_refused():
  with pytest.raises(ValueError, match="known: linear, llama3"):
    rotary_frequencies(8, 1e4, RopeScaling("yarn", 2.0))
