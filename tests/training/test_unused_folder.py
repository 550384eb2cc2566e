"""A workdir whose run took no step is used again with other settings; one with steps is refused, as ever."""

import dataclasses
import json

import pytest

from dpojax import digests
from dpojax.config.keys import replace_values
from dpojax.config.load import load_config
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError
from dpojax.signals import StopRequested
from dpojax.sweeps.stages import overview, run, stage_folders
from dpojax.training import unused_folder
from dpojax.training.checkpoint import finished_steps
from dpojax.training.manifest import read_manifest
from dpojax.training.stage_record import Ended, read_record, settings_record, write_record
from dpojax.training.trainer import Trainer
from dpojax.training.unused_folder import clear, took_no_step
from tests.recipes.staged import tiny
from tests.training.runs import write_config

CONFIG = RunConfig()
SKIPPED = {"step": 1, "split": "train", "loss": "nan", "skipped_in_row": 1}
TAKEN = {"step": 1, "split": "train", "loss": 0.69, "skipped_in_row": 0}


def begun(folder, *rows, config=CONFIG, ended=None):
  """A folder as a start leaves it: record, settings, a log, perhaps metrics."""
  folder.mkdir()
  write_record(folder, dataclasses.replace(settings_record(config), ended=ended))
  digests.write_json(folder, "config.json", {})
  digests.write_json(folder, "tokenizer/tokenizer.json", {})
  (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (folder / "log.txt").write_text("began\n")
  digests.list_grown(folder, ["metrics.jsonl", "log.txt"])
  return folder


def unused(folder):
  record = read_record(folder)
  assert record is not None
  return took_no_step(folder, record)


@pytest.mark.parametrize(
  "rows, ended, expected",
  [
    ([], None, True),
    ([{"step": 0, "split": "eval", "loss": 0.69}], None, True),
    ([SKIPPED, SKIPPED | {"step": 2, "skipped_in_row": 2}], None, True),
    ([SKIPPED, TAKEN | {"step": 2}], None, False),
    ([TAKEN], None, False),
    ([TAKEN, SKIPPED | {"step": 2}], None, False),  # the first step did change something
    ([], Ended("stopped", 0, weights="f"), True),
    ([], Ended("finished", 4, weights="f"), False),
  ],
)
def test_what_is_a_step(tmp_path, rows, ended, expected):
  assert unused(begun(tmp_path / "w", *rows, ended=ended)) == expected


@pytest.mark.parametrize("name", ["3", "3.damaged", "3.orbax-checkpoint-tmp"])
def test_a_checkpoint_of_a_step_is_one_whatever_became_of_it(tmp_path, name):
  folder = begun(tmp_path / "w")
  (folder / "checkpoints" / "0").mkdir(parents=True)
  assert unused(folder)
  (folder / "checkpoints" / name).mkdir()
  assert not unused(folder)


def test_metrics_that_cannot_be_read_may_be_of_steps(tmp_path):
  folder = begun(tmp_path / "w")
  (folder / "metrics.jsonl").write_text("{]\n" * 2)
  assert not unused(folder)


def test_answers_are_work_too(tmp_path):
  config = replace_values(CONFIG, {"recipe": "pairs"})
  assert unused(begun(tmp_path / "none", config=config))
  assert not unused(begun(tmp_path / "ended", config=config, ended=Ended("finished")))
  folder = begun(tmp_path / "some", config=config)
  (folder / "answers.jsonl").write_text("")
  assert not unused(folder)


def test_what_is_killed_while_it_clears_is_cleared_by_the_next_start(tmp_path, monkeypatch):
  """After every number of removals the folder is sound, of the old run, and without steps."""
  removals, survived = 0, 0
  while not survived:
    folder = begun(tmp_path / str(removals))
    (folder / "notes.txt").write_text("mine")
    (folder / "checkpoints" / "0").mkdir(parents=True)
    left = removals

    def dying(remove):
      def removing(*arguments, **options):
        nonlocal left
        if not left:
          raise KeyboardInterrupt
        left -= 1
        return remove(*arguments, **options)

      return removing

    with monkeypatch.context() as patched:
      patched.setattr(unused_folder.shutil, "rmtree", dying(unused_folder.shutil.rmtree))
      patched.setattr(unused_folder.pathlib.Path, "unlink", dying(unused_folder.pathlib.Path.unlink))
      try:
        clear(folder)
        survived = 1
      except KeyboardInterrupt:
        pass
    digests.check(folder)
    assert unused(folder)
    clear(folder)
    assert {path.name for path in folder.iterdir()} == {"stage.json", "digests.json", "notes.txt"}
    removals += 1
  assert removals > 10


def test_a_folder_behind_a_link_is_emptied_and_the_link_stays(tmp_path):
  folder = begun(tmp_path / "w")
  (tmp_path / "large" / "0").mkdir(parents=True)
  (folder / "checkpoints").symlink_to(tmp_path / "large")
  clear(folder)
  assert (folder / "checkpoints").is_symlink()
  assert list((tmp_path / "large").iterdir()) == []


def test_a_run_that_was_stopped_before_its_first_step_makes_room_for_another(tmp_path, monkeypatch, capsys):
  file, folder = write_config(tmp_path, **{"train.steps": 2, "monitor.prompts": 0}), tmp_path / "w"

  def stopped(*_, **__):
    raise StopRequested("SIGINT")
    yield

  monkeypatch.setattr(Trainer, "steps", stopped)
  assert run(load_config(str(file)), folder).reason == "preempted"
  assert finished_steps(folder / "checkpoints") == [0]
  assert "opt_state/0/mu" in " ".join(read_manifest(folder / "checkpoints" / "0").leaves)
  (folder / "notes.txt").write_text("mine")

  other = replace_values(load_config(str(file)), {"optimizer.learning_rate": 2e-3, "optimizer.name": "rmsprop"})
  capsys.readouterr()
  run(other, folder)
  said = [line for line in capsys.readouterr().err.splitlines() if "used again" in line]
  assert said == [
    f"{folder} is used again: its run took no step, and had other settings or inputs (optimizer.name: "
    '"adamw" -> "rmsprop"; optimizer.learning_rate: 0.001 -> 0.002)'
  ]
  digests.check(folder)
  assert (folder / "notes.txt").read_text() == "mine"
  assert "used again" in (folder / "log.txt").read_text().splitlines()[0]
  assert "opt_state/0/mu" not in " ".join(read_manifest(folder / "checkpoints" / "0").leaves)
  assert len(json.loads((folder / "environment.json").read_text())) == 1

  with open(folder / "metrics.jsonl", "a") as file_of_metrics:
    file_of_metrics.write(json.dumps(TAKEN) + "\n")
  with pytest.raises(ConfigError, match=r"optimizer.learning_rate: 0.002 -> 0.001"):
    run(load_config(str(file)), folder)


def test_of_an_experiment_the_stage_without_steps_alone_is_made_anew(tmp_path, capsys):
  experiment = tiny()
  folders = stage_folders(experiment, tmp_path)
  name = next(iter(folders))
  begun(folders[name], config=replace_values(experiment.stages[name], {"optimizer.learning_rate": 0.5}))
  states = {row[0]: row[3] for row in overview(experiment, folders)}
  assert states.pop(name) == "new; the run that is there had other settings, took no step and is replaced"
  assert set(states.values()) <= {"new", "waits for an earlier stage"}
