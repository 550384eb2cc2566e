"""The stages that lie below some folders, whatever made them: a run, an experiment, a sweep, a folder of seeds."""

import dataclasses
import datetime
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dpojax.errors import CheckpointError, InputError
from dpojax.files import lines_of, parse_json
from dpojax.report.records import Records, check_figures, check_listed, check_prompt, read_lines, sample_files
from dpojax.terminal import in_line
from dpojax.training.runlog import LOG, METRICS, read_metrics
from dpojax.training.stage_record import FILE, StageRecord, read_record

# Of a stage's folder: holds no stages, and may hold thousands of files.
INSIDE = ("checkpoints", "samples", "rollouts", "tokenizer", "plots", "tensorboard")


FIXED = ("step", "split")  # of a row of metrics, beside what was measured
# Of `monitor`: where these and the runs' seeds are equal, looks ask the same held-out prompts under the same random keys.
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
    check_listed(self.path / METRICS)
    if (self.path / METRICS).exists():
      try:
        records = read_metrics(self.path / METRICS)
      except OSError as error:
        raise CheckpointError(f"{self.path / METRICS}: {error.strerror}; leave its run out") from None
      for number, record in enumerate(records, 1):
        wrong = next((name for name, value in record.items() if name not in FIXED and not _is_number(value)), None)
        if wrong is not None:
          raise CheckpointError(f"{self.path / METRICS}, row {number}: {wrong} is {record[wrong]!r}, not a number")
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
    check_listed(self.path / LOG)
    try:
      times = [time for line in lines_of(self.path / LOG) if (time := _time(line))]
    except OSError:
      return None
    starts = [time for one in self.json("environment.json") or () if (time := _started(one))]
    return _busy(times, starts) if times else None

  @functools.cached_property
  def model(self) -> dict[str, Any] | None:
    """model.json, the sizes of what it trained; None where there is none."""
    found = self.json("model.json")
    if found is not None and not isinstance(found, dict):
      raise CheckpointError(f"{self.path / 'model.json'}: holds a {type(found).__name__}, not the sizes of a model")
    return found

  @functools.cached_property
  def environment(self) -> dict[str, Any]:
    """Of its newest start: versions, device, commit, command; empty where that is not known."""
    starts = self.json("environment.json")
    return starts[-1] if isinstance(starts, list) and starts and isinstance(starts[-1], dict) else {}

  def json(self, name: str) -> Any:
    """The content of a JSON file of its folder, None where there is no such file; CheckpointError where it is damaged."""
    path = self.path / name
    check_listed(path)
    try:
      return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
      return None
    except (OSError, ValueError, RecursionError) as error:
      raise CheckpointError(f"{path}: not JSON ({error}); restore it, or leave its run out") from None

  def samples(self) -> tuple[int, Records] | None:
    """(step, records) of the newest look at the policy; None where there was none."""
    files = sample_files(self.path)
    if not files:
      return None
    return int(files[-1].stem.rpartition("_")[2]), read_lines(files[-1], {"prompt": object, "answer": str}, _check)

  @functools.cached_property
  def looked_at(self) -> str:
    """A digest of the prompts of its newest look, equal where runs were asked the same; "" where there was none."""
    newest = self.samples()
    return digest_of_prompts(record.get("prompt") for record in newest[1]) if newest else ""


def _check(record: Any) -> None:
  check_prompt(record["prompt"])
  check_figures(record)


def digest_of_prompts(prompts: Iterable[Any]) -> str:
  """A digest of prompts whatever their order."""
  return hashlib.sha256("\n".join(sorted(json.dumps(prompt) for prompt in prompts)).encode()).hexdigest()


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
    for folder in _below(path.resolve(), problems):
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


def readable_stage(folder: pathlib.Path | None) -> Stage | None:
  """The stage in a folder; None where there is none, or none that can be read."""
  try:
    return read_stage(folder) if folder is not None else None
  except CheckpointError:
    return None


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


def _started(start: Any) -> datetime.datetime | None:
  """When a start was, in the local time that the log has; None where it does not say."""
  try:
    return datetime.datetime.fromisoformat(start["started"]).astimezone().replace(tzinfo=None)
  except (TypeError, KeyError, ValueError):
    return None


def _busy(times: Sequence[datetime.datetime], starts: Sequence[datetime.datetime]) -> float:
  """Seconds from the first to the last time, without what lay between the last line of one start and the next start."""
  seconds = 0.0
  for before, after in itertools.pairwise(times):
    resumed = [start for start in starts if before < start <= after]
    seconds += (after - (resumed[-1] if resumed else before)).total_seconds()
  return seconds


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _below(folder: pathlib.Path, problems: list[str]) -> Iterator[pathlib.Path]:
  def unreadable(error: OSError) -> None:
    problems.append(f"{error.filename}: {error.strerror}")

  for path, folders, files in os.walk(folder, onerror=unreadable):
    if FILE in files:
      yield pathlib.Path(path)
      folders[:] = [name for name in folders if name not in INSIDE]
    folders[:] = sorted(name for name in folders if not name.startswith("."))


def _name(folder: pathlib.Path, given: pathlib.Path, *, several: bool) -> str:
  root = given.resolve()
  below = folder.relative_to(root).parts
  name = "/".join((root.name, *below) if several or not below else below)
  return in_line(os.fsencode(name).decode("utf-8", "replace"))


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
