"""Columns under other names: what they become, what is refused, what is named because nothing reads it."""

import json

import pytest

from dpojax.config.schema import DataSettings
from dpojax.data import dataset_from_rows
from dpojax.data.columns import is_unread_text, parse_columns, standard_row
from dpojax.data.prompts import read_prompts
from dpojax.errors import ConfigError, DataError
from dpojax.types import Answers

USER, YES, NO = ({"role": r, "content": c} for r, c in (("user", "hello"), ("assistant", "yes"), ("assistant", "no")))
NONE = parse_columns("")


def read(rows, tokenizer, *, answers=Answers.PAIR, **options):
  return dataset_from_rows(rows, DataSettings(**options), tokenizer, answers=answers, row_length=256)


def texts(dataset, tokenizer, i=0):
  """(what the example's prompt says, and its answers), as the template renders them."""
  return [tokenizer.decode(ids) for ids in (dataset[i].prompt, *dataset[i].answers)]


def rendered(*messages):
  return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages) + "<|im_start|>assistant\n"


PAIR = {"chosen": "yes", "rejected": "no"}
# (row, the prompt's messages)
PROMPTS = {
  "question": ({"question": "hello", **PAIR}, [("user", "hello")]),
  "query": ({"query": "hello", **PAIR}, [("user", "hello")]),
  "input": ({"input": "hello", **PAIR}, [("user", "hello")]),
  "capitals": ({"Question": "hello", "Chosen": "yes", "Rejected": "no"}, [("user", "hello")]),
  "instruction": ({"instruction": "say", "input": "", **PAIR}, [("user", "say")]),
  "instruction and input": ({"instruction": "say", "input": "hello", **PAIR}, [("user", "say\n\nhello")]),
  "an empty spelling beside a filled one": ({"query": "", "question": "hello", **PAIR}, [("user", "hello")]),
  "null prompt": ({"prompt": None, "question": "hello", **PAIR}, [("user", "hello")]),
  "system": ({"system": "Be brief", "question": "hello", **PAIR}, [("system", "Be brief"), ("user", "hello")]),
  "system_prompt": (
    {"system_prompt": "Be brief", "prompt": "hello", **PAIR},
    [("system", "Be brief"), ("user", "hello")],
  ),
  "empty system": ({"system": " ", "prompt": "hello", **PAIR}, [("user", "hello")]),
  "system said twice": (
    {
      "system": "Be brief",
      "prompt": [{"role": "system", "content": "Be brief"}, USER],
      "chosen": [YES],
      "rejected": [NO],
    },
    [("system", "Be brief"), ("user", "hello")],
  ),
  "messages": ({"messages": [USER], "chosen": [YES], "rejected": [NO]}, [("user", "hello")]),
  "messages that the chosen conversation repeats": (
    {"messages": [USER, YES], "chosen": [USER, YES], "rejected": [USER, NO]},
    [("user", "hello")],
  ),
  "conversations, single messages": (
    {
      "conversations": [{"from": "system", "value": "Be brief"}, {"from": "human", "value": "hello"}],
      "chosen": {"from": "gpt", "value": "yes"},
      "rejected": {"from": "gpt", "value": "no"},
    },
    [("system", "Be brief"), ("user", "hello")],
  ),
  "question, conversations as answers": ({"question": "hello", "chosen": [YES], "rejected": [NO]}, [("user", "hello")]),
  "accepted": ({"prompt": "hello", "accepted": "yes", "rejected": "no"}, [("user", "hello")]),
  "response_j": ({"question": "hello", "response_j": "yes", "response_k": "no"}, [("user", "hello")]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PROMPTS)
def test_usual_spellings_are_understood(chatml, case):
  row, messages = PROMPTS[case]
  dataset = read([row], chatml)
  assert texts(dataset, chatml) == [rendered(*messages), "yes<|im_end|>", "no<|im_end|>"]
  assert dataset.warnings == []


# (row, prompt and answer as text)
COMPLETIONS = [
  ({"question": "hello", "answer": "yes"}, ("hello", "yes")),
  ({"query": "hello", "response": "yes"}, ("hello", "yes")),
  ({"instruction": "say", "input": "hello", "output": "yes"}, ("say\n\nhello", "yes")),
  ({"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "yes"}]}, ("hello", "yes")),
  ({"conversation": [USER, YES]}, ("hello", "yes")),
]


@pytest.mark.parametrize(("row", "wanted"), COMPLETIONS)
def test_answers_to_learn_are_understood(chatml, row, wanted):
  dataset = read([row], chatml, answers=Answers.ONE)
  assert texts(dataset, chatml) == [rendered(("user", wanted[0])), f"{wanted[1]}<|im_end|>"]


def test_two_columns_that_may_each_be_the_prompt_are_refused_and_said_by_the_setting(chatml):
  row = {"question": "hello", "query": "there", **PAIR}
  with pytest.raises(
    DataError, match=r"rows\[0\]: columns 'question' and 'query' may each be the prompt; say which by"
  ):
    read([row], chatml)
  dataset = read([row], chatml, columns="prompt=query,-question")
  assert texts(dataset, chatml)[0] == rendered(("user", "there")) and dataset.warnings == []
  with pytest.raises(DataError, match="'output' may each be the completion"):
    read([{"prompt": "hello", "response": "yes", "output": "no"}], chatml, answers=Answers.ONE)


def test_a_mapping_goes_before_every_spelling(chatml):
  rows = [{"prompt": "not this", "ask": "hello", "good": "yes", "bad": "no"}]
  dataset = read(rows, chatml, columns="prompt=ask, chosen=good, rejected=bad")
  assert texts(dataset, chatml) == [rendered(("user", "hello")), "yes<|im_end|>", "no<|im_end|>"]
  (warning,) = dataset.warnings
  assert "'prompt (not read)' (1 of 1 rows)" in warning and "data.columns=-prompt" in warning


def test_a_mapping_of_columns_that_are_standard_already_changes_nothing(chatml):
  settings = dict(columns="prompt=ask")  # as a stage reads that goes on from what another wrote
  assert texts(read([{"prompt": "hello", **PAIR}], chatml, **settings), chatml)[0] == rendered(("user", "hello"))
  with pytest.raises(
    DataError, match=r"rows\[0\]: no column 'ask', which data.columns=prompt=ask names; found a, chosen"
  ):
    read([{"a": "hello", **PAIR}], chatml, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ("promt=ask", "no standard column 'promt'; did you mean 'prompt'"),
    ("ask", "'ask' is neither STANDARD=COLUMN nor -COLUMN"),
    ("prompt=", "'prompt=' is neither"),
    ("prompt=a,prompt=b", "'prompt' is given twice"),
    ("prompt=a,chosen=a", "'a' is given twice"),
    ("prompt=a,-a", "'a' is both read and left out"),
  ],
)
def test_a_wrong_mapping_is_named(chatml, setting, message):
  with pytest.raises(ConfigError, match=f"data.columns: {message}"):
    read([{"prompt": "hello", **PAIR}], chatml, columns=setting)


def test_a_text_that_nothing_reads_is_named_once_with_what_to_do(chatml):
  rows = [{"prompt": "hello", **PAIR, "context": "the sky" if i else "", "source": "my own"} for i in range(3)]
  dataset = read(rows, chatml)
  (warning,) = dataset.warnings
  assert warning.startswith("columns that hold text and are no part of prompt or answers: 'context' (2 of 3 rows); say")
  assert "data.columns, such as prompt=context" in warning and warning.endswith("data.columns=-context")
  assert dataset.subset([0]).warnings == dataset.warnings
  assert read(rows, chatml, columns="-context").warnings == []


@pytest.mark.parametrize(
  ("name", "value", "named"),
  [
    ("context", "the sky", True),
    ("hint", "blue", True),
    ("提示", "天空是什么颜色", True),
    ("turns", [USER], True),
    ("documents", ["the sky is blue"], True),
    ("images", [{"bytes": "..."}], True),
    ("source", "a" * 200, True),
    ("chosen_model", "some model", False),
    ("prompt_id", "abc", False),
    ("difficulty", "3.5", False),
    ("difficulty", 3.5, False),
    ("context", " ", False),
    ("context", None, False),
    ("embedding", [0.1, 0.2], False),
  ],
)
def test_what_looks_as_if_a_model_should_have_read_it(name, value, named):
  assert is_unread_text(name, value) == named


def test_a_prompt_is_never_guessed_beside_a_column_that_may_hold_it(chatml):
  rows = [{"ask": "name a colour", "chosen": "the colour is red", "rejected": "the colour is no"}]
  with pytest.raises(
    DataError, match=r"rows\[0\]: columns ask, chosen, rejected: which of them holds the prompt\? Say it by"
  ):
    read(rows, chatml)
  assert texts(read(rows, chatml, columns="prompt=ask"), chatml)[0] == rendered(("user", "name a colour"))
  guessed = read(rows, chatml, columns="-ask")
  assert chatml.decode(guessed[0].prompt) == "the colour is" and guessed.warnings == []


def test_a_system_message_without_a_template_is_refused_by_name(plain):
  rows = [{"prompt": "hello", **PAIR, "system": "Be brief"}, {"prompt": "you", **PAIR, "system": ""}]
  dataset = read(rows, plain)
  assert dataset.counts["dropped/malformed"] == 1 and len(dataset) == 1
  assert "column 'system' holds a system message, but there is no chat template" in dataset.notes[0]
  assert len(read(rows, plain, columns="-system")) == 2


def test_two_different_system_messages_are_refused(chatml):
  row = {
    "system": "Be long",
    "prompt": [{"role": "system", "content": "Be brief"}, USER],
    "chosen": [YES],
    "rejected": [NO],
  }
  with pytest.raises(DataError, match="two different system messages"):
    read([row], chatml)


def test_prompts_are_read_by_the_same_spellings_and_keep_the_rest_for_rewards(chatml, tmp_path):
  rows = [{"question": "hello", "answer": "42", "system": "Be brief", "topic_text": "the sky"}]
  path = tmp_path / "rows.jsonl"
  path.write_text("\n".join(map(json.dumps, rows)))
  found = read_prompts(DataSettings(source="file", path=str(path)), chatml)
  assert chatml.decode(found[0].ids) == rendered(("system", "Be brief"), ("user", "hello"))
  assert found[0].details["answer"] == "42" and found[0].given[0] == {"role": "system", "content": "Be brief"}
  assert len(found.warnings) == 0  # a topic is no text to read
  mapped = read_prompts(DataSettings(source="file", path=str(path), columns="prompt=answer,-system,-question"), chatml)
  assert mapped[0].text == "42"


def test_layouts_with_columns_of_their_own_are_left_alone():
  shp = {"history": "hi", "human_ref_A": "no", "human_ref_B": "yes", "labels": 0, "question": "?"}
  assert standard_row(shp, NONE) == shp
  scores = standard_row({"prompt": "a", **PAIR, "chosen_score": 2, "rejected_score": "1"}, NONE)
  assert (scores["score_chosen"], scores["score_rejected"]) == (2, "1")
  assert "score_chosen" not in standard_row(
    {"prompt": "a", **PAIR, "chosen_score": "good", "rejected_score": "bad"}, NONE
  )
