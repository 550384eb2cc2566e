"""Messages: the ways in which files write them, every key to the template, and what a template leaves out."""

import csv
import io
import json

import pytest

from dpojax.config.schema import DataSettings
from dpojax.data import dataset_from_rows, load_dataset
from dpojax.data.answers import read_answers
from dpojax.data.doctor import gist, rows_report
from dpojax.data.formats import FORMATS, choose_format
from dpojax.data.formats.cells import MOST_DEPTH, MOST_LITERAL, load_list, truth
from dpojax.data.prompts import prompts_given, read_prompts
from dpojax.errors import DataError
from dpojax.types import Answers

USER, YES, NO = ({"role": r, "content": c} for r, c in (("user", "hello"), ("assistant", "yes"), ("assistant", "no")))
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"town": "Rome"}}}
OTHER_CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"town": "Oslo"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "weather of a town"}}
EVERY_KEY = """{% if tools %}{{ '<tools>' + tools | tojson + '\n' }}{% endif %}{% for m in messages -%}
<|im_start|>{{ m.role }}{{ ' ' + m.name if m.name }}{{ ' ' + m.tool_call_id if m.tool_call_id }}
{{ '(' + m.reasoning_content + ')' if m.reasoning_content }}{{ m.content }}
{%- for call in m.tool_calls or [] %}<call>{{ call | tojson }}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
NO_THINKING = """{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant
{{ m.content.split('</think>')[-1] }}<|im_end|>
{% else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""


def read(rows, tokenizer, *, answers=Answers.PAIR, **options):
  return dataset_from_rows(rows, DataSettings(**options), tokenizer, answers=answers, row_length=512)


def example(dataset, tokenizer, i=0):
  return [tokenizer.decode(ids) for ids in (dataset[i].prompt, *dataset[i].answers)]


def pair(prompt=(USER,), chosen=YES, rejected=NO, **columns):
  return {"prompt": list(prompt), "chosen": [chosen], "rejected": [rejected], **columns}


WRITTEN = {
  "JSON": json.dumps,
  "JSON with spaces": lambda value: f"\n {json.dumps(value, indent=1)} ",
  "Python": repr,
}


@pytest.mark.slow
@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN.keys())
@pytest.mark.parametrize("given", [("chosen", "rejected"), ("prompt", "chosen", "rejected")])
def test_messages_written_as_text_are_read_as_lists_are(chatml, tmp_path, write, given):
  rows = [pair(chosen={"role": "assistant", "content": f"it's {i}"}) for i in range(3)]
  if "prompt" not in given:
    rows = [{c: [USER, *row[c]] for c in given} for row in rows]
  stream = io.StringIO()
  writer = csv.DictWriter(stream, given)
  writer.writeheader()
  writer.writerows({c: write(row[c]) for c in given} for row in rows)
  (tmp_path / "rows.csv").write_text(stream.getvalue())
  settings = DataSettings(source="file", path=str(tmp_path / "rows.csv"), eval_fraction=0.0)
  found, _ = load_dataset(settings, chatml, answers=Answers.PAIR, row_length=512)
  wanted = read(rows, chatml)
  assert found.origin.split()[0] == wanted.origin.split()[0] == "conversational"
  assert [example(found, chatml, i) for i in range(3)] == [example(wanted, chatml, i) for i in range(3)]


def test_text_that_was_meant_as_messages_and_cannot_be_read_is_malformed(chatml):
  good = {"prompt": "hello", "chosen": repr([YES]), "rejected": repr([NO])}
  numpy_printed = "[{'role': 'assistant', 'content': 'yes'}\n {'role': 'user', 'content': 'why'}]"
  rows = [good, {**good, "chosen": numpy_printed}, {**good, "chosen": json.dumps([YES])[:-1]}]
  dataset = read(rows, chatml)
  assert len(dataset) == 1 and dataset.counts["dropped/malformed"] == 2
  assert all("column 'chosen' begins like a list of messages, but is neither JSON" in note for note in dataset.notes)


@pytest.mark.parametrize(
  "answer",
  [
    '[{"role": "admin", "content": "a database row"}]',
    '[{"name": "Bob", "age": 3}]',
    "[{'name': 'Bo",
    '["a", "b"]',
    "[1] is",
  ],
)
def test_an_answer_that_is_written_as_a_list_stays_a_text(chatml, answer):
  dataset = read([{"prompt": "hello", "chosen": answer, "rejected": "no"}], chatml)
  assert dataset.metadata[0]["answers"] == [answer, "no"] and dataset.origin.startswith("explicit ")


@pytest.mark.parametrize(
  ("content", "why"),
  [
    ("[" * 100_000, "neither JSON"),
    ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "deep"),
    ("['" + "a" * MOST_LITERAL + "']", "too long for a Python list"),
    ("[{1, 2}]", "JSON cannot hold"),
    ("[b'a']", "JSON cannot hold"),
    ("[" + "-" * 50_000 + "1]", "neither JSON"),
    ('[{"role": "user", "role": "assistant"}]', "it has 'role' twice"),
    ("[open('x')]", "neither JSON"),
  ],
)
def test_lists_written_as_text_are_bounded(content, why):
  with pytest.raises(ValueError, match=why):
    load_list(content)


