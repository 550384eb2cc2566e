"""Tokenised data on disk: the same data set as made anew, never that of other rows, settings, tokenizers or code."""

import dataclasses
import datetime
import json
import os
from unittest import mock

import numpy as np
import pytest

from dpojax.config.schema import DataSettings
from dpojax.data import dataset as dataset_module
from dpojax.data import load_dataset, token_cache
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.token_cache import ENTRY, FOLDER, TokenCache, decode, encode
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import Answers
from tests.cli.tiny_model import TinyModel
from tests.data.conftest import LLAMA, trained
from tests.data.test_sources import as_jsonl
from tests.training.runs import timeless_metrics, train

ROWS = [
  {
    "prompt": f"question {i}?",
    "chosen": f"yes, {i}",
    "rejected": "no",
    "margin": 0.5 + i,
  }
  for i in range(8)
]
BROKEN = [{"prompt": "no answers"}, {"prompt": "the same?", "chosen": "yes", "rejected": "yes"}]


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_bytes(as_jsonl(ROWS + BROKEN))
  return path


@pytest.fixture
def cache(tmp_path):
  return TokenCache(tmp_path / "tokens")


@pytest.fixture
def settings(file):
  return DataSettings(path=str(file), eval_fraction=0.25)


def load(settings, tokenizer, cache, answers=Answers.PAIR, row_length=256):
  """((training, held out), whether the rows were tokenised for it)."""
  with mock.patch.object(dataset_module, "_build", wraps=dataset_module._build) as build:
    found = load_dataset(settings, tokenizer, answers=answers, row_length=row_length, cache=cache)
  return found, build.called


def contents(dataset):
  """Everything that a data set holds, as plain values."""
  examples = [dataset[i] for i in range(len(dataset))]
  plain = [
    (e.prompt.tolist(), [a.tolist() for a in e.answers], e.index, e.weight, e.label, e.margin, e.scores)
    for e in examples
  ]
  types = {ids.dtype for e in examples for ids in (e.prompt, *e.answers)}
  own = {key: value for key, value in vars(dataset).items() if key != "_examples"}
  return plain, types, own


def entries(tmp_path):
  return sorted((tmp_path / "tokens").rglob(f"*{ENTRY}"))


@pytest.mark.slow
@pytest.mark.parametrize("answers", [Answers.PAIR, Answers.ONE, Answers.ANY, Answers.UNPAIRED])
def test_what_is_read_back_is_what_was_made(settings, chatml, cache, tmp_path, answers):
  made, _ = load(settings, chatml, None, answers)
  first, tokenised = load(settings, chatml, cache, answers)
  assert tokenised
  again, tokenised = load(settings, chatml, TokenCache(tmp_path / "tokens"), answers)
  assert not tokenised
  for side in (0, 1):
    assert contents(again[side]) == contents(first[side]) == contents(made[side])
  assert made[0].counts["dropped/malformed"] >= 1 and made[0].notes and made[0].dropped
  row = made[0].metadata[1]
  assert row["details"] == {"margin": 0.5 + row["number"]}


def test_what_is_held_out_does_not_matter_and_is_decided_anew(settings, chatml, cache):
  first, _ = load(settings, chatml, cache)
  for change in ({"eval_fraction": 0.5}, {"seed": 1}):
    changed = dataclasses.replace(settings, **change)
    found, tokenised = load(changed, chatml, cache)
    assert not tokenised
    assert contents(found[1]) == contents(load(changed, chatml, None)[0][1]) != contents(first[1])


OTHER = {
  "limit": 3,
  "max_answer": 100,
  "max_example": 200,
  "max_prompt": 90,
  "overlong": "truncate_left",
  "duplicates": "drop",
  "format": "explicit",
  "columns": "-notes",
  "template": "none",
  "after_eos": "keep",
  "train_turns": "last",
  "source": "file",
  "revision": "1",
  "name": "n",
  "subset": "s",
  "split": "test",
}


@pytest.mark.slow
def test_every_other_setting_has_its_own_entry(settings, chatml, cache):
  load(settings, chatml, cache)
  fields = {field.name for field in dataclasses.fields(DataSettings)}
  assert fields == {*OTHER, *token_cache.AFTERWARDS, "path"}, "a new setting: does it change what becomes of a row?"
  for key, value in OTHER.items():
    changed = dataclasses.replace(settings, **{key: value})
    found, tokenised = load(changed, chatml, cache)
    assert tokenised, key
    assert contents(load(changed, chatml, cache)[0][0]) == contents(found[0])


