"""Options of the compiler: known ones only, and only where they mean something."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.config.schema import ParallelSettings
from dpojax.parallel import compiler, compiler_options, make_mesh


def mesh():
  return make_mesh(ParallelSettings())


def test_on_a_cpu_sums_stay_out_of_the_products_library():
  def sums(x):
    return jnp.sum(jnp.exp(x), -1)

  x = jnp.ones((512, 576))
  options = compiler_options(mesh())
  assert options, "this XLA no longer knows the option: measure again, and take it out or find its new name"
  assert "ynn" not in jax.jit(sums, compiler_options=options).lower(x).compile().as_text()


def test_other_devices_get_no_option():
  tpu = types.SimpleNamespace(devices=np.asarray([types.SimpleNamespace(platform="tpu")]))
  assert compiler_options(tpu) == {}  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
  "unknown", [{"xla_cpu_no_such_option": "1"}, {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_NO_SUCH"}]
)
def test_options_unknown_to_this_xla_are_left_out(monkeypatch, unknown):
  monkeypatch.setattr(compiler, "CPU", unknown)
  assert compiler_options(mesh()) == {}
