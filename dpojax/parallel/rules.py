"""Sharding rules in one table: logical axis -> mesh axis. Which axes a parameter has, its model declares."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpojax.errors import ConfigError
from dpojax.types import Declared, PackedBatch

# Logical axis -> mesh axis. Changing how a model is laid out means changing this table only.
MESH_AXES: dict[str, str | None] = {
  "layers": None,
  "model": "fsdp",
  "heads": "tensor",
  "feed_forward": "tensor",
  "vocabulary": "tensor",
}

# Rows of a batch lie over both axes: FSDP shards parameters over devices that also split the data.
ROW_AXES = ("data", "fsdp")


def state_shardings(mesh: Mesh, state: Any, declared: Declared) -> Any:
  """A NamedSharding for every leaf of a state (parameters, optimizer moments, counters).

  A leaf is laid out as the parameter is whose shape it has and whose path its own ends with: an optimizer keeps its
  moments under the paths of their parameters. (Or whose path ends with the leaf's: parameters of one of several models.)
  All others are replicated.

  Args:
    mesh: (data, fsdp, tensor).
    state: a pytree of arrays or of `jax.ShapeDtypeStruct`.
    declared: a pytree of `Parameter`; {}: nothing is declared, and everything is replicated.

  Raises:
    ConfigError: a dimension does not divide by its mesh axis, so that sharding it would silently
      fail or pad.
  """
  known = jax.tree_util.tree_leaves_with_path(declared)

  def one(path, leaf):
    fitting = [(len(end), p.axes) for end, p in known if p.shape == leaf.shape and _ends_alike(path, end)]
    longest = max((length for length, _ in fitting), default=0)
    axes = {axes for length, axes in fitting if length == longest}
    if len(axes) != 1:  # of nobody, or of several that lie in different ways
      return replicated(mesh)
    return NamedSharding(mesh, _spec(mesh, path, leaf.shape, *axes))

  return jax.tree_util.tree_map_with_path(one, state)


def _ends_alike(path: tuple, other: tuple) -> bool:
  """Whether one path is the end of the other."""
  common = min(len(path), len(other))
  return path[len(path) - common :] == other[len(other) - common :]


def _spec(mesh: Mesh, path: tuple, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> PartitionSpec:
  spec = [axis and MESH_AXES[axis] for axis in axes]
  for axis, size, logical in zip(spec, shape, axes, strict=True):
    if axis is not None and size % mesh.shape[axis]:
      raise ConfigError(
        f"parallel.{axis}: {mesh.shape[axis]} devices do not divide the {logical} dimension ({size}) of "
        f"{jax.tree_util.keystr(path)}; choose a divisor of {size}"
      )
  # An axis of one device shards nothing; naming it would make equal layouts look different to jit.
  spec = [axis if axis is not None and mesh.shape[axis] > 1 else None for axis in spec]
  return PartitionSpec(*spec) if any(spec) else PartitionSpec()


def row_shards(mesh: Mesh | None) -> int:
  """How many devices split the rows of a batch; 1 without a mesh."""
  return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def whole_rows(wanted: int, mesh: Mesh | None) -> int:
  """`wanted` rows, rounded up to what divides by the devices that split them."""
  return -(-wanted // row_shards(mesh)) * row_shards(mesh)


def check_rows(rows: int, mesh: Mesh) -> None:
  """Raises ConfigError where the rows of a group do not divide by the devices that split them."""
  shards = row_shards(mesh)
  if rows % shards:
    raise ConfigError(
      f"batch.rows: {rows} rows a group do not divide by the {shards} devices of the data and fsdp axes; "
      f"choose a multiple of {shards}"
    )


def batch_shardings(mesh: Mesh, batch: PackedBatch) -> PackedBatch:
  """NamedShardings of a whole step [G, R, ...]: rows over the data and fsdp axes.

  Raises:
    ConfigError: the rows of a group do not divide by those axes.
  """
  check_rows(batch.tokens.shape[1], mesh)

  def one(leaf):
    spec = PartitionSpec(None, ROW_AXES) if leaf.ndim >= 2 else PartitionSpec()
    return NamedSharding(mesh, spec)

  return jax.tree.map(one, batch)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())
