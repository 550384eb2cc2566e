"""What is to be computed on: a device that is asked for and missing, or there and not used, is one line.

JAX itself warns in several, or fails with a traceback, each time another. What is asked here needs no JAX.
"""

import importlib.util
import logging
import os
import pathlib
import sys
import traceback

from dpojax.errors import ConfigError

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
# Made by the driver where there is a card; as Windows' Linux and NVIDIA's small computers call it.
NVIDIA = tuple(map(pathlib.Path, ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap")))
INSTALL = "pip install 'dpojax[cuda12]'"
NOTHING = "leave JAX_PLATFORMS out to take what there is, or set it to cpu"


def check_devices() -> None:
  """Before JAX is imported: is what JAX_PLATFORMS names installed, and is a GPU of this machine used?

  Says so in one line where a GPU is there and this JAX computes on the processor only.

  Raises:
    ConfigError: JAX_PLATFORMS names CUDA, and JAX has none here.
  """
  wanted = [name.strip().lower() for name in os.environ.get("JAX_PLATFORMS", "").split(",") if name.strip()]
  has_plugin = any(importlib.util.find_spec(name) is not None for name in PLUGINS)
  has_gpu = any(path.exists() for path in NVIDIA)
  if {"cuda", "gpu"} & set(wanted) and not (has_gpu and has_plugin):
    why = "this machine shows no NVIDIA GPU" if not has_gpu else f"the JAX installed here has no CUDA: {INSTALL}"
    raise ConfigError(f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}: {why}; {NOTHING}")
  if not wanted and not has_plugin and NVIDIA[0].exists():
    print(
      f"dpojax: this machine has an NVIDIA GPU, but the JAX installed here computes on the processor only: {INSTALL} "
      "(JAX_PLATFORMS=cpu if that is meant)",
      file=sys.stderr,
    )
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # else XLA tells how it looks for drivers
  logging.getLogger("jax._src.xla_bridge").addFilter(_in_one_line)


def of_devices(error: Exception) -> str | None:
  """What to say of JAX's error that a platform cannot be used; None: it is another error."""
  lines = str(error).splitlines() or [""]
  begins = "Unable to initialize backend "
  wanted = os.environ.get("JAX_PLATFORMS", "")
  if isinstance(error, AssertionError) and wanted and _raised_in(error) == "xla_bridge.py":  # CUDA could not be loaded
    return f"JAX_PLATFORMS={wanted}: JAX can use none of them here; {NOTHING}"
  if not isinstance(error, RuntimeError) or not lines[0].startswith(begins):
    return None
  name, _, why = lines[0].removeprefix(begins).partition(": ")
  why = why.partition(" (set JAX_PLATFORMS")[0].partition(" (you may need")[0]
  return f"JAX_PLATFORMS={wanted}: JAX cannot use {name} here ({why[:200]}); {NOTHING}"


def _raised_in(error: Exception) -> str:
  frames = traceback.extract_tb(error.__traceback__)
  return pathlib.Path(frames[-1].filename).name if frames else ""


def _in_one_line(record: logging.LogRecord) -> bool:
  """JAX's own words on devices: those that `check_devices` has said are left out, the others are one line."""
  said = record.getMessage()
  if "may be present on this machine" in said:
    return False
  if record.levelno >= logging.ERROR and record.exc_info is not None:
    reason = str(record.exc_info[1]).strip().split("\n")[0]
    record.msg, record.args, record.exc_info, record.exc_text = f"{said.rstrip('. ')}: {reason}", (), None, None
  return True
