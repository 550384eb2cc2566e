"""Policy samples (looks at what the policy writes), as a run's folder keeps them: read by the rule that stops it and by reports."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpojax import digests
from dpojax.errors import CheckpointError
from dpojax.files import parse_json
from dpojax.training.runlog import RunLog
from dpojax.training.stopping import PolicySample

SAMPLES, STOP = "samples", "stop.json"


def sample_file_name(step: int) -> str:
  """The file of a run's folder that holds the answers of the look after `step`, one JSON object a prompt."""
  return f"{SAMPLES}/step_{step:08d}.jsonl"


def write_policy_sample(folder: pathlib.Path, step: int, records: Sequence[Mapping[str, Any]]) -> None:
  """Keeps the answers of a look."""
  digests.write_json_lines(folder, sample_file_name(step), records)


def read_policy_sample(folder: pathlib.Path, step: int, reward: str) -> PolicySample:
  """The look after `step`, with the reward of that name; "": a run without rewards, whose rewards are all 0.

  Raises:
    CheckpointError: the file is missing or damaged, or has no such reward.
  """
  path = folder / sample_file_name(step)
  try:
    records = [parse_json(line) for line in digests.read(folder, sample_file_name(step)).splitlines()]
    rewards = [float(record["rewards"][reward]) if reward else 0.0 for record in records]
    return PolicySample(
      step,
      np.asarray(rewards),
      np.asarray([float(r["kl"]) for r in records]),
      np.asarray([r["tokens"] for r in records]),
    )
  except FileNotFoundError:
    raise CheckpointError(f"{path}: no such file, but metrics.jsonl has a look after step {step}; restore it") from None
  except CheckpointError:
    raise
  except (ValueError, KeyError, TypeError) as error:
    raise CheckpointError(f"{path}: it is not the look of a run with reward {reward!r} ({error})") from None


class PolicySamples:
  """Every look of a run so far, each read once.

  Args:
    folder: of the run.
    log: says which looks there are.
    reward: the name of the reward that decides; "": there is none.
  """

  def __init__(self, folder: pathlib.Path, log: RunLog, reward: str):
    self.folder, self.log, self.reward = folder, log, reward
    self._read: dict[int, PolicySample] = {}

  def so_far(self) -> list[PolicySample]:
    """Oldest first; errors as of `read_policy_sample`."""
    steps = [record["step"] for record in self.log.records("policy")]
    for step in steps:
      if step not in self._read:
        self._read[step] = read_policy_sample(self.folder, step, self.reward)
    return [self._read[step] for step in steps]


def write_stop(folder: pathlib.Path, said: Mapping[str, Any]) -> None:
  """Keeps what the rule said after the newest look."""
  digests.write_json(folder, STOP, said)
