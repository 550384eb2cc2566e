"""Checkpoints: asynchronous saves with retention, verified and exact restores.

A checkpoint is the folder `<step>/` written by Orbax plus the manifest that is written last: without
one it is unfinished, whatever else it holds. Arrays are stored under the path of their leaf, so the
tree is compared by our own names, never by Orbax, which casts a wrong dtype silently.
"""

import logging
import math
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dpojax.config.schema import CheckpointSettings
from dpojax.errors import CheckpointError
from dpojax.interop.finite import check_finite
from dpojax.training import manifest, weights_only
from dpojax.training.manifest import PARAMS, REST, DamagedError, Manifest
from dpojax.types import Params

DAMAGED = ".damaged"
CHECKPOINTS = "checkpoints"  # the folder of a run that they are in
UNDER_BUDGET = "under_budget/reward"  # metric of checkpoints whose policy kept to the KL budget; the best is kept
NOTHING = -1  # in place of a step where processes exchange it
Warn = Callable[[str], None]


def _no_traceback_of_orbax(record: logging.LogRecord) -> bool:
  """Drops the tracebacks with which Orbax's threads log an error (a full disk): it is raised too, and said in one line."""
  trace = record.exc_info[2] if record.exc_info else None  # whose frames say it, however absl finds its caller
  while trace is not None and "orbax" not in Path(trace.tb_frame.f_code.co_filename).parts:
    trace = trace.tb_next
  return trace is None


logging.getLogger("absl").addFilter(_no_traceback_of_orbax)


class Checkpointer:
  """The checkpoints of one run. All processes of a run make the same calls in the same order.

  `save` returns once the arrays may be donated; writing, digesting and deleting old checkpoints go on
  in a thread. A failure there (a full disk) is raised by the next `save`, `wait` or `close`.

  Args:
    folder: holds one folder a step; made if missing. What an interrupted save left is deleted.
    settings: how many to keep, how many of these with the optimizer's state (but for the newest, which always has it until
      `drop_state`), and the metric whose best is kept too (as is the best by `UNDER_BUDGET`).
    config_hash: of the run's config, stored with every checkpoint.
    warn: called with the text of each warning.
  """

  def __init__(
    self, folder: str | Path, settings: CheckpointSettings, *, config_hash: str = "", warn: Warn = warnings.warn
  ):
    self.folder = Path(folder).absolute()
    self.settings = settings
    self.config_hash = config_hash
    self._warn = warn
    self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dpojax-checkpoint")
    self._pending: Future | None = None
    if is_primary():
      self.folder.mkdir(parents=True, exist_ok=True)
      self._remove_unfinished()
      weights_only.clean(self.folder, self.steps())

  def steps(self) -> list[int]:
    """Steps with a finished checkpoint, rising. Whether their files are sound is not looked at."""
    return finished_steps(self.folder)

  def latest_step(self) -> int | None:
    return max(self.steps(), default=None)

  def best_step(self, metric: str = "", mode: str = "") -> int | None:
    """The step whose `metric` (`settings.best_metric`) is best, the newest of equals; None if no checkpoint has it."""
    metric, mode = metric or self.settings.best_metric, mode or self.settings.best_mode
    sign = 1.0 if mode == "max" else -1.0
    scores = []
    for step in self.steps():
      try:
        value = manifest.read_manifest(self.folder / str(step)).metrics.get(metric, math.nan)
      except DamagedError:
        continue
      if not math.isnan(value):
        scores.append((sign * value, step))
    return max(scores)[1] if scores else None

  def metadata(self, step: int) -> Manifest:
    """What is known of a checkpoint: step, metrics, version, config hash, arrays and files."""
    return manifest.read_manifest(self.folder / str(step))

  def save(self, step: int, state: Any, *, metrics: Mapping[str, float] | None = None) -> None:
    """Starts to save `state` as checkpoint `step`; waits for the save before it, if there is one.

    The arrays may be donated or overwritten as soon as this returns. A step that is saved already is
    left as it is.

    Raises:
      CheckpointError: the save before this one failed; checkpoints before it are intact.
    """
    self.wait()
    if step in self.steps():
      return
    leaves = named_leaves(state)
    description = Manifest(
      step=step,
      metrics=dict(metrics or {}),
      config_hash=self.config_hash,
      leaves={name: described(leaf) for name, leaf in leaves.items()},
    )
    path = self.folder / str(step)
    try:
      response = start_writing(path, leaves)
    except Exception as error:  # libraries have names of their own for a full disk
      raise self._failure(error) from error
    self._pending = self._thread.submit(self._finish, response, path, description)

  def wait(self) -> None:
    """Returns when the last save is complete on every process.

    Raises:
      CheckpointError: it failed; what was written of it is removed.
    """
    if self._pending is None:
      return
    pending, self._pending = self._pending, None
    error = pending.exception()
    failed = error is not None
    if jax.process_count() > 1:
      failed = bool(np.any(multihost_utils.process_allgather(np.asarray(failed))))
    if not failed:
      return
    if is_primary():
      self._remove_unfinished()
    raise self._failure(error) from error

  def restore(self, abstract_state: Any, step: int | None = None) -> tuple[int, Any]:
    """Reads a checkpoint, verified, into the tree, dtypes, shapes and shardings of `abstract_state`.

    Args:
      abstract_state: tree of arrays or `jax.ShapeDtypeStruct`s; without a sharding a leaf goes to the
        first device.
      step: which one; None: the newest that is sound. A damaged one is passed over with a warning
        that names the file, and moved to `<step>.damaged`.

    Returns:
      (step, state), bit for bit as saved.

    Raises:
      CheckpointError: there is none, the one asked for is damaged, or it holds another state or weights alone; names
        the folder, the file or the leaf.
    """
    self.wait()
    problem: CheckpointError | None = None
    chosen = NOTHING
    if is_primary():
      try:
        resumes = any(not name.startswith(PARAMS + "/") for name in named_leaves(abstract_state))
        chosen = sound_step(self.folder, step, self._warn, discard=self._discard, resumes=resumes)
      except CheckpointError as error:
        problem = error
    if jax.process_count() > 1:
      chosen = int(multihost_utils.broadcast_one_to_all(np.asarray(chosen)))
    if chosen == NOTHING:
      raise problem or CheckpointError(f"{self.folder}: no sound checkpoint; the first process names the file")
    path = self.folder / str(chosen)
    wanted = named_leaves(abstract_state)
    check_leaves(path, manifest.read_manifest(path), wanted)
    arrays = read_leaves(path, wanted)
    return chosen, jax.tree.unflatten(jax.tree.structure(abstract_state), [arrays[name] for name in wanted])

  def close(self) -> None:
    """Waits for the last save; raises what `wait` raises."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _finish(self, response: Any, path: Path, description: Manifest) -> None:
    """In the thread: waits for Orbax's commit, writes the manifest, then deletes what retention drops."""
    response.result()
    if not is_primary():
      return
    manifest.write_manifest(path, description)
    kept = {*self.steps()[-self.settings.keep :], self.best_step(), self.best_step(UNDER_BUDGET, "max")}
    for step in self.steps():
      if step not in kept:
        remove(self.folder / str(step))
    for step in self.steps()[: -max(1, self.settings.resumable)]:
      weights_only.drop_state(self.folder / str(step))

  def drop_state(self) -> None:
    """Leaves all checkpoints their weights alone, as of a run that has ended and will not be gone on with."""
    self.wait()
    for step in self.steps() if is_primary() else ():
      weights_only.drop_state(self.folder / str(step))

  def _failure(self, error: BaseException | None) -> CheckpointError:
    reason = "on another process" if error is None else (str(error).strip() or repr(error)).splitlines()[0]
    return CheckpointError(
      f"{self.folder}: saving a checkpoint failed ({reason}); free some space or mend the folder and start again, the "
      "checkpoints before it are intact"
    )

  def _discard(self, step: int) -> None:
    damaged = self.folder / f"{step}{DAMAGED}"
    remove(damaged)
    (self.folder / str(step)).rename(damaged)

  def _remove_unfinished(self) -> None:
    """Deletes folders of saves that did not complete; touches nothing that is not named by a step."""
    for path in self.folder.iterdir():
      step, _, rest = path.name.partition(".")
      unfinished = rest.startswith("orbax-checkpoint-tmp") or (not rest and not (path / manifest.NAME).exists())
      if step.isdecimal() and path.is_dir() and unfinished:
        remove(path)


