"""Stages side by side: order, shares of the processors, failures, requests to stop; with small programs in the place of stages."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from dpojax.cli.train import main
from dpojax.config.load import load_experiment
from dpojax.errors import ConfigError
from dpojax.sweeps import side_by_side
from dpojax.sweeps.side_by_side import processor_sets, run_side_by_side
from dpojax.training.stage_record import read_record
from tests.training.runs import ROOT, state_digest, timeless_metrics

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two stages at once take two processors")

CONFIG = """from dpojax.config import stages

def get_config():
  config = stages(sft="sft", a="preference", b="preference", c="preference")
  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.model.hidden = 16
  config.model.ffn = 32
  config.model.layers = 1
  config.logging.plots = False
  config.batch.size = 8
  config.batch.row_length = 256
  config.sft.data.texts = 100
  config.sft.train.steps = 4
  config.sft.monitor.prompts = 0
  for name in ("a", "b", "c"):
    config[name].model.path = "stage:sft"
    config[name].data.path = "FOLDER/pairs.jsonl"
    config[name].data.source = "file"
    config[name].train.steps = 3
    config[name].monitor.prompts = 0
  config.c.model.path = "stage:a"
  return config
"""
# A stage that says when it ran; `ended_in` is told of it by the file that it leaves.
PROGRAM = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1]); stage = sys.argv[-1].partition("=")[2]
print("begins", flush=True)
signal.signal(signal.SIGTERM, lambda *given: (print("asked to stop", flush=True), sys.exit(75)))
began = time.time()
(folder / f"{stage}.began").write_text("")
time.sleep(0.3)
while (folder / "wait").exists() and stage in (folder / "wait").read_text():
  time.sleep(0.01)
if (folder / "fail").exists() and stage in (folder / "fail").read_text():
  print("it fails"); sys.exit(1)
cpus = sorted(os.sched_getaffinity(0))
(folder / f"{stage}.ended").write_text(f"{began} {time.time()} {cpus}")
"""


@pytest.fixture
def folder(tmp_path):
  row = (
    '{"prompt": "anna writes angrily : my kettle arrived broken .", "chosen": "hello anna ,", "rejected": "hello ,"}\n'
  )
  (tmp_path / "pairs.jsonl").write_text(row * 20)
  (tmp_path / "config.py").write_text(CONFIG.replace("FOLDER", str(tmp_path)))
  (tmp_path / "program.py").write_text(PROGRAM)
  return tmp_path


@pytest.fixture
def experiment(folder, monkeypatch):
  monkeypatch.setattr(side_by_side, "ended_in", lambda place: (folder / f"{place.name}.ended").exists() or None)
  return load_experiment(str(folder / "config.py"))


def start(experiment, folder, jobs=2, said=None, **options):
  said = [] if said is None else said
  code = run_side_by_side(
    experiment,
    {name: folder / name for name in experiment.stages},
    [sys.executable, str(folder / "program.py"), str(folder)],
    jobs,
    workdir=folder,
    finished=lambda name: (folder / f"{name}.ended").exists(),
    say=said.append,
    **options,
  )
  return code, said


def times(folder, stage):
  began, ended, cpus = (folder / f"{stage}.ended").read_text().split(" ", 2)
  return float(began), float(ended), cpus


@pytest.mark.slow
def test_a_stage_starts_when_its_sources_have_ended(experiment, folder):
  code, said = start(experiment, folder)
  assert code == 0
  sft, a, b, c = (times(folder, name) for name in experiment.stages)
  assert sft[1] <= min(a[0], b[0]) and a[1] <= c[0]
  assert max(a[0], b[0]) < min(a[1], b[1]), "a and b run side by side"
  assert a[2] != b[2], "each on processors of its own"
  assert [line.partition(":")[0] for line in said].count("stage c") == 2
  assert (folder / "jobs/c.txt").read_text() == "begins\n"
  table = [line.split() for line in (folder / "jobs/stages.txt").read_text().splitlines()]
  assert [row[:3] for row in table] == [["sft", "sft", "ended"], *([name, "preference", "ended"] for name in "abc")]
  assert said[0] == f"4 stages, at most 2 at once; what each does: {folder / 'jobs/stages.txt'}"
  assert start(experiment, folder)[1][1:] == [f"stage {name}: ended before, skipped" for name in experiment.stages]


@pytest.mark.slow
def test_until_leaves_out_what_comes_later(experiment, folder):
  assert start(experiment, folder, until="a")[0] == 0
  assert sorted(path.name for path in folder.glob("*.ended")) == ["a.ended", "sft.ended"]


