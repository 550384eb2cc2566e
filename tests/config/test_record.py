"""config.json: to JSON and back, differences in readable lines, and what of it makes a stage what it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax.config.keys import fields_by_key, parse, replace_values, value_at
from dpojax.config.record import difference, from_json, identity_settings, read_config, to_json
from dpojax.config.schema import RunConfig
from dpojax.errors import CheckpointError, ConfigError

OF_TYPE = {
  bool: st.booleans(),
  int: st.integers(-(2**40), 2**40),
  float: st.floats(allow_nan=False, allow_infinity=False),
  str: st.text(),
}


@st.composite
def changes(draw):
  keys = draw(st.lists(st.sampled_from(sorted(fields_by_key())), unique=True, max_size=8))
  return {key: draw(OF_TYPE[fields_by_key()[key].metadata["kind"]]) for key in keys}


@given(changes())
def test_json_round_trip_and_difference(values):
  config = replace_values(RunConfig(), values)
  assert from_json(json.loads(json.dumps(to_json(config)))) == config
  changed = [key for key, value in values.items() if value != value_at(RunConfig(), key)]
  assert [line.split(":")[0] for line in difference(RunConfig(), config)] == sorted(
    changed, key=list(fields_by_key()).index
  )


@given(changes())
def test_the_text_of_a_value_parses_back(values):
  assert {key: parse(key, str(value)) for key, value in values.items()} == values


def test_difference_in_readable_lines():
  new = replace_values(RunConfig(), {"loss.beta": 0.2, "loss.name": "ipo"})
  assert difference(RunConfig(), new) == ['loss.name: "auto" -> "ipo"', "loss.beta: its default -> 0.2"]


def test_what_decides_what_a_stage_makes():
  start = replace_values(RunConfig(), {"loss.beta": 0.2})
  same = {"parallel.fsdp": 4, "train.log_every": 7, "logging.plots": False, "checkpoint.every": 5, "pairs.seed": 3}
  other = {"loss.beta": 0.3, "seed": 1, "data.path": "rows.jsonl", "train.steps": 7, "model.precision": "bfloat16"}
  assert all(identity_settings(replace_values(start, {k: v})) == identity_settings(start) for k, v in same.items())
  assert all(identity_settings(replace_values(start, {k: v})) != identity_settings(start) for k, v in other.items())


def test_under_a_constant_rate_a_longer_run_is_the_same_run():
  start = replace_values(RunConfig(), {"optimizer.schedule": "constant"})
  assert identity_settings(replace_values(start, {"train.steps": 9})) == identity_settings(start)


@pytest.mark.parametrize(
  "text, message",
  [
    ('{"loss": {"beta": "0.1"}}', ": loss.beta wants a number, got '0.1'"),
    ('{"loss": {"betta": 0.1}}', ": unknown key 'loss.betta'; did you mean 'loss.beta'?"),
    ('{"seed": true}', ": seed wants a whole number, got True"),
    ("[1]", ": wants a JSON object of settings, got list"),
    ("import os", ": not JSON (Expecting value: line 1 column 1 (char 0)); restore it or start in a new workdir"),
  ],
)
def test_a_bad_record(tmp_path, text, message):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ConfigError) as caught:
    read_config(tmp_path)
  assert str(caught.value) == f"{tmp_path / 'config.json'}{message}"


def test_a_missing_record(tmp_path):
  with pytest.raises(CheckpointError) as caught:
    read_config(tmp_path)
  assert str(caught.value) == f"{tmp_path / 'config.json'}: no such file; is {tmp_path} the workdir of a run?"
