"""Prompts of files and data sets: what a policy reads equals what training examples begin with; every row accounted for."""

import gzip
import json

import numpy as np
import pytest

from dpojax.config.schema import DataSettings
from dpojax.data import dataset_from_rows, encode_prompts, hold_out
from dpojax.data.prompts import first_held_out, hold_out_prompts, prompts_given, prompts_of, read_prompts
from dpojax.errors import DataError
from dpojax.types import Answers

HH = "\n\nHuman: hello there\n\nAssistant: yes?\n\nHuman: is the sky blue?\n\nAssistant:"
TURNS = [
  {"role": "user", "content": "hello there"},
  {"role": "assistant", "content": "yes?"},
  {"role": "user", "content": "is the sky blue?"},
]
ROWS = {
  "explicit": {"prompt": " the sky? ", "chosen": " blue", "rejected": " black"},
  "hh": {"chosen": f"{HH} yes", "rejected": f"{HH} no"},
  "conversational": {
    "chosen": [*TURNS, {"role": "assistant", "content": "yes"}],
    "rejected": [*TURNS, {"role": "assistant", "content": "no"}],
  },
  "pretokenised": {"prompt_ids": [40, 41], "chosen_ids": [42, 1], "rejected_ids": [43, 1]},
  "ranked": {"prompt": "the sky", "answers": [" is blue", " is black", " maybe"]},
  "completion": {"prompt": "the sky", "completion": " is blue"},
  "unpaired": {"prompt": "the sky", "completion": " is blue", "label": True},
}


def write(path, rows):
  path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
  return DataSettings(path=str(path))


def example_of(row, tokenizer):
  """What training makes of the row."""
  return dataset_from_rows([row], DataSettings(), tokenizer, answers=Answers.ANY, row_length=512)


@pytest.mark.slow
@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("tokenizer", ["chatml", "llama", "plain"])
def test_a_prompt_is_what_training_examples_begin_with(request, tmp_path, form, tokenizer):
  tokenizer = request.getfixturevalue(tokenizer)
  if form == "conversational" and tokenizer.chat_template is None:
    pytest.skip("messages need a template")
  (read,) = read_prompts(write(tmp_path / "rows.jsonl", [ROWS[form]]), tokenizer)
  dataset = example_of(ROWS[form], tokenizer)
  (row,) = prompts_of(dataset)
  assert dataset.counts["boundary_mismatches"] == 0
  assert read.ids.tolist() == row.ids.tolist() == dataset[0].prompt.tolist()
  assert read.ids.dtype == row.ids.dtype == np.int32
  assert (read.given, read.text, read.number) == (row.given, row.text, row.number)


def test_what_is_given_is_what_the_data_have(chatml, plain):
  """Spaces at the ends of a text, the turns of a dialogue, and no mark of a template."""
  assert prompts_of(example_of(ROWS["explicit"], plain))[0].given == " the sky? "
  assert prompts_of(example_of(ROWS["explicit"], chatml))[0].given == [{"role": "user", "content": " the sky? "}]
  assert prompts_of(example_of(ROWS["hh"], plain))[0].given == HH
  assert prompts_of(example_of(ROWS["hh"], chatml))[0].given == TURNS
  assert prompts_of(example_of(ROWS["conversational"], chatml))[0].given == TURNS
  ids = example_of(ROWS["pretokenised"], chatml)
  assert prompts_of(ids)[0].given == chatml.decode([40, 41])


def test_a_cut_prompt_is_given_whole(plain):
  settings = DataSettings(max_prompt=3, overlong="truncate_left")
  row = {"prompt": "one two three four five", "chosen": " yes", "rejected": " no"}
  (found,) = prompts_of(dataset_from_rows([row], settings, plain, answers=Answers.PAIR, row_length=64))
  assert (found.given, len(found.ids)) == (row["prompt"], 3)


@pytest.mark.parametrize(
  "row, given",
  [
    ({"prompt": "hello?"}, [{"role": "user", "content": "hello?"}]),
    ({"prompt": TURNS}, TURNS),
    ({"messages": TURNS}, TURNS),
    ({"messages": [*TURNS, {"role": "assistant", "content": "yes"}]}, TURNS),
    ({"prompt": "hello?", "text": "no format"}, [{"role": "user", "content": "hello?"}]),
  ],
)
def test_rows_of_prompts_alone(chatml, tmp_path, row, given):
  (found,) = read_prompts(write(tmp_path / "rows.jsonl", [row | {"topic": "sky"}]), chatml)
  assert found.given == given
  assert found.details["topic"] == "sky"
  written = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in given) + "<|im_start|>assistant\n"
  assert chatml.decode(found.ids) == written


