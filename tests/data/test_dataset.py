"""Data sets: every row accounted for, held-out prompts apart, identity of what was read."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.config.schema import DataSettings
from dpojax.data import TokenDataset, dataset_from_rows, hold_out, load_dataset
from dpojax.data.doctor import gist
from dpojax.data.row_filter import DROPPED
from dpojax.errors import DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import Answers

WORDS = Tokenizer.from_words(["a", "b", "c", "d", "e"], eos="<end>")
PAIR = {"prompt": "a b", "chosen": "c", "rejected": "d"}


def read(rows, *, tokenizer=WORDS, answers=Answers.PAIR, row_length=64, **options) -> TokenDataset:
  return dataset_from_rows(rows, DataSettings(**options), tokenizer, answers=answers, row_length=row_length)


def dropped(dataset):
  return {key.removeprefix(DROPPED): n for key, n in dataset.counts.items() if key.startswith(DROPPED) and n}


texts = st.one_of(
  st.none(), st.integers(0, 3), st.lists(st.sampled_from("abcde"), max_size=14).map(" ".join), st.just("  ")
)
rows = st.lists(st.fixed_dictionaries({"prompt": texts, "chosen": texts, "rejected": texts}), max_size=25)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
  rows,
  st.sampled_from([Answers.PAIR, Answers.ONE, Answers.ANY]),
  st.sampled_from(["drop", "truncate_left", "truncate_right"]),
  st.sampled_from(["keep", "drop"]),
  st.integers(0, 10),
  st.sampled_from([0, 2, 3, 10]),
)
def test_rows_read_are_kept_or_dropped_for_a_counted_reason(some, wanted, overlong, duplicates, max_prompt, max_answer):
  options = dict(overlong=overlong, duplicates=duplicates, max_prompt=max_prompt, max_answer=max_answer)
  short = {"prompt": "a", "chosen": "b", "rejected": "c"}  # within every limit drawn
  dataset = read([short, *some], answers=wanted, row_length=24, **options)
  counts = dataset.counts
  assert counts["rows"] == len(some) + 1
  assert counts["rows"] == counts["kept"] + sum(dropped(dataset).values())
  assert counts["kept"] == len(dataset) == len(dataset.metadata)
  for i in range(len(dataset)):
    example = dataset[i]
    assert example.row_tokens() <= 24
    assert wanted is not Answers.ONE or len(example.answers) == 1
    assert not wanted.compared or len({tuple(answer.tolist()) for answer in example.answers}) == 2


# (row, options, the reason for which it is dropped)
REASONS = [
  ({**PAIR, "chosen": None}, {}, "malformed"),
  ({**PAIR, "prompt": ""}, {}, "empty_prompt"),
  ({**PAIR, "rejected": " "}, {}, "empty_answer"),
  ({**PAIR, "rejected": "c"}, {}, "identical_answers"),
  (
    {**PAIR, "chosen": "c c d", "rejected": "c c e"},
    dict(max_answer=2, overlong="truncate_right"),
    "identical_answers",
  ),
  ({**PAIR, "prompt": "a b a"}, dict(max_prompt=2), "prompt_too_long"),
  ({**PAIR, "chosen": "c c c"}, dict(max_answer=3), "answer_too_long"),
  ({**PAIR, "chosen": "c c c"}, dict(max_example=5), "example_too_long"),
  ({**PAIR, "chosen": "c " * 30, "rejected": "d " * 31}, {}, "example_too_long"),
  (PAIR, dict(duplicates="drop"), "duplicate_prompt"),
]


@pytest.mark.parametrize(("row", "options", "reason"), REASONS)
def test_each_reason_to_drop_a_row(row, options, reason):
  dataset = read([PAIR, row, {**PAIR, "prompt": "e"}], **options)
  assert dropped(dataset) == {reason: 1}
  assert [dataset.where(i) for i in range(2)] == ["rows[0]", "rows[2]"]
  assert reason.replace("_", " ") in gist(dataset.counts)


def test_undesirable_answers_are_not_learnt_from():
  rows = [{"prompt": "a", "completion": "b", "label": label} for label in (True, False, True)]
  assert dropped(read(rows, answers=Answers.ONE)) == {"undesirable": 1}
  assert [m["details"]["label"] for m in read(rows, answers=Answers.ANY).metadata] == [True, False, True]


def test_truncation_is_counted_and_leaves_no_eos():
  rows = [{"prompt": "a b c d", "chosen": "c c c", "rejected": "d"}]
  dataset = read(rows, max_prompt=3, max_answer=3, overlong="truncate_left")
  assert WORDS.decode(dataset[0].prompt) == "b c d"
  assert [WORDS.decode(answer) for answer in dataset[0].answers] == ["c c c", "d <end>"]
  counts = dataset.counts
  assert (counts["truncated/prompts"], counts["truncated/answers"]) == (1, 1)
  assert (counts["answers"], counts["answers_with_eos"]) == (2, 1)


def test_duplicates_are_counted_where_they_are_kept():
  dataset = read([PAIR, {**PAIR, "chosen": "e"}, PAIR])
  assert len(dataset) == 3 and dataset.counts["duplicate_prompts"] == 2


def test_repeated_answers_of_a_ranking_count_once():
  dataset = read([{"prompt": "a", "answers": ["b", "c", "b", "d"]}, {"prompt": "b", "answers": ["b", "b"]}])
  assert [WORDS.decode(answer) for answer in dataset[0].answers] == ["b <end>", "c <end>", "d <end>"]
  assert dataset.metadata[0]["answers"] == ["b", "c", "d"]
  assert dataset.counts["repeated_answers"] == 1 and dropped(dataset) == {"identical_answers": 1}


def test_scoring_takes_identical_answers_as_they_are():
  dataset = read([{**PAIR, "rejected": "c"}], answers=Answers.ANY)
  assert len(dataset[0].answers) == 2 and dropped(dataset) == {}


def test_sft_learns_the_best_answer():
  dataset = read([PAIR, {"prompt": "a", "chosen": "e", "rejected": "b"}], answers=Answers.ONE)
  assert [WORDS.decode(dataset[i].answers[0]) for i in range(2)] == ["c <end>", "e <end>"]


def test_plain_text_is_learnt_whole_but_for_what_nothing_predicts(llama, plain):
  rows = [{"text": "hello there"}, {"text": "hello you"}]
  with_bos, without = (read(rows, tokenizer=t, answers=Answers.ONE, template="none") for t in (llama, plain))
  assert with_bos[0].prompt.tolist() == [llama.bos_id]
  assert llama.decode(with_bos[0].answers[0]) == "hello there</s>"
  assert len(without[0].prompt) == 1
  assert plain.decode(np.concatenate([without[0].prompt, without[0].answers[0]])) == "hello there<|im_end|>"
  assert without.counts["duplicate_prompts"] == 0  # the first token is not what makes a text a duplicate


def test_preferences_need_two_answers():
  with pytest.raises(
    DataError, match=r"rows\[0\]: format 'completion' .* has one answer a row, but preferences need two"
  ):
    read([{"prompt": "a", "completion": "b"}])
  dataset = read([{"prompt": "a", "answers": ["b", "c"]}, {"prompt": "b", "answers": ["c"]}])
  assert dropped(dataset) == {"malformed": 1}
  assert dataset.notes == ["rows[1]: it has one answer, but preferences need two or more"]


def test_answers_of_equal_standing_are_no_ranking(plain):
  row = {"prompt": "a", "chosen": ["b"], "rejected": ["c", "d"]}
  with pytest.raises(DataError, match=r"rows\[0\]: format 'rewardbench_v2' .* has several answers of equal standing"):
    read([row])
  assert len(read([row], tokenizer=plain, answers=Answers.ANY, template="none")[0].answers) == 3
  row = {"prompt": "a", "samples": [{"text": "b", "ended": "eos"}, {"text": "c", "ended": "length"}]}
  with pytest.raises(DataError, match=r"format 'sampled' .*; `dpojax score` scores it, and recipe=pairs makes pairs"):
    read([row])


def test_nothing_usable_is_an_error_with_the_first_reason():
  with pytest.raises(
    DataError, match=r"^rows: none of its 2 rows can be used: 2 malformed; rows\[0\]: column 'chosen' holds"
  ):
    read([{**PAIR, "chosen": 1}] * 2)
  with pytest.raises(DataError, match=r"^rows: it holds no rows$"):
    read([])


def test_a_first_row_of_wrong_columns_stops_the_reading_and_a_later_one_is_counted(tmp_path):
  file = tmp_path / "pairs.jsonl"
  file.write_text("not json\n" + json.dumps({"prompt": "a", "good": "b"}) + "\n")
  with pytest.raises(DataError, match=r"pairs\.jsonl:2: columns prompt, good fit no known format"):
    load_dataset(DataSettings(path=str(file)), WORDS, answers=Answers.PAIR, row_length=64)
  file.write_text(json.dumps(PAIR) + "\n" + json.dumps({"prompt": "a", "good": "b"}) + "\n" + json.dumps(PAIR) + "\n")
  train, _ = load_dataset(DataSettings(path=str(file), eval_fraction=0.0), WORDS, answers=Answers.PAIR, row_length=64)
  assert train.notes == [f"{file}:2: column 'chosen' holds nothing, not text"]


def test_a_tokenizer_that_lacks_a_word_says_so():
  with pytest.raises(DataError, match=r"rows\[0\]: tokenizer: the word 'zebra' is not in its vocabulary of 6"):
    read([{**PAIR, "prompt": "zebra"}])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "d", "a a", "b b", "c c", "d d", "a b"]), min_size=2, max_size=30))
def test_no_prompt_is_on_both_sides_and_order_does_not_matter(prompts):
  rows = [{**PAIR, "prompt": prompt} for prompt in prompts]

  def sides(rows, seed=0):
    train, held_out = hold_out(read(rows), 0.3, seed)
    return [{side.metadata[i]["prompt"] for i in range(len(side))} for side in (train, held_out)]

  train, held_out = sides(rows)
  assert not train & held_out and train | held_out == set(prompts)
  count = len(set(prompts))
  assert len(held_out) == (max(round(0.3 * count), 1) if count > 1 else 0)
  assert sides(rows[::-1]) == [train, held_out]


def test_a_small_share_of_few_prompts_is_one():
  train, held_out = hold_out(read([PAIR, {**PAIR, "prompt": "e"}]), 0.01, 0)
  assert (len(train), len(held_out)) == (1, 1)
  assert len(hold_out(read([PAIR]), 0.5, 0)[1]) == 0  # never the last one
  assert len(hold_out(read([PAIR, {**PAIR, "prompt": "e"}]), 0.0, 0)[1]) == 0


def test_a_first_row_with_nothing_in_it_does_not_decide_the_format(chatml):
  message = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
  other = [message[0], {"role": "assistant", "content": "no"}]
  rows = [{"chosen": None, "rejected": None}, {"chosen": message, "rejected": other}]
  dataset = read(rows, tokenizer=chatml, row_length=128)
  assert dataset.origin.startswith("conversational ") and dataset.notes[0].startswith("rows[0]: column 'chosen' holds")


def test_the_held_out_choice_follows_its_seed():
  rows = [{**PAIR, "prompt": " ".join("abcde"[(i >> k) % 5] for k in range(6))} for i in range(64)]
  first, again, other = (hold_out(read(rows), 0.25, seed)[1].fingerprint for seed in (0, 0, 1))
  assert first == again != other


def test_rows_of_the_held_out_file_are_not_trained_on(tmp_path):
  for name, prompts in (("train", ["a", "b", "c"]), ("eval", ["b", "d"])):
    rows = [{**PAIR, "prompt": prompt} for prompt in prompts]
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  options = DataSettings(path=str(tmp_path / "train.jsonl"), eval_path=str(tmp_path / "eval.jsonl"))
  train, held_out = load_dataset(options, WORDS, answers=Answers.PAIR, row_length=64)
  assert [m["prompt"] for m in train.metadata] == ["a", "c"]
  assert [m["prompt"] for m in held_out.metadata] == ["b", "d"]
  assert dropped(train) == {"held_out_prompt": 1} and train.counts["kept"] == 2


def test_a_limit_reads_only_the_first_rows(tmp_path):
  file = tmp_path / "pairs.jsonl"
  file.write_text("".join(json.dumps(PAIR) + "\n" for _ in range(5)))
  options = DataSettings(path=str(file), limit=3, eval_fraction=0.0)
  train, _ = load_dataset(options, WORDS, answers=Answers.PAIR, row_length=64)
  assert train.counts["rows"] == 3


def test_the_fingerprint_follows_tokens_and_tokenizer(chatml, plain):
  rows = [{**PAIR, "prompt": "hello"}]
  first = read(rows, tokenizer=plain).fingerprint
  assert first == read(rows, tokenizer=plain).fingerprint
  ids = [{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}]
  words = Tokenizer.from_words(["v", "w", "x", "y", "z"], eos="<end>")
  assert read(ids).fingerprint != read(ids, tokenizer=words).fingerprint
  assert read(rows, tokenizer=chatml).fingerprint != read(rows, tokenizer=chatml, after_eos="keep").fingerprint


def test_metadata_holds_the_texts_behind_an_example(chatml):
  dialogue = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hm"},
    {"role": "user", "content": "?"},
  ]
  rows = [
    {"prompt": dialogue[:1], "chosen": [{"role": "assistant", "content": t}], "rejected": [dialogue[1]], "score": 3.5}
    for t in ("yes", "no")
  ]
  rows.append({**rows[0], "prompt": dialogue})
  dataset = read(rows, tokenizer=chatml, row_length=128)
  assert dataset.metadata[0]["prompt"] == "hi" and dataset.metadata[0]["answers"] == ["yes", "hm"]
  assert dataset.metadata[0]["details"] == {"score": 3.5}
  assert dataset.metadata[2]["prompt"] == "user: hi\n\nassistant: hm\n\nuser: ?"
