"""Looks at what the policy writes, as a run's folder keeps them: read by the rule that stops it and by reports."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.errors import CheckpointError
from dpojax.files import lines_of, parse_json, write_json, write_json_lines
from dpojax.training.runlog import RunLog
from dpojax.training.stopping import Look

SAMPLES, STOP = "samples", "stop.json"


def look_file(folder: pathlib.Path, step: int) -> pathlib.Path:
  """Where the answers of the look after `step` are kept, one JSON object a prompt."""
  return folder / SAMPLES / f"step_{step:08d}.jsonl"


def write_look(folder: pathlib.Path, step: int, records: Sequence[Mapping[str, Any]]) -> None:
  """Keeps the answers of a look."""
  path = look_file(folder, step)
  path.parent.mkdir(exist_ok=True)
  write_json_lines(path, records)


def read_look(folder: pathlib.Path, step: int, reward: str) -> Look:
  """The look after `step`, with the reward of that name; "": a run without rewards, whose rewards are all 0.

  Raises:
    CheckpointError: the file is missing or damaged, or has no such reward.
  """
  path = look_file(folder, step)
  try:
    records = [parse_json(line) for line in lines_of(path)]
    rewards = [float(record["rewards"][reward]) if reward else 0.0 for record in records]
    return Look(
      step,
      np.asarray(rewards),
      np.asarray([float(r["kl"]) for r in records]),
      np.asarray([r["tokens"] for r in records]),
    )
  except FileNotFoundError:
    raise CheckpointError(f"{path}: no such file, but metrics.jsonl has a look after step {step}; restore it") from None
  except (ValueError, KeyError, TypeError) as error:
    raise CheckpointError(f"{path}: it is not the look of a run with reward {reward!r} ({error})") from None


class Looks:
  """Every look of a run so far, each read once.

  Args:
    folder: of the run.
    log: says which looks there are.
    reward: the name of the reward that decides; "": there is none.
  """

  def __init__(self, folder: pathlib.Path, log: RunLog, reward: str):
    self.folder, self.log, self.reward = folder, log, reward
    self._read: dict[int, Look] = {}

  def so_far(self) -> list[Look]:
    """Oldest first; errors as of `read_look`."""
    steps = [record["step"] for record in self.log.records("policy")]
    for step in steps:
      if step not in self._read:
        self._read[step] = read_look(self.folder, step, self.reward)
    return [self._read[step] for step in steps]


def write_stop(folder: pathlib.Path, said: Mapping[str, Any]) -> None:
  """Keeps what the rule said after the newest look."""
  write_json(folder / STOP, said)
