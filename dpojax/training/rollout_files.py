"""Roll-outs on disk, `rollouts/000012.npz`: what a run that was killed goes on with."""

import io
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.errors import CheckpointError
from dpojax.files import write_atomically

ROLLOUTS = "rollouts"


def rollout_path(folder: pathlib.Path, number: int) -> pathlib.Path:
  """Where roll-out `number` lies in the folder `rollouts`."""
  return folder / f"{number:06d}.npz"


def save_rollout(path: pathlib.Path, identity: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
  """Writes arrays and facts (of JSON), whole or not at all, durably; `identity` is the stage's."""
  file = io.BytesIO()
  np.savez(file, facts=np.asarray(json.dumps({**facts, "identity": identity})), **arrays)  # pyright: ignore[reportArgumentType]
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path, file.getvalue(), durable=True)


def read_rollout(path: pathlib.Path, identity: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
  """(arrays, facts) as they were saved; None where there is no file, or one of another identity.

  Raises:
    CheckpointError: the file is damaged.
  """
  try:
    with np.load(path) as stored:
      arrays = {name: stored[name] for name in stored.files}  # every part carries a checksum
  except FileNotFoundError:
    return None
  except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
    raise CheckpointError(
      f"{path}: damaged ({error}); delete it and the run goes back to its newest checkpoint "
      "before this roll-out, or make it anew where none was taken from it"
    ) from None
  facts = json.loads(str(arrays.pop("facts")))
  return (arrays, facts) if facts.pop("identity") == identity else None


def check_begun(path: pathlib.Path, update: int, updates: int) -> None:
  """Raises CheckpointError where a roll-out that is not there was begun: it cannot be made again as it was."""
  if update:
    raise CheckpointError(
      f"{path}: it is gone, and {update} of the {updates} updates that the run takes from it are made; delete the "
      "checkpoints of these, and the run goes on from the one before"
    )


def drop_before(folder: pathlib.Path, number: int) -> None:
  """Deletes the roll-outs before `number`."""
  for path in folder.glob("*.npz"):
    if path.stem.isdecimal() and int(path.stem) < number:
      path.unlink(missing_ok=True)


def padded(vectors: Sequence[np.ndarray], mask: np.ndarray) -> np.ndarray:
  """Vectors of the mask's lengths as [A, T], 0 behind their end."""
  return scattered(np.concatenate(vectors), mask)


def scattered(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """[A, T] with the values, one after another, where the mask is."""
  found = np.zeros(mask.shape, values.dtype)
  found[mask] = values
  return found
