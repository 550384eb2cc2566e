r"""Escape sequences in data, names, settings, tokens and answers: every command shows them and obeys none.

What is looked for is raw control characters on stdout and stderr, and the written-out form, which proves that the text got there.
"""

import contextlib
import json
import os
import pathlib
import pty
import subprocess
import sys
import unicodedata

import pytest

from dpojax.cli.main import COMMANDS, main
from dpojax.interop.tokenizer import Tokenizer
from tests.cli.chinese_model import write_model

ROOT = pathlib.Path(__file__).parents[2]
# The title of the window, a cleared screen, red by a C1 character, text turned around, and two ways to write over a line.
HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\r\x08"
WRITTEN = "\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\u202e"
TOKEN = HOSTILE.replace("\r", "")  # words of the tokenizer are divided at \r


def obeyed(text):
  return [c for c in text if c not in "\n\t" and (unicodedata.category(c) in ("Cc", "Cs") or c == "\u202e")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """A model all of whose tokens are hostile, rows, games and a config, in a folder with such a name; a run of it."""
  folder = tmp_path_factory.mktemp("inputs") / f"in{HOSTILE}"
  folder.mkdir()
  words = [f"{TOKEN}{i}" for i in range(12)]
  tokenizer = Tokenizer.from_words(words, eos="<end>", unknown=f"<{TOKEN}>")
  write_model(folder / f"model{HOSTILE}", tokenizer)
  text = lambda *places: " ".join(words[i % 12] for i in places)  # noqa: E731
  rows = [
    {"prompt": text(i, i + 1), "chosen": text(i + 2), "rejected": text(i + 3, i + 4), "subset": f"part{HOSTILE}{i % 2}"}
    for i in range(24)
  ]
  (folder / f"rows{HOSTILE}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  bad = [{"prompt": HOSTILE, "chosen": "", HOSTILE: HOSTILE}, {"prompt": 3, "chosen": HOSTILE}]
  (folder / f"bad{HOSTILE}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad) + HOSTILE + "\n")
  games = [(f"{name}{HOSTILE}", f"{other}{HOSTILE}") for name, other in ("ab", "bc", "ca", "ac")] * 5
  (folder / "games.jsonl").write_text("".join(json.dumps({"w": w, "l": ell}) + "\n" for w, ell in games))
  settings = {
    "model.path": str(folder / f"model{HOSTILE}"),
    "data.path": str(folder / f"rows{HOSTILE}.jsonl"),
    "batch.size": 8,
    "batch.rows": 4,
    "batch.row_length": 48,
    "train.steps": 2,
    "monitor.every": 1,
    "monitor.prompts": 2,
    "monitor.max_tokens": 4,
    "monitor.rewards": f"length, regex:[{TOKEN}]",
    "data.eval_fraction": 0.25,
  }
  lines = ["from dpojax.config import base", "", "def get_config():", "  config = base()"]
  lines += [f"  config.{key} = {value!r}" for key, value in settings.items()]
  (folder / f"config{HOSTILE}.py").write_text("\n".join([*lines, "  return config", ""]))
  return folder


@pytest.fixture(scope="module")
def run(inputs):
  assert main(["train", f"--config={inputs / f'config{HOSTILE}.py'}", f"--workdir={inputs / f'run{HOSTILE}'}"]) == 0
  return inputs / f"run{HOSTILE}"


def commands(inputs, run, out):
  """name -> (words, exit code): each command as it should be, and as it is refused."""
  model, rows = f"--model={inputs / f'model{HOSTILE}'}", f"--data={inputs / f'rows{HOSTILE}.jsonl'}"
  bad, config = f"--data={inputs / f'bad{HOSTILE}.jsonl'}", f"--config={inputs / f'config{HOSTILE}.py'}"
  games = ["bt", str(inputs / "games.jsonl"), "--winner=w", "--loser=l"]
  return {
    "init": (["init", str(out)], 0),
    "init, a file is there": (["init", str(inputs / f"config{HOSTILE}.py")], 2),
    "train": (["train", config, f"--workdir={out}"], 0),
    "train, dry": (["train", config, f"--workdir={out}", "--dry-run"], 0),
    "train, a bad value": (["train", config, f"--workdir={out}", f"--config.loss.name={HOSTILE}"], 2),
    "train, a bad key": (["train", config, f"--workdir={out}", f"--config.{HOSTILE}=1"], 2),
    "train, no config": (["train", f"--config={HOSTILE}", f"--workdir={out}"], 2),
    "train, bad rows": (["train", config, f"--workdir={out}", f"--config.data.path={bad.partition('=')[2]}"], 2),
    "sweep": (["sweep", config, f"--workdir={out}", "--grid=loss.beta=0.1,0.2"], 0),
    "sweep, bad points": (["sweep", config, f"--workdir={out}", f"--grid=data.path={HOSTILE}1,{HOSTILE}2"], 1),
    "score": (["score", model, rows, f"--out={out}"], 0),
    "score, bad rows": (["score", model, bad, f"--out={out}"], 2),
    "eval": (["eval", model, rows, "--score=mean", f"--out={out}"], 0),
    "sample": (["sample", model, f"--prompt={TOKEN}1 {HOSTILE}", f"--prompt={TOKEN}2", "--max-tokens=6"], 0),
    "sample, a file": (["sample", model, rows, f"--out={out}", "--max-tokens=4"], 0),
    "sample, no model": (["sample", f"--model={HOSTILE}", "--prompt=a"], 2),
    "export": (["export", f"--workdir={run}", f"--out={out}"], 0),
    "export, no run": (["export", f"--workdir={inputs}", f"--out={out}"], 2),
    "data": (["data", "inspect", model, rows, "--batch.row_length=64"], 0),
    "data, bad rows": (["data", "inspect", model, bad, "--batch.row_length=64"], 2),
    "report": (["report", str(run), f"--out={out}", f"--title={HOSTILE}"], 0),
    "report, no run": (["report", str(inputs / f"model{HOSTILE}"), f"--out={out}"], 2),
    "compare": (["compare", str(run), str(run)], 0),
    "compare, no policy": (["compare", f"{run}:{HOSTILE}", str(run)], 2),
    "bt": ([*games, f"--out={out}.json", f"--plot={out}.png"], 0),
    "bt, no column": ([*games[:2], f"--winner={HOSTILE}", "--loser=l"], 2),
    "bt, a prior": ([*games, f"--prior={HOSTILE}"], 2),
    "no command": ([HOSTILE], 2),
  }


NAMES = list(commands(pathlib.Path(), pathlib.Path(), pathlib.Path()))
OF_A_RUN = ("export", "report", "compare", "compare, no policy")
COMPUTES = (*OF_A_RUN, "train", "sweep", "sweep, bad points", "score", "eval", "sample", "sample, a file")


def test_every_command_is_here():
  assert {words[0] for words, _ in commands(pathlib.Path(), pathlib.Path(), pathlib.Path()).values()} >= set(COMMANDS)


@pytest.mark.sampled(4)
@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in COMPUTES)) for n in NAMES])
def test_no_command_obeys_what_it_was_given(inputs, request, tmp_path, capsys, name):
  if name.startswith("report"):
    pytest.importorskip("altair", reason="needs pip install 'dpojax[report]'")
  run = request.getfixturevalue("run") if name in OF_A_RUN else inputs / "run"
  words, code = commands(inputs, run, tmp_path / f"out{HOSTILE}")[name]
  capsys.readouterr()
  assert main(words) == code
  out, err = capsys.readouterr()
  assert not obeyed(out) and not obeyed(err)
  assert WRITTEN in out + err
  for path in tmp_path.rglob("*"):  # files for people: logs, Markdown; of JSON what is written
    theirs = "tokenizer" in path.name or "checkpoints" in path.parts  # written by tokenizers and Orbax
    if path.suffix in (".txt", ".md", ".json", ".jsonl") and not theirs:
      assert not obeyed(path.read_bytes().decode("utf-8", "surrogatepass")), path


