"""Running an experiment: its stages one after another; what has ended is skipped, what began goes on."""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Literal

from dpojax import signals
from dpojax.config.experiment import ALONE, Experiment, reward_specs
from dpojax.config.keys import is_stage, reads_section, value_at
from dpojax.config.record import difference
from dpojax.config.resolved import autos
from dpojax.config.schema import RunConfig
from dpojax.data.sources import find_file
from dpojax.errors import ConfigError, DataError, InputError, WeightsError
from dpojax.files import expanded
from dpojax.interop import hub
from dpojax.recipes import RECIPES, Inputs, RunFolder, RunResult
from dpojax.recipes.inputs import Memory
from dpojax.recipes.plan import planned
from dpojax.report import write_report
from dpojax.training.checkpoint import finished_steps
from dpojax.training.folder_lock import check_free, locked
from dpojax.training.model_files import CHECKPOINTS, files_of_model
from dpojax.training.run_folder import check_same
from dpojax.training.stage_record import (
  FILE,
  Ended,
  changes,
  check_files,
  is_untouched,
  length_of,
  read_record,
  settings_record,
)
from dpojax.training.unused_folder import took_no_step

MODELS = ("model.path", "reference.path", "policy_gradient.critic_path")
Say = Callable[[str], None]
State = Literal["new", "begun", "finished"]


def stage_folders(experiment: Experiment, workdir: pathlib.Path) -> dict[str, pathlib.Path]:
  """Where each stage runs: in a folder of its name, or in the workdir itself where it is alone."""
  return {name: workdir if name == ALONE else workdir / name for name in experiment.stages}


def run(
  experiment: Experiment | RunConfig,
  workdir: str | pathlib.Path,
  *,
  only: str = "",
  until: str = "",
  allow_config_change: bool = False,
) -> RunResult:
  """Runs an experiment, or one stage, in `workdir`, from the start or from where it stopped; how the last stage that ran ended.

  Arguments and errors as `pending`.
  """
  if isinstance(experiment, RunConfig):
    experiment = Experiment({ALONE: experiment})
  folders = stage_folders(experiment, pathlib.Path(workdir))
  result = None
  stages = pending(experiment, folders, only=only, until=until, allow_change=allow_config_change)
  with having(pathlib.Path(workdir), only), contextlib.closing(stages):
    for recipe, config, inputs, folder in stages:
      result = recipe(config, inputs, folder)
  if result is None:
    ended = ended_in(folders[only or until or list(experiment.stages)[-1]])
    assert ended is not None  # nothing was left to do
    result = RunResult(ended.step, ended.reason)
  return result


@contextlib.contextmanager
def having(workdir: pathlib.Path, only: str = "") -> Iterator[None]:
  """A workdir for this process alone; where it runs `only` one stage, others may run other stages beside it.

  Raises:
    CheckpointError: another process has it; says who.
  """
  if only:
    check_free(workdir)
    yield
  else:
    with locked(workdir):
      yield


