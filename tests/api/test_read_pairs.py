"""Rows as a program gives them are the rows of a file."""

import json

import numpy as np
import pytest

import dpojax
from dpojax.errors import ConfigError, DataError
from dpojax.types import Answers
from tests.api.tiny import make_rows, policy  # noqa: F401

ROWS = make_rows(20)


def same(one, other):
  assert len(one) == len(other)
  for a, b in zip((one[i] for i in range(len(one))), (other[i] for i in range(len(other))), strict=True):
    np.testing.assert_array_equal(a.prompt, b.prompt)
    for x, y in zip(a.answers, b.answers, strict=True):
      np.testing.assert_array_equal(x, y)


def test_rows_in_memory_are_rows_of_a_file(tmp_path, policy):  # noqa: F811
  file = tmp_path / "pairs.jsonl"
  file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  given, read = dpojax.read_pairs(ROWS, policy), dpojax.read_pairs(file, policy.tokenizer)
  same(given.train, read.train)
  same(given.held_out, read.held_out)
  assert len(given.train) + len(given.held_out) == len(ROWS) and len(given.held_out) == 2


def test_settings_of_data_are_taken_by_name(policy):  # noqa: F811
  assert len(dpojax.read_pairs(ROWS, policy, eval_fraction=0.25).held_out) == 5
  renamed = [{"ask": row["prompt"], "good": row["chosen"], "bad": row["rejected"]} for row in ROWS]
  columns = "prompt=ask,chosen=good,rejected=bad"
  same(dpojax.read_pairs(renamed, policy, columns=columns).train, dpojax.read_pairs(ROWS, policy).train)


def test_a_name_of_the_hub_has_its_revision(policy):  # noqa: F811
  settings = dpojax.read_pairs("hub:owner/name@v1", policy, split="validation").settings
  assert (settings.source, settings.name, settings.revision, settings.split) == (
    "hub",
    "owner/name",
    "v1",
    "validation",
  )


@pytest.mark.parametrize(
  "settings, said",
  [
    ({"eval_fractoin": 0.2}, "did you mean 'eval_fraction'"),
    ({"limit": "ten"}, "data.limit wants a whole number, got 'ten'"),
  ],
)
def test_a_wrong_setting_is_named(settings, said, policy):  # noqa: F811
  with pytest.raises(ConfigError, match=said):
    dpojax.read_pairs(ROWS, policy, **settings)


def test_a_missing_file_is_named(policy):  # noqa: F811
  with pytest.raises(DataError, match=r"nowhere.jsonl: no such file"):
    len(dpojax.read_pairs("nowhere.jsonl", policy).train)


def test_all_rows_with_all_answers(policy):  # noqa: F811
  dataset = dpojax.read_pairs(ROWS, policy).dataset(Answers.ANY)
  assert len(dataset) == len(ROWS) and all(len(dataset[i].answers) == 2 for i in range(len(ROWS)))
