"""Texts and files of any size: memory stays bounded, innocents are kept, and what is too long is counted as that."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dpojax.config.schema import DataSettings
from dpojax.data import dataset_from_rows, sources
from dpojax.data.formats.cells import MOST_DEPTH
from dpojax.data.formats.common import PreferenceRow
from dpojax.data.limits import CHARACTERS_A_TOKEN, MOST_CHARACTERS, Limits, shorten
from dpojax.data.prompts import read_prompts
from dpojax.data.rows import AT_ONCE, CHARACTERS_AT_ONCE, row_groups
from dpojax.data.sources import SourceRow, file_rows
from dpojax.data.tokenise import CHARACTERS_AT_ONCE as TOKENISED_AT_ONCE
from dpojax.errors import RowError
from dpojax.types import Answers

LIMIT = 64  # tokens of a row
MOST = LIMIT * CHARACTERS_A_TOKEN


def read(rows, tokenizer, *, row_length=LIMIT, **options):
  return dataset_from_rows(rows, DataSettings(**options), tokenizer, answers=Answers.PAIR, row_length=row_length)


def pair(prompt="hello", chosen="yes", rejected="no"):
  return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


@pytest.fixture
def tokenised(monkeypatch, chatml):
  """The most characters of a text, and of all texts at once, that the tokenizer was given."""
  most = {"text": 0, "batch": 0}
  encode_batch = type(chatml).encode_batch

  def watch(self, texts):
    most["text"] = max(most["text"], *map(len, texts), 0) if texts else most["text"]
    most["batch"] = max(most["batch"], sum(map(len, texts)))
    return encode_batch(self, texts)

  monkeypatch.setattr(type(chatml), "encode_batch", watch)
  return most


@pytest.mark.parametrize("overlong", ["drop", "truncate_left", "truncate_right"])
@pytest.mark.parametrize("template", ["auto", "none"])
def test_a_text_beyond_every_limit_is_not_tokenised_whole(chatml, tokenised, overlong, template):
  rows = [
    pair(),
    pair("hello " * MOST),
    pair(rejected="no " * MOST),
    pair([{"role": "user", "content": "a " * MOST}] * 3),
  ]
  rows = rows[: 3 if template == "none" else 4]
  dataset = read(rows, chatml, overlong=overlong, template=template)
  assert tokenised["text"] <= 2 * MOST + 200
  if overlong == "drop":
    assert dataset.counts["dropped/example_too_long"] == len(rows) - 1 and len(dataset) == 1
    assert dataset.dropped[0][1].startswith(
      f"rows[1]: its longest text has {6 * MOST:,} characters, more than {CHARACTERS_A_TOKEN} for each of {LIMIT} tokens"
    )
  else:
    assert len(dataset) == len(rows) and dataset.counts["truncated/answers"] == 1
    assert chatml.eos_id not in dataset[2].answers[1]  # a cut answer has no EOS


@pytest.mark.parametrize("side", ["truncate_left", "truncate_right"])
@pytest.mark.parametrize("template", ["auto", "none"])
def test_what_is_cut_before_is_what_would_be_cut_after(chatml, monkeypatch, side, template):
  words = "".join(f"{i} the sky is black, " for i in range(MOST // 10))
  rows = [pair(words), pair(words, "yes " + words, "no " + words)]
  found = read(rows, chatml, overlong=side, template=template, max_prompt=20, max_answer=15)
  monkeypatch.setattr("dpojax.data.limits.CHARACTERS_A_TOKEN", 10**6)
  wanted = read(rows, chatml, overlong=side, template=template, max_prompt=20, max_answer=15)
  for i in range(2):
    assert found[i].prompt.tolist() == wanted[i].prompt.tolist()
    assert [a.tolist() for a in found[i].answers] == [a.tolist() for a in wanted[i].answers]


def test_an_answer_cut_before_has_no_eos_though_it_fits_its_limit(chatml, monkeypatch):
  monkeypatch.setattr("dpojax.data.limits.CHARACTERS_A_TOKEN", 2)
  dataset = read([pair(chosen="hello there " * 20)], chatml, overlong="truncate_right", template="none")
  chosen, rejected = dataset[0].answers
  assert chatml.decode(chosen) == ("hello there " * 20)[: 2 * LIMIT] and len(chosen) < LIMIT // 2
  assert rejected[-1] == chatml.eos_id


def test_each_limit_has_its_reason_and_without_any_there_is_still_one():
  long = "a" * (10 * CHARACTERS_A_TOKEN + 1)
  limits = dict(prompt=0, answer=0, example=0, row=0, overlong="drop")
  for key, comparison, reason in (
    ("prompt", PreferenceRow("text", long, ("b",)), "prompt_too_long"),
    ("answer", PreferenceRow("chat", [], ("b", {"role": "assistant", "content": long})), "answer_too_long"),
    ("example", PreferenceRow("text", "a", (long,)), "example_too_long"),
    ("row", PreferenceRow("chat", [{"role": "user", "content": long}], ("b",)), "example_too_long"),
  ):
    assert shorten(comparison, Limits(**limits)) is comparison
    assert shorten(comparison, Limits(**{**limits, key: 11})) is comparison
    with pytest.raises(RowError) as refused:
      shorten(comparison, Limits(**{**limits, key: 10}))
    assert refused.value.reason == reason
  with pytest.raises(RowError, match="8,000,001 characters, more than 8,000,000"):
    shorten(PreferenceRow("text", "a" * (MOST_CHARACTERS + 1), ("b",)), Limits(**limits))
  ids = PreferenceRow("ids", list(range(10**4)), ([1],))
  assert shorten(ids, Limits(**{**limits, "row": 1})) is ids  # `fit` counts them


def test_a_conversation_is_cut_from_its_far_end():
  turns = [{"role": "user", "content": c * 400} for c in "abc"]
  kept = {
    side: [m["content"] for m in shorten(PreferenceRow("chat", turns, ()), Limits(10, 0, 0, 0, side)).prompt]
    for side in ("truncate_left", "truncate_right")
  }
  assert kept["truncate_left"] == ["", "b" * 240, "c" * 400]
  assert kept["truncate_right"] == ["a" * 400, "b" * 240, ""]


def test_rows_are_taken_by_size_as_well_as_number():
  small, large = ({"text": "a" * n} for n in (1, CHARACTERS_AT_ONCE // 2))
  rows = [SourceRow("f", values) for values in [small] * (AT_ONCE + 1) + [large] * 3]
  groups = list(row_groups(iter(rows)))
  assert [len(group) for group in groups] == [AT_ONCE, 2, 2] and [row for group in groups for row in group] == rows


def test_the_tokenizer_is_given_texts_by_size(chatml, tokenised, monkeypatch):
  rows = [pair(f"{i} " + "the sky " * 5000) for i in range(20)]
  dataset = read(rows, chatml, row_length=60_000)
  assert len(dataset) == 20 and tokenised["batch"] <= TOKENISED_AT_ONCE
  assert sum(len(r["prompt"]) for r in rows) * 3 > TOKENISED_AT_ONCE
  assert chatml.decode(dataset[19].prompt).startswith("<|im_start|>user\n19 the sky")


def test_prompts_are_bounded_by_their_own_limit(chatml, tokenised, tmp_path):
  path = tmp_path / "rows.txt"
  path.write_text("hello\n" + "hello " * 2000)
  found = read_prompts(DataSettings(source="file", path=str(path), max_prompt=30), chatml)
  assert len(found) == 1 and found.counts["dropped/prompt_too_long"] == 1 and tokenised["text"] < 200


def test_deep_values_cost_their_row(chatml, tmp_path):
  deep = "[" * 100_000 + "]" * 100_000
  lines = [json.dumps(pair()), '{"prompt": "a", "chosen": ' + deep + ', "rejected": "b"}', json.dumps(pair(deep))]
  path = tmp_path / "rows.jsonl"
  path.write_text("\n".join(lines))
  assert [row.fault for row in file_rows(str(path))] == ["", f"not JSON: nested more than {MOST_DEPTH} deep", ""]
  nested: list = []
  for _ in range(5000):
    nested = [nested]
  dataset = read([pair(), {**pair(), "tools": nested}], chatml)
  assert dataset.notes == [f"rows[1]: column 'tools' is nested more than {MOST_DEPTH} deep"]


def test_a_wide_line_costs_its_row_and_a_wide_cell_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(sources, "MOST_LINE", 1000)
  monkeypatch.setattr(sources, "MOST_CELL", 1000)
  path = tmp_path / "rows.jsonl"
  path.write_text("\n".join([json.dumps(pair()), json.dumps(pair("a" * 3500)), json.dumps(pair("b")), " " * 1500]))
  assert [(row.values.get("prompt"), row.fault) for row in file_rows(str(path))] == [
    ("hello", ""),
    (None, "has more than 1,000 bytes"),
    ("b", ""),
    (None, "has more than 1,000 bytes"),
  ]
  path = tmp_path / "rows.csv"
  path.write_text("prompt,chosen\nhello,yes\n" + 'hello,"no\n' + "hello,no\n" * 300)
  with pytest.raises(
    Exception, match=r"rows.csv:\d+: not CSV .*field limit \(1000\); is a quote left open from line 3 on\?"
  ):
    list(file_rows(str(path)))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
@pytest.mark.parametrize("overlong", ["drop", "truncate_left"])
def test_memory_stays_bounded(tmp_path, overlong):
  """200 rows of 1 MB and 3 of 20 MB, in a process of their own: its peak, with what Python and JAX take, is below 1 GB.

  The peak is read from /proc: `ru_maxrss` begins at that of the process which started this one.
  """
  path = tmp_path / "rows.jsonl"
  with path.open("w") as file:
    for size in [1_000_000] * 200 + [20_000_000] * 3:
      file.write(json.dumps(pair("the sky is black " * (size // 17))) + "\n")
    file.write(json.dumps(pair()))
  program = f"""
import re, sys
sys.path.insert(0, {str(tmp_path.parent)!r})
from tests.data.conftest import CHATML, trained
from dpojax.config.schema import DataSettings
from dpojax.data import load_dataset
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import Answers
tokenizer = Tokenizer(trained(["<|im_end|>"]), special_tokens={{"eos_token": "<|im_end|>"}}, chat_template=CHATML)
settings = DataSettings(source="file", path={str(path)!r}, eval_fraction=0.0, overlong={overlong!r})
found, _ = load_dataset(settings, tokenizer, answers=Answers.PAIR, row_length=1024)
print(len(found), int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) >> 10)
"""
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  kept, megabytes = map(int, done.stdout.split())
  assert kept == (1 if overlong == "drop" else 204) and megabytes < 1000
