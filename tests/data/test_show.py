"""Looking at rows and at counts: what is shown is what the batch holds."""

import dataclasses
import json
import re

import numpy as np
import pytest

from dpojax.config.schema import BatchSettings, DataSettings
from dpojax.data import Batches, choose_shape, dataset_from_rows, hold_out
from dpojax.data.doctor import facts, gist, histogram, report
from dpojax.data.show import show_row, token_texts
from dpojax.data.unpaired import with_mismatched
from dpojax.types import Answers

ROWS = [
  {"prompt": "what is the answer?", "chosen": " yes", "rejected": " no"},
  {"prompt": "hello", "chosen": " the sky\nis blue", "rejected": " maybe"},
]


@pytest.fixture
def dataset(plain):
  return dataset_from_rows(ROWS, DataSettings(), plain, answers=Answers.PAIR, row_length=96)


@pytest.fixture
def batches(dataset):
  return Batches(dataset, BatchSettings(size=2, rows=1, row_length=96))


def test_scored_tokens_stand_between_markers(plain, dataset, batches):
  text = str(show_row(next(batches.in_order()), plain, dataset=dataset))
  assert "example 0 (rows[0]):" in text and "example 1 (rows[1]):" in text
  assert "prompt    what is the answer?\n" in text
  assert "chosen    ⟦ yes<|im_end|>⟧\n" in text
  assert "rejected  ⟦ no<|im_end|>⟧\n" in text
  assert "chosen    ⟦ the sky\n          is blue<|im_end|>⟧\n" in text


def test_a_slot_that_scores_something_else_shows(plain, batches):
  """What is marked comes from the slots, so a wrong slot is seen."""
  batch = next(batches.in_order())
  slots = np.flatnonzero(batch.answer_of[0, 0] == 1)
  target = batch.target.copy()
  target[0, 0, slots[0]] += 1
  text = str(show_row(dataclasses.replace(batch, target=target), plain))
  assert "rejected   no⟦<|im_end|>⟧\n" in text
  assert "chosen    ⟦ yes<|im_end|>⟧\n" in text


def test_colours_and_html_hold_the_same_text(plain, batches):
  view = show_row(next(batches.in_order()), plain)
  coloured = view.text(colour=True)
  assert "\x1b[32m yes<|im_end|>\x1b[0m" in coloured and "\x1b[31m no<|im_end|>\x1b[0m" in coloured
  assert re.sub(r"\x1b\[\d+m", "", coloured) == re.sub("[⟦⟧]", "", str(view))
  html = view._repr_html_()
  assert "&lt;|im_end|&gt;</span>" in html and "<|im_end|>" not in html
  assert 'scored"> yes</span>' in html


def test_characters_split_over_tokens_are_shown_whole(plain):
  ids = plain.encode("née 漢 ok")
  pieces = token_texts(plain, ids)
  assert len(pieces) == len(ids) and "".join(pieces) == "née 漢 ok"
  assert token_texts(plain, ids[: ids.index(plain.encode("漢")[0]) + 1])[-1] == "\ufffd"


def test_rankings_and_single_answers_are_named(plain):
  for rows, answers, names in (
    ([{"prompt": "hello", "answers": [" yes", " no", " maybe"]}], Answers.RANKING, ["rank 1", "rank 2", "rank 3"]),
    ([{"prompt": "hello", "completion": " yes"}], Answers.ONE, ["answer"]),
  ):
    dataset = dataset_from_rows(rows, DataSettings(), plain, answers=answers, row_length=96)
    text = str(show_row(Batches(dataset, BatchSettings(size=1, rows=1, row_length=96))(0), plain))
    assert [line[:10].strip() for line in text.splitlines()[2:]] == names


def test_a_mismatched_answer_is_called_so(plain):
  rows = [
    {"prompt": "hello", "completion": " yes", "label": True},
    {"prompt": "what?", "completion": " no", "label": 0},
  ]
  dataset = dataset_from_rows(rows, DataSettings(), plain, answers=Answers.UNPAIRED, row_length=96)
  dataset = with_mismatched(dataset, row_length=96, max_positions=96).subset([0, 1])
  text = str(show_row(next(Batches(dataset, BatchSettings(size=2, rows=1, row_length=96)).in_order()), plain))
  assert "rejected  ⟦ no" in text  # told apart only where the data set is known
  batches = Batches(dataset, BatchSettings(size=2, rows=1, row_length=96))
  text = str(show_row(next(batches.in_order()), plain, dataset=dataset))
  assert "answer    ⟦ yes<|im_end|>⟧\nmismatched ⟦ no<|im_end|>⟧\n" in text and "rejected" not in text
  assert "mismatched" in report(dataset, dataset.subset([]), batches)


def test_a_scored_prompt_shows(plain, dataset):
  shape = choose_shape(dataset, BatchSettings(size=2, rows=1, row_length=96), score_prompt=True)
  batches = Batches(dataset, BatchSettings(size=2, rows=1, row_length=96), shape)
  first = next(iter(plain.pieces(dataset[0].prompt.tolist())))
  view = show_row(next(batches.in_order()), plain, dataset=dataset)
  assert f"prompt    {first}⟦{'what is the answer?'.removeprefix(first)}⟧\n" in str(view)
  assert "chosen    ⟦ yes<|im_end|>⟧\n" in str(view)
  assert all(len(example.answers) == 2 for example in view.examples)


def test_the_report_says_what_was_counted(plain):
  rows = [*ROWS, {**ROWS[0], "rejected": " maybe"}, {**ROWS[0], "chosen": 3}, {**ROWS[0], "rejected": " yes"}]
  train, held_out = hold_out(
    dataset_from_rows(rows, DataSettings(), plain, answers=Answers.PAIR, row_length=96), fraction=0.5, seed=0
  )
  batches = Batches(train, BatchSettings(size=2, rows=1, row_length=96))
  lines = [" ".join(line.split()) for line in report(train, held_out, batches).splitlines()]
  for expected in (
    "rows read 5",
    "dropped: malformed 1 20.0%",
    "dropped: identical answers 1 20.0%",
    "kept 3 60.0%",
    f"held out {len(held_out)} {len(held_out) / 5:.1%}",
    "duplicate prompts 1 33.3%",
    "that hold an EOS 6 100.0%",
    "rows[3]: column 'chosen' holds a number, not text",
  ):
    assert expected in lines
  found = facts(train, held_out, batches)
  assert json.loads(json.dumps(found)) == found
  assert found["lengths"]["prompt"]["total"] == sum(len(train[i].prompt) for i in range(len(train)))
  assert gist(train.counts) == (
    "5 rows read, 3 kept; dropped: 1 malformed, 1 identical answers; among them 1 duplicate prompts"
  )


def test_many_malformed_rows_are_not_all_listed(plain):
  dataset = dataset_from_rows(
    [*ROWS, *[{**ROWS[0], "chosen": 3}] * 30], DataSettings(), plain, answers=Answers.PAIR, row_length=96
  )
  text = report(dataset, dataset.subset([]), Batches(dataset, BatchSettings(size=2, rows=1, row_length=96)))
  assert "malformed rows, the first 20 of 30\n  rows[2]: " in text and len(dataset.notes) == 20


def test_a_histogram_counts_everything_once():
  lines = histogram([0, 1, 9, 10, 49, 99], "lengths").splitlines()
  assert lines[0] == "lengths"
  assert [int(line.split()[3]) for line in lines[1:]] == [3, 1, 0, 0, 1, 0, 0, 0, 0, 1]
  assert lines[1].endswith("█" * 40)
