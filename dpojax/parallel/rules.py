"""Sharding rules in one table: parameter name -> logical axes -> mesh axes."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpojax.errors import ConfigError
from dpojax.types import PackedBatch

# Logical axis -> mesh axis. Changing how a model is laid out means changing this table only.
MESH_AXES: dict[str, str | None] = {
  "layers": None,
  "model": "fsdp",
  "heads": "tensor",
  "feed_forward": "tensor",
  "vocabulary": "tensor",
  "norm": None,
}

# Last part of a parameter's path -> logical axis of each dimension.
PARAMETER_AXES: dict[str, tuple[str, ...]] = {
  "embed": ("vocabulary", "model"),
  "head": ("vocabulary", "model"),
  "query": ("layers", "model", "heads"),
  "key": ("layers", "model", "heads"),
  "value": ("layers", "model", "heads"),
  "output": ("layers", "heads", "model"),
  "gate": ("layers", "model", "feed_forward"),
  "up": ("layers", "model", "feed_forward"),
  "down": ("layers", "feed_forward", "model"),
}

# Rows of a batch lie over both axes: FSDP shards parameters over devices that also split the data.
ROW_AXES = ("data", "fsdp")


def state_shardings(mesh: Mesh, state: Any) -> Any:
  """A NamedSharding for every leaf of a state (parameters, optimizer moments, counters).

  Moments carry the names of their parameters, so one rule places both. Norm gains, biases and
  scalars, which the table does not name, are replicated.

  Args:
    mesh: (data, fsdp, tensor).
    state: a pytree of arrays or of `jax.ShapeDtypeStruct`.

  Raises:
    ConfigError: a dimension does not divide by its mesh axis, so that sharding it would silently
      fail or pad.
  """

  def one(path, leaf):
    axes = PARAMETER_AXES.get(_last_name(path), ())
    if len(axes) != len(leaf.shape):
      return NamedSharding(mesh, PartitionSpec())
    spec = [MESH_AXES[a] for a in axes]
    for axis, size, logical in zip(spec, leaf.shape, axes, strict=True):
      if axis is not None and size % mesh.shape[axis]:
        raise ConfigError(
          f"parallel.{axis}: {mesh.shape[axis]} devices do not divide the {logical} dimension ({size}) of "
          f"{jax.tree_util.keystr(path)}; choose a divisor of {size}"
        )
    # An axis of one device shards nothing; naming it would make equal layouts look different to jit.
    spec = [axis if axis is not None and mesh.shape[axis] > 1 else None for axis in spec]
    return NamedSharding(mesh, PartitionSpec(*spec) if any(spec) else PartitionSpec())

  return jax.tree_util.tree_map_with_path(one, state)


def batch_shardings(mesh: Mesh, batch: PackedBatch) -> PackedBatch:
  """NamedShardings of a whole step [G, R, ...]: rows over the data and fsdp axes.

  Raises:
    ConfigError: the rows of a group do not divide by those axes.
  """
  rows = batch.tokens.shape[1]
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  if rows % shards:
    raise ConfigError(
      f"batch.rows: {rows} rows a group do not divide by the {shards} devices of the data and fsdp axes; "
      f"choose a multiple of {shards}"
    )

  def one(leaf):
    spec = PartitionSpec(None, ROW_AXES) if leaf.ndim >= 2 else PartitionSpec()
    return NamedSharding(mesh, spec)

  return jax.tree.map(one, batch)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def _last_name(path) -> str:
  for key in reversed(path):
    if isinstance(key, jax.tree_util.DictKey):
      return str(key.key)
  return ""
