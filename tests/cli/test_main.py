"""The command's front: help, unknown commands, errors in one line and exit code 2, defects with a traceback."""

import importlib
import types

import pytest

from dpojax.cli.main import COMMANDS, main
from dpojax.errors import DataError


@pytest.fixture
def command(monkeypatch):
  """Puts a function in the place of `dpojax train`."""

  def put(function):
    monkeypatch.setattr(importlib, "import_module", lambda name: types.SimpleNamespace(main=function))

  return put


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(capsys, arguments):
  assert main(arguments) == 0
  out = capsys.readouterr().out
  assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_help(capsys, name):
  try:
    code = main([name, "--help"])
  except SystemExit as stop:  # how argparse ends
    code = stop.code
  assert code == 0
  assert f"dpojax {name}" in capsys.readouterr().out


def test_version(capsys):
  assert main(["--version"]) == 0
  assert capsys.readouterr().out.startswith("dpojax 0.")


@pytest.mark.parametrize(
  "name, message",
  [
    ("trian", "dpojax: error: unknown command 'trian'; did you mean 'train'?\n"),
    (
      "fly",
      "dpojax: error: unknown command 'fly'; commands are init, train, sweep, score, eval, sample, export, data, report, compare, bt\n",
    ),
  ],
)
def test_an_unknown_command(capsys, name, message):
  assert main([name]) == 2
  assert capsys.readouterr().err == message


def test_an_error_of_the_user_is_one_line_and_exit_code_2(command, capsys):
  def wrong(arguments):
    raise DataError("rows.jsonl, line 3: no column 'chosen'")

  command(wrong)
  assert main(["train"]) == 2
  assert capsys.readouterr().err == "dpojax: error: rows.jsonl, line 3: no column 'chosen'\n"


def test_a_defect_of_ours_keeps_its_traceback(command):
  def defect(arguments):
    raise ZeroDivisionError

  command(defect)
  with pytest.raises(ZeroDivisionError):
    main(["train"])


def test_the_command_gets_its_arguments_and_gives_its_code(command):
  seen = []
  command(lambda arguments: seen.append(arguments) or 75)
  assert main(["train", "--workdir", "x"]) == 75
  assert seen == [["--workdir", "x"]]


def test_an_interrupt(command, capsys):
  def stop(arguments):
    raise KeyboardInterrupt

  command(stop)
  assert main(["train"]) == 130
  assert capsys.readouterr().err == "dpojax: interrupted\n"
