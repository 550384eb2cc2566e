"""Config files and overrides: what is accepted, and the exact words for each way to be wrong."""

import pytest

from dpojax.config import base, load_config, resolve
from dpojax.config.keys import fields_by_key
from dpojax.errors import ConfigError

HEADER = "from dpojax.config import base\n\n\n"
GOOD = (
  HEADER
  + """def get_config(beta="0.1"):
  config = base()
  config.data.name = "owner/set"
  config.model.path = "model"
  config.train.steps = 50
  config.loss.beta = float(beta)
  return config
"""
)


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "config.py"
  path.write_text(GOOD)
  return str(path)


def refused(call, *arguments):
  with pytest.raises(ConfigError) as caught:
    call(*arguments)
  return str(caught.value)


def test_a_file_its_argument_and_overrides_in_all_spellings(file):
  assert load_config(file).loss.beta == 0.1
  assert load_config(f"{file}:0.3").loss.beta == 0.3
  assert load_config(f"{file}:0.3", ["--config.loss.beta=0.2"]).loss.beta == 0.2
  assert load_config(file, ["--config.loss.beta", "0.2", "--noconfig.logging.plots"]).loss.beta == 0.2
  assert load_config(file, ["--noconfig.logging.plots"]).logging.plots is False
  assert load_config(file, ["--config.optimizer.learning_rate=1"]).optimizer.learning_rate == 1.0
  assert load_config(file, {"loss.beta": 0.2, "train.steps": 7}).train.steps == 7


def test_a_data_path_means_a_file(file):
  config = load_config(file, {"data.path": "rows.jsonl"})
  assert config.data.source == "file"


def test_the_base_is_locked_and_typed():
  config = base()
  with pytest.raises(AttributeError, match="locked"):
    config.loss.betta = 0.1
  with pytest.raises(TypeError):
    config.loss.beta = "abc"


def test_an_unlocked_dict_with_a_new_key_is_refused():
  config = base()
  with config.unlocked():
    config.loss.temperature = 1.0
  assert refused(resolve, config) == "unknown key 'loss.temperature'; did you mean 'rollout.temperature'?"


@pytest.mark.parametrize(
  "words, message",
  [
    (["--config.loss.betta=1"], "unknown key 'loss.betta'; did you mean 'loss.beta'?"),
    (["--config.beta=1"], "unknown key 'beta'; did you mean 'loss.beta'?"),
    (["--config.objective=sft"], "unknown key 'objective'; it is now recipe"),
    (
      ["--config.loss=1"],
      "'loss' is a section, not a setting; it holds "
      + ", ".join(key for key in fields_by_key() if key.startswith("loss.")),
    ),
    (["--config.loss.beta=abc"], "loss.beta wants a number, got 'abc'"),
    (["--config.loss.beta=nan"], "loss.beta wants a finite number, got nan"),
    (["--config.train.steps=1.5"], "train.steps wants a whole number, got '1.5'"),
    (["--config.logging.plots=maybe"], "logging.plots wants True or False, got 'maybe'"),
    (["--config.loss.beta"], "Missing value for flag --config.loss.beta"),
    (["steps"], "unexpected argument 'steps'; settings are given as --config.KEY=VALUE"),
  ],
)
def test_bad_overrides(file, words, message):
  assert refused(load_config, file, words) == message


def test_swapped_letters_are_the_nearest(file):
  """By difflib 'dop' is nearer to 'dpop'."""
  assert refused(load_config, file, ["--config.loss.name=dop"]).startswith(
    "loss.name cannot be 'dop'; did you mean 'dpo'?"
  )


def test_bad_overrides_from_python(file):
  assert refused(load_config, file, {"loss.beta": "abc"}) == "loss.beta wants a number, got 'abc'"
  assert refused(load_config, file, {"loss.betta": 1.0}) == "unknown key 'loss.betta'; did you mean 'loss.beta'?"


@pytest.mark.parametrize(
  "text, message",
  [
    ("def get_config(:\n  pass", ":1: SyntaxError: invalid syntax (config.py, line 1)"),
    ("beta = 0.1", ": has no function get_config()"),
    ("import no_such_module", ":1: ModuleNotFoundError: No module named 'no_such_module'"),
    ("def get_config():\n  return {}", ": get_config() must return a ConfigDict, got dict"),
    (
      HEADER + "def get_config():\n  config = base()\n  config.loss.betta = 1.0\n  return config",
      ":6: unknown key 'betta'; did you mean 'loss.beta'?",
    ),
    (
      HEADER + "def get_config():\n  config = base()\n  config.evaluation.prompts = 0\n  return config",
      ":6: unknown key 'evaluation.prompts'; it is now monitor.prompts",
    ),
    (
      HEADER + "def get_config():\n  config = base()\n  config.los.beta = 1.0\n  return config",
      ":6: unknown key 'los'; did you mean 'loss'?",
    ),
    (
      HEADER + "def get_config():\n  config = base()\n  config.loss.beta = 'abc'\n  return config",
      ":6: beta wants a number, got 'abc'",
    ),
    (
      HEADER + "def get_config():\n  config = base()\n  config.train.steps = 1.5\n  return config",
      ":6: steps wants a whole number, got '1.5'",
    ),
  ],
)
def test_bad_files(tmp_path, text, message):
  path = tmp_path / "config.py"
  path.write_text(text)
  assert refused(load_config, str(path)) == f"{path}{message}"


def test_a_missing_file_and_a_bad_argument(tmp_path, file):
  missing = tmp_path / "nowhere.py"
  assert refused(load_config, f"{missing}:x") == f"--config={missing}:x: no such file: {missing}"
  assert refused(load_config, f"{file}:x") == f"{file}:9: ValueError: could not convert string to float: 'x'"