def test_other_rows_paths_kinds_and_lengths_have_their_own(settings, file, chatml, cache):
  load(settings, chatml, cache)
  assert load(settings, chatml, cache, answers=Answers.ONE)[1]
  assert load(settings, chatml, cache, row_length=255)[1]
  copy = file.with_name("copy.jsonl")
  copy.write_bytes(file.read_bytes())
  found, tokenised = load(dataclasses.replace(settings, path=str(copy)), chatml, cache)
  assert tokenised and str(copy) in found[0].metadata[0]["row"]
  held_out = dataclasses.replace(settings, eval_path=str(copy.rename(file.with_name("other.jsonl"))))
  assert "other.jsonl" in load(held_out, chatml, cache)[0][1].metadata[0]["row"]
  before = file.stat()
  file.write_bytes(file.read_bytes().replace(b"yes, 3", b"yes, 4"))
  os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size and time
  found, tokenised = load(settings, chatml, cache)
  assert tokenised and contents(found[0]) == contents(load(settings, chatml, None)[0][0])


@pytest.mark.slow
def test_other_tokenizers_templates_code_and_libraries_have_their_own(
  settings, chatml, llama, cache, monkeypatch, tmp_path
):
  load(settings, chatml, cache)
  assert load(settings, llama, cache)[1]
  other = Tokenizer(chatml._backend, special_tokens=chatml.special_tokens, chat_template=chatml.chat_template + " ")
  assert load(settings, other, cache)[1]
  words = trained(["<|im_start|>", "<|im_end|>", "yes"])
  other = Tokenizer(words, special_tokens=chatml.special_tokens, chat_template=chatml.chat_template)
  assert load(settings, other, cache)[1]
  template = tmp_path / "template.jinja"
  given = dataclasses.replace(settings, template=str(template))
  for source in (chatml.chat_template, LLAMA):
    template.write_text(source)
    assert load(given, chatml, cache)[1]  # the same path, another template
    assert not load(given, chatml, cache)[1]
  with monkeypatch.context() as patched:
    patched.setattr(token_cache.importlib.metadata, "version", lambda library: "0.0.1")
    assert load(settings, chatml, cache)[1]
  with monkeypatch.context() as patched:
    patched.setattr(token_cache, "our_code", lambda: "f" * 64)
    assert load(settings, chatml, cache)[1]
    assert not load(settings, chatml, TokenCache(tmp_path / "tokens"))[1]
  assert not load(settings, chatml, cache)[1]


def test_our_code_is_that_of_every_file_that_a_row_passes(tmp_path, monkeypatch):
  package = tmp_path / "dpojax"
  for name in ("data/token_cache.py", "data/formats/hh.py", "interop/tokenizer.py", "losses/dpo.py"):
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_text("x = 1\n")
  monkeypatch.setattr(token_cache, "__file__", str(package / "data" / "token_cache.py"))
  digest = token_cache.our_code.__wrapped__
  seen = {digest()}
  for name in ("data/formats/hh.py", "interop/tokenizer.py"):
    (package / name).write_text("x = 2\n")
    seen.add(digest())
  (package / "data" / "new.py").touch()
  seen.add(digest())
  assert len(seen) == 4
  (package / "losses" / "dpo.py").write_text("x = 2\n")
  assert digest() in seen


def test_a_file_written_while_it_is_read_is_not_kept(settings, file, chatml, cache, tmp_path):
  build = dataset_module._build

  def meddle(*arguments, **options):
    made = build(*arguments, **options)
    file.write_bytes(as_jsonl(ROWS[:4]))
    return made

  with mock.patch.object(dataset_module, "_build", meddle):
    load_dataset(settings, chatml, answers=Answers.PAIR, row_length=256, cache=cache)
  assert entries(tmp_path) == []


