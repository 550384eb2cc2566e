"""Rankings: in the order that scores or ranks say, and as the pairs that are asked for, each counted."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax.config.schema import DataSettings
from dpojax.data import TokenDataset, TokenExample, dataset_from_rows, load_dataset
from dpojax.data.doctor import gist, rows_report
from dpojax.data.rankings import expand
from dpojax.data.splits import read_splits
from dpojax.data.token_cache import TokenCache, decode, encode
from dpojax.errors import DataError
from dpojax.types import Answers
from tests.data.test_sources import as_jsonl

TEXTS = ["low", "high", "middle"]


def read(rows, tokenizer, *, answers=Answers.PAIR, **options):
  return dataset_from_rows(rows, DataSettings(**options), tokenizer, answers=answers, row_length=512)


def texts(dataset):
  return [tuple(row["answers"]) for row in dataset.metadata]


def objects(text, score):
  return [{text: one, score: value, "model": "m"} for one, value in zip(TEXTS, (1, 9.5, 3), strict=True)]


ORDERED = {
  "scores": {"prompt": "a b", "answers": TEXTS, "scores": [1, 9.5, 3]},
  "scores as text": {"prompt": "a b", "answers": TEXTS, "scores": "[1, 9.5, 3]"},
  "ratings": {"prompt": "a b", "answers": TEXTS, "ratings": [1, 9.5, 3]},
  "ranks": {"prompt": "a b", "answers": TEXTS, "ranks": [3, 1, 2]},
  "completions and rewards": {"prompt": "a b", "completions": TEXTS, "rewards": [1, 9.5, 3]},
  "responses": {"question": "a b", "responses": TEXTS, "Scores": [1, 9.5, 3]},
  "objects of UltraFeedback": {"instruction": "a b", "completions": objects("response", "overall_score")},
  "objects": {"prompt": "a b", "answers": objects("text", "score")},
  "messages": {
    "prompt": [{"role": "user", "content": "a b"}],
    "answers": [[{"role": "assistant", "content": text}] for text in TEXTS],
    "scores": [1, 9.5, 3],
  },
  "nothing but the order": {"prompt": "a b", "answers": ["high", "middle", "low"]},
  "true rewards of drawn answers": {"prompt": "a b", "answers": ["high", "middle", "low"], "rewards": [1, 2, 3]},
}


WITHOUT_UNITS = ("ranks", "nothing but the order", "true rewards of drawn answers")


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERED)
def test_answers_are_read_best_first(chatml, name):
  row = ORDERED[name]
  data = read([row], chatml, answers=Answers.RANKING)
  assert texts(data) == [("high", "middle", "low")]
  assert data.counts["contradicting_scores"] == 0 and not data.warnings
  pairs = read([row], chatml, pairs="all")
  assert texts(pairs) == [("high", "middle"), ("high", "low"), ("middle", "low")]
  assert [len(pairs[i].answers) for i in range(3)] == [2, 2, 2]
  assert [pairs[i].margin for i in range(3)] == ([0, 0, 0] if name in WITHOUT_UNITS else [6.5, 8.5, 2])


@pytest.mark.parametrize(
  ("columns", "why"),
  [
    ({"scores": [1, 2]}, "column 'scores' holds 2 values for 3 answers"),
    ({"ratings": [1, None, 3]}, "column 'ratings' holds 3 values for 3 answers; give a number for each"),
    ({"ranks": [1, 1e39, 2]}, "column 'ranks' holds a number that is not finite as float32"),
    (
      {"answers": [*objects("text", "score")[:2], {"text": "no score"}]},
      "entry 2 of column 'answers' has no text 'text' or",
    ),
  ],
)
def test_scores_that_cannot_be_are_named_with_the_row(chatml, columns, why):
  rows = [ORDERED["nothing but the order"], {"prompt": "a b", "answers": TEXTS, **columns}]
  data = read(rows, chatml, answers=Answers.RANKING)
  assert data.counts["dropped/malformed"] == 1 and why in data.notes[0] and "rows[1]" in data.notes[0]


PAIRS = {
  "all": [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")],
  "best_worst": [("a", "d")],
  "adjacent": [("b", "c"), ("c", "d")],
}


@pytest.mark.parametrize(("choose", "wanted"), PAIRS.items())
def test_pairs_are_those_asked_for_and_ties_make_none(chatml, choose, wanted):
  rows = [
    {"prompt": "first", "answers": ["a", "b", "c", "d"], "scores": [9, 9, 5, 1], "weight": 2},
    {"prompt": "second", "answers": ["e", "f"], "scores": [3, 3]},
    {"prompt": "third", "chosen": "g", "rejected": "h"},
  ]
  data = read(rows[:2], chatml, pairs=choose)
  assert texts(data) == wanted
  tied = {"all": 2, "best_worst": 1, "adjacent": 2}[choose]
  assert {name: data.counts[name] for name in ("pairs", "pairs_tied", "rows_without_pair", "kept")} == {
    "pairs": len(wanted),
    "pairs_tied": tied,
    "rows_without_pair": 1,
    "kept": 2,
  }
  assert all(data[i].weight == 2 for i in range(len(data)))
  score = dict(zip("abcd", (9, 9, 5, 1), strict=True))
  assert [data[i].margin for i in range(len(data))] == [score[x] - score[y] for x, y in wanted]
  assert f"{len(wanted)} pairs made ({tied} tied and left out)" in gist(data.counts)
  assert "pairs tied" in rows_report(data, data)
  assert texts(read(rows[2:], chatml, pairs=choose)) == [("g", "h")]


def test_two_equal_scores_alone_are_a_tie_and_all_equal_leave_nothing(chatml):
  row = {"prompt": "second", "answers": ["e", "f"], "scores": [3, 3]}
  data = read([row], chatml)
  assert data[0].label == 0.5 and data.counts["ties"] == 1
  with pytest.raises(DataError, match=r"no pairs are left: data\.pairs=all, and in all 1 rows the scores are equal"):
    read([row], chatml, pairs="all")


def test_an_answer_that_is_there_twice_keeps_its_first_score(chatml):
  row = {"prompt": "p", "answers": ["a", "b", "a"], "scores": [1, 2, 3]}
  data = read([row], chatml, pairs="all")
  assert texts(data) == [("a", "b")] and data[0].margin == 1


def test_a_loss_of_pairs_says_how_rankings_become_pairs(chatml):
  options = dict(answers=Answers.PAIR, row_length=512, max_positions=512, vocab_size=10_000, loss="dpo")
  rows = [{"prompt": f"question {i}", "answers": TEXTS} for i in range(4)]
  with pytest.raises(
    DataError, match=r"3 answers, but loss\.name=dpo compares 2; make pairs of them \(data\.pairs=all, "
  ):
    read_splits(DataSettings(), chatml, rows=rows, **options)
  splits = read_splits(DataSettings(pairs="all", eval_fraction=0.25), chatml, rows=rows, **options)
  assert (len(splits.train), len(splits.held_out)) == (9, 3)
  assert splits.train.counts == splits.held_out.counts


def test_pairs_are_made_after_the_cache_and_held_out_by_prompt(chatml, tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_bytes(as_jsonl([{"prompt": f"q {i}", "answers": TEXTS, "scores": [i, 2, 3]} for i in range(6)]))
  cache = TokenCache(tmp_path / "cache")
  for _ in range(2):
    found = [
      load_dataset(
        DataSettings(path=str(path), pairs=pairs, eval_path=str(path) if pairs == "adjacent" else ""),
        chatml,
        answers=Answers.PAIR,
        row_length=512,
        cache=cache,
      )
      for pairs in ("all", "best_worst", "adjacent")
    ]
    assert [len(train) + len(held_out) for train, held_out in found[:2]] == [16, 6]
    assert len(found[2][0]) == 0 and found[2][0].counts["dropped/held_out_prompt"] == 6
    for train, held_out in found[:2]:
      sides = [{part[i].prompt.tobytes() for i in range(len(part))} for part in (train, held_out)]
      assert not sides[0] & sides[1]


def test_scores_are_part_of_what_a_data_set_is_and_are_kept_on_disk():
  ids = [np.asarray([i]) for i in range(1, 4)]
  plain = TokenExample(np.arange(3), tuple(ids))
  scored = TokenExample(np.arange(3), tuple(ids), scores=(3.0, 2.0, 1.0), scores_have_units=True)
  data = TokenDataset([plain, scored, plain])
  assert data.fingerprint != TokenDataset([plain, plain, plain]).fingerprint
  entry = encode(data)
  assert entry is not None and decode(entry).fingerprint == data.fingerprint


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=5), min_size=1, max_size=4))
def test_every_two_answers_of_other_scores_are_a_pair_once(rows):
  examples = [
    TokenExample(
      np.asarray([9]), tuple(np.asarray([i, k]) for k in range(len(scores))), scores=tuple(sorted(scores)[::-1])
    )
    for i, scores in enumerate(rows)
  ]
  unequal = [sum(a != b for a, b in itertools.combinations(scores, 2)) for scores in rows]
  if not sum(unequal):
    with pytest.raises(DataError):
      expand(TokenDataset(examples), "all")
    return
  made = expand(TokenDataset(examples), "all")
  found = [tuple(tuple(answer.tolist()) for answer in made[i].answers) for i in range(len(made))]
  assert len(found) == len(set(found)) == sum(unequal)
  for (i, k), (j, m) in found:
    assert i == j and examples[i].scores[k] > examples[i].scores[m]