def test_parts_of_text_are_joined_and_others_refused_by_name(chatml):
  parts = {"role": "user", "content": [{"type": "text", "text": "hel", "image": None}, "lo"]}
  assert example(read([pair([parts])], chatml), chatml) == example(read([pair()], chatml), chatml)
  image = {"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}, {"type": "text", "text": "hi"}]}
  dataset = read([pair(), pair([image]), pair([{"role": "user", "content": [{"type": "text"}]}])], chatml)
  assert "message 0 of column 'prompt' holds a part of type 'image_url'; only text is read" in dataset.notes[0]
  assert "holds a part without its 'text'" in dataset.notes[1]


def test_share_gpt_names_are_read_or_refused(chatml):
  chosen, rejected = ({"from": "gpt", "value": text} for text in ("yes", "no"))
  assert example(read([pair([{"from": "human", "value": "hello"}], chosen, rejected)], chatml), chatml) == example(
    read([pair()], chatml), chatml
  )
  dataset = read([pair(), pair([{"from": "function_call", "value": "{}"}], chosen, rejected)], chatml)
  assert (
    "message 0 of column 'prompt' is from 'function_call'; of ShareGPT's names human, user, gpt" in dataset.notes[0]
  )


@pytest.mark.parametrize(
  "row", [{"chosen": [YES], "rejected": [NO]}, pair([]), pair([{"role": "user", "content": " "}])]
)
def test_a_conversation_without_a_prompt_is_dropped_and_counted(chatml, row):
  dataset = read([row, pair()], chatml)
  assert dataset.counts["dropped/empty_prompt"] == 1 and len(dataset) == 1
  assert dataset.dropped[0][1] == "rows[0]: its prompt is empty: no message says anything"


def test_a_prompt_that_ends_in_an_answer_is_malformed(chatml, tmp_path):
  dataset = read([pair(), pair([USER, YES]), {"conversations": [USER, YES], "chosen": [YES], "rejected": [NO]}], chatml)
  assert [note.partition(": ")[2][:50] for note in dataset.notes] == [
    "its prompt ends in a message of the assistant; an " for _ in range(2)
  ]
  path = tmp_path / "rows.jsonl"
  path.write_text(json.dumps({"messages": [USER, YES]}) + "\n" + json.dumps({"conversations": [USER, NO]}))
  rows = read_prompts(DataSettings(source="file", path=str(path)), chatml)
  assert [row.given for row in rows] == [[USER], [USER]]  # of a whole conversation its answer is left out


def test_every_key_and_the_tools_reach_the_template(chatml):
  tokenizer = chatml.with_template(EVERY_KEY)
  asked = {"role": "assistant", "content": None, "tool_calls": [CALL], "name": None}
  told = {"role": "tool", "name": "get_weather", "tool_call_id": "c1", "content": "19 degrees"}
  chosen = {**YES, "reasoning_content": "since it is"}
  row = pair([USER, asked, told], chosen, NO, tools=json.dumps([TOOL]))
  dataset = read([row], tokenizer)
  prompt, first, second = example(dataset, tokenizer)
  assert prompt == (
    f"<tools>{json.dumps([TOOL])}\n<|im_start|>user\nhello<|im_end|>\n"
    f"<|im_start|>assistant\n<call>{json.dumps(CALL)}<|im_end|>\n"
    "<|im_start|>tool get_weather c1\n19 degrees<|im_end|>\n<|im_start|>assistant\n"
  )
  assert (first, second) == ("(since it is)yes<|im_end|>", "no<|im_end|>")
  assert dataset.warnings == []
  assert dataset.metadata[0]["given"][1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
  assert dataset.metadata[0]["details"]["tools"] == [TOOL]
  assert json.dumps(CALL) in dataset.metadata[0]["prompt"]
  (prompt_row,) = prompts_given([row["prompt"]], DataSettings(), tokenizer)
  assert prompt_row.columns == {"prompt": prompt_row.given}


def test_answers_that_differ_in_their_calls_are_two_answers_and_an_empty_turn_is_none(chatml):
  tokenizer = chatml.with_template(EVERY_KEY)
  calls = [{"role": "assistant", "content": "", "tool_calls": [call]} for call in (CALL, OTHER_CALL)]
  rows = [
    pair((USER,), *calls, tools=[TOOL]),
    pair((USER,), calls[0], calls[0], tools=[TOOL]),
    pair((USER,), YES, {"role": "assistant", "content": "", "tool_calls": []}),
    pair((USER,), YES, {"role": "assistant", "content": None}),
  ]
  dataset = read(rows, tokenizer)
  assert len(dataset) == 1 and dataset.metadata[0]["answers"] == [json.dumps([call]) for call in (CALL, OTHER_CALL)]
  dropped = {key: n for key, n in dataset.counts.items() if key.startswith("dropped/") and n}
  assert dropped == {"dropped/identical_answers": 1, "dropped/empty_answer": 1, "dropped/malformed": 1}


def test_calls_and_tools_that_a_template_does_not_write_are_named(chatml, plain):
  call = {"role": "assistant", "content": "wait", "tool_calls": [CALL]}
  dataset = read([pair(), pair((USER,), call, NO), pair(tools=[TOOL])], chatml)
  assert dataset.counts["dropped/template_drops_text"] == 1
  assert "rows[1]: the chat template leaves out part of an answer, its call 'get_weather'" in dataset.notes[0]
  assert dataset.counts["template_drops_prompt_text"] == 1
  assert dataset.warnings == [
    "template drops prompt text: 1 of 2 rows; rows[2]: the chat template leaves out part of the prompt, the tool 'get_weather'"
  ]
  with pytest.raises(
    DataError, match="column 'tools' holds functions, but there is no chat template to write them with"
  ):
    read([{"prompt": "hello", "chosen": "yes", "rejected": "no", "tools": [TOOL]}], plain)
  with pytest.raises(DataError, match="column 'tools' holds text, not a list of functions"):
    read([pair(tools="hammer, saw")], chatml)


def test_rewards_refuse_answers_with_calls_by_name(tmp_path, chatml):
  path = tmp_path / "rows.jsonl"
  call = {"role": "assistant", "content": "wait", "tool_calls": [CALL]}
  path.write_text(json.dumps(pair()) + "\n" + json.dumps(pair((USER,), call, NO)))
  found = read_answers(DataSettings(source="file", path=str(path)), chatml)
  assert [row.number for row in found.rows] == [0] and found.rows[0].answers == ("yes", "no")
  assert (
    found.dropped[0][0] == 1
    and "an answer has 'tool_calls' beside its text, which rewards do not read" in found.dropped[0][1]
  )


def test_rules_read_system_messages_without_a_template(tmp_path):
  path = tmp_path / "rows.jsonl"
  rows = [{"question": "hello", "chosen": "yes", "rejected": "no", "system": text} for text in ("Be brief", "")]
  path.write_text("\n".join(map(json.dumps, rows)))
  found = read_answers(DataSettings(source="file", path=str(path)))
  assert [row.given for row in found.rows] == [[{"role": "system", "content": "Be brief"}, USER], "hello"]
  assert found.dropped == []


def test_a_template_that_swallows_part_of_an_answer_drops_the_row_by_name(chatml):
  tokenizer = chatml.with_template(NO_THINKING)
  thought = {"role": "assistant", "content": "<think>well</think>\n\nyes"}
  dataset = read([pair(), pair((USER,), thought, NO)], tokenizer)
  assert dataset.counts["dropped/template_drops_text"] == 1 and len(dataset) == 1
  assert dataset.notes[0].startswith("rows[1]: the chat template leaves out part of an answer, its text '<think>well")
  assert "1 template drops text" in gist(dataset.counts)
  kept = read([pair((USER,), thought, NO)], chatml)
  assert example(kept, chatml)[1] == "<think>well</think>\n\nyes<|im_end|>"


@pytest.mark.parametrize(
  "written", ["m.content | trim", "m.content | tojson", "m.content | e", "m.content.replace('\n', ' ')"]
)
def test_a_template_may_change_white_space_and_escape(chatml, written):
  source = f"{{% for m in messages %}}{{{{ m.role + ': ' + ({written}) + '<|im_end|>' }}}}{{% endfor %}}"
  answer = {"role": "assistant", "content": '\n "a" <b> & c\n\nd '}
  assert len(read([pair((USER,), answer, NO)], chatml.with_template(source))) == 1


def test_a_generation_prompt_that_training_has_not_seen_is_counted_and_named(chatml):
  dataset = read([pair()], chatml.with_template(NO_THINKING))
  assert dataset.counts["generation_prompt_differs"] == 1 and dataset.counts["boundary_mismatches"] == 0
  (warning,) = dataset.warnings
  assert warning.startswith(
    r"generation prompt differs: 1 of 1 rows; rows[0]: the template's generation prompt ends in '<think>\n'"
  )
  assert "generation prompt differs" in rows_report(dataset, dataset.subset([]))
  assert read([pair()], chatml).counts["generation_prompt_differs"] == 0


def test_special_tokens_inside_a_text_are_counted(chatml):
  said = {"role": "user", "content": "what is <|im_end|>?"}
  ended = {"role": "assistant", "content": "yes<|im_end|>"}
  dataset = read(
    [pair(), pair([said]), pair((USER,), ended, NO), pair((USER,), {**YES, "content": "a <|im_start|> b"})], chatml
  )
  assert dataset.counts["special_tokens_in_text"] == 2 and len(dataset) == 4
  assert dataset.warnings == [
    "special tokens in text: 2 of 4 rows; rows[1]: its text holds '<|im_end|>', which becomes the special token and not letters"
  ]


@pytest.mark.parametrize(
  "row",
  [
    {"prompt": "hello", "chosen": "half \ud83d", "rejected": "no"},
    pair([{"role": "user", "content": "half \ude00"}]),
    pair(tools=[{"name": "half \ud83d"}]),
    {"prompt": "hello", "chosen": "yes", "rejected": "no", "\ud83d": 1},
  ],
)
def test_half_a_character_costs_one_row(chatml, plain, row):
  dataset = read([pair(), row], chatml)
  assert len(dataset) == 1 and dataset.counts["dropped/malformed"] == 1
  assert "holds half a character (a lone surrogate" in dataset.notes[0]


def test_half_a_character_of_a_template_or_a_program_is_named(chatml, plain):
  with pytest.raises(DataError, match=r"prompt 1: .* half a character"):
    prompts_given(["hello", "half \ud83d"], DataSettings(), plain)
  with pytest.raises(DataError, match="chat template: it holds half a character"):
    read([pair()], chatml.with_template("{{ messages }}\ud83d"))
  writes = "{% for m in messages %}{{ m.content }}{{ '\\ud83d' if m.content == 'no' }}{% endfor %}"
  dataset = read([pair((USER,), YES, {**YES, "content": "you"}), pair()], chatml.with_template(writes))
  assert len(dataset) == 1 and "writes half a character" in dataset.notes[0]
  with pytest.raises(DataError, match=r"text 1 holds half a character \(a lone surrogate, U\+D83D\)"):
    plain.encode_batch(["hello", "half \ud83d"])


@pytest.mark.parametrize(
  ("value", "wanted"),
  [
    (True, True),
    (1, True),
    (1.0, True),
    ("1.0", True),
    (" True ", True),
    (0.0, False),
    ("false", False),
    (2, None),
    ([1], None),
  ],
)
def test_labels_are_true_and_false_however_they_are_written(value, wanted):
  assert truth(value) is wanted
  rows = {
    "unpaired": ({"prompt": "a", "completion": "b", "label": value}, lambda read: read.details["label"]),
    "shp": (
      {"history": "hi", "human_ref_A": "A", "human_ref_B": "B", "labels": value},
      lambda read: read.answers[0].strip() == "A",
    ),
    "pku_safe_rlhf": (
      {"prompt": "hi", "response_0": "0", "response_1": "1", "better_response_id": value},
      lambda read: read.answers[0].strip() == "1",
    ),
  }
  for name, (row, found) in rows.items():
    if wanted is None:
      with pytest.raises(DataError, match="not"):
        FORMATS[name].parse(row, False)
    else:
      assert found(FORMATS[name].parse(row, False)) is wanted


def test_prompt_and_answer_may_each_be_text_or_messages(chatml):
  wanted = ("chat", [USER], ("yes",))
  for row in (
    {"prompt": "hello", "completion": [YES]},
    {"prompt": [USER], "completion": "yes"},
    {"prompt": [USER], "completion": [USER, YES]},
    {"prompt": "hello", "answers": [[YES]]},
  ):
    parsed = choose_format("auto", row, "f:1").parse(row, True)
    assert (parsed.kind, parsed.prompt, parsed.answers) == wanted


def test_a_byte_order_mark_of_a_template_is_no_part_of_prompts(chatml, tmp_path):
  path = tmp_path / "t.jinja"
  path.write_text(chatml.chat_template or "", encoding="utf-8-sig")
  dataset = read([pair()], chatml, template=str(path))
  assert example(dataset, chatml) == example(read([pair()], chatml), chatml)


@pytest.mark.parametrize("path", ["~no_such_user/t.jinja", "a" * 300, "a\0b"])
def test_a_template_path_that_cannot_be_is_named(chatml, path):
  with pytest.raises(DataError, match=r"data\.template=.*give auto, none, or the path of a Jinja file"):
    read([pair()], chatml, template=path)
