"""`dpojax train`, `sweep` and `export` as a user mistypes them: exit code 2 and one line that says how to mend it."""

import pytest

from dpojax.cli.export import parse_size
from dpojax.cli.main import main
from dpojax.config.load import load_config
from dpojax.config.record import write_config
from dpojax.errors import ConfigError

CONFIG = """from dpojax.config import base


def get_config():
  config = base()
  config.data.source = "world"
  config.data.name = "complaint_desk"
  config.sft.steps = 50
  config.pairs.prompts = 100
  return config
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "config.py"
  path.write_text(CONFIG)
  return str(path)


@pytest.fixture
def error(capsys):
  def run(*arguments):
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("dpojax: error: ")
    return lines[0].removeprefix("dpojax: error: ")

  return run


def test_missing_and_unknown_options(error, file):
  assert error("train", "--workdir=w") == "the following arguments are required: --config; see dpojax train --help"
  assert error("train", f"--config={file}") == (
    "the following arguments are required: --workdir; see dpojax train --help"
  )
  assert error("train", f"--config={file}", "--workdir=w", "--allow-config-chang") == (
    "unknown option '--allow-config-chang'; did you mean '--allow-config-change'?; see dpojax train --help"
  )
  assert error("train", f"--config={file}", "--workdir=w", "extra") == (
    "unexpected argument 'extra'; settings are given as --config.KEY=VALUE"
  )


def test_config_and_value_may_be_two_words(error, file):
  assert error("train", "--config", file, "--workdir", "w", "--config.loss.beta", "-1") == (
    "loss.beta must be more than 0, got -1"
  )


def test_settings(error, file):
  start = ("train", f"--config={file}", "--workdir=w")
  assert error(*start, "--config.loss.betta=1") == "unknown key 'loss.betta'; did you mean 'loss.beta'?"
  assert error(*start, "--config.loss.beta=abc") == "loss.beta wants a number, got 'abc'"
  assert error("train", "--config=nowhere.py", "--workdir=w") == "--config=nowhere.py: no such file: nowhere.py"


def test_a_changed_config_is_refused_with_the_difference(error, file, tmp_path):
  workdir = tmp_path / "run"
  workdir.mkdir()
  write_config(load_config(file), workdir)
  assert error("train", f"--config={file}", f"--workdir={workdir}", "--config.loss.beta=0.2") == (
    f"{workdir} holds a run of other settings (loss.beta: its default -> 0.2); "
    "use another --workdir, or --allow-config-change to go on with the new ones"
  )


def test_a_config_file_put_into_the_workdir_is_never_executed(error, file, tmp_path):
  workdir = tmp_path / "run"
  workdir.mkdir()
  trap = workdir / "trap"
  (workdir / "config.json").write_text(f"open({str(trap)!r}, 'w')")
  (workdir / "config.py").write_text(f"open({str(trap)!r}, 'w')")
  message = error("train", f"--config={file}", f"--workdir={workdir}")
  assert message.startswith(f"{workdir / 'config.json'}: not JSON (")
  assert not trap.exists()


def test_sweep(error, file):
  start = ("sweep", f"--config={file}", "--workdir=w")
  assert error(*start) == "--grid is missing: give the values to try, such as --grid loss.beta=0.05,0.1"
  assert error(*start, "--grid", "loss.betta=1") == (
    "--grid 'loss.betta=1': unknown key 'loss.betta'; did you mean 'loss.beta'?"
  )
  assert error(*start, "--grid", "loss.beta=0.1,-1") == "point loss.beta=-1.0: loss.beta must be more than 0, got -1"


def test_export(error, tmp_path):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "file").write_text("")
  assert error("export", f"--workdir={tmp_path}", f"--out={tmp_path / 'full'}") == (
    f"--out={tmp_path / 'full'}: must be new or empty, and holds something already"
  )
  assert error("export", f"--workdir={tmp_path}", f"--out={tmp_path / 'new'}") == (
    f"--workdir={tmp_path}: no model.json there; is it the workdir of a run?"
  )
  assert error("export", "--workdir=w", "--out=o", "--max-shard-size=lots") == (
    "--max-shard-size=lots: wants a size such as 500MB or 5GB"
  )
  assert error("export", "--workdir=w", "--out=o", "--dtype=int8") == (
    "argument --dtype: invalid choice: 'int8' (choose from 'float32', 'bfloat16'); see dpojax export --help"
  )


def test_sizes():
  assert [parse_size(text) for text in ("5GB", "500mb", "1.5 KB", "1000")] == [5 * 10**9, 5 * 10**8, 1500, 1000]
  for text in ("", "0", "-1GB", "5 TB"):
    with pytest.raises(ConfigError):
      parse_size(text)
