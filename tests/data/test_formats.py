"""Row formats: what each reads, with and without a chat template, and what each refuses."""

import pytest

from dpojax.data.formats import FORMATS, choose_format
from dpojax.data.formats.implicit import shared_prompt
from dpojax.errors import ConfigError, DataError

USER, YES, NO = ({"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "yes"), ("assistant", "no")))
HH = "\n\nHuman: hi\n\nAssistant: hm\n\nHuman: well?\n\nAssistant:"

# (format, row, prompt and answers as text or None, prompt and answers with a template or None)
READ = {
  "explicit": (
    {"prompt": "hi", "chosen": " yes", "rejected": " no"},
    ("text", "hi", (" yes", " no")),
    ("chat", [USER], (" yes", " no")),
  ),
  "implicit": (
    {"chosen": "the sky is blue", "rejected": "the sky is black"},
    ("text", "the sky is", (" blue", " black")),
    ("text", "the sky is", (" blue", " black")),
  ),
  "conversational": (
    {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
    ("chat", [USER], ("yes", "no")),
    ("chat", [USER], ("yes", "no")),
  ),
  "conversational, prompt repeated": (
    {"prompt": [USER], "chosen": [USER, YES], "rejected": [USER, NO]},
    ("chat", [USER], ("yes", "no")),
    ("chat", [USER], ("yes", "no")),
  ),
  "conversational, no prompt": (
    {"chosen": [USER, YES, USER, YES], "rejected": [USER, YES, USER, NO]},
    ("chat", [USER, YES, USER], ("yes", "no")),
    ("chat", [USER, YES, USER], ("yes", "no")),
  ),
  "hh": (
    {"chosen": HH + " yes", "rejected": HH + " no"},
    ("text", HH, (" yes", " no")),
    (
      "chat",
      [USER, {"role": "assistant", "content": "hm"}, {"role": "user", "content": "well?"}],
      ("yes", "no"),
    ),
  ),
  "shp": (
    {"history": "hi", "human_ref_A": "no", "human_ref_B": "yes", "labels": 0, "score_A": 2},
    ("text", "\n\nHuman: hi\n\nAssistant:", (" yes", " no")),
    ("chat", [USER], ("yes", "no")),
  ),
  "ultrafeedback": (
    {"prompt": "hi", "chosen": [USER, YES], "rejected": [USER, NO], "messages": [USER, YES], "score_chosen": 8.5},
    ("chat", [USER], ("yes", "no")),
    ("chat", [USER], ("yes", "no")),
  ),
  "pku_safe_rlhf": (
    {"prompt": "hi", "response_0": "no", "response_1": "yes", "better_response_id": 1, "safer_response_id": 0},
    ("text", "\n\nHuman: hi\n\nAssistant:", (" yes", " no")),
    ("chat", [USER], ("yes", "no")),
  ),
  "nectar": (
    {
      "prompt": "\n\nHuman: hi\n\nAssistant: ",
      "answers": [{"answer": "no", "rank": 3.0}, {"answer": "yes", "rank": 1.0}, {"answer": "so", "rank": 2.0}],
    },
    ("text", "\n\nHuman: hi\n\nAssistant:", (" yes", " so", " no")),
    ("chat", [USER], ("yes", "so", "no")),
  ),
  "ranked": (
    {"prompt": "hi", "answers": ["yes", "so", "no"]},
    ("text", "hi", ("yes", "so", "no")),
    ("chat", [USER], ("yes", "so", "no")),
  ),
  "ranked, messages": (
    {"prompt": [USER], "answers": ["yes", "no"]},
    ("chat", [USER], ("yes", "no")),
    ("chat", [USER], ("yes", "no")),
  ),
  "sampled": (
    {"row": 0, "prompt": "hi", "samples": [{"text": "no", "ended": "length"}, {"text": "yes", "ended": "eos"}]},
    ("text", "hi", ("no", "yes")),
    ("chat", [USER], ("no", "yes")),
  ),
  "sampled, messages": (
    {"row": 0, "prompt": [USER], "samples": [{"text": "no", "ended": "stop", "tokens": [1], "logps": [-0.5]}]},
    ("chat", [USER], ("no",)),
    ("chat", [USER], ("no",)),
  ),
  "rewardbench": (
    {"prompt": "hi", "chosen": "yes", "rejected": "no", "subset": "shp", "chosen_model": "a", "rejected_model": "b"},
    ("text", "\n\nHuman: hi\n\nAssistant:", (" yes", " no")),
    ("chat", [USER], ("yes", "no")),
  ),
  "rewardbench, prior sets": (
    {"prompt": [USER], "chosen": "yes", "rejected": "no", "subset": "shp"},
    ("chat", [USER], ("yes", "no")),
    ("chat", [USER], ("yes", "no")),
  ),
  "rewardbench_v2": (
    {"id": "tied:3", "prompt": "hi", "chosen": ["yes", "so"], "rejected": ["no"], "num_correct": 2, "subset": "Ties"},
    ("text", "\n\nHuman: hi\n\nAssistant:", (" yes", " so", " no")),
    ("chat", [USER], ("yes", "so", "no")),
  ),
  "rewardbench_v2, nothing right": (
    {"prompt": "hi", "chosen": [], "rejected": ["no"]},
    ("text", "\n\nHuman: hi\n\nAssistant:", (" no",)),
    ("chat", [USER], ("no",)),
  ),
  "unpaired": (
    {"prompt": "hi", "completion": " no", "label": False},
    ("text", "hi", (" no",)),
    ("chat", [USER], (" no",)),
  ),
  "completion": (
    {"prompt": "hi", "completion": " yes"},
    ("text", "hi", (" yes",)),
    ("chat", [USER], (" yes",)),
  ),
  "completion, messages": (
    {"prompt": [USER], "completion": [YES]},
    ("chat", [USER], ("yes",)),
    ("chat", [USER], ("yes",)),
  ),
  "chat": ({"messages": [USER, YES]}, ("chat", [USER], ("yes",)), ("chat", [USER], ("yes",))),
  "text": ({"text": "some text"}, ("text", "", ("some text",)), ("text", "", ("some text",))),
  "pretokenised": (
    {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]},
    ("ids", [1, 2], ([3], [4, 5])),
    ("ids", [1, 2], ([3], [4, 5])),
  ),
  "pretokenised, any number": (
    {"prompt_ids": [1, 2], "answers_ids": [[3], [4], [5]]},
    ("ids", [1, 2], ([3], [4], [5])),
    ("ids", [1, 2], ([3], [4], [5])),
  ),
  "pretokenised, as CSV holds it": (
    {"prompt_ids": "[1, 2]", "completion_ids": "[3]"},
    ("ids", [1, 2], ([3],)),
    ("ids", [1, 2], ([3],)),
  ),
}


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("case", READ)
def test_a_row_is_detected_and_read(case, chat):
  row, without, with_template = READ[case]
  form = choose_format("auto", row, "f:1")
  assert form.name == case.partition(",")[0]
  read = form.parse(row, chat)
  assert (read.kind, read.prompt, read.answers) == (with_template if chat else without)


def test_every_format_is_in_the_table():
  assert {case.partition(",")[0] for case in READ} | {"beginning"} == set(FORMATS)  # which is chosen by name alone


def test_what_else_a_row_says_is_kept():
  details = FORMATS["pku_safe_rlhf"].parse(READ["pku_safe_rlhf"][0], True).details
  assert details == {"safer_response_id": 0}
  assert FORMATS["unpaired"].parse(READ["unpaired"][0], True).details == {"label": False}
  details = FORMATS["rewardbench_v2"].parse(READ["rewardbench_v2"][0], True).details
  assert details == {"id": "tied:3", "num_correct": 2, "subset": "Ties"}
  assert FORMATS["rewardbench_v2"].parse(READ["rewardbench_v2, nothing right"][0], True).details == {"num_correct": 0}
  ranked = READ["ranked"][0]
  assert FORMATS["ranked"].parse({**ranked, "rewards": [3, 2.5, -1]}, True).details == {"rewards": [3, 2.5, -1]}
  assert FORMATS["ranked"].parse({**ranked, "rewards": [3]}, True).details == {}


@pytest.mark.parametrize(
  ("first", "second", "prompt"),
  [
    ("Q: sky?\nA: blue", "Q: sky?\nA: black", "Q: sky?\nA:"),
    ("Q: sky?\nblue", "Q: sky?\nblack", "Q: sky?\n"),
    ("Q: well? yes", "Q: well? yes sir", "Q: well?"),  # the shorter is not swallowed whole
    ("Q: same", "Q: same", "Q:"),
    ("blue", "black", ""),
    ("", "", ""),
  ],
)
def test_a_shared_beginning_ends_between_words(first, second, prompt):
  assert shared_prompt(first, second) == prompt


def test_hh_neighbours_of_one_role_become_one_message():
  start = "\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nHuman: d\n\nAssistant:"
  read = FORMATS["hh"].parse({"chosen": start + " yes", "rejected": start + " no"}, True)
  assert [message["content"] for message in read.prompt] == ["a\n\nb", "c", "d"]


@pytest.mark.parametrize("form", ["hh", "explicit", "nectar"])
def test_what_the_assistant_said_just_before_an_answer_becomes_its_beginning(form):
  start = "\n\nHuman: a\n\nAssistant: c\n\nAssistant: d\n\nAssistant:"
  listed = [{"answer": " no", "rank": 2}, {"answer": " yes", "rank": 1}]
  row = {"chosen": " yes", "rejected": " no", "prompt": start, "answers": listed}
  row |= {"chosen": start + " yes", "rejected": start + " no"} if form == "hh" else {}
  read = FORMATS[form].parse(row, True)
  assert read.prompt == [{"role": "user", "content": "a"}]
  assert read.answers == ("c\n\nd\n\nyes", "c\n\nd\n\nno")


# (format, the row of READ with these changes, what the error says)
WRONG = [
  ("explicit", {"chosen": None}, "column 'chosen' holds nothing, not text"),
  ("explicit", {"chosen": 3}, "column 'chosen' holds a number, not text"),
  ("explicit", {"rejected": ["a"]}, "column 'rejected' holds a list, not text"),
  ("implicit", {"rejected": "a sea"}, "'chosen' and 'rejected' begin differently, so they share no prompt; give it in"),
  ("conversational", {"chosen": "yes"}, "column 'chosen' holds text, not a list of messages"),
  ("conversational", {"chosen": []}, "column 'chosen' holds no messages"),
  (
    "conversational",
    {"chosen": [{"role": "user"}]},
    "message 0 of column 'chosen' is no object with 'role' and 'content'",
  ),
  ("conversational", {"chosen": [{"role": "assistant", "content": [1]}]}, "role and content must be text, not a list"),
  (
    "conversational",
    {"chosen": [USER]},
    "column 'chosen' must go on from the prompt with one message of the assistant",
  ),
  ("conversational", {"chosen": [YES, USER]}, "with one message of the assistant, not assistant, user"),
  ("hh", {"chosen": "hello"}, r"column 'chosen' has no turn '\\n\\nAssistant:'"),
  ("hh", {"chosen": "\n\nHuman: other\n\nAssistant: yes"}, "differ before their last"),
  ("shp", {"labels": 2}, "column 'labels' holds 2, not 1 (A) or 0 (B)"),
  ("shp", {"labels": None}, "column 'labels' holds nothing, not 1 (A) or 0 (B)"),
  ("ultrafeedback", {"chosen": [USER, YES, USER]}, "one message of the assistant"),
  ("pku_safe_rlhf", {"better_response_id": None}, "column 'better_response_id' holds nothing, not 0 or 1"),
  ("nectar", {"answers": None}, "column 'answers' holds nothing, not a list of objects with 'answer' and 'rank'"),
  ("nectar", {"answers": [{"rank": 1}]}, "entry 0 of column 'answers' is no object with an 'answer' text"),
  ("nectar", {"answers": [{"answer": "a"}]}, "entry 0 of column 'answers' has no number as its 'rank'"),
  ("ranked", {"answers": "yes"}, "column 'answers' holds text, not a list of texts, best first"),
  ("ranked", {"answers": []}, "column 'answers' holds a list, not a list of texts"),
  ("sampled", {"samples": []}, "column 'samples' holds a list, not a list of objects with 'text' and 'ended'"),
  (
    "sampled",
    {"samples": [{"text": "a", "ended": "EOS"}]},
    "is no object with a 'text' and 'ended': eos, stop, length",
  ),
  ("sampled", {"prompt": 3}, "column 'prompt' holds a number, not text"),
  ("rewardbench", {"rejected": None}, "column 'rejected' holds nothing, not text"),
  ("rewardbench_v2", {"chosen": "yes"}, "column 'chosen' holds text, not a list of texts"),
  ("rewardbench_v2", {"rejected": [1]}, "column 'rejected' holds a list, not a list of texts"),
  ("rewardbench_v2", {"num_correct": 3}, "column 'num_correct' says 3, but 'chosen' holds 2 answers"),
  ("rewardbench_v2", {"chosen": [], "rejected": []}, "columns 'chosen' and 'rejected' are both empty"),
  ("rewardbench_v2", {"id": "7"}, "column 'id' holds '7'; in the subset Ties it must be 'ref:N' or 'tied:N'"),
  ("unpaired", {"label": "maybe"}, "column 'label' holds 'maybe', not true or false"),
  ("completion", {"completion": None}, "column 'completion' holds nothing, not text"),
  ("chat", {"messages": [YES, USER]}, "with one message of the assistant, not user"),
  ("text", {"text": 1.5}, "column 'text' holds a number, not text"),
  ("pretokenised", {"prompt_ids": "1 2"}, "column 'prompt_ids' holds text, not a list of token ids"),
  ("pretokenised", {"chosen_ids": [1, 2.5]}, "column 'chosen_ids' holds a list, not a list of token ids"),
  ("pretokenised", {"chosen_ids": [True]}, "column 'chosen_ids' holds a list, not a list of token ids"),
  ("pretokenised", {"answers_ids": 3}, "column 'answers_ids' holds a number, not a list of lists of token ids"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG)
def test_a_wrong_value_is_named_with_its_column(name, change, message):
  with pytest.raises(DataError) as caught:
    FORMATS[name].parse({**READ[name][0], **change}, True)
  assert message.replace("\\\\", "\\") in str(caught.value)


def test_a_wrong_column_names_the_place_the_columns_and_what_is_wanted():
  with pytest.raises(DataError) as caught:
    choose_format("explicit", {"question": "a", "chosen": "b"}, "pairs.jsonl:1")
  assert str(caught.value) == (
    "pairs.jsonl:1: no column 'prompt'; format 'explicit' wants prompt, chosen, rejected (texts), found question, chosen"
  )


def test_unknown_columns_list_the_formats():
  with pytest.raises(
    DataError, match=r"^f:1: columns question, answer fit no known format; rename them to one of\n"
  ) as e:
    choose_format("auto", {"question": "a", "answer": "b"}, "f:1")
  assert "\n  shp: history, human_ref_A" in str(e.value)


def test_the_nearest_format_is_the_first_and_prompts_alone_are_told_what_reads_them():
  def listed(row):
    with pytest.raises(DataError) as caught:
      choose_format("auto", row, "f:1")
    first, *formats = str(caught.value).split("\n")
    return first, [line.split(":")[0].strip() for line in formats]

  first, formats = listed({"prompt": "a"})
  assert "prompts alone are for recipes that write answers" in first
  assert set(formats[:3]) == {"nectar", "ranked", "completion"} and set(formats) == set(FORMATS)
  assert listed({"prompt": "a", "label": True})[1][0] == "unpaired"
  assert "prompts alone" not in listed({"prompt": "a", "label": True})[0]


def test_labels_of_steps_are_no_ranking():
  row = {"prompt": "a", "answers": ["b", "c"], "labels": [True, False]}
  with pytest.raises(DataError, match="labels of steps"):
    FORMATS["ranked"].parse(row, True)
  assert len(FORMATS["ranked"].parse({**row, "labels": ["b", "a"]}, True).answers) == 2
  assert FORMATS["ranked"].parse({**row, "scores": [1, 2]}, True).scores == (2.0, 1.0)  # which order them


def test_an_unknown_format_lists_the_known():
  with pytest.raises(
    ConfigError, match=r"data\.format cannot be 'hhh'; did you mean 'hh'\? It wants one of auto, pretokenised, shp, "
  ):
    choose_format("hhh", {"text": "a"}, "f:1")


def test_the_first_words_of_a_text_are_its_prompt():
  words = [
    "a",
    "film",
    "that",
    "I",
    "would",
    "have",
    "liked",
    "to",
    "like",
    ",",
    "and",
    "that",
    "I",
    "could",
    "not",
    ";",
    "so",
    "it",
    "goes",
    ".",
  ]
  for n in range(4, len(words) + 1):
    for tail in ("", "!"):
      whole = " ".join(words[:n]) + tail
      read = FORMATS["beginning"].parse({"text": f"  {whole}\n", "rating": 3}, True)
      (answer,) = read.answers
      assert read.kind == "text" and read.prompt + answer == whole and answer.startswith(" ")
      assert 2 <= len(read.prompt.split()) <= min(8, n // 2) and read.details == {"rating": 3}
      assert FORMATS["beginning"].parse({"text": whole}, False).prompt == read.prompt
  lengths = {
    len(FORMATS["beginning"].parse({"text": " ".join(words) + f" {i}"}, False).prompt.split()) for i in range(200)
  }
  assert lengths == set(range(2, 9))


def test_a_text_too_short_for_a_beginning():
  with pytest.raises(DataError, match="column 'text' has 3 words; a beginning of 2 and as many after it are the least"):
    FORMATS["beginning"].parse({"text": "a short text"}, False)


def test_a_beginning_is_chosen_by_name_alone():
  assert choose_format("auto", {"text": "one two three four"}, "row 1").name == "text"
  assert choose_format("beginning", {"text": "one two three four"}, "row 1").name == "beginning"
