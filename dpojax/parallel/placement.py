"""Parameters and packed batches onto the devices, and values back."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dpojax.parallel.rules import batch_shardings, state_shardings
from dpojax.types import Declared, PackedBatch, Params


def place_params(params: Params, mesh: Mesh | None, declared: Declared) -> Params:
  """Parameters, laid out by the sharding rules; the same arrays where they are laid out so already.

  Args:
    mesh: None: arrays of the host go to JAX's default device, and those on devices stay where they are.
    declared: what each parameter's dimensions run along, a pytree of `Parameter`; {}: all are replicated.

  Raises:
    ConfigError: a dimension does not divide by its mesh axis.
  """
  return jax.device_put(params) if mesh is None else jax.device_put(params, state_shardings(mesh, params, declared))


def place_batch(batch: PackedBatch, mesh: Mesh | None) -> PackedBatch:
  """A packed step [G, R, ...] on the devices, rows over the data and fsdp axes; `mesh` as in `place_params`.

  Raises:
    ConfigError: the rows of a group do not divide by those axes.
  """
  return jax.device_put(batch) if mesh is None else jax.device_put(batch, batch_shardings(mesh, batch))


def to_host(array: Any) -> np.ndarray:
  """The whole array as NumPy, gathered from all processes where it is spread over them."""
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
  return np.asarray(array)
