"""What is odd about texts, messages and columns as people bring them: read for what it means, counted, or refused by name."""

import json

import pytest

from dpojax.config.schema import DataSettings
from dpojax.data import dataset_from_rows
from dpojax.data.columns import is_unread_text, parse_columns, standard_row
from dpojax.errors import DataError
from dpojax.types import Answers

USER, YES, NO = ({"role": r, "content": c} for r, c in (("user", "hello"), ("assistant", "yes"), ("assistant", "no")))
ASKED = "what is the capital of France?"
GOOD = {"prompt": "another question", "chosen": "yes", "rejected": "no"}
CHATML_USER = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def read(rows, tokenizer, *, answers=Answers.PAIR, **options):
  return dataset_from_rows(rows, DataSettings(**options), tokenizer, answers=answers, row_length=512)


def prompt(dataset, tokenizer):
  return tokenizer.decode(dataset[0].prompt)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["nan", "NaN", "None", "<NA>", "null"])
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_a_missing_value_written_as_text_is_counted_and_named(chatml, column, word):
  data = read([GOOD, {"prompt": ASKED, "chosen": "Paris", "rejected": "Rome", column: word}], chatml)
  assert data.counts["missing_values_as_text"] == 1
  assert any(f"rows[1]: a text of it reads {word!r}" in line for line in data.warnings)


def test_words_that_hold_such_a_word_are_none(chatml):
  assert not read([GOOD | {"chosen": "None of them", "rejected": "nano"}], chatml).counts["missing_values_as_text"]


@pytest.mark.parametrize("word", ["nan", "None", " NaN "])
@pytest.mark.parametrize("columns", [{"system": None}, {"input": None}])
def test_a_missing_system_message_or_input_says_nothing(chatml, columns, word):
  row = {"instruction": "hello", "chosen": "yes", "rejected": "no", **dict.fromkeys(columns, word)}
  assert prompt(read([row], chatml), chatml) == CHATML_USER


def test_answers_that_begin_with_the_prompt_again_are_counted(chatml):
  again = {"prompt": ASKED, "chosen": f"{ASKED} Paris", "rejected": f" {ASKED} Rome"}
  once = {"prompt": ASKED, "chosen": f"{ASKED} Paris", "rejected": "Rome"}
  data = read([GOOD, again, once], chatml)
  assert data.counts["answers_repeat_prompt"] == 1
  assert any("rows[1]: its answers begin with the whole prompt again" in line for line in data.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["User", "USER", "human", " Human "])
@pytest.mark.parametrize("write", [lambda messages: messages, json.dumps, repr], ids=["list", "JSON", "Python"])
def test_roles_of_other_names_mean_the_usual_ones(chatml, role, write):
  row = {"prompt": write([USER | {"role": role}]), "chosen": "yes", "rejected": "no"}
  assert prompt(read([row], chatml), chatml) == CHATML_USER


@pytest.mark.parametrize("role", ["Assistant", "gpt", "model"])
def test_answers_of_other_roles_are_the_assistants(chatml, role):
  row = {"prompt": [USER], "chosen": [YES | {"role": role}], "rejected": [NO | {"role": role}]}
  assert prompt(read([row], chatml), chatml) == CHATML_USER


def test_messages_written_as_json_twice_are_read(chatml):
  row = {"prompt": json.dumps(json.dumps([USER])), "chosen": "yes", "rejected": "no"}
  assert prompt(read([row], chatml), chatml) == CHATML_USER
  quoted = GOOD | {"prompt": '"hello"'}
  assert '\n"hello"<' in prompt(read([quoted], chatml), chatml)


@pytest.mark.parametrize("text", [f"array([{USER}], dtype=object)", f"({USER},)"])
def test_what_python_prints_of_other_containers_is_no_text(chatml, text):
  data = read([GOOD, GOOD | {"prompt": text}], chatml)
  assert data.counts["dropped/malformed"] == 1 and "begins like a list of messages" in data.notes[0]


@pytest.mark.parametrize("key", ["images", "image", "audio"])
def test_media_of_a_message_are_refused_by_name(chatml, key):
  data = read([GOOD, {"prompt": [USER | {key: ["cat.png"]}], "chosen": "yes", "rejected": "no"}], chatml)
  assert data.notes == [f"rows[1]: message 0 of column 'prompt' has {key!r}; only text is read"]


@pytest.mark.parametrize("key", ["reasoning", "thinking"])
def test_reasoning_by_other_names_is_not_dropped_in_silence(chatml, key):
  row = {"prompt": [USER], "chosen": [YES | {key: "since it is"}], "rejected": [NO]}
  data = read([{"prompt": [USER], "chosen": [YES], "rejected": [NO]}, row], chatml)
  assert data.counts["dropped/template_drops_text"] == 1 and f"its {key} 'since it is'" in data.notes[0]


def test_a_name_that_the_template_leaves_out_of_the_prompt_is_counted(chatml):
  data = read([{"prompt": [USER | {"name": "Ann"}], "chosen": [YES], "rejected": [NO]}], chatml)
  assert data.counts["template_drops_prompt_text"] == 1 and "the name 'Ann'" in data.warnings[0]


@pytest.mark.parametrize(("flag", "value"), [("weight", 0), ("weight", 0.5), ("train", False)])
def test_an_answer_that_is_not_to_be_learned_is_refused(chatml, flag, value):
  rows = [{"messages": [USER, YES | {flag: 1}]}, {"messages": [USER, YES | {flag: value}]}]
  data = read(rows, chatml, answers=Answers.ONE, train_turns="last")
  assert len(data) == 1 and f"has {flag!r} {value}, which is not read" in data.notes[0]
  data = read(rows, chatml, answers=Answers.ONE)
  why = (
    "a message is learned (1, true) or not (0, false)" if value == 0.5 else "no message of the assistant that its flags"
  )
  assert len(data) == 1 and why in data.notes[0]


