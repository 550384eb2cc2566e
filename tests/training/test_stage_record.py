"""stage.json: there and back, what counts as the same stage, and what is said of what changed."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax.config.keys import replace_values
from dpojax.config.schema import RunConfig
from dpojax.digests import file_digest
from dpojax.errors import CheckpointError
from dpojax.training.stage_record import (
  Ended,
  Fingerprint,
  Source,
  StageRecord,
  changes,
  check_files,
  read_record,
  settings_record,
  write_record,
)

RECORD = StageRecord(
  settings={"recipe": "preference", "loss.beta": 0.1, "data.path": "stage:pairs"},
  sources={"model.path": Source("sft", "../sft", "a" * 64)},
  fingerprints={
    "weights": Fingerprint("w"),
    "tokenizer": Fingerprint("t"),
    "template": Fingerprint("j"),
    "training data": Fingerprint("d", "36 examples"),
  },
  files={"/data/rows.jsonl": (10, 20)},
  ended=Ended("finished", 300, (300, 1.0), "f" * 64, {"metrics.jsonl": "m" * 64}),
)


def with_prints(**changed):
  prints = {name.replace("_", " "): Fingerprint(*value) for name, value in changed.items()}
  return dataclasses.replace(RECORD, fingerprints={**RECORD.fingerprints, **prints})


def test_there_and_back(tmp_path):
  write_record(tmp_path, RECORD)
  assert read_record(tmp_path) == RECORD
  assert read_record(tmp_path / "nowhere") is None


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_record_is_never_read_as_another_stage(tmp_path_factory, place, byte):
  folder = tmp_path_factory.mktemp("record")
  write_record(folder, RECORD)
  file = folder / "stage.json"
  content = bytearray(file.read_bytes())
  content[place % len(content)] = byte
  file.write_bytes(content)
  try:
    assert read_record(folder).identity == RECORD.identity
  except CheckpointError as error:
    assert str(file) in str(error) and "delete" in str(error)


def test_a_cut_record_and_another_schema_are_named(tmp_path):
  write_record(tmp_path, RECORD)
  text = (tmp_path / "stage.json").read_text()
  (tmp_path / "stage.json").write_text(text[:100])
  with pytest.raises(CheckpointError, match=r"stage.json: damaged or changed \(100 bytes instead of "):
    read_record(tmp_path)
  (tmp_path / "digests.json").unlink()
  with pytest.raises(CheckpointError, match=r"stage.json: damaged"):
    read_record(tmp_path)
  (tmp_path / "stage.json").write_text(json.dumps(json.loads(text) | {"schema": 7}))
  with pytest.raises(CheckpointError, match=r"schema 7, this version reads 1"):
    read_record(tmp_path)


def test_the_identity_is_of_what_decides_and_of_nothing_else():
  same = [
    dataclasses.replace(RECORD, ended=None),
    dataclasses.replace(RECORD, files={}),
    dataclasses.replace(RECORD, sources={"model.path": Source("sft", "../elsewhere/sft", "a" * 64)}),
    with_prints(training_data=("d", "other words")),
  ]
  other = [
    dataclasses.replace(RECORD, settings={**RECORD.settings, "loss.beta": 0.2}),
    dataclasses.replace(RECORD, sources={"model.path": Source("sft", "../sft", "b" * 64)}),
    with_prints(weights=("x",)),
  ]
  assert {record.identity for record in same} == {RECORD.identity}
  assert len({record.identity for record in [RECORD, *other]}) == 4


@pytest.mark.parametrize(
  "new, lines",
  [
    (RECORD, []),
    (with_prints(weights=("x",)), ["weights: changed"]),
    (with_prints(training_data=("e", "26 examples")), ["training data: 36 examples -> 26 examples"]),
    (with_prints(training_data=("e", "36 examples")), ["training data: changed (36 examples)"]),
    # What the tokenizer changed, the data need no line for.
    (with_prints(tokenizer=("u",), training_data=("e", "36 examples")), ["tokenizer: changed"]),
    (with_prints(template=("k",), training_data=("e", "36 examples")), ["template: changed"]),
    (
      dataclasses.replace(RECORD, sources={"model.path": Source("sft", "../sft", "b" * 64)}),
      ["model.path: stage sft was made anew from other settings or data since"],
    ),
    (
      dataclasses.replace(RECORD, settings={**RECORD.settings, "loss.beta": 0.2}),
      ["loss.beta: 0.1 -> 0.2"],
    ),
  ],
)
def test_what_changed_is_named(new, lines):
  assert changes(RECORD, new) == lines


def test_before_anything_is_read_only_settings_and_stages_are_compared():
  config = replace_values(RunConfig(), {"data.path": "rows.jsonl", "data.source": "file"})
  record = dataclasses.replace(settings_record(config), fingerprints={"weights": Fingerprint("w")})
  assert changes(record, settings_record(config)) == []
  other = settings_record(replace_values(config, {"loss.beta": 0.3, "train.log_every": 7}))
  assert changes(record, other) == ["loss.beta: its default -> 0.3"]


def test_files_that_a_stage_made_are_told_by_their_digest(tmp_path):
  file = tmp_path / "pairs.jsonl"
  file.write_text("{}\n" * 9)
  ended = Ended("finished", files={"pairs.jsonl": file_digest(file)})
  check_files(tmp_path, ended)
  file.write_text("{}\n" * 4)
  with pytest.raises(CheckpointError, match=r"pairs.jsonl: it is not what the stage wrote"):
    check_files(tmp_path, ended)
  file.unlink()
  with pytest.raises(CheckpointError, match=r"pairs.jsonl: it is gone"):
    check_files(tmp_path, ended)
