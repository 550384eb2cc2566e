"""`dpojax train`, `sweep` and `export` as a user mistypes them: exit code 2 and one line that says how to mend it."""

import pytest

from dpojax.cli.export import parse_size
from dpojax.cli.main import main
from dpojax.config.load import load_config
from dpojax.errors import ConfigError
from dpojax.training.stage_record import settings_record, write_record

CONFIG = """from dpojax.config import base


def get_config():
  config = base()
  config.data.path = "rows.jsonl"
  config.model.path = "model"
  return config
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "config.py"
  rows = tmp_path / "rows.jsonl"
  rows.write_text("{}\n")
  path.write_text(CONFIG.replace("rows.jsonl", str(rows)))
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


@pytest.mark.parametrize(
  ("word", "hint"),
  [
    ("--loss.beta=1", "did you mean '--config.loss.beta'?"),
    ("--loss.bta=1", "did you mean 'loss.beta'?"),
    ("--beta=1", "did you mean 'loss.beta'?"),
    ("--max_steps=1", "here it is train.steps"),
  ],
)
def test_a_setting_as_an_option_is_told_where_it_goes(error, file, word, hint):
  name = word.removesuffix("=1")
  assert error("train", f"--config={file}", "--workdir=w", word) == (
    f"unknown option {name!r}; {hint}; a setting is given as --config.KEY=VALUE; see dpojax train --help"
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


@pytest.mark.slow
def test_stages(error, tmp_path):
  file, rows = tmp_path / "config.py", tmp_path / "rows.jsonl"
  rows.write_text("{}\n")
  file.write_text(
    "from dpojax.config import stages\n\n\ndef get_config():\n  config = stages(sft='sft', dpo='preference')\n"
    f"  config.data.path = {str(rows)!r}\n  config.model.path = 'model'\n  config.dpo.model.path = 'stage:sft'\n"
    "  return config\n"
  )
  start = ("train", f"--config={file}", f"--workdir={tmp_path / 'w'}")
  assert error(*start, "--only=dop") == "--only=dop: no such stage; there is sft, dpo"
  assert error(*start, "--until=ppo") == "--until=ppo: no such stage; there is sft, dpo"
  assert error(*start, "--only=dpo") == (
    f"--only=dpo starts from stage sft, which has not ended in {tmp_path / 'w' / 'sft'}; run it first"
  )


def test_one_stage_has_no_name(error, file):
  assert error("train", f"--config={file}", "--workdir=w", "--only=sft") == (
    "--only=sft: no such stage; there is one alone, without a name"
  )


def test_a_changed_config_is_refused_with_the_difference(error, file, tmp_path):
  write_record(tmp_path, settings_record(load_config(file)))
  (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 0.6, "skipped_in_row": 0}\n')
  assert error("train", f"--config={file}", f"--workdir={tmp_path}", "--config.loss.beta=0.2") == (
    f"{tmp_path} holds a run of other settings or inputs (loss.beta: its default -> 0.2); "
    "use another --workdir, or --allow-config-change to go on with the new ones"
  )


def test_files_put_into_the_workdir_are_never_executed(error, file, tmp_path):
  trap = tmp_path / "trap"
  (tmp_path / "stage.json").write_text(f"open({str(trap)!r}, 'w')")
  (tmp_path / "config.py.json").write_text(f"open({str(trap)!r}, 'w')")
  message = error("train", f"--config={file}", f"--workdir={tmp_path}")
  assert message.startswith(f"{tmp_path / 'stage.json'}: damaged (")
  assert not trap.exists()


def test_sweep(error, file):
  start = ("sweep", f"--config={file}", "--workdir=w")
  assert error(*start) == (
    "--grid is missing: give the values to try, such as --grid loss.beta=0.05,0.1, or write get_points() in the config "
    "file"
  )
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
  assert error("export", f"--workdir={tmp_path / 'none'}", f"--out={tmp_path / 'new'}") == (
    f"--workdir={tmp_path / 'none'}: no such folder"
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
