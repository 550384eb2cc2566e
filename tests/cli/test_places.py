"""Places that cannot be written: full disks, read-only ones, files for folders, odd names; one line with the path, whoever finds it."""

import contextlib
import os
import pathlib
import subprocess
import sys

import pytest
from tiny_model import TinyModel

from dpojax.cli.main import main
from dpojax.training.stage_record import read_record
from tests.training.runs import ROOT, write_config

NAMES = {
  "empty": ("", "it is empty; name a file or folder"),
  "blank": (" \t", "it is empty; name a file or folder"),
  "NUL": ("a\0b", "holds NUL, which no name does"),
  "nobody": ("~no_such_user_here/x", "there is no user 'no_such_user_here' here"),
  "long": ("x" * 300, "has 300 bytes; a name has at most 255"),
  "long, in bytes": ("€" * 100 + "/x", "has 300 bytes"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """A config of two steps, its finished run, a model, rows, games."""
  folder = tmp_path_factory.mktemp("inputs")
  config = write_config(folder, **{"train.steps": 2, "monitor.every": 0, "monitor.prompts": 0})
  assert main(["train", f"--config={config}", f"--workdir={folder / 'run'}"]) == 0
  TinyModel(folder / "tiny")
  (folder / "rows.jsonl").write_text('{"prompt": "is my parcel", "chosen": "yes we will", "rejected": "be calm"}\n' * 8)
  (folder / "games.csv").write_text("w,l\n" + "a,b\nb,c\nc,a\na,c\n" * 30)
  return folder


def commands(inputs):
  """command -> (words, the option that names where it writes, what it adds to a place)"""
  model, data, config = (
    f"--model={inputs / 'tiny'}",
    f"--data={inputs / 'rows.jsonl'}",
    f"--config={inputs / 'config.py'}",
  )
  games = [str(inputs / "games.csv"), "--winner=w", "--loser=l"]
  return {
    "train": (["train", config], "--workdir", ""),
    "sweep": (["sweep", config, "--grid=loss.beta=0.1,0.2"], "--workdir", ""),
    "score": (["score", model, data], "--out", ""),
    "sample": (["sample", model, data, "--max-tokens=4"], "--out", ""),
    "eval": (["eval", model, data, "--score=sum"], "--out", ""),
    "export": (["export", f"--workdir={inputs / 'run'}"], "--out", ""),
    "bt": (["bt", *games], "--out", ".json"),
    "bt plot": (["bt", *games], "--plot", ".png"),
    "report": (["report", str(inputs / "run")], "--out", ""),
  }


COMMANDS = ["train", "sweep", "score", "sample", "eval", "export", "bt", "bt plot", "report"]
# One command meets every name; each command meets one name that its own words must survive.
NONE = [("score", name) for name in NAMES] + [(command, "NUL") for command in COMMANDS if command != "score"]


def refused(inputs, command, place, capsys, path=None):
  words, option, suffix = commands(inputs)[command]
  capsys.readouterr()
  code = main([*words, f"{option}={place}{suffix if place.strip() else ''}"])
  error = capsys.readouterr().err
  said = [line for line in error.splitlines() if line.startswith("dpojax: error:")]
  assert code in (1, 2) and "Traceback" not in error, error
  if command == "sweep" and not said:  # whose points fail each by itself
    said = [line for line in error.splitlines() if ": failed: " in line]
  assert len(said) in (1, 2), error
  if path is not None:
    assert path in said[0], error
  return said[0]


@pytest.mark.sampled(5)
@pytest.mark.slow
@pytest.mark.parametrize(("command", "name"), NONE)
def test_names_that_are_none(inputs, tmp_path, monkeypatch, capsys, command, name):
  monkeypatch.chdir(tmp_path)
  place, words = NAMES[name]
  assert words in refused(inputs, command, place, capsys)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["file/x", "circle/x"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_or_a_circle_where_a_folder_is_wanted(inputs, tmp_path, capsys, command, place):
  (tmp_path / "file").write_text("kept")
  (tmp_path / "circle").symlink_to("circle")
  refused(inputs, command, str(tmp_path / place), capsys, str(tmp_path))
  assert (tmp_path / "file").read_text() == "kept"
  assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "file"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "sweep", "eval", "export", "report"])
def test_a_file_where_the_folder_itself_should_be(inputs, tmp_path, capsys, command):
  (tmp_path / "file").write_text("kept")
  refused(inputs, command, str(tmp_path / "file"), capsys, str(tmp_path / "file"))
  assert (tmp_path / "file").read_text() == "kept"


@contextlib.contextmanager
def mounted(folder, options):
  folder.mkdir(exist_ok=True)
  done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
  if done.returncode:
    pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
  try:
    yield folder
  finally:
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_is_read_only(inputs, tmp_path, capsys, command):
  with mounted(tmp_path / "disk", "ro") as disk:
    said = refused(inputs, command, f"{disk}/out", capsys, f"{disk}/out")
    assert "Read-only file system" in said or "can be written" in said


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_is_full(inputs, tmp_path, capsys, command):
  with mounted(tmp_path / "disk", "size=16k") as disk:
    (disk / "fill").write_bytes(bytes(12 * 1024))
    with contextlib.suppress(OSError), open(disk / "fill", "ab", buffering=0) as file:
      while True:
        file.write(bytes(4096))
    said = refused(inputs, command, f"{disk}/out", capsys, f"{disk}/out")
    assert "No space left on device" in said
    assert not [path for path in disk.rglob("*") if "part" in path.name and path.stat().st_size]


@pytest.mark.slow
@pytest.mark.parametrize("room", range(8, 120, 28))
def test_a_disk_that_gets_full_on_the_way(inputs, tmp_path, capsys, room):
  """Somewhere among the record, the settings, the log, the metrics, a checkpoint; with room the same command goes on."""
  with mounted(tmp_path / "disk", f"size={room}k") as disk:
    words = ["train", f"--config={inputs / 'config.py'}", f"--workdir={disk / 'run'}"]
    code = main(words)
    error = capsys.readouterr().err
    if code:
      assert code == 2 and "Traceback" not in error
      said = [line for line in error.splitlines() if line.startswith("dpojax: error:")]
      assert len(said) == 1 and str(disk / "run") in said[0] and ("space" in said[0] or "ENOSPC" in said[0]), error
    subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
    assert main(words) == 0, capsys.readouterr().err
    assert read_record(disk / "run").ended.step == 2
    assert read_record(disk / "run").ended.weights == read_record(inputs / "run").ended.weights


@pytest.mark.slow
@pytest.mark.parametrize("command", ["data", "compare"])
def test_output_that_cannot_be_printed(inputs, command):
  words = {"data": ["inspect", f"--data={inputs / 'rows.jsonl'}", f"--model={inputs / 'tiny'}"], "compare": ["--help"]}[
    command
  ]
  with open("/dev/full", "w") as full:
    ran = subprocess.run(
      [sys.executable, "-m", "dpojax", command, *words], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
    )
  assert "Traceback" not in ran.stderr
  if command == "data":
    assert (ran.returncode, ran.stderr) == (
      2,
      "dpojax: error: No space left on device; make room, and give the same command again\n",
    )


def test_home_is_where_a_tilde_says(inputs, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  words, option, _ = commands(inputs)["score"]
  assert main([*words, f"{option}=~/out.jsonl"]) == 0
  assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.long
def test_a_sweep_knows_its_folder_however_it_is_spelled(inputs, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "link").symlink_to("sweep")
  config = [f"--config={inputs / 'config.py'}", "--config.reference.kind=cache", "--grid=loss.beta=0.1,0.2"]
  assert main(["sweep", *config, "--workdir=sweep"]) == 0
  table = (tmp_path / "sweep/sweep.md").read_text()
  records = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("stage.json")}
  assert len(records) == 2 and len(list((tmp_path / "sweep/reference_cache").iterdir())) == 1
  for place in ("./sweep/", f"{tmp_path}/sweep", "link", "~/sweep", f"../{tmp_path.name}//sweep", "link/../link"):
    assert main(["sweep", *config, f"--workdir={place}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("stage.json")} == records, place
    assert (tmp_path / "sweep/sweep.md").read_text() == table, place
  assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "sweep"]
  assert pathlib.Path(os.getcwd()) == tmp_path and "resuming" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x" * 300, "~no_such_user_here/x", "a\0b", "/dev/null/x"])
@pytest.mark.parametrize(
  "words",
  [
    ["train", "--config=NAME", "--workdir=w"],
    ["train", "--config=CONFIG", "--config.model.path=NAME", "--workdir=w"],
    ["train", "--config=CONFIG", "--config.data.path=NAME", "--workdir=w"],
    ["train", "--config=CONFIG", "--config.reference.path=NAME", "--workdir=w"],
    ["train", "--config=CONFIG", "--config.data.template=NAME", "--workdir=w"],
    ["score", "--model=NAME", "--data=ROWS", "--out=o"],
    ["score", "--rewards=python:NAME.py:f", "--data=ROWS", "--out=o"],
    ["score", "--rewards=model:NAME", "--data=ROWS", "--out=o"],
    ["eval", "--model=MODEL", "--reference=NAME", "--beta=1", "--data=ROWS", "--out=o"],
    ["export", "--workdir=NAME", "--out=o"],
    ["data", "inspect", "--model=MODEL", "--data=NAME"],
    ["compare", "NAME", "NAME"],
    ["report", "NAME"],
    ["bt", "NAME", "--winner=w", "--loser=l"],
  ],
  ids=" ".join,
)
def test_what_cannot_be_read_is_one_line(inputs, tmp_path, monkeypatch, capsys, words, name):
  monkeypatch.chdir(tmp_path)
  given = {
    "NAME": name,
    "CONFIG": str(inputs / "config.py"),
    "MODEL": str(inputs / "tiny"),
    "ROWS": str(inputs / "rows.jsonl"),
  }
  for word, value in given.items():
    words = [each.replace(word, value) for each in words]
  assert main(words) == 2
  error = capsys.readouterr().err
  assert error.startswith("dpojax: error: ") and error.count("\n") == 1
  assert list(tmp_path.iterdir()) == []