def test_a_damaged_entry_costs_a_line_and_is_made_anew(settings, chatml, cache, tmp_path, capsys):
  first, _ = load(settings, chatml, cache)
  (entry,) = entries(tmp_path)
  data = bytearray(entry.read_bytes())
  data[len(data) // 2] ^= 1
  entry.write_bytes(data)
  found, tokenised = load(settings, chatml, cache)
  assert tokenised and contents(found[0]) == contents(first[0])
  assert capsys.readouterr().err.endswith(".tokens was damaged; the data set is tokenised anew\n")
  assert not load(settings, chatml, cache)[1]


def test_rows_that_cannot_be_read_raise_as_without_a_cache(settings, chatml, cache, tmp_path):
  os.mkfifo(tmp_path / "pipe.jsonl")
  for path in ("/no/such.jsonl", str(tmp_path), str(tmp_path / "pipe.jsonl")):
    wrong = dataclasses.replace(settings, path=path)
    messages = []
    for given in (None, cache, cache):
      with pytest.raises(Exception, match=r"data\.path takes") as caught:
        load(wrong, chatml, given)
      messages.append((type(caught.value), str(caught.value)))
    assert len(set(messages)) == 1


def test_a_layout_of_the_hub_is_kept_until_its_files_change(hub, chatml, cache):
  name = hub({"data/train.jsonl": as_jsonl(ROWS)})
  settings = DataSettings(name=name, eval_fraction=0.0)
  first, tokenised = load(settings, chatml, cache)
  assert tokenised
  again, tokenised = load(settings, chatml, cache)
  assert not tokenised and contents(again[0]) == contents(first[0])
  assert hub({"data/train.jsonl": as_jsonl(ROWS[:5])}) == name
  found, tokenised = load(settings, chatml, cache)
  assert tokenised and len(found[0]) == 5


@pytest.mark.parametrize("value", [datetime.datetime(2026, 1, 1), float("nan"), {1: "a"}, ("a",), b"a", np.float32(1)])
def test_what_json_does_not_give_back_is_not_kept(value):
  made = TokenDataset([TokenExample(np.asarray([1]), (np.asarray([2]),))], metadata=[{"details": {"x": value}}])
  assert encode(made) is None
  assert encode(TokenDataset([made[0]], metadata=[{"details": {"x": 1.5}}])) is not None


def test_what_was_observed_of_an_example_comes_back():
  ids = np.asarray([1, 2], np.int32)
  made = TokenDataset(
    [TokenExample(ids, (ids[:1], ids), weight=2.5, label=0.5, margin=-0.1), TokenExample(ids, (ids,))]
  )
  assert contents(decode(encode(made))) == contents(made)


def test_an_empty_data_set_comes_back():
  assert contents(decode(encode(TokenDataset([], origin="o", answer_names=("a", "b"))))) == contents(
    TokenDataset([], origin="o", answer_names=("a", "b"))
  )


def test_without_a_name_or_a_usable_folder_there_is_no_cache(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv(FOLDER, "")
  assert TokenCache.from_environment() is None
  (tmp_path / "file").touch()
  monkeypatch.setenv(FOLDER, str(tmp_path / "file"))
  assert TokenCache.from_environment() is None
  assert "data are tokenised at every start" in capsys.readouterr().err


@pytest.mark.long
def test_a_second_run_reads_what_the_first_tokenised_and_trains_the_same(tmp_path):
  rows = [{"prompt": f"is {word} parcel", "chosen": "yes", "rejected": "sorry"} for word in ("my", "our", "the", "we")]
  (tmp_path / "rows.jsonl").write_bytes(as_jsonl(rows))
  model = TinyModel(tmp_path / "model").path
  options = {"model.path": model, "data.path": tmp_path / "rows.jsonl", "data.eval_fraction": 0.0, "train.steps": 2}
  options |= {"batch.size": 4, "batch.rows": 1, "batch.row_length": 32, "evaluation.every": 0, "monitor.prompts": 0}
  options |= {"checkpoint.every": 0, "optimizer.warmup_steps": 0, "logging.plots": False}
  config = tmp_path / "config.py"
  config.write_text("from dpojax.config import base\n\n\ndef get_config():\n  return base()\n")
  words = [f"--config.{key}={value}" for key, value in options.items()]
  seen = []
  for name, kept in (("without", ""), ("first", "tokens"), ("second", "tokens")):
    train(config, tmp_path / name, *words, **{FOLDER: str(tmp_path / kept) if kept else ""})
    read = [entry.stat().st_mtime > 1000 for entry in entries(tmp_path)]
    assert read == ([True] if kept else [])
    for entry in entries(tmp_path):
      os.utime(entry, (1000, 1000))
    seen.append((timeless_metrics(tmp_path / name), json.loads((tmp_path / name / "data.json").read_text())))
  assert seen[0] == seen[1] == seen[2]
