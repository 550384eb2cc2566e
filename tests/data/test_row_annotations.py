"""Ties, margins and weights of rows: what is read of any format, what is counted, and what is refused by name."""

import json

import numpy as np
import pytest

from dpojax.config.schema import BatchSettings, DataSettings
from dpojax.data import Batches, dataset_from_rows, load_dataset
from dpojax.data.doctor import gist
from dpojax.data.formats import FORMATS
from dpojax.errors import DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import Answers

WORDS = Tokenizer.from_words(["a", "b", "c", "d", "e"], eos="<end>")
PAIR = {"prompt": "a b", "chosen": "c", "rejected": "d"}


def read(rows, answers=Answers.PAIR, **options):
  return dataset_from_rows(rows, DataSettings(**options), WORDS, answers=answers, row_length=64)


def one(**columns):
  return read([{**PAIR, **columns}])[0]


@pytest.mark.parametrize(
  ("columns", "label", "margin", "weight"),
  [
    ({}, 1.0, 0.0, 1.0),
    ({"tie": True}, 0.5, 0.0, 1.0),
    ({"tie": "1"}, 0.5, 0.0, 1.0),
    ({"tie": 0}, 1.0, 0.0, 1.0),
    ({"margin": 2}, 1.0, 2.0, 1.0),
    ({"margin": " -0.5 "}, 1.0, -0.5, 1.0),
    ({"score_chosen": 8.5, "score_rejected": "6"}, 1.0, 2.5, 1.0),
    ({"score_chosen": 8.5, "score_rejected": 6, "margin": 1}, 1.0, 1.0, 1.0),
    ({"score_chosen": 8.5}, 1.0, 0.0, 1.0),
    ({"weight": 0.25}, 1.0, 0.0, 0.25),
    ({"weight": 0}, 1.0, 0.0, 0.0),
    ({"tie": None, "margin": "", "weight": " "}, 1.0, 0.0, 1.0),
    ({"tie": "TRUE", "margin": 0.5, "weight": "3"}, 0.5, 0.5, 3.0),
  ],
)
def test_columns_become_fields_of_the_example(columns, label, margin, weight):
  example = one(**columns)
  assert (example.label, example.margin, example.weight) == (label, margin, weight)


@pytest.mark.parametrize(
  ("columns", "message"),
  [
    ({"tie": "maybe"}, "column 'tie' holds 'maybe', not true or false"),
    ({"tie": 0.5}, "column 'tie' holds 0.5, not true or false"),
    ({"margin": "large"}, "column 'margin' holds 'large', not a finite number"),
    ({"margin": "nan"}, "column 'margin' holds 'nan', not a finite number"),
    ({"margin": [1]}, "column 'margin' holds a list, not a number"),
    ({"margin": True}, "column 'margin' holds a truth value, not a number"),
    ({"score_chosen": "good", "score_rejected": 1}, "column 'score_chosen' holds 'good', not a finite number"),
    ({"weight": -1}, "column 'weight' holds -1; a weight is 0 or more"),
    ({"weight": float("inf")}, "column 'weight' holds inf, not a finite number"),
    ({"weight": 1e39}, "column 'weight' holds 1e+39, beyond float32 (3.4e+38)"),
    ({"weight": 1e-50}, "column 'weight' holds 1e-50, which is 0 as float32; give 0, or a larger weight"),
    ({"margin": "-4e38"}, "column 'margin' holds -4e+38, beyond float32 (3.4e+38)"),
    ({"margin": 10**400}, f"column 'margin' holds {'1' + '0' * 59}…, not a finite number"),
    ({"score_chosen": 1e300, "score_rejected": 1}, "column 'score_chosen' holds 1e+300, beyond float32 (3.4e+38)"),
    (
      {"score_chosen": 3e38, "score_rejected": -3e38},
      "columns 'score_chosen' and 'score_rejected' differ by 6e+38, beyond float32",
    ),
    (
      {"answers": ["a", "b", "c"], "tie": True},
      "column 'tie' is true, but the row has 3 answers; a tie is between two",
    ),
  ],
)
def test_what_they_cannot_hold_is_named_with_its_row(columns, message):
  row = {"prompt": "a", **columns} if "answers" in columns else {**PAIR, **columns}
  dataset = read([PAIR if "answers" not in columns else {"prompt": "a", "answers": ["a", "b", "c"]}, row])
  assert len(dataset) == 1 and dataset.counts["dropped/malformed"] == 1
  assert dataset.notes == [f"rows[1]: {message}"]