def test_lines_of_text_are_prompts_as_the_command_line_encodes_them(llama, tmp_path):
  path = tmp_path / "prompts.txt.gz"
  path.write_bytes(gzip.compress(b"\xef\xbb\xbfthe sky?\n\n  is it blue? \r\n"))
  found = read_prompts(DataSettings(path=str(path)), llama)
  assert [row.text for row in found] == ["the sky?", "  is it blue? "]
  assert [row.number for row in found] == [0, 1]
  assert found[1].where == f"{path}:3"
  for row, ids in zip(found, encode_prompts([row.text for row in found], DataSettings(), llama), strict=True):
    assert row.ids.tolist() == ids.tolist()


def test_every_row_is_accounted_for(plain, tmp_path):
  rows = [
    {"prompt": "the sky"},
    "{broken",
    {"prompt": 3},
    {"prompt": ""},
    {"prompt": "a very long prompt, much longer than the others, maybe"},
    {"prompt": "the sky"},
    {"prompt": "is blue"},
  ]
  settings = write(tmp_path / "rows.jsonl", rows)
  found = read_prompts(settings, plain, longest=20)
  assert [row.number for row in found] == [0, 5, 6]
  assert {key: n for key, n in found.counts.items() if n} == {
    "rows": 7,
    "kept": 3,
    "dropped/malformed": 2,
    "dropped/empty_prompt": 1,
    "dropped/prompt_too_long": 1,
    "duplicate_prompts": 1,
  }
  assert [number for number, _ in found.dropped] == [1, 2, 3, 4]
  for (number, why), said in zip(
    found.dropped, ("not JSON", "a number, not text", "empty", "more than 20"), strict=True
  ):
    assert f"rows.jsonl:{number + 1}: " in why
    assert said in why
  assert found.notes == [why for _, why in found.dropped[:2]]
  fewer = DataSettings(path=settings.path, duplicates="drop", overlong="truncate_right", max_prompt=20)
  found = read_prompts(fewer, plain, longest=300)
  assert [row.number for row in found] == [0, 4, 6]
  assert (found.counts["dropped/duplicate_prompt"], found.counts["truncated/prompts"]) == (1, 1)
  assert len(found[1].ids) == 20
  assert len(read_prompts(DataSettings(path=settings.path, limit=1), plain)) == 1


@pytest.mark.parametrize(
  "rows, message",
  [
    ([{"ask": "?"}], r"rows.jsonl:1: columns ask hold no prompt; give a column prompt"),
    ([{"text": "?"}], r"rows.jsonl:1: format 'text' holds whole texts and no prompts; name the column 'prompt'"),
    ([], "rows.jsonl: it holds no rows"),
    ([{"prompt": ""}, "{"], "none of its 2 rows gives a prompt: 1 malformed, 1 empty prompt; .*rows.jsonl:1: "),
  ],
)
def test_a_file_without_prompts_is_refused(plain, tmp_path, rows, message):
  with pytest.raises(DataError, match=message):
    read_prompts(write(tmp_path / "rows.jsonl", rows), plain)


def test_prompts_of_a_program(chatml):
  found = prompts_given(["the sky", "the sky", TURNS], DataSettings(), chatml)
  assert [row.text for row in found[:2]] == ["the sky"] * 2
  assert found[2].given == TURNS
  with pytest.raises(DataError, match="prompt 1: column 'prompt' holds a number, not text"):
    prompts_given(["the sky", 3], DataSettings(), chatml)


def test_the_first_prompts_held_out_are_held_out_by_every_stage(tmp_path, plain):
  """Of training examples too, where a stage leaves some rows out and so holds out fewer."""
  rows = [{"prompt": f"the sky {i}", "chosen": " is blue", "rejected": " black"} for i in range(60)]
  given = read_prompts(write(tmp_path / "all.jsonl", rows), plain)
  _, held_out = hold_out_prompts(given, 0.2, 0)
  first = first_held_out(held_out, 5, 0)
  assert (
    len(held_out) == 12 and len(first) == 5 and [row.number for row in first] == sorted(row.number for row in first)
  )
  assert first_held_out(held_out, 0, 0) == held_out
  for left_out in (0, 1, 2):
    some = [row for i, row in enumerate(rows) if i % 3 != left_out]
    train, _ = hold_out(dataset_from_rows(some, DataSettings(), plain, answers=Answers.PAIR, row_length=64), 0.2, 0)
    trained = {train[i].prompt.tobytes() for i in range(len(train))}
    assert not trained & {row.ids.tobytes() for row in first}
