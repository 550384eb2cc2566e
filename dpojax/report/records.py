"""What a run left in its folder, read back: settings, metrics over steps, samples."""

import dataclasses
import fnmatch
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dpojax import digests
from dpojax.config.record import read_config
from dpojax.config.schema import RunConfig
from dpojax.errors import CheckpointError
from dpojax.files import lines_of, parse_json
from dpojax.report.when_to_stop import WhenToStop, read_when_to_stop
from dpojax.training.numbers import tied
from dpojax.training.policy_samples import SAMPLES
from dpojax.training.runlog import METRICS, read_metrics

LOOKS = "samples/step_*.jsonl"
Records = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class RunRecords:
  """One run as read from disk.

  Attributes:
    folder: the working directory.
    config: its settings.
    splits: records of metrics.jsonl in order of steps, by split ("train", "eval", "policy").
    samples: what the policy wrote, by step: one record a prompt.
    when_to_stop: what was decided of that; None where nothing was.
  """

  folder: pathlib.Path
  config: RunConfig
  splits: dict[str, Records]
  samples: dict[int, Records]
  when_to_stop: WhenToStop | None = None

  def series(self, split: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps i64[N], values f64[N]) of the records that have the metric; empty where none has.

    A fraction of pairs won is left out where all pairs are ties, see `training.numbers.tied`.
    """
    records = [record for record in self.splits.get(split, []) if metric in record]
    found = [(record["step"], record[metric]) for record in records if not tied(record, metric)]
    return np.asarray([s for s, _ in found], np.int64), np.asarray([v for _, v in found], np.float64)


def read_run(folder: str | pathlib.Path) -> RunRecords:
  """Reads `folder`; CheckpointError when it is not the working directory of a run."""
  folder = pathlib.Path(folder)
  config = read_config(folder)
  splits: dict[str, Records] = {}
  check_listed(folder / METRICS)
  for record in read_metrics(folder / METRICS):
    splits.setdefault(record["split"], []).append(record)
  samples = {int(file.stem.rpartition("_")[2]): read_lines(file) for file in sample_files(folder)}
  return RunRecords(folder, config, splits, dict(sorted(samples.items())), read_when_to_stop(folder))


def read_lines(
  path: pathlib.Path, wants: Mapping[str, type] | None = None, checked: Callable[[Any], None] = lambda record: None
) -> Records:
  """The JSON objects of a file's lines.

  Args:
    wants: keys that every one must have, with the kind of their values.
    checked: as of `read_made`, of each.

  Raises:
    CheckpointError: the file cannot be read, or a line is not such an object; names the line.
  """
  records = []
  check_listed(path)
  try:
    lines = lines_of(path)
  except OSError as error:
    raise CheckpointError(f"{path}: {error.strerror}") from None
  for number, line in enumerate(lines, start=1):
    try:
      record = parse_json(line)
    except (ValueError, RecursionError) as error:
      raise CheckpointError(f"{path}:{number}: not JSON ({error})") from None
    lacking = [
      k for k, kind in (wants or {}).items() if not (isinstance(record, dict) and isinstance(record.get(k), kind))
    ]
    if not isinstance(record, dict) or lacking:
      raise CheckpointError(f"{path}:{number}: is no record with {', '.join(lacking) or 'keys'}; restore the file")
    try:
      checked(record)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
      raise CheckpointError(f"{path}:{number}: {error}; restore the file") from None
    records.append(record)
  return records


def sample_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Answers of the looks at a policy, oldest first; those too that are gone and that digests.json lists."""
  listed = [name for name in digests.read_list(folder).files if fnmatch.fnmatch(name, LOOKS)]
  return sorted({*folder.glob(LOOKS), *(folder / name for name in listed)})


def check_listed(path: pathlib.Path) -> None:
  """Raises CheckpointError where a file of a run, or of its `samples/`, is gone or not what was written."""
  folder = path.parent.parent if path.parent.name == SAMPLES else path.parent
  found = digests.damage(folder, [path.relative_to(folder).as_posix()])
  if found:
    raise CheckpointError(f"{found}; {digests.advice(folder)}, or leave its run out")


def check_prompt(prompt: Any) -> None:
  """Fails as Python does where a prompt is a list of something else than messages."""
  for message in prompt if isinstance(prompt, list) else ():
    message.get("role")


def check_figures(answer: Mapping[str, Any]) -> None:
  """Fails as Python does where what was measured of an answer is no number: "kl", "tokens", "rewards" by their names."""
  for value in (answer.get("kl"), answer.get("tokens"), *(answer.get("rewards") or {}).values()):
    float(0 if value is None else value)


def read_made(path: pathlib.Path, recipe: str, checked: Callable[[Any], None] = lambda content: None) -> dict[str, Any]:
  """The JSON file in which a stage of a recipe that trains nothing left its figures; CheckpointError where it is not one.

  Args:
    checked: touches what every such file has, and fails as Python does where it has something else.
  """
  check_listed(path)
  try:
    content = parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
      raise TypeError(f"holds a {type(content).__name__}")
    checked(content)
    return content
  except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
    said = error if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
    raise CheckpointError(
      f"{path}: not what a stage of recipe={recipe} writes ({said}); delete the folder and run the same command again"
    ) from None


def newest_tenth(records: Records) -> Records:
  """The last tenth of the records, at least one of any: one alone is a small sample."""
  return records[-max(1, len(records) // 10) :]