@pytest.mark.slow
def test_a_stage_that_fails_stops_those_that_start_from_it_alone(experiment, folder):
  (folder / "fail").write_text("a")
  code, said = start(experiment, folder)
  assert code == 1
  assert sorted(path.name for path in folder.glob("*.ended")) == ["b.ended", "sft.ended"]
  assert any(line.startswith("stage a: failed") and line.endswith("(exit code 1): it fails") for line in said)
  assert "stage c: not run, as it starts from a" in said
  table = (folder / "jobs/stages.txt").read_text().splitlines()
  assert table[1].split() == ["a", "preference", "failed", "it", "fails"]
  assert table[3].split() == ["c", "preference", "failed", "starts", "from", "a"]
  (folder / "fail").unlink()
  assert start(experiment, folder)[0] == 0 and (folder / "c.ended").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_stop_it_asks_its_stages(experiment, folder, number, request):
  (folder / "wait").write_text("a b")
  if number == signal.SIGHUP:  # where the tests run under nohup it is ignored, and would stay so
    request.addfinalizer(functools.partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))
  before = signal.getsignal(number)  # of SIGINT in the background: to ignore it

  def ask():
    while not ((folder / "a.began").exists() and (folder / "b.began").exists()):
      time.sleep(0.01)
    time.sleep(0.1)
    os.kill(os.getpid(), number)

  thread = threading.Thread(target=ask)
  thread.start()
  code, said = start(experiment, folder)
  thread.join()
  assert code == 75
  assert said[-2:] == [
    "asked to stop: a, b save what there is",
    "stopped: 1 of 4 stages have ended; the same command goes on",
  ]
  table = [line.split()[2] for line in (folder / "jobs/stages.txt").read_text().splitlines()]
  assert "runs" not in table and table[0] == "ended"
  for stage in ("a", "b"):
    assert (folder / f"jobs/{stage}.txt").read_text() == "begins\nasked to stop\n"
  assert not (folder / "c.began").exists()
  assert signal.getsignal(number) == before


@pytest.mark.slow
def test_a_table_that_cannot_be_written_stops_nothing(experiment, folder):
  (folder / "jobs/stages.txt").mkdir(parents=True)
  code, said = start(experiment, folder)
  assert code == 0 and any("stages.txt: " in line for line in said)
  assert sorted(path.name for path in folder.glob("*.ended")) == [f"{name}.ended" for name in ("a", "b", "c", "sft")]


def test_nothing_goes_on_behind_it(experiment, folder):
  (folder / "wait").write_text("sft")

  def say(line):
    if not line.startswith("stage"):
      return
    deadline = time.monotonic() + 20
    while not (folder / "sft.began").exists():
      assert time.monotonic() < deadline
      time.sleep(0.01)
    raise OSError("the terminal is gone")

  with pytest.raises(OSError, match="the terminal is gone"):
    start(experiment, folder, said=type("Said", (), {"append": staticmethod(say)})())
  (folder / "wait").unlink()
  time.sleep(0.8)
  assert not (folder / "sft.ended").exists()


def test_processors_are_shared_out():
  every = sorted(os.sched_getaffinity(0))
  shares = processor_sets(len(every))
  assert sorted(processor for share in shares for processor in share) == every
  assert processor_sets(1) == [frozenset(every)]
  for jobs in (0, -1, len(every) + 1):
    with pytest.raises(ConfigError, match=rf"--jobs={jobs}: wants 1 to {len(every)}, the number of processors"):
      processor_sets(jobs)


@pytest.mark.long
def test_real_stages_end_as_one_after_another(folder):
  config = f"--config={folder / 'config.py'}"
  assert main([config, f"--workdir={folder / 'alone'}"]) == 0
  words = [sys.executable, "-m", "dpojax", "train", config, f"--workdir={folder / 'both'}", "--jobs", "2"]
  ran = subprocess.run(words, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
  assert ran.returncode == 0, ran.stderr
  for stage in ("sft", "a", "b", "c"):
    assert f"stage {stage}: ended after" in ran.stderr
    alone, both = folder / "alone" / stage, folder / "both" / stage
    assert read_record(both).identity == read_record(alone).identity
    steps = read_record(both).ended.step
    assert [row["step"] for row in timeless_metrics(both)] == [row["step"] for row in timeless_metrics(alone)]
    assert state_digest(both, steps)
  assert "report:" in ran.stdout and pathlib.Path(folder, "both/jobs/c.txt").is_file()
  assert "ended before" not in ran.stderr
  report = folder / "both/c/result.json"  # which a stage that is asked to stop at its very end has not written yet
  kept = json.loads(report.read_text())
  for name in ("result.json", "digests.json"):
    (report.parent / name).unlink()
  again = subprocess.run(words, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
  assert again.returncode == 0 and "report:" in again.stdout, again.stderr
  assert json.loads(report.read_text()) == kept


def test_until_names_a_stage_side_by_side_too(folder):
  with pytest.raises(ConfigError, match=r"--until=nope: no such stage; there is sft, a, b, c"):
    main([f"--config={folder / 'config.py'}", f"--workdir={folder / 'w'}", "--jobs=2", "--until=nope"])
  assert not list((folder / "w").glob("*/*"))
