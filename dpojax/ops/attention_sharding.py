"""Kernels of attention over several devices, which programs do not partition by themselves."""

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from dpojax.parallel.rules import MESH_AXES, ROW_AXES


def on_every_device(kernel):
  """`kernel` on each device's rows and heads, where its arguments lie on a mesh of several devices.

  Rows lie over the axes that split the data, heads over the tensor axis.
  An axis that does not divide its dimension splits nothing: each of its devices does the whole.
  """

  def split(queries, *arguments):
    mesh = jax.typeof(queries).sharding.mesh
    if mesh.empty or mesh.size == 1 or AxisType.Manual in mesh.axis_types:
      return kernel(queries, *arguments)
    rows, groups = queries.shape[1:3]
    row_axes = tuple(axis for axis in ROW_AXES if axis in mesh.axis_names)
    row_axes = row_axes if rows % np.prod([mesh.shape[axis] for axis in row_axes], dtype=int) == 0 else None
    heads = MESH_AXES["heads"]
    heads = heads if heads in mesh.axis_names and groups % mesh.shape[heads] == 0 else None

    def spec(x):
      return PartitionSpec(None, row_axes, heads) if x.ndim > 3 else PartitionSpec(row_axes)

    arguments = (queries, *arguments)
    out = jax.eval_shape(kernel, *arguments)
    return jax.shard_map(
      kernel,
      mesh=mesh,
      in_specs=jax.tree.map(spec, arguments),
      out_specs=jax.tree.map(spec, out),
      check_vma=False,
    )(*arguments)

  return split