def test_a_prompt_that_no_message_says_is_malformed(chatml):
  row = {"prompt": "hello", "chosen": [USER, YES], "rejected": [USER, NO]}
  rest = [row | {"prompt": text} for text in (" hello\n", "hell", "Human: hello", "goodbye")]
  data = read([row, *rest], chatml)
  assert data.counts["kept"] == 4
  assert data.notes[0].startswith("rows[4]: column 'prompt' holds 'goodbye', which is no message of 'chosen'")


@pytest.mark.parametrize(
  ("columns", "count"),
  [({"Weight": 2}, "with_weight"), ({"Tie": "true"}, "ties"), ({"Margin": 1}, "with_margin")]
  + [
    ({better: 1, worse: 2}, "contradicting_scores")
    for better, worse in (
      ("Score Chosen", "Score Rejected"),
      ("chosen-rating", "rejected-rating"),
      ("chosen_reward", "rejected_reward"),
    )
  ],
)
def test_what_a_row_says_of_its_order_is_read_whatever_its_case(chatml, columns, count):
  assert read([GOOD | columns], chatml).counts[count] == 1


def test_true_rewards_of_drawn_pairs_are_no_scores(chatml):
  """recipe=pairs draws the order of a pair by its rewards; `dpojax eval` reads them as the truth."""
  row = GOOD | {"reward_chosen": 1.0, "reward_rejected": 2.0}
  assert standard_row(row, parse_columns("")) == row
  assert read([row], chatml).counts["contradicting_scores"] == 0


def test_labels_of_any_case_are_labels():
  assert standard_row({"Prompt": "a", "Completion": "b", "Label": 0}, parse_columns("")) == {
    "prompt": "a",
    "completion": "b",
    "label": 0,
  }


@pytest.mark.parametrize(
  ("name", "value", "unread"),
  [
    ("context", b"Paris is in France", True),
    ("blob", b"\xff\xfe\x00", False),
    ("meta", {"passage": "Paris is in France"}, True),
    ("meta", {"source": "web", "id": "a1", "score": 3}, False),
    ("functions", [{"name": "weather", "description": "of a town"}], True),
    ("counts", [{"n": 1}], False),
    ("history", [["hi", "hello"]], True),
  ],
)
def test_texts_inside_other_values_are_named(name, value, unread):
  assert is_unread_text(name, value) is unread


def test_a_prompt_of_hh_turns_becomes_messages(chatml):
  turns = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: more\n\nAssistant:"
  data = read([{"prompt": turns, "chosen": "yes", "rejected": "no"}], chatml)
  messages = [("user", "hi"), ("assistant", "hello"), ("user", "more")]
  wanted = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages) + "<|im_start|>assistant\n"
  assert prompt(data, chatml) == wanted
  spoken = read([{"prompt": "Write\n\nHuman: hi\n\nAssistant:", "chosen": "yes", "rejected": "no"}], chatml)
  assert "user\nWrite\n\nHuman: hi\n\nAssistant:" in prompt(spoken, chatml)


@pytest.mark.parametrize(
  ("row", "contradicts"),
  [
    ({"history": "a", "human_ref_A": "x", "human_ref_B": "y", "labels": 1, "score_A": 1, "score_B": 4}, 1),
    ({"history": "a", "human_ref_A": "x", "human_ref_B": "y", "labels": 0, "score_A": 1, "score_B": 4}, 0),
  ],
)
def test_two_scores_that_say_another_order_are_counted(chatml, row, contradicts):
  data = read([row], chatml)
  assert data.counts["contradicting_scores"] == contradicts


TEMPLATE = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ ANSWER if m.role == 'assistant' else m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.mark.parametrize(
  ("written", "named"),
  [
    ("m.content", ""),
    ("m.content | trim", ""),
    ("m.content | e", ""),
    ("m.content + m.content", "writes 'a < byes a < byes '"),
    ("m.content + ' Goodbye'", "writes 'a < byes  Goodbye'"),
    ("'<think>' + m.content", "writes '<think>a < byes '"),
  ],
)
def test_what_a_template_adds_to_answers_is_counted(chatml, tmp_path, written, named):
  (tmp_path / "t.jinja").write_text(TEMPLATE.replace("ANSWER", written))
  data = read(
    [{"prompt": "hello", "chosen": "a < byes ", "rejected": "no"}], chatml, template=str(tmp_path / "t.jinja")
  )
  assert data.counts["template_changes_answers"] == bool(named)
  assert named in "".join(data.warnings)


@pytest.mark.parametrize(
  ("columns", "said"),
  [
    ({"label": True}, "loss.name=kto or loss.name=bco, which learn from labels"),
    ({"label": 0}, "loss.name=kto or loss.name=bco, which learn from labels"),
    ({"score": 3}, "make one of 'score' (data.columns=label=score"),
    ({"thumbs_up": True}, "make one of 'thumbs_up'"),
    ({"user_rating": 5}, "make one of 'user_rating'"),
    ({}, "set recipe=sft"),
  ],
)
def test_single_answers_under_a_loss_of_pairs_name_what_learns_from_them(chatml, columns, said):
  with pytest.raises(DataError) as error:
    read([{"prompt": "a", "completion": "b", **columns}], chatml)
  assert said in str(error.value) and ("kto" in str(error.value)) == bool(columns)
