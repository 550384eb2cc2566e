"""The stages that lie below some folders, whatever made them: a run, an experiment, a sweep, a folder of seeds."""

import dataclasses
import datetime
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dpojax.errors import CheckpointError, InputError
from dpojax.files import lines_of
from dpojax.report.records import Records, read_lines
from dpojax.training.runlog import LOG, METRICS, read_metrics
from dpojax.training.stage_record import FILE, StageRecord, read_record

# Of a stage's folder: holds no stages, and may hold thousands of files.
INSIDE = ("checkpoints", "samples", "rollouts", "tokenizer", "plots", "tensorboard")


# Of `monitor`: where these are equal, looks ask the same held-out prompts under the same random keys.
LOOK_KEYS = ("seed", "max_tokens", "temperature", "top_k", "top_p", "stop")


@dataclasses.dataclass(frozen=True)
class Stage:
  """A folder with a stage.json. What it measured is read when it is first asked for.

  Attributes:
    path: the folder, absolute.
    name: its path below the folder that was given, which tells it from all others of the same call.
    record: what it was made from.
  """

  path: pathlib.Path
  name: str
  record: StageRecord

  @property
  def recipe(self) -> str:
    return str(self.setting("recipe", ""))

  @property
  def seed(self) -> int:
    return int(self.setting("seed", 0))

  def setting(self, key: str, default: Any = None) -> Any:
    """A setting that decides what the stage makes, by its dotted key."""
    return self.record.settings.get(key, default)

  @functools.cached_property
  def splits(self) -> dict[str, Records]:
    """Records of metrics.jsonl in order of steps, by split; empty where nothing is measured yet."""
    found: dict[str, Records] = {}
    if (self.path / METRICS).exists():
      for record in read_metrics(self.path / METRICS):
        found.setdefault(record["split"], []).append(record)
    return found

  def last(self, split: str) -> Mapping[str, Any]:
    """The newest record of a split; empty where there is none."""
    return self.splits.get(split, [{}])[-1]

  @property
  def steps(self) -> int:
    """Optimizer steps taken so far; 0 for a stage that takes none."""
    return int(self.last("train").get("step", 0))

  @property
  def seconds(self) -> float | None:
    """Time of its steps, roll-outs included; of a stage that takes none from the first to the last line of its log; None
    where there is none."""
    if train := self.splits.get("train", []):
      return float(sum(row.get("time/step", 0.0) for row in train))
    path = self.path / LOG
    times = [time for line in lines_of(path) if (time := _time(line))] if path.exists() else []
    return (times[-1] - times[0]).total_seconds() if times else None

  @functools.cached_property
  def model(self) -> dict[str, Any] | None:
    """model.json, the sizes of what it trained; None where there is none."""
    return self.json("model.json")

  @functools.cached_property
  def environment(self) -> dict[str, Any]:
    """Of its newest start: versions, device, commit, command; empty where that is not known."""
    starts = self.json("environment.json")
    return starts[-1] if isinstance(starts, list) and starts else {}

  def json(self, name: str) -> Any:
    """The content of a JSON file of its folder, None where there is no such file; CheckpointError where it is damaged."""
    path = self.path / name
    try:
      return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
      return None
    except ValueError as error:
      raise CheckpointError(f"{path}: not JSON ({error}); restore it, or leave its run out") from None

  def samples(self) -> tuple[int, Records] | None:
    """(step, records) of the newest look at the policy; None where there was none."""
    files = sorted(self.path.glob("samples/step_*.jsonl"))
    return (int(files[-1].stem.rpartition("_")[2]), read_lines(files[-1])) if files else None


def find_stages(folders: Iterable[str | os.PathLike[str]]) -> tuple[list[Stage], list[str]]:
  """(stages, what could not be read): every folder with a stage.json in or below `folders`, sorted by name.

  A link to a folder is followed where it is given and not below. A damaged stage.json is a line of the second list, so that one
  broken run does not hide sixty good ones.

  Raises:
    InputError: a folder is not there, or no stage is below any of them.
  """
  paths = [pathlib.Path(folder) for folder in folders]
  for path in paths:
    if not path.is_dir():
      raise InputError(f"{path}: no such folder; give the folder of a run, an experiment or a sweep")
  stages: dict[pathlib.Path, Stage] = {}
  problems = []
  for path in paths:
    for folder in _below(path.resolve()):
      if folder in stages:
        continue
      try:
        stage = read_stage(folder, _name(folder, path, several=len(paths) > 1))
      except CheckpointError as error:
        problems.append(str(error))
        continue
      assert stage is not None
      stages[folder] = stage
  if not stages:
    found = f"; {problems[0]}" if problems else ""
    listed = ", ".join(map(str, paths))
    raise InputError(
      f"{listed}: no run is here, no folder below has a {FILE}; give what --workdir of `dpojax train` named{found}"
    )
  return _told_apart(sorted(stages.values(), key=lambda stage: natural(stage.name))), problems


def read_stage(folder: pathlib.Path, name: str = "") -> Stage | None:
  """The stage in a folder; None where there is none, CheckpointError where its record is damaged.

  The same stage again where its record and metrics have not changed since: many runs start from one, and what it measured is
  then read once.
  """
  folder = folder.resolve()
  return _read_once(folder, name or folder.name, _stamp(folder / FILE), _stamp(folder / METRICS))


@functools.lru_cache(maxsize=256)
def _read_once(folder: pathlib.Path, name: str, *stamps: tuple[int, int] | None) -> Stage | None:
  record = read_record(folder)
  return None if record is None else Stage(folder, name, record)


def _stamp(path: pathlib.Path) -> tuple[int, int] | None:
  try:
    found = path.stat()
  except OSError:
    return None
  return found.st_mtime_ns, found.st_size


def source_folders(stage: Stage) -> dict[str, pathlib.Path]:
  """The folders of the stages that a stage starts from, by the setting that names them, there or not."""
  return {key: (stage.path / source.folder).resolve() for key, source in stage.record.sources.items()}


def _time(line: bytes) -> datetime.datetime | None:
  """The time at the beginning of a line of log.txt; None where a message goes on."""
  try:
    return datetime.datetime.fromisoformat(line[:19].decode())
  except ValueError:
    return None


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  for path, folders, files in os.walk(folder):
    if FILE in files:
      yield pathlib.Path(path)
      folders[:] = [name for name in folders if name not in INSIDE]
    folders[:] = sorted(name for name in folders if not name.startswith("."))


def _name(folder: pathlib.Path, given: pathlib.Path, *, several: bool) -> str:
  root = given.resolve()
  below = folder.relative_to(root).parts
  return "/".join((root.name, *below) if several or not below else below)


def natural(text: str) -> list[tuple[bool, float, str]]:
  """What names are sorted by: 2 comes before 10."""
  parts = re.findall(r"\d+(?:\.\d+)?|\D+", text)
  return [(part[0].isdigit(), float(part) if part[0].isdigit() else 0.0, part) for part in parts]


def _told_apart(stages: Sequence[Stage]) -> list[Stage]:
  """The same with whole paths for the names of those that would be called alike."""
  names = [stage.name for stage in stages]
  return [
    stage if names.count(stage.name) == 1 else dataclasses.replace(stage, name=str(stage.path)) for stage in stages
  ]
