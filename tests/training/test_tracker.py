"""wandb and trackio are told what metrics.jsonl holds, and nothing that they do ends a run."""

import json
import sys
import types

import pytest

from dpojax.config.schema import LoggingSettings, RunConfig
from dpojax.errors import ConfigError
from dpojax.training.run_folder import RunFolder
from dpojax.training.runlog import RunLog, read_metrics
from dpojax.training.tracker import Tracker

CONFIG = RunConfig(logging=LoggingSettings(tracker="wandb", project="mine"))


class Fake(types.ModuleType):
  """A tracker that keeps what it is told, and fails where it is asked to."""

  def __init__(self, name, failing=""):
    super().__init__(name)
    self.calls, self.failing = [], failing
    for call in ("init", "log", "finish"):
      setattr(self, call, lambda *arguments, call=call, **options: self.take(call, arguments, options))

  def take(self, call, arguments, options):
    print("what a tracker has to say")
    self.calls.append((call, arguments, options))
    if call == self.failing:
      raise RuntimeError("no network\nand more")

  def told(self, call):
    return [(arguments, options) for name, arguments, options in self.calls if name == call]


@pytest.fixture(params=["wandb", "trackio"])
def fake(request, monkeypatch):
  module = Fake(request.param)
  monkeypatch.setitem(sys.modules, request.param, module)
  return module


def log(fake, folder):
  """A log whose records go to the tracker."""
  folder.mkdir(exist_ok=True)
  make = lambda say: Tracker(fake.__name__, folder, project="mine", config={"loss": {"beta": 0.1}}, say=say)  # noqa: E731
  return RunLog(folder, tracker=make)


def test_it_is_told_every_record(fake, tmp_path, capsys):
  with log(fake, tmp_path / "run") as records:
    records.record(0, "eval", {"loss": 0.7})
    records.record(1, "train", {"loss": float("nan"), "rewards/margins": 0.25})
  (_, options), *others = fake.told("init")
  assert not others and options["project"] == "mine" and options["config"] == {"loss": {"beta": 0.1}}
  assert options["name"].startswith("run-") and options["resume"] == "allow"
  assert ("id" in options) == (fake.__name__ == "wandb")
  (first, second) = fake.told("log")
  assert first == (({"eval/loss": 0.7},), {"step": 0})
  assert second[1] == {"step": 1} and second[0][0]["train/rewards/margins"] == 0.25
  assert [call for call, *_ in fake.calls][-1] == "finish"
  assert capsys.readouterr().out == ""


def test_a_run_that_goes_on_is_one_run_there_and_two_folders_are_two(fake, tmp_path):
  (tmp_path / "other").mkdir()
  for folder in (tmp_path / "run", tmp_path / "run", tmp_path / "other" / "run"):
    log(fake, folder).close()
  first, again, other = [options["name"] for _, options in fake.told("init")]
  assert first == again != other


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_one_that_fails_is_left_out_with_one_line(fake, tmp_path, call, capsys):
  fake.failing = call
  with log(fake, tmp_path / "run") as records:
    for step in (1, 2, 3):
      records.record(step, "train", {"loss": 0.5})
  said = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
  assert said == [
    f"{fake.__name__}: {call} failed (no network); the run goes on without it, and metrics.jsonl has everything"
  ]
  assert len(fake.told(call)) == 1
  assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3


def test_one_that_is_not_installed_is_an_error_that_says_how_it_is(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  folder = RunFolder(tmp_path / "run", CONFIG)
  with pytest.raises(ConfigError) as caught:
    folder.begin({}, training=False)
  assert str(caught.value) == ("logging.tracker=wandb needs wandb, which is not installed: pip install 'dpojax[wandb]'")


def test_the_folder_of_a_run_has_it_where_the_settings_say_so(tmp_path, monkeypatch):
  fake = Fake("wandb")
  monkeypatch.setitem(sys.modules, "wandb", fake)
  for config in (CONFIG, RunConfig()):
    folder = RunFolder(tmp_path / config.logging.tracker, config)
    folder.begin({}, training=False)
    folder.record_once(1, "train", {"loss": 0.5})
    folder.close()
  (_, options), *others = fake.told("init")
  assert not others and options["config"]["logging"]["project"] == "mine"
  assert options["dir"] == str(tmp_path / "wandb")
  assert json.loads((tmp_path / "wandb" / "tracker.json").read_text()) == {"wandb": options["id"]}
  assert not (tmp_path / "none" / "tracker.json").exists()
