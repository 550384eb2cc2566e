"""Roll-outs on disk, `rollouts/000012.npz`: what a run that was killed goes on with."""

import hashlib
import io
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
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
  known = {**facts, "identity": identity}
  known["digest"] = digest_of(known, arrays)
  file = io.BytesIO()
  np.savez(file, facts=np.asarray(json.dumps(known)), **arrays)  # pyright: ignore[reportArgumentType]
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path, file.getvalue(), durable=True)


def read_rollout(path: pathlib.Path, identity: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
  """(arrays, facts) as they were saved; None where there is no file, or one of another identity.

  Raises:
    CheckpointError: the file is damaged.
  """
  try:
    stored = path.read_bytes()
  except FileNotFoundError:
    return None
  try:
    with np.load(io.BytesIO(stored)) as parts:
      arrays = {name: parts[name] for name in parts.files}
    facts = json.loads(str(arrays.pop("facts")))
    if facts.pop("digest") != digest_of(facts, arrays):
      raise ValueError("its contents are not those that were written")
  except Exception as error:  # whatever a reader says of bytes that nobody wrote
    raise CheckpointError(
      f"{path}: damaged ({error}); delete it, and the checkpoints of steps that were taken from it if there are any: the "
      "run makes it anew"
    ) from None
  return (arrays, facts) if facts.pop("identity") == identity else None


def digest_of(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
  """sha256 of all that a roll-out holds: the checksums of a zip file do not cover headers that say how much is read."""
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  for name, array in sorted(arrays.items()):
    digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def check_begun(path: pathlib.Path, update: int, updates: int) -> None:
  """Raises CheckpointError where a roll-out was begun that is gone: it cannot be made again as it was.

  One of other settings is there still, and what is left of its updates is taken from a new one.
  """
  if update and not path.exists():
    raise CheckpointError(
      f"{path}: it is gone, and {update} of the {updates} updates that the run takes from it are made; delete the "
      f"checkpoints of steps after {int(path.stem) * updates}, and the run goes on from the one before"
    )


def drop(folder: pathlib.Path, unwanted: Callable[[int], bool]) -> None:
  """Deletes the roll-outs of the numbers that are unwanted."""
  for path in folder.glob("*.npz"):
    if path.stem.isdecimal() and unwanted(int(path.stem)):
      path.unlink(missing_ok=True)


def padded(vectors: Sequence[np.ndarray], mask: np.ndarray) -> np.ndarray:
  """Vectors of the mask's lengths as [A, T], 0 behind their end."""
  return scattered(np.concatenate(vectors), mask)


def scattered(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """[A, T] with the values, one after another, where the mask is."""
  found = np.zeros(mask.shape, values.dtype)
  found[mask] = values
  return found
