"""The manifest of a checkpoint: what it holds and the SHA-256 of every file.

Orbax restores flipped bits without a word, so a checkpoint counts only with its manifest, which is
written last, and restoring verifies it first.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dpojax import __version__
from dpojax.errors import CheckpointError
from dpojax.files import is_part, parse_json, to_json_number, write_atomically
from dpojax.training.numbers import from_json_number

NAME = "manifest.json"
PARAMS, REST = "params", "rest"  # stored apart, so that parameters are read, and kept, without optimizer state


class DamagedError(CheckpointError):
  """A checkpoint on disk is not what was saved: a file changed, went missing or was added."""


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What a checkpoint holds.

  Attributes:
    step: optimizer steps taken.
    metrics: name -> value when it was saved.
    config_hash: of the run's config, as given by the caller.
    version: of the dpojax that wrote it.
    leaves: name of each array -> (dtype, shape).
    files: path inside the checkpoint -> (bytes, sha256), every file but the manifest.
  """

  step: int
  metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
  config_hash: str = ""
  version: str = __version__
  leaves: Mapping[str, tuple[str, tuple[int, ...]]] = dataclasses.field(default_factory=dict)
  files: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

  @property
  def weights_only(self) -> bool:
    """Whether parameters are all that it holds."""
    return bool(self.leaves) and all(name.startswith(PARAMS + "/") for name in self.leaves)

  def to_json(self) -> str:
    """Canonical text that ends with its own digest."""
    fields = dataclasses.asdict(self)
    fields["metrics"] = {name: to_json_number(value) for name, value in self.metrics.items()}
    body = json.dumps(fields, indent=1, sort_keys=True)
    fields["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps(fields, indent=1, sort_keys=True) + "\n"

  @classmethod
  def from_json(cls, text: str) -> "Manifest":
    """Raises ValueError unless `text` is exactly what `to_json` wrote."""
    fields = parse_json(text)
    try:
      manifest = cls(
        step=fields["step"],
        metrics={name: from_json_number(value) for name, value in fields["metrics"].items()},
        config_hash=fields["config_hash"],
        version=fields["version"],
        leaves={name: (dtype, tuple(shape)) for name, (dtype, shape) in fields["leaves"].items()},
        files={name: (size, digest) for name, (size, digest) in fields["files"].items()},
      )
    except (KeyError, TypeError, AttributeError) as error:
      raise ValueError(f"not a manifest: {error}") from error
    if manifest.to_json() != text:
      raise ValueError("its own digest does not match")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
  """Digests every file under `folder` and writes its manifest, at once or not at all.

  Returns:
    The manifest with `files` filled in.
  """
  manifest = dataclasses.replace(manifest, files=digests(folder))
  write_atomically(folder / NAME, manifest.to_json(), durable=True)
  return manifest


def read_manifest(folder: Path) -> Manifest:
  """The manifest of a checkpoint, without looking at the other files.

  Raises:
    DamagedError: it is missing, or not as it was written.
  """
  path = folder / NAME
  try:
    return Manifest.from_json(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise DamagedError(f"{path}: missing; without it the checkpoint is unfinished") from None
  except (OSError, ValueError) as error:
    raise DamagedError(f"{path}: damaged ({error})") from None


def verify(folder: Path, *, except_under: str = "") -> Manifest:
  """Checks every file of a checkpoint against its manifest.

  Args:
    folder: of the checkpoint.
    except_under: a folder in it whose files need only be there, as they will not be read.

  Raises:
    DamagedError: naming the first file that is missing, added, or not as it was written.
  """
  manifest = read_manifest(folder)
  sizes = {name: path.stat().st_size for name, path in files_under(folder)}
  for name in sorted(manifest.files.keys() - sizes.keys()):
    raise DamagedError(f"{folder / name}: missing")
  if manifest.weights_only:  # what a process that was killed while it dropped the rest has left counts for nothing
    sizes = {name: size for name, size in sizes.items() if not name.startswith(REST + "/")}
    except_under = REST
  for name in sorted(sizes.keys() - manifest.files.keys()):
    raise DamagedError(f"{folder / name}: not part of the checkpoint; it was added after saving")
  for name, (size, _) in manifest.files.items():
    if sizes[name] != size:
      raise DamagedError(f"{folder / name}: damaged, {sizes[name]} bytes instead of {size}")
  for name, (_, digest) in digests(folder, except_under).items():
    if manifest.files[name][1] != digest:
      raise DamagedError(f"{folder / name}: damaged, its SHA-256 is not the one in {NAME}")
  return manifest


def digests(folder: Path, except_under: str = "") -> dict[str, tuple[int, str]]:
  """path -> (bytes, sha256) of every file under `folder` but the manifest, hashed in threads."""
  files = [item for item in files_under(folder) if not (except_under and item[0].startswith(except_under + "/"))]

  def digest(item: tuple[str, Path]) -> tuple[str, tuple[int, str]]:
    name, path = item
    with open(path, "rb") as file:
      value = hashlib.file_digest(file, "sha256").hexdigest()
      return name, (file.tell(), value)

  with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
    return dict(threads.map(digest, files))


def files_under(folder: Path) -> Iterator[tuple[str, Path]]:
  """(path inside the folder, path) of every file but the manifest, in order."""
  for path in sorted(folder.rglob("*")):
    name = path.relative_to(folder).as_posix()
    if not path.is_dir() and name != NAME and not is_part(path):
      yield name, path