def to_stderr(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def check_stages(experiment: Experiment, *, only: str = "", until: str = "") -> None:
  """Raises ConfigError, naming the option, for a stage that the experiment does not have."""
  for option, name in (("--only", only), ("--until", until)):
    if name and name not in experiment.stages:
      known = ", ".join(experiment.stages) if not experiment.alone else "one alone, without a name"
      raise ConfigError(f"{option}={name}: no such stage; there is {known}")


def pending(
  experiment: Experiment,
  folders: Mapping[str, pathlib.Path],
  *,
  only: str = "",
  until: str = "",
  allow_change: bool = False,
  memory: Memory | None = None,
  say: Say = to_stderr,
) -> Generator[tuple[Callable[..., RunResult], RunConfig, Inputs, RunFolder], None, None]:
  """Of every stage that has not ended, in order, what it takes to run it: recipe(config, inputs, folder).

  The folder is closed, and the report of a stage that trained a model written, when the next stage is asked for.

  Args:
    folders: of every stage.
    only: the one stage to run; those before it must have ended.
    until: the last stage to run.
    allow_change: go on in folders that were begun with other settings or inputs.
    memory: models and data that stages of this process have read.
    say: where a line about each stage goes.

  Raises:
    InputError: something that the user can mend; the message says how.
  """
  check_stages(experiment, only=only, until=until)
  memory = {} if memory is None else memory
  checked = False
  for name in ancestors(experiment, only) if only and not allow_change else ():
    if stage_state(experiment.stages[name], folders[name], Inputs(experiment.stages[name], folders)) != "finished":
      raise ConfigError(f"--only={only} starts from stage {name}, which has not ended in {folders[name]}; run it first")
  for name, config in experiment.stages.items():
    if only and name != only:
      continue
    inputs = Inputs(config, folders, memory)
    if not allow_change and stage_state(config, folders[name], inputs) == "finished":
      if name != ALONE:
        say(f"stage {name}: ended before, skipped")
    else:
      if not checked:
        with hub.pinned(revisions(folders)):
          check_data_files(experiment)
        checked = True
      folder = RunFolder(folders[name], config, inputs.sources(folders[name]), allow_change=allow_change)
      if name != ALONE:
        say(f"stage {name}: {folders[name]}")
      with locked(folders[name]), hub.pinned(revisions({name: folders[name]})), contextlib.closing(folder):
        yield RECIPES[config.recipe], config, inputs, folder
    ended = ended_in(folders[name])
    if ended is None:
      return  # it was asked to stop
    signals.check()  # or was asked at its end; the next start writes what is missing of its report
    if not reported(folders[name]):
      write_report(folders[name], reason=ended.reason)
    if name == until:
      return


def revisions(folders: Mapping[str, pathlib.Path]) -> dict[str, str]:
  """path -> commit of the models of the hub that runs which have begun in these folders have read."""
  found: dict[str, str] = {}
  for folder in folders.values():
    record = read_record(folder)
    if record is not None and not took_no_step(folder, record):
      found = {**record.revisions, **found}
  return found


def check_data_files(experiment: Experiment) -> None:
  """Raises InputError for a data file, a file of a user's reward, or a model that is not there: not when an hour has been
  spent on the stages before.
  """
  for name, config in experiment.stages.items():
    check_files_of(name, config)


def check_files_of(name: str, config: RunConfig, *, download: bool = True) -> None:
  """As `check_data_files`, of one stage.

  Args:
    download: bring models of the hub; else their names alone are checked.
  """
  for key in ("path", "eval_path"):
    path = getattr(config.data, key)
    if path and not is_stage(path):
      find_file(path, f"{name}.data.{key}" if name else f"data.{key}")
  for key in MODELS:
    path = str(value_at(config, key))
    if path and not is_stage(path) and reads_section(config.recipe, key):
      try:
        if hub.is_hub(path) and not download:
          hub.parse(path)
          continue
        files_of_model(path)
      except WeightsError as error:
        raise WeightsError(f"{name}.{key}".lstrip(".") + f"={path}: {str(error).removeprefix(f'{path}: ')}") from None
  for key, spec in reward_specs(config):
    for file in spec.files:
      if not expanded(file).is_file():
        raise DataError(f"{name}.{key}".lstrip(".") + f"={value_at(config, key)}: there is no file {file}")


def ancestors(experiment: Experiment, name: str) -> list[str]:
  """Names of the stages that a stage starts from, and of those that these start from, in their order."""
  found: set[str] = set()
  wanted = [name]
  while wanted:
    for source in experiment.sources(wanted.pop()).values():
      if source not in found:
        found.add(source)
        wanted.append(source)
  return [stage for stage in experiment.stages if stage in found]


def ended_in(folder: pathlib.Path) -> Ended | None:
  """How the stage in a folder ended; None while it has not."""
  record = read_record(folder)
  return None if record is None else record.ended


def has_report(folder: pathlib.Path) -> bool:
  """Whether the folder has a report that was written after its stage ended."""
  report, record = folder / "result.json", folder / FILE
  return report.exists() and report.stat().st_mtime_ns >= record.stat().st_mtime_ns


def reported(folder: pathlib.Path) -> bool:
  """Whether a stage that has ended has its report, or trained no model and gets none."""
  ended = ended_in(folder)
  return ended is None or not ended.weights or has_report(folder)


def stage_state(config: RunConfig, folder: pathlib.Path, inputs: Inputs) -> State:
  """What a folder holds of a stage; where a run of other settings took no step, none.

  Raises:
    ConfigError: a stage of other settings, or from other stages; says which.
    CheckpointError: it has ended, but no longer holds what it made; names the file.
  """
  record = read_record(folder)
  if record is None:
    return "new"
  changed = changes(record, settings_record(config, inputs.sources(folder)))
  if changed and took_no_step(folder, record):
    return "new"
  check_same(folder, changed)
  if record.ended is None or record.ended.length != length_of(config):
    return "begun"
  check_files(folder, record.ended)
  if record.ended.weights and record.ended.step not in finished_steps(folder / CHECKPOINTS):
    return "begun"  # its last checkpoint is gone: it goes on from the one before, or from the start
  # Where an outside file was touched, the stage itself has to read it to know whether anything has changed.
  return "finished" if is_untouched(record.files) else "begun"


def overview(experiment: Experiment, folders: Mapping[str, pathlib.Path]) -> list[list[str]]:
  """(stage, recipe, folder, state, what it will make, settings that differ from the defaults, and what "auto" is) of every stage; nothing is run."""
  rows = []
  for name, config in experiment.stages.items():
    state: str
    try:
      check_files_of("" if name == ALONE else name, config, download=False)
      waits = any(ended_in(folders[source]) is None for source in experiment.sources(name).values())
      begun = (folders[name] / FILE).exists()
      state = (
        "waits for an earlier stage" if waits and begun else stage_state(config, folders[name], Inputs(config, folders))
      )
      if state == "new" and begun:
        state = "new; the run that is there had other settings, took no step and is replaced"
    except InputError as error:
      state = f"refused: {error}"
    differs = [*difference(RunConfig(recipe=config.recipe), config), *autos(config)]
    try:
      differs = [*filter(None, [planned(config)]), *differs]
    except InputError as error:
      state = f"refused: {error}"
    differs = "; ".join(differs)
    rows.append([name or "(alone)", config.recipe, str(folders[name]), state, differs])
  return rows
