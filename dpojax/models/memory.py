"""What no memory of this machine can hold is refused before it is asked for: a system may kill a process that asks.

Sizes are lower bounds of what a stage takes, so that nothing which would run is refused; what is short by less ends as
the device's own error, which the command line tells in one line.
"""

import math
import os
import pathlib

import jax

from dpojax.errors import ConfigError
from dpojax.models.config import ModelConfig
from dpojax.types import Declared, Parameter

CGROUP_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")


def memory_of_devices() -> int | None:
  """Bytes of all devices of this process together, on CPUs of the machine or its container; None: not known."""
  devices = jax.local_devices()
  if devices[0].platform != "cpu":
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return None if None in limits else sum(limit for limit in limits if limit is not None)
  try:
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
  except (ValueError, OSError, AttributeError):  # other systems have no such names
    return None
  if CGROUP_LIMIT.is_file() and (limit := CGROUP_LIMIT.read_text().strip()).isdigit():
    found.append(int(limit))
  return min(found)


def check_parameters(declared: Declared, keys: str) -> None:
  """Raises ConfigError, naming the settings `keys`, where parameters and gradient in float32 exceed the memory."""
  leaves = jax.tree.leaves(declared, is_leaf=lambda x: isinstance(x, Parameter))
  _check(8 * sum(math.prod(x.shape) for x in leaves), "the parameters and their gradient", keys)


def check_row_group(config: ModelConfig, rows: int, row_length: int) -> None:
  """Raises ConfigError where what the layers of a trained row group hand on, 16 bits each, exceeds the memory.

  The backward pass needs it of every layer, whatever else is computed anew.
  """
  needed = 2 * rows * row_length * config.hidden * config.layers
  _check(needed, f"a row group of {rows:,} rows of {row_length:,} tokens", "batch.rows or batch.row_length")


def _check(needed: int, what: str, keys: str) -> None:
  memory = memory_of_devices()
  if memory is not None and needed > memory:
    raise ConfigError(
      f"{what} would take at least {needed / 1e9:,.0f} GB, and this machine's devices have {memory / 1e9:,.0f}; "
      f"lower {keys}"
    )
