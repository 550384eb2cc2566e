"""Checkpoints of weights alone: what is read by export, sample, score and eval, without what a run goes on from.

Of a checkpoint's three copies of a model's size two are the optimizer's moments. `drop_state` takes them away:

  1. the manifest is written anew, without them: from now on the folder `rest/` counts for nothing, there or not
  2. the folder goes

A process that is killed in between leaves a sound checkpoint; the next start of its run removes what is left (`clean`).
"""

import contextlib
import dataclasses
import shutil
from pathlib import Path

from dpojax.errors import CheckpointError
from dpojax.files import write_atomically
from dpojax.training import manifest
from dpojax.training.manifest import PARAMS, REST, DamagedError, Manifest


def drop_state(path: Path) -> None:
  """Leaves a checkpoint its weights alone; a damaged one, and one that has no weights, as it is."""
  with contextlib.suppress(DamagedError):
    found = manifest.read_manifest(path)
    if not any(name.startswith(PARAMS + "/") for name in found.leaves):
      return
    if not found.weights_only:
      write_atomically(path / manifest.NAME, without_state(found).to_json(), durable=True)
    shutil.rmtree(path / REST, ignore_errors=True)


def without_state(found: Manifest) -> Manifest:
  """The manifest of the same checkpoint without what is in `rest/`."""
  return dataclasses.replace(
    found,
    leaves={name: leaf for name, leaf in found.leaves.items() if name.startswith(PARAMS + "/")},
    files={name: file for name, file in found.files.items() if not name.startswith(REST + "/")},
  )


def has_state(path: Path) -> bool:
  """Whether a run could go on from a checkpoint; True of a damaged one, whose damage is to be said."""
  try:
    return not manifest.read_manifest(path).weights_only
  except DamagedError:
    return True


def clean(folder: Path, steps: list[int]) -> None:
  """Removes what a killed `drop_state` left in a run's checkpoints."""
  for path in [folder / str(step) for step in steps]:
    if (path / REST).exists() and not has_state(path):
      shutil.rmtree(path / REST, ignore_errors=True)


def refusal(folder: Path, steps: list[int], *, step: int | None = None, damage: object = None) -> CheckpointError:
  """What to say where a run should go on, and only weights are there.

  Args:
    steps: of its checkpoints.
    step: that was asked for.
    damage: of the one that it could have gone on from.
  """
  why = f"{folder}: the checkpoints of this run hold" if step is None else f"{folder / str(step)}: it holds"
  why = f"{damage}, and the others hold" if damage else why
  return CheckpointError(
    f"{why} weights alone, without the optimizer's state to go on from (checkpoint.resumable); start another run from them, "
    f"in a workdir of its own, with model.path={folder / str(max(steps) if step is None else step)}"
  )