@pytest.mark.slow
def test_files_hold_what_the_terminal_only_shows(inputs, tmp_path, capsys):
  words = commands(inputs, inputs, tmp_path / "out.jsonl")["sample, a file"][0]
  assert main(words) == 0
  answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
  assert any(TOKEN in row["samples"][0]["text"] for row in answers) and all(TOKEN in row["prompt"] for row in answers)
  assert main([*commands(inputs, inputs, tmp_path)["bt"][0][:4], f"--out={tmp_path / 'board.csv'}"]) == 0
  assert f"a{HOSTILE}" in (tmp_path / "board.csv").read_bytes().decode()
  assert not obeyed("".join(capsys.readouterr()))


@pytest.mark.long
@pytest.mark.parametrize("name", ["train", "data", "sample", "bt", "report", "no command"])
def test_on_a_terminal_only_our_own_sequences_are_obeyed(inputs, run, tmp_path, name):
  """In a process of its own with live lines and colours: what is left without ours has no control character."""
  words = commands(inputs, run, tmp_path / f"out{HOSTILE}")[name][0]
  text = on_a_terminal(words).replace("\r\n", "\n")
  for ours in ("\r\x1b[2K", *(f"\x1b[{n}m" for n in (0, 1, 2, *range(31, 37)))):
    text = text.replace(ours, "")
  assert not obeyed(text) and WRITTEN in text, text


def on_a_terminal(words):
  """What a command writes to a terminal of 80 columns."""
  ours, theirs = pty.openpty()
  environment = os.environ | {"COLUMNS": "80", "JAX_PLATFORMS": "cpu"}
  with subprocess.Popen(
    [sys.executable, "-m", "dpojax", *words], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
  ):
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # EIO: nobody writes there any more
      while read := os.read(ours, 65536):
        said += read
  os.close(ours)
  return said.decode("utf-8", "surrogateescape")
