"""What XLA is asked for when a step is compiled."""

import functools

import jax
from jax.sharding import Mesh

# XLA for CPU lets its YNN library do products and, unless told so, sums over an axis too. Its sums wait for one another:
# a bfloat16 step takes a tenth longer with them (benchmarks/LOG.md).
CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def compiler_options(mesh: Mesh) -> dict[str, str]:
  """Options for `jax.jit` of a program on these devices: none but on CPUs, and none that this XLA does not know."""
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  return {name: value for name, value in CPU.items() if _is_known(name, value)} if on_cpu else {}


@functools.cache
def _is_known(name: str, value: str) -> bool:
  try:
    jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
