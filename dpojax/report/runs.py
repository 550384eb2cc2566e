"""Runs as data frames: a row a run, a row a look at a policy."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dpojax.errors import InputError
from dpojax.report.comparison_records import comparison_of
from dpojax.report.frontier import frontier_points, reward_names
from dpojax.report.methods import differing_settings, method_of
from dpojax.report.records import newest_tenth
from dpojax.report.stages import Stage, find_stages
from dpojax.training.numbers import tied

if TYPE_CHECKING:
  import pandas

# Splits whose newest record is a run's final metrics; names of the columns begin with them.
SPLITS = ("eval", "policy", "rollout")
FIXED = ("step", "split")


def load_runs(*folders: str | os.PathLike[str]) -> "pandas.DataFrame":
  """A row for each stage in or below `folders`, sorted by name.

  Columns: `name` (path below the folder given), `folder`, `stage` (name of its folder), `recipe`, `method`, `knob` ("β
  0.1"), `knob_value`, `seed`, `status` ("finished", "stopped", or "unfinished"), `steps`, `seconds`, `device`, `commit`,
  `clean`, `started`; `setting/KEY` for settings that differ between runs of one recipe; `eval/METRIC`, `policy/METRIC` and
  `rollout/METRIC` of the newest record of each split, `train/METRIC` as means over the last tenth of the steps.

  Raises:
    InputError: a folder is not there, or no run is below any of them.
  """
  import pandas

  return pandas.DataFrame(run_rows(_stages(folders)))


def load_frontier(*folders: str | os.PathLike[str], reward: str = "") -> "pandas.DataFrame":
  """A row for each point of the frontier that `dpojax report` draws: `method`, `knob`, `run`, `seed`, `step`, `kl` (exact, nats an answer),
  `kl_error`, `reward`, `reward_error`, `source` ("look", "comparison", "best of N"), `final`, `split`.

  Args:
    reward: the name of the reward; "": the true one, else that of the comparison, else the first measured.

  Raises:
    InputError: a folder is not there, no run is below any of them, or none measured a reward of that name.
  """
  import pandas

  stages = _stages(folders)
  comparisons = [found for stage in stages if (found := comparison_of(stage)) is not None]
  names = reward_names(stages, comparisons)
  if not names or reward not in ("", *names):
    raise InputError(f"reward={reward!r}: measured are {', '.join(names) or 'none'}")
  rows = [dataclasses.asdict(point) for point in frontier_points(stages, comparisons, reward or names[0])]
  columns = ["knob", "run", "seed", "step", "kl", "kl_error", "reward", "reward_error", "source", "final", "split"]
  return pandas.DataFrame([{"method": row["series"]} | {name: row[name] for name in columns} for row in rows])


def load_points(*folders: str | os.PathLike[str]) -> "pandas.DataFrame":
  """A row for each look at a policy: `name`, `folder`, `method`, `knob`, `knob_value`, `seed`, `step`, and all that was
  measured there: `kl/sequence` (exact, nats an answer) and `kl/sequence_error`, `reward/NAME`, `length/policy`, `win_rate` ...
  (docs/monitoring.md).

  Raises:
    InputError: a folder is not there, or no run is below any of them.
  """
  import pandas

  rows = []
  for stage in _stages(folders):
    looks = stage.splits.get("policy", [])
    method = method_of(stage)
    known = {"name": stage.name, "folder": str(stage.path), "method": method.series, "knob": method.knob}
    known |= {"knob_value": method.value, "seed": stage.seed}
    rows += [known | {name: value for name, value in record.items() if name != "split"} for record in looks]
  return pandas.DataFrame(rows)


def _stages(folders: Sequence[str | os.PathLike[str]]) -> list[Stage]:
  stages, problems = find_stages(folders)
  for problem in problems:
    warnings.warn(f"left out: {problem}", stacklevel=3)
  return stages


def run_rows(stages: Sequence[Stage]) -> list[dict[str, Any]]:
  """The rows of `load_runs`."""
  differ = differing_settings(stages)
  rows = []
  for stage in stages:
    method, environment, ended = method_of(stage), stage.environment, stage.record.ended
    device = environment.get("device", {})
    rows.append(
      {
        "name": stage.name,
        "folder": str(stage.path),
        "stage": stage.path.name,
        "recipe": stage.recipe,
        "method": method.series,
        "knob": method.knob,
        "knob_value": method.value,
        "seed": stage.seed,
        "status": ended.reason if ended else "unfinished",
        "steps": stage.steps,
        "seconds": stage.seconds,
        "device": device_in_words(device),
        "commit": environment.get("commit"),
        "clean": environment.get("clean"),
        "started": environment.get("started"),
        **{f"setting/{key}": value for key, value in differ[stage.name].items()},
        **final_metrics(stage),
      }
    )
  return rows


def device_in_words(device: Mapping[str, Any]) -> str:
  """ "cpu", "8 x NVIDIA H100"; empty where it is not known."""
  kind, count = str(device.get("kind", device.get("platform", ""))), device.get("count", 1)
  return kind if count == 1 else f"{count} x {kind}"


def final_metrics(stage: Stage) -> dict[str, float]:
  """{"SPLIT/METRIC": value} as `load_runs` says; fractions of pairs won that say nothing (`numbers.tied`) are left out."""
  found = {}
  for split in SPLITS:
    last = stage.last(split)
    found |= {f"{split}/{name}": value for name, value in _measured(last).items() if not tied(last, name)}
  train = stage.splits.get("train", [])
  tail = newest_tenth(train)
  for name in _measured(tail[-1]) if tail else ():
    values = [row[name] for row in tail if name in row]
    found[f"train/{name}"] = values[-1] if name == "num_tokens" else sum(values) / len(values)
  return found


def _measured(record: Mapping[str, Any]) -> dict[str, float]:
  return {name: value for name, value in record.items() if name not in FIXED and not name.startswith("time/")}