def test_ties_margins_and_weights_are_counted():
  rows = [{**PAIR, "tie": i < 3, "weight": 2 if i < 2 else None, "margin": 0 if i == 4 else ""} for i in range(5)]
  dataset = read(rows)
  assert [dataset.counts[name] for name in ("ties", "with_weight", "with_margin")] == [3, 2, 1]
  assert "3 ties" in gist(dataset.counts)
  assert "ties" not in gist(read([PAIR]).counts)


def test_scores_that_contradict_the_order_are_counted():
  rows = [
    {**PAIR, "score_chosen": 2, "score_rejected": "3"},
    {**PAIR, "margin": -1},
    {**PAIR, "margin": 1, "score_chosen": 2, "score_rejected": 3},
    {**PAIR, "score_chosen": 3, "score_rejected": 3},
    {**PAIR, "score_chosen": 2, "score_rejected": 3, "tie": True},
    PAIR,
  ]
  dataset = read(rows)
  assert dataset.counts["contradicting_scores"] == 3 and len(dataset) == 6
  assert dataset.warnings == [
    "contradicting scores: 3 of 6 rows; rows[0]: its scores, margin, winner or label say that the second answer is the better one"
  ]
  assert "3 contradicting scores" in gist(dataset.counts)


@pytest.mark.parametrize(
  ("columns", "contradicts"),
  [
    ({"winner": "rejected"}, 1),
    ({"winner": " Rejected "}, 1),
    ({"winner": "chosen"}, 0),
    ({"label": 0}, 1),
    ({"label": "false"}, 1),
    ({"label": 1}, 0),
    ({"label": None}, 0),
    ({"label": 3}, 0),
  ],
)
def test_a_winner_or_label_that_says_the_rejected_answer_is_counted(columns, contradicts):
  dataset = read([{**PAIR, **columns}])
  assert dataset.counts["contradicting_scores"] == contradicts and len(dataset) == 1


@pytest.mark.parametrize("rank", [float("nan"), float("inf"), 1e39])
def test_ranks_and_rewards_beyond_float32_are_malformed(rank):
  wrong = {
    "nectar": {"prompt": "a", "answers": [{"answer": "b", "rank": rank}, {"answer": "c", "rank": 2}]},
    "ranked": {"prompt": "a", "answers": ["b", "c"], "rewards": [1, rank]},
  }
  for name, row in wrong.items():
    with pytest.raises(DataError, match="finite"):
      FORMATS[name].parse(row, False)


def test_any_format_may_have_them(tmp_path):
  rows = [
    {"chosen": "\n\nHuman: a\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nAssistant: d", "tie": True},
    {"history": "a", "human_ref_A": "c", "human_ref_B": "d", "labels": 0, "weight": 2},
    {"prompt": "a", "response_0": "c", "response_1": "d", "better_response_id": 1, "margin": 3},
    {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4], "margin": 1.5, "tie": 1},
  ]
  tokenizer = Tokenizer.from_words(["a", "c", "d", "Human:", "Assistant:"], eos="<end>")
  found = []
  for n, row in enumerate(rows):
    path = tmp_path / f"{n}.jsonl"
    path.write_text(json.dumps(row) + "\n")
    settings = DataSettings(source="file", path=str(path), eval_fraction=0.0)
    example = load_dataset(settings, tokenizer, answers=Answers.PAIR, row_length=64)[0][0]
    found.append((example.label, example.margin, example.weight))
  assert found == [(0.5, 0.0, 1.0), (1.0, 0.0, 2.0), (1.0, 3.0, 1.0), (0.5, 1.5, 1.0)]


def test_they_reach_the_packed_batch():
  rows = [{**PAIR, "prompt": "a " * (i + 1), "margin": i, "weight": i + 1, "tie": i == 1} for i in range(3)]
  dataset = read(rows)
  batch = Batches(dataset, BatchSettings(size=3, rows=1, row_length=32))(0)
  for r, e in zip(*np.nonzero(batch.example_index[0] >= 0), strict=True):
    i = int(batch.example_index[0, r, e])
    found = [float(x[0, r, e]) for x in (batch.example_margin, batch.example_weight, batch.example_label)]
    assert found == [i, i + 1, 0.5 if i == 1 else 1.0]


def test_scoring_reads_none_of_them():
  """A column of another meaning must not keep a row from being scored."""
  dataset = read([{**PAIR, "weight": "70 kg"}], answers=Answers.ANY)
  assert len(dataset) == 1 and dataset[0].weight == 1.0


def test_fine_tuning_reads_weights():
  dataset = read([{"prompt": "a", "completion": "b", "weight": 0.5}], answers=Answers.ONE)
  assert dataset[0].weight == 0.5
