"""The folder of a run: what it was made from, its log, its checkpoints, and how it ended."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import jax

from dpojax import digests
from dpojax.config.record import to_json, write_config
from dpojax.config.schema import RunConfig
from dpojax.data import doctor
from dpojax.data.batches import Batches
from dpojax.data.prompts import PromptRows, answered_in_words
from dpojax.data.splits import Splits
from dpojax.errors import ConfigError, TrainingError
from dpojax.interop import hub
from dpojax.references import weights_fingerprint
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.environment import write_environment
from dpojax.training.loop import RunResult
from dpojax.training.model_files import CHECKPOINTS, DESCRIPTION, TOKENIZER, LoadedModel, save_description
from dpojax.training.runlog import METRICS, RunLog
from dpojax.training.stage_record import (
  Ended,
  Fingerprint,
  Source,
  changes,
  file_facts,
  files_in,
  length_of,
  read_record,
  settings_record,
  write_record,
)
from dpojax.training.tracker import Tracker
from dpojax.training.trainer import Trainer
from dpojax.training.unused_folder import clear, took_no_step


class RunFolder:
  """One stage's folder, opened to run it.

  Args:
    path: made if missing.
    config: settings of the stage.
    sources: earlier stages that it starts from.
    allow_change: go on where the folder was begun with other settings or inputs.
    stream: where messages and progress go; None: standard error.

  Attributes:
    log: metrics and messages; open from `begin` to `close`.
  """

  def __init__(
    self,
    path: pathlib.Path,
    config: RunConfig,
    sources: Mapping[str, Source] | None = None,
    *,
    allow_change: bool = False,
    stream: TextIO | None = None,
  ):
    self.path, self.config = path, config
    self._sources = dict(sources or {})
    self._allow_change = allow_change
    self._stream = stream
    self._open = contextlib.ExitStack()
    self._weights = ""  # digest of the parameters that were saved last
    self._resumed = False
    self.log: RunLog
    self.checkpointer: Checkpointer

  def begin(
    self, fingerprints: Mapping[str, Fingerprint], files: Sequence[pathlib.Path] = (), *, training: bool = True
  ) -> None:
    """Makes sure that the folder holds this stage or nothing, writes down what it is made from, and opens the log.

    What a run of other settings that took no step left there is replaced, and a line says so.

    Args:
      fingerprints: of everything that the stage has read.
      files: outside files that it has read.
      training: it will take steps, so it has checkpoints.

    Raises:
      ConfigError: the folder was begun with other settings or other inputs; names each.
      CheckpointError: its record is damaged.
    """
    record = dataclasses.replace(
      settings_record(self.config, self._sources),
      fingerprints=dict(fingerprints),
      files=file_facts(files),
      revisions=hub.resolved(),
    )
    before, note = read_record(self.path), ""
    if before is None:
      check_vacant(self.path)
    elif changed := changes(before, record):
      if took_no_step(self.path, before):
        clear(self.path)
        note = (
          f"{self.path} is used again: its run took no step, and had other settings or inputs ({'; '.join(changed)})"
        )
      elif not self._allow_change:
        check_same(self.path, changed)
    self.path.mkdir(parents=True, exist_ok=True)
    write_record(self.path, record)  # first: without it a folder that holds anything else of a run is refused
    write_config(self.config, self.path)
    write_environment(self.path)
    logging = self.config.logging
    self.log = self._open.enter_context(
      RunLog(
        self.path,
        log_every=self.config.train.log_every,
        tensorboard=logging.tensorboard,
        stream=self._stream,
        tracker=None if logging.tracker == "none" else self._tracker,
      )
    )
    if note:
      self.log.message(note)
    if training:
      folder = self.path / CHECKPOINTS
      self.checkpointer = self._open.enter_context(Checkpointer(folder, self.config.checkpoint, warn=self.log.message))

  def _tracker(self, say: Callable[[str], None]) -> Tracker:
    logging = self.config.logging
    return Tracker(logging.tracker, self.path, project=logging.project, config=to_json(self.config), say=say)

  def describe(self, policy: LoadedModel, splits: Splits, batches: Batches) -> None:
    """Writes `model.json`, `tokenizer/` and `data.json`, and says the gist."""
    save_description(self.path, policy)
    found = doctor.facts(splits.train, splits.held_out, batches)
    digests.write_json(self.path, "data.json", found)
    self.log.message(f"data: {len(splits.train):,} training and {len(splits.held_out):,} held-out examples")
    self.log.message(doctor.gist(splits.train.counts))
    for warning in dict.fromkeys([*splits.train.warnings, *splits.held_out.warnings]):
      self.log.message(f"data: {warning}")

  def describe_prompts(self, policy: LoadedModel, prompts: PromptRows, **files: Any) -> None:
    """As `describe`, of a stage whose data are prompts: what became of their rows.

    Args:
      prompts: that are answered; their counts are of all rows that were read.
      files: further arguments of `save_description`.
    """
    save_description(self.path, policy, **files)
    self.say_prompts(prompts)

  def say_prompts(self, prompts: PromptRows, split: str = "") -> None:
    """Writes `data.json`, of a split `data.SPLIT.json`, and says what became of the rows that prompts were read from, and how many
    are equal.
    """
    different = len({row.ids.tobytes() for row in prompts})
    found = {"prompts": dict(prompts.counts), "answered": len(prompts), "answered_different": different}
    digests.write_json(self.path, f"data{'.' * bool(split)}{split}.json", found)
    for note in [*prompts.notes, *(f"data: {warning}" for warning in prompts.warnings)]:
      self.log.message(note)
    dropped = f"; {prompts.counts['rows']:,} rows read, left out: {prompts.summary}" if prompts.summary else ""
    self.log.message(f"data{', ' * bool(split)}{split}: {answered_in_words(prompts)}{dropped}")

  def record_once(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Records metrics of a step unless they are there, as after a checkpoint they may be."""
    if not self.log.has(step, split):
      self.log.record(step, split, metrics)

  def oldest_step(self) -> int:
    """That of the oldest of the newest checkpoints, which the run may go back to; 0 where there is none."""
    return min(self.checkpointer.steps()[-self.config.checkpoint.keep :], default=0)

  @property
  def identity(self) -> str:
    """Of the stage as it was begun."""
    record = read_record(self.path)
    assert record is not None
    return record.identity

  def resume(self, trainer: Trainer) -> None:
    """Puts the trainer's state where the newest sound checkpoint left it, and cuts the log back to there; once.

    Raises:
      CheckpointError: no checkpoint fits the run.
    """
    if self._resumed:
      return
    self._resumed = True
    if self.checkpointer.latest_step() is None:
      self.log.truncate_after(-1)
      return
    abstract = trainer.abstract_state
    for leaf in jax.tree.leaves(trainer.state):
      leaf.delete()  # makes room for what is read
    step, trainer.state = self.checkpointer.restore(abstract)
    self.log.truncate_after(step)
    self.log.message(f"resuming after step {step}")
    recorded = {row["step"] for row in self.log.records("train")}
    missing = [number for number in range(1, step + 1) if number not in recorded]
    if missing:
      self.log.message(
        f"{self.path / METRICS}: it was cut; the records of {len(missing)} of the {step} steps taken are gone, the "
        f"first of them step {missing[0]}. The run itself goes on unharmed"
      )

  def save(self, trainer: Trainer) -> None:
    """Saves the state that a run ends in, on disk when this returns.

    Raises:
      TrainingError: none of its steps was finite.
      CheckpointError: the disk is full.
    """
    step, skipped = int(trainer.state.step), int(trainer.state.skipped)
    if step and skipped == step:
      raise TrainingError(
        f"the loss or its gradient was not finite in all {skipped} steps, so nothing was learned; lower "
        "optimizer.learning_rate, or look at the data (`dpojax data inspect`)"
      )
    self.checkpointer.save(step, trainer.state, metrics=self.log.measured_at(step))
    self.log.seal()
    self._weights = weights_fingerprint(trainer.policy_params)  # while the checkpoint is written
    self.checkpointer.wait()

  def end(self, result: RunResult, *, files: Sequence[str] = ()) -> None:
    """Writes down how the stage ended; nothing where it was asked to stop.

    Args:
      files: in the folder, that others read. Of a stage that has saved what it trained (`save`) the model's description,
        its tokenizer and the metrics are such files too.
    """
    if result.reason == "preempted":
      return
    record = read_record(self.path)
    assert record is not None
    if self._weights:
      files = [*files, METRICS, DESCRIPTION, *files_in(self.path, TOKENIZER)]
    ended = Ended(
      result.reason,
      result.step,
      length_of(self.config),
      self._weights,
      {name: digests.file_digest(self.path / name) for name in files},
    )
    digests.list_files(self.path, files)
    write_record(self.path, dataclasses.replace(record, ended=ended))
    if self._weights and self.config.checkpoint.resumable == 0:
      self.checkpointer.drop_state()  # last: a run that is killed before goes on

  def close(self) -> None:
    """Closes the log; waits for checkpoints."""
    self._open.close()


def check_vacant(folder: pathlib.Path) -> None:
  """Raises ConfigError where a folder without a stage.json holds a run: nobody knows of what."""
  for name in ("config.json", METRICS, CHECKPOINTS):
    if (folder / name).exists():
      raise ConfigError(
        f"{folder} holds {name} of a run, but no stage.json that says what the run was made from (an older version of "
        "dpojax wrote none); use another --workdir"
      )


def check_same(folder: pathlib.Path, changed: Sequence[str]) -> None:
  """Raises ConfigError with what is no longer as it was when the run in `folder` began."""
  if changed:
    raise ConfigError(
      f"{folder} holds a run of other settings or inputs ({'; '.join(changed)}); "
      "use another --workdir, or --allow-config-change to go on with the new ones"
    )
