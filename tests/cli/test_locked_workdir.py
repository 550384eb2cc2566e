"""Commands on a workdir that another process has, and requests to stop between two stages."""

import json
import os
import signal
import subprocess
import sys

import pytest

from dpojax import recipes
from dpojax.cli.main import main
from dpojax.sweeps.stages import run
from dpojax.training.folder_lock import FILE
from dpojax.training.stage_record import read_record
from tests.recipes.killed import write_tiny
from tests.training.runs import ROOT, write_config
from tests.training.test_folder_lock import HOLDS


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  folder = tmp_path_factory.mktemp("locked")
  return write_config(folder, **{"train.steps": 1, "monitor.every": 0, "monitor.prompts": 0})


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
  settings = {"train.steps": 4, "online.refresh": 4, "batch.size": 4, "monitor.prompts": 0}
  file = write_tiny(tmp_path_factory.mktemp("stages") / "config.py", "online", "online", settings)
  file.write_text(file.read_text().replace("config.sft.train.steps = 20", "config.sft.train.steps = 1"))
  return file


def held_by_another(folder):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLDS, folder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == "has it\n"
  return process


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("words", [["train"], ["sweep", "--grid=loss.beta=0.1,0.2"]])
def test_the_second_is_refused_and_goes_on_once_the_first_has_ended(config, tmp_path, capsys, words):
  name, *options = words
  command = [name, f"--config={config}", f"--workdir={tmp_path / 'run'}/", *options]
  other = held_by_another(tmp_path / "run")
  try:
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dpojax: error: {tmp_path / 'run'}: process {other.pid} on {os.uname().nodename}, since ")
    assert error.count("\n") == 1 and [path.name for path in (tmp_path / "run").iterdir()] == [FILE]
    other.kill()  # and leaves its lock
    other.wait()
    assert main(command) == 0
    error = capsys.readouterr().err
    assert (
      error.startswith(f"{tmp_path / 'run'}: the lock of process {other.pid} on") and error.count("taken over") == 1
    )
    assert not list(tmp_path.rglob(FILE))
  finally:
    other.kill()
    other.wait()


@pytest.mark.long
def test_stages_may_run_beside_one_another_but_not_twice(stages, tmp_path, capsys):
  command = ["train", f"--config={stages}", f"--workdir={tmp_path}", "--only=sft"]
  other = held_by_another(tmp_path / "online")  # as another --only has its stage
  try:
    assert main(command) == 0
  finally:
    other.kill()
    other.wait()
  for place in (tmp_path, tmp_path / "sft"):
    other = held_by_another(place)
    try:
      assert main([*command, "--config.sft.train.steps=2", "--allow-config-change"]) == 2
      assert f"{place}: process {other.pid}" in capsys.readouterr().err
      assert main(["sample", f"--model={tmp_path / 'sft'}", "--prompt=anna", "--max-tokens=2"]) == 0  # reads
    finally:
      other.kill()
      other.wait()
  assert read_record(tmp_path / "sft").ended.step == 1


@pytest.mark.sampled(1)
@pytest.mark.long
@pytest.mark.parametrize("door", ["command", "Python"])
def test_a_request_at_the_end_of_a_stage_starts_no_other(stages, tmp_path, monkeypatch, capsys, door):
  began = []

  def signalled(recipe):
    def run_it(config, inputs, folder):
      began.append(config.recipe)
      end = folder.end

      def ending(*given, **options):
        os.kill(os.getpid(), signal.SIGTERM)  # the loop is over
        end(*given, **options)

      monkeypatch.setattr(folder, "end", ending if config.recipe == "sft" else end)
      return recipe(config, inputs, folder)

    return run_it

  monkeypatch.setitem(recipes.RECIPES, "sft", signalled(recipes.RECIPES["sft"]))
  monkeypatch.setitem(recipes.RECIPES, "online", signalled(recipes.RECIPES["online"]))
  if door == "command":
    command = ["train", f"--config={stages}", f"--workdir={tmp_path}"]
    assert main(command) == 75
    assert capsys.readouterr().err.endswith("dpojax: stopped by SIGTERM; the same command goes on\n")
    assert began == ["sft"] and not (tmp_path / "online").exists() and not list(tmp_path.rglob(FILE))
    monkeypatch.undo()
    assert main(command) == 0
  else:
    before = signal.signal(signal.SIGTERM, lambda *_: began.append("asked"))
    try:  # outside of a loop the signals are the caller's
      from dpojax.config.load import load_experiment

      run(load_experiment(str(stages)), tmp_path, until="sft")
    finally:
      signal.signal(signal.SIGTERM, before)
    assert began == ["sft", "asked"]
  assert json.loads((tmp_path / "sft/stage.json").read_text())["ended"]["step"] == 1
