"""Roll-outs on disk, `rollouts/000012.npz`: what a run that was killed goes on with."""

import hashlib
import io
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.errors import CheckpointError
from dpojax.files import parse_json, write_atomically
from dpojax.training.stored_files import make_folder, read_stored

ROLLOUTS = "rollouts"


def rollout_path(folder: pathlib.Path, number: int) -> pathlib.Path:
  """Where roll-out `number` lies in the folder `rollouts`."""
  return folder / f"{number:06d}.npz"


def save_rollout(
  path: pathlib.Path, identity: str, steps: range, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]
) -> None:
  """Writes arrays and facts (of JSON), whole or not at all, durably.

  Args:
    path: see `rollout_path`.
    identity: of the stage.
    steps: that are taken from the roll-out; 4, 5: those after steps 4 and 5.

  Raises:
    CheckpointError: there is a file where the folder should be, or a folder where the file should be.
  """
  known = {**facts, "identity": identity, "number": int(path.stem), "steps": [steps.start, steps.stop]}
  known["digest"] = digest_of(known, arrays)
  file = io.BytesIO()
  np.savez(file, facts=np.asarray(json.dumps(known)), **arrays)  # pyright: ignore[reportArgumentType]
  make_folder(path.parent)
  write_atomically(path, file.getvalue(), durable=True)


def read_rollout(
  path: pathlib.Path, identity: str, begun: int | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
  """(arrays, facts) as they were saved; None where there is no file, or one of another identity.

  Args:
    path: see `rollout_path`.
    identity: of the stage.
    begun: the step that the roll-out is made after, for messages; None: not known.

  Raises:
    CheckpointError: the file is damaged, that of another number, or cannot be read.
  """
  found = _read(path, begun)
  if found is None or found[1].pop("identity") != identity:
    return None
  arrays, facts = found
  return arrays, {name: value for name, value in facts.items() if name not in ("number", "steps")}


def _read(path: pathlib.Path, begun: int | None) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
  which = "that were taken from it" if begun is None else f"after {begun}"
  advice = f"delete it, and the checkpoints of steps {which} if there are any: the run makes it anew"
  stored = read_stored(path, advice)
  if stored is None:
    return None
  try:
    with np.load(io.BytesIO(stored)) as parts:
      arrays = {name: parts[name] for name in parts.files}
    facts = parse_json(str(arrays.pop("facts")))
    if facts.pop("digest") != digest_of(facts, arrays):
      raise ValueError("its contents are not those that were written")
    if facts["number"] != int(path.stem):
      raise ValueError(f"it is roll-out {facts['number']}, under another name")
  except Exception as error:  # whatever a reader says of bytes that nobody wrote
    raise CheckpointError(f"{path}: damaged ({error}); {advice}") from None
  return arrays, facts


def digest_of(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
  """sha256 of all that a roll-out holds: the checksums of a zip file do not cover headers that say how much is read."""
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  for name, array in sorted(arrays.items()):
    digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def check_begun(folder: pathlib.Path, number: int, identity: str, update: int, updates: int) -> None:
  """Raises CheckpointError where roll-out `number`, of which steps were taken, is gone: it cannot be made again as it was.

  Where the run went on with other settings, the last step was taken from a roll-out of those, which is there still, under
  this number or, where a roll-out had another number of steps, another one. What is left is then taken from a new one.

  Args:
    folder: `rollouts`.
    number: of the roll-out.
    identity: of the stage.
    update: how many of its steps are taken.
    updates: how many a roll-out has.
  """
  path, begun = rollout_path(folder, number), number * updates
  if not update or path.exists():
    return
  last = begun + update - 1
  for other in numbered(folder):
    found = _read(other, None)
    if found is not None and found[1]["identity"] != identity and last in range(*found[1]["steps"]):
      return
  raise CheckpointError(
    f"{path}: it is gone, and {update} of the {updates} updates that the run takes from it are made; delete the "
    f"checkpoints of steps after {begun}, and the run goes on from the one before"
  )


def numbered(folder: pathlib.Path) -> list[pathlib.Path]:
  """The roll-outs of a folder."""
  return sorted(path for path in folder.glob("*.npz") if path.stem.isdecimal())


def drop(folder: pathlib.Path, unwanted: Callable[[int], bool]) -> None:
  """Deletes the roll-outs of the numbers that are unwanted."""
  for path in numbered(folder):
    if unwanted(int(path.stem)):
      path.unlink(missing_ok=True)


def padded(vectors: Sequence[np.ndarray], mask: np.ndarray) -> np.ndarray:
  """Vectors of the mask's lengths as [A, T], 0 behind their end."""
  return scattered(np.concatenate(vectors), mask)


def scattered(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """[A, T] with the values, one after another, where the mask is."""
  found = np.zeros(mask.shape, values.dtype)
  found[mask] = values
  return found
