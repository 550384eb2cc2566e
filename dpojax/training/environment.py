"""environment.json: with which versions, on which devices and from which state of the sources a stage was run."""

import datetime
import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

from dpojax import __version__, digests
from dpojax.errors import CheckpointError
from dpojax.files import parse_json

FILE = "environment.json"
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "datasets", "ml_collections")


def environment() -> dict[str, Any]:
  """The facts, in JSON's types; what cannot be known is None."""
  device = jax.devices()[0]
  return {
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "dpojax": __version__,
    "commit": _git("rev-parse", "HEAD"),
    "clean": None if (status := _git("status", "--porcelain", "--untracked-files=no")) is None else not status,
    "python": platform.python_version(),
    "libraries": {name: _version(name) for name in LIBRARIES},
    "system": platform.platform(),
    "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
    "processes": jax.process_count(),
    "command": sys.argv,
  }


def write_environment(folder: pathlib.Path) -> None:
  """Adds this start to `folder`/environment.json, a list: a run that goes on elsewhere was run in both."""
  digests.write_json(folder, FILE, [*read_environments(folder), environment()])


def read_environments(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The starts of a run, oldest first; [] where they are not known.

  Raises:
    CheckpointError: the file is not what was written.
  """
  try:
    found = parse_json(digests.read(folder, FILE).decode())
  except CheckpointError:
    raise
  except (OSError, ValueError):
    return []
  return found if isinstance(found, list) else []


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _git(*words: str) -> str | None:
  """What git says of the sources that run, or None where they are no checkout."""
  root = pathlib.Path(__file__).parents[2]
  if not (root / ".git").exists():
    return None
  try:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()
