"""Run in a process with four devices: sharded rows and heads give what one device gives, and nothing is gathered."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dpojax.ops import attention
from dpojax.ops.attention_sharding import on_every_device
from tests.ops.attention_rows import draw, lay_out


def always(device, blocks, on_tpu, on_gpu, width, block, window, precision):
  kernel = {"tpu": on_tpu, "gpu": on_gpu}[device]
  return on_every_device(functools.partial(kernel, window=window, precision=precision, interpret=True))


def both(q, k, v, mask):
  attend = functools.partial(attention.packed_attention, **mask, precision="float32")
  out, pull_back = jax.vjp(attend, q, k, v)
  return (out, *pull_back(jnp.cos(out)))


def check(device):
  attention.BLOCK, attention._dispatch = 16, functools.partial(always, device)
  rows = lay_out([[(10, [7, 9])], [(5, [20, 3])], [(1, [1, 1]), (4, [9, 3])], []], 32)
  arrays = draw(rows, dtype=np.float32)
  expected = jax.jit(both)(*arrays, rows.arrays())
  mesh = jax.make_mesh((2, 1, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)

  def place(x, *spec):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

  arrays = [place(x, ("data", "fsdp"), None, "tensor") for x in arrays]
  mask = {name: place(x, ("data", "fsdp")) for name, x in rows.arrays().items()}
  compiled = jax.jit(both).lower(*arrays, mask).compile()
  assert "all-gather" not in compiled.as_text()
  assert "all-reduce" not in compiled.as_text()
  for a, b in zip(compiled(*arrays, mask), expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert a.sharding.shard_shape(a.shape) == (2, 32, a.shape[2] // 2, 8)


if __name__ == "__main__":
  for device in ("tpu", "gpu"):
    check(device)
    jax.clear_caches()
