"""One mesh for everything: (data, fsdp, tensor), on one device as on a pod."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from dpojax.config.schema import ParallelSettings
from dpojax.errors import ConfigError
from dpojax.parallel.processes import check_one_process

AXES = ("data", "fsdp", "tensor")


def make_mesh(settings: ParallelSettings, devices: Sequence[Any] | None = None) -> Mesh:
  """A mesh of shape (data, fsdp, tensor) over all devices, or over those given.

  Raises:
    ConfigError: the product of the axes is not the number of devices, or there are several processes.
  """
  check_one_process()
  devices = jax.devices() if devices is None else devices
  inner = settings.fsdp * settings.tensor
  data = len(devices) // inner if settings.data == -1 else settings.data
  if data * inner != len(devices) or data == 0:
    raise ConfigError(
      f"parallel: data={settings.data} x fsdp={settings.fsdp} x tensor={settings.tensor} does not "
      f"cover the {len(devices)} devices; their product must be {len(devices)} (data=-1 takes what remains)"
    )
  return jax.make_mesh((data, settings.fsdp, settings.tensor), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
