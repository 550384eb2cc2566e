import jax
import pytest


@pytest.fixture
def float64():
  """Runs a test with 64-bit types, so that algebra is checked far below float32's rounding."""
  with jax.enable_x64(True):
    yield