def read_params(folder: str | Path, step: int | None = None, *, warn: Warn = warnings.warn) -> Params:
  """The parameters alone, for scoring and sampling, verified; nothing on disk is touched.

  Args:
    folder: a run's `checkpoints` folder, or the folder of one checkpoint.
    step: which one; None: the newest that is sound, damaged ones are passed over with a warning.
    warn: called with the text of each warning.

  Returns:
    Nested dict of arrays on the first device.

  Raises:
    CheckpointError: there is no sound checkpoint, or it has no parameters.
    WeightsError: a parameter is not finite; names it.
  """
  folder = Path(folder).absolute()
  if (folder / manifest.NAME).exists() and folder.name.isdecimal():
    folder, step = folder.parent, int(folder.name)
  path = folder / str(sound_step(folder, step, warn, except_under=REST))
  leaves = {
    name: jax.ShapeDtypeStruct(shape, dtype_named(dtype))
    for name, (dtype, shape) in manifest.read_manifest(path).leaves.items()
    if name.startswith(PARAMS + "/")
  }
  if not leaves:
    raise CheckpointError(f"{path}: holds no parameters")
  arrays = read_leaves(path, leaves)
  for name, array in arrays.items():
    check_finite(np.asarray(array), name.removeprefix(PARAMS + "/"), path)
  return nested(arrays)[PARAMS]


def finished_steps(folder: Path) -> list[int]:
  """Steps under `folder` that have a manifest, rising."""
  if not folder.is_dir():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and (p / manifest.NAME).exists())


