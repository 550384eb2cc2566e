"""`dpojax init`: the folder that it writes, and each command of its Makefile on a tiny model."""

import json
import math
import os
import shutil
import subprocess
import sys

import pytest

from dpojax.cli import init
from dpojax.cli.main import COMMANDS, HELP, main
from tests.cli.chinese_model import bytes_tokenizer, write_model

FILES = ["Makefile", "README.md", "config.py", "pairs.jsonl"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
  folder = tmp_path_factory.mktemp("init") / "a project"
  assert main(["init", str(folder)]) == 0
  return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  texts = [text for row in init.ROWS for text in row]
  return write_model(tmp_path_factory.mktemp("model") / "tiny", bytes_tokenizer(texts, 700))


def make(project, model, *words):
  """Runs targets of its Makefile as a user does, who has `dpojax` on the path."""
  command = f'"{sys.executable}" -m dpojax'
  return subprocess.run(
    ["make", f"DPOJAX={command}", f"MODEL={model}", *words],
    cwd=project,
    capture_output=True,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )


def test_the_folder_and_its_ten_rows(project, capsys):
  assert sorted(path.name for path in project.iterdir()) == FILES
  rows = [json.loads(line) for line in (project / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
  assert len(rows) == 10 and all(list(row) == ["prompt", "chosen", "rejected"] for row in rows)
  texts = [text for row in rows for text in row.values()]
  assert len(set(texts)) == 30 and all(text == text.strip() and text.isascii() and text[-1] in '.?"' for text in texts)
  assert (project / "README.md").read_text().startswith("# a project\n")
  assert "init" in COMMANDS and "\n  init" in HELP


def test_another_folder_than_an_empty_one_is_refused_by_name(project, tmp_path, capsys):
  assert main(["init", str(project)]) == 2
  assert capsys.readouterr().err == f"dpojax: error: {project}: it holds Makefile; name a new or an empty folder\n"
  (tmp_path / "file").touch()
  assert main(["init", str(tmp_path / "file")]) == 2
  assert "file: it is a file; name a new or an empty folder" in capsys.readouterr().err
  (tmp_path / "empty").mkdir()
  assert main(["init", str(tmp_path / "empty")]) == 0
  assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == FILES
  assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_alone_tells_its_targets(project, model):
  said = make(project, model).stdout
  assert all(f"make {target} " in said for target in ("inspect", "train", "eval", "sample", "report"))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_every_target_runs_and_training_teaches_something(project, model):
  inspected = make(project, model, "inspect")
  assert inspected.returncode == 0, inspected.stderr
  assert "for training                           8" in inspected.stdout
  trained = make(project, model, "train")
  assert trained.returncode == 0, trained.stderr
  result = json.loads((project / "run" / "result.json").read_text())
  assert (result["reason"], result["steps"], result["skipped_steps"]) == ("finished", 20, 0)
  before, after = result["before"]["train"], result["after"]["train"]
  assert before["loss"] == pytest.approx(math.log(2), abs=1e-5)  # the policy still is its reference
  assert after["loss"] < before["loss"] and after["rewards/margins"] > 0
  evaluated, sampled = make(project, model, "eval"), make(project, model, "sample", "PROMPT=What is a loop?")
  assert evaluated.returncode == 0 and "10 of 10 rows" in evaluated.stdout, evaluated.stderr
  assert sampled.returncode == 0 and "What is a loop?" in sampled.stdout, sampled.stderr
  pytest.importorskip("altair", reason="needs pip install 'dpojax[report]'")
  reported = make(project, model, "report")
  assert reported.returncode == 0, reported.stderr
  assert (project / "run-report" / "index.html").stat().st_size > 10_000
