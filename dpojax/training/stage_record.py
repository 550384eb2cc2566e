"""stage.json: what a stage was made from and how it ended.

A stage is known by this, not by where it lies: a folder whose record agrees is gone on with, or skipped when it has
ended; one whose record differs is refused with what has changed. Nobody keeps a list of what may be shared.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from dpojax import digests
from dpojax.config.keys import flatten
from dpojax.config.record import identity_settings, said
from dpojax.config.schema import RunConfig
from dpojax.digests import file_digest
from dpojax.errors import CheckpointError
from dpojax.files import parse_json

FILE = "stage.json"
SCHEMA = 1
# What follows from what: where the first has changed, a change of the second needs no line of its own.
FOLLOWS = {"training data": ("tokenizer", "template"), "held-out data": ("tokenizer", "template")}


@dataclasses.dataclass(frozen=True)
class Fingerprint:
  """A digest of something that a stage read, and in words what it is: "36 examples"."""

  digest: str
  about: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
  """An earlier stage that a stage starts from.

  Attributes:
    name: of the stage in its experiment.
    folder: where it lies, relative to the stage that starts from it.
    identity: its `StageRecord.identity`.
  """

  name: str
  folder: str
  identity: str


@dataclasses.dataclass(frozen=True)
class Ended:
  """How a stage ended.

  Attributes:
    reason: "finished", or "stopped" where its own rule said so.
    step: optimizer steps taken; 0 for stages that take none.
    length: the settings `train.steps` and `train.epochs` that it ended under.
    weights: digest of the parameters it ended with; "" where it trains none.
    files: path in its folder -> sha256, of what others read.
  """

  reason: str
  step: int = 0
  length: tuple[float, float] = (0, 0)
  weights: str = ""
  files: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StageRecord:
  """What a stage was made from.

  Attributes:
    settings: those that decide what it makes, see `identity_settings`.
    sources: earlier stages, by the setting that names them.
    fingerprints: of what it read: "training data", "held-out data", "weights", "tokenizer", "template", "reference".
    files: outside files that it read -> (bytes, time of the last change in ns), to see that nothing has changed
      without reading them.
    ended: None while it is not done.
    revisions: models of the hub that it read, as the settings call them -> commit. They are no part of its identity, which
      has the weights' digest; a run that goes on reads the same commits, wherever a branch has moved.
  """

  settings: Mapping[str, Any]
  sources: Mapping[str, Source] = dataclasses.field(default_factory=dict)
  fingerprints: Mapping[str, Fingerprint] = dataclasses.field(default_factory=dict)
  files: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
  ended: Ended | None = None
  revisions: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def identity(self) -> str:
    """sha256 of all that decides what the stage makes, as 64 hexadecimal digits."""
    facts = {
      "schema": SCHEMA,
      "settings": dict(self.settings),
      "sources": {key: source.identity for key, source in self.sources.items()},
      "fingerprints": {name: fingerprint.digest for name, fingerprint in self.fingerprints.items()},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

  def to_json(self) -> dict[str, Any]:
    return {"schema": SCHEMA, "identity": self.identity} | dataclasses.asdict(self)

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> "StageRecord":
    """Inverse of `to_json`; ValueError, TypeError or KeyError where it is not one."""
    if fields["schema"] != SCHEMA:
      raise ValueError(f"schema {fields['schema']}, this version reads {SCHEMA}")
    ended = fields["ended"]
    record = cls(
      settings=dict(fields["settings"]),
      sources={key: Source(**source) for key, source in fields["sources"].items()},
      fingerprints={name: Fingerprint(**value) for name, value in fields["fingerprints"].items()},
      files={path: (int(size), int(changed)) for path, (size, changed) in fields["files"].items()},
      revisions=dict(fields.get("revisions", {})),
      ended=ended and Ended(**{**ended, "length": tuple(ended["length"])}),
    )
    if record.identity != fields["identity"]:
      raise ValueError("its identity is not that of its contents")
    return record


def settings_record(config: RunConfig, sources: Mapping[str, Source] | None = None) -> StageRecord:
  """What is known of a stage before it has read anything."""
  return StageRecord(json.loads(json.dumps(identity_settings(config))), dict(sources or {}))


def length_of(config: RunConfig) -> tuple[float, float]:
  """The settings that say how long a run is."""
  return config.train.steps, config.train.epochs


def read_record(folder: str | pathlib.Path) -> StageRecord | None:
  """`folder`/stage.json; None where there is none.

  Raises:
    CheckpointError: it is damaged.
  """
  path = pathlib.Path(folder, FILE)
  try:
    return StageRecord.from_json(parse_json(digests.read(folder, FILE).decode()))
  except FileNotFoundError:
    return None
  except CheckpointError:
    raise
  except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
    raise CheckpointError(
      f"{path}: damaged ({error}); restore it, or delete {path.parent} and the same command makes it anew"
    ) from None


def write_record(folder: str | pathlib.Path, record: StageRecord) -> None:
  """Writes `folder`/stage.json."""
  digests.write_json(folder, FILE, record.to_json())


def changes(old: StageRecord, new: StageRecord) -> list[str]:
  """What is no longer as it was, a line each; fingerprints that only one of the two has are not compared."""
  defaults = flatten(RunConfig())  # of settings that only one of the two has
  before, after = ({**defaults, **record.settings} for record in (old, new))
  keys = dict.fromkeys([*old.settings, *new.settings])
  lines = [
    f"{key}: {said(before.get(key))} -> {said(after.get(key))}" for key in keys if before.get(key) != after.get(key)
  ]
  for key, source in old.sources.items():
    now = new.sources.get(key)
    if now is not None and now.identity != source.identity:
      lines.append(f"{key}: stage {now.name} was made anew from other settings or data since")
  different = [
    name
    for name, value in old.fingerprints.items()
    if name in new.fingerprints and new.fingerprints[name].digest != value.digest
  ]
  for name in different:
    if not set(FOLLOWS.get(name, ())) & set(different):
      was, now = old.fingerprints[name].about, new.fingerprints[name].about
      lines.append(f"{name}: {f'{was} -> {now}' if was != now else 'changed' + (f' ({now})' if now else '')}")
  return lines


def file_facts(paths: Iterable[str | pathlib.Path]) -> dict[str, tuple[int, int]]:
  """(bytes, time of the last change in ns) of files, by absolute path."""
  found = {}
  for path in paths:
    stat = os.stat(path)
    found[str(pathlib.Path(path).absolute())] = (stat.st_size, stat.st_mtime_ns)
  return found


def is_untouched(files: Mapping[str, tuple[int, int]]) -> bool:
  """Whether files still have the facts that were recorded of them."""
  try:
    return file_facts(files) == dict(files)
  except OSError:
    return False


def files_in(folder: pathlib.Path, name: str) -> list[str]:
  """Paths in `folder` of the files in its folder `name`, in order."""
  return sorted(path.relative_to(folder).as_posix() for path in (folder / name).rglob("*") if path.is_file())


def check_files(folder: pathlib.Path, ended: Ended) -> None:
  """Raises CheckpointError, naming the file, where a stage that has ended no longer holds what it made."""
  for name, digest in ended.files.items():
    path = folder / name
    if not path.is_file():
      raise CheckpointError(f"{path}: it is gone; delete {folder} and the same command makes it anew")
    if file_digest(path) != digest:
      raise CheckpointError(
        f"{path}: it is not what the stage wrote (its SHA-256 differs from the one in {FILE}); restore it, or delete "
        f"{folder} and the same command makes it anew"
      )
  for name in {pathlib.PurePosixPath(name).parts[0] for name in ended.files if "/" in name}:
    added = [path for path in files_in(folder, name) if path not in ended.files]
    if added:
      raise CheckpointError(f"{folder / added[0]}: the stage did not write it; remove it")