def sound_step(
  folder: Path,
  step: int | None,
  warn: Warn,
  *,
  discard: Callable[[int], None] | None = None,
  except_under: str = "",
  resumes: bool = False,
) -> int:
  """`step` if its files verify; without one, the newest that verifies, calling `discard` on damaged ones.

  Where a run `resumes`, those of weights alone do not count.
  """
  present = finished_steps(folder)
  steps = [each for each in present if not resumes or weights_only.has_state(folder / str(each))]
  if present and (not steps or (step in present and step not in steps)):
    raise weights_only.refusal(folder, present, step=step)
  if step is not None:
    if step not in steps:
      raise CheckpointError(f"{folder}: no checkpoint of step {step}; there are {steps or 'none'}")
    manifest.verify(folder / str(step), except_under=except_under)
    return step
  if not steps:
    raise CheckpointError(f"{folder}: holds no finished checkpoint")
  for candidate in reversed(steps):
    try:
      manifest.verify(folder / str(candidate), except_under=except_under)
      return candidate
    except DamagedError as error:
      warn(f"{error}; falling back to the checkpoint before step {candidate}")
      damaged = error
      if discard is not None:
        discard(candidate)
  if others := [each for each in present if each not in steps]:
    raise weights_only.refusal(folder, others, damage=damaged)
  raise CheckpointError(f"{folder}: every checkpoint is damaged, the oldest for this reason: {damaged}")


def named_leaves(tree: Any) -> dict[str, Any]:
  """Path -> leaf in tree order, such as `opt_state/0/mu/layers/q`."""
  paths = jax.tree_util.tree_leaves_with_path(tree)
  leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
  if len(leaves) != len(paths):
    raise ValueError("two leaves of the state have the same path")
  return leaves


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `named_leaves` for nested dicts."""
  tree: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *parents, last = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree


def described(leaf: Any) -> tuple[str, tuple[int, ...]]:
  """(dtype, shape) as a manifest stores them."""
  return str(leaf.dtype), tuple(leaf.shape)


def dtype_named(name: str) -> Any:
  """The dtype that `described` wrote, bfloat16 and its like included."""
  return jax.numpy.dtype(name)


def check_leaves(path: Path, saved: Manifest, wanted: Mapping[str, Any]) -> None:
  """Raises CheckpointError, naming the leaf, unless the checkpoint holds exactly the wanted arrays."""
  for name, leaf in wanted.items():
    if name not in saved.leaves:
      raise CheckpointError(f"{path}: no array {name}; it was saved from another model or optimizer")
    if saved.leaves[name] != described(leaf):
      was, now = (f"{dtype}{list(shape)}" for dtype, shape in (saved.leaves[name], described(leaf)))
      raise CheckpointError(f"{path}: array {name} is {was}, but the state has {now}")
  for name in saved.leaves:
    if name not in wanted:
      raise CheckpointError(f"{path}: array {name} has no place in the state; it is of another model or optimizer")


def start_writing(path: Path, leaves: Mapping[str, Any]) -> Any:
  """Orbax's asynchronous save; `result()` of what is returned waits for the commit."""
  from orbax.checkpoint import v1 as ocp  # 0.2 s, and only runs that save or restore need it

  context = ocp.Context()
  # Float noise shrinks by a quarter at five times the processor time, which training needs.
  context.array.saving.use_compression = False
  groups: dict[str, dict[str, Any]] = {}
  for name, leaf in leaves.items():
    groups.setdefault(PARAMS if name.startswith(PARAMS + "/") else REST, {})[name] = leaf
  with context:
    return ocp.save_checkpointables_async(str(path), {group: nested(arrays) for group, arrays in groups.items()})


def read_leaves(path: Path, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
  """JAX arrays of a verified checkpoint by name, placed by the wanted leaves' shardings."""
  from orbax.checkpoint import v1 as ocp

  first_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  groups: dict[str, dict[str, Any]] = {}
  for name, leaf in wanted.items():
    sharding = getattr(leaf, "sharding", None) or first_device
    group = groups.setdefault(PARAMS if name.startswith(PARAMS + "/") else REST, {})
    group[name] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
  try:
    loaded = ocp.load_checkpointables(str(path), {group: nested(arrays) for group, arrays in groups.items()})
  except (OSError, ValueError) as error:
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    raise CheckpointError(f"{path}: it cannot be read ({reason}); make it readable, or delete it") from error
  arrays = {name: leaf for tree in loaded.values() for name, leaf in named_leaves(tree).items()}
  for name, leaf in wanted.items():
    if described(arrays[name]) != described(leaf):
      raise CheckpointError(f"{path}: array {name} is {leaf.dtype}, which needs JAX_ENABLE_X64=1")
  return arrays


def remove(path: Path) -> None:
  """Deletes a checkpoint's folder, its manifest first: half deleted, it counts as unfinished."""
  (path / manifest.NAME).unlink(missing_ok=True)
  shutil.rmtree(path, ignore_errors=True)


def is_primary() -> bool:
  return jax.process_index() == 0
