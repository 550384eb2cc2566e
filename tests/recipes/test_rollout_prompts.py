"""Prompts that a policy gradient answers, and those kept apart for looks: files of every kind, limits, and refusals."""

import dataclasses
import json

import numpy as np
import pytest
from jax.sharding import AbstractMesh

from dpojax.config.keys import replace_values
from dpojax.config.schema import RunConfig
from dpojax.data.prompts import answered_in_words
from dpojax.errors import ConfigError, DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.parallel.mesh import AXES
from dpojax.parallel.rules import check_rows
from dpojax.recipes.monitoring import held_out_prompts
from dpojax.recipes.prompts import rollout_prompts
from dpojax.rollout.packed_rows import PackedRows, minibatch_shape, split_rows
from dpojax.training.model_files import load, new_model
from dpojax.training.run_folder import RunFolder
from tests.training.runs import write_tiny_model

TEMPLATE = (
  "{% for m in messages %}{{ 'word1 ' if m.role == 'user' else 'word2 ' }}{{ m.content }}"
  "{{ ' <eos> ' if m.role == 'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}word2{% endif %}"
)
ROWS = 20


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
  """A model of 64 positions whose words are word0 ... word29, without a template."""
  return load(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


def words(number):
  return f"word{number % 10 + 3} word{number // 10 + 3}"


def chat(number):
  before = [{"role": "user", "content": "word9"}, {"role": "assistant", "content": "word8 word7"}]
  return [*before, {"role": "user", "content": words(number)}]


def config(path, **changes):
  values = {
    "recipe": "policy_gradient",
    "model.path": "m",
    "data.source": "file",
    "data.path": str(path),
    "rollout.reward": "length",
    "rollout.max_tokens": 8,
    "batch.row_length": 48,
    "monitor.prompts": 4,
    "monitor.max_tokens": 8,
  }
  return replace_values(RunConfig(), values | changes)


def write(folder, rows, name="rows.jsonl"):
  path = folder / name
  path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
  return path


def ids(policy, text):
  return policy.tokenizer.encode(text)


def hh(number, side):
  return f"\n\nHuman: {words(number)}\n\nAssistant: word5 word{6 if side == 'chosen' else 7}"


def test_equal_prompts_are_counted_and_said(policy, tmp_path):
  rows = [{"prompt": words(i % 6)} for i in range(9)]
  path, eval_path = write(tmp_path, rows), write(tmp_path, [{"prompt": "word29"}], "eval.jsonl")
  settings = config(path, **{"data.eval_path": str(eval_path)})
  prompts, _ = rollout_prompts(settings, policy)
  assert len(prompts) == 9 and prompts.counts["duplicate_prompts"] == 3 and prompts.counts["kept"] == 9
  folder = RunFolder(tmp_path / "run", settings)
  folder.begin({})
  folder.say_prompts(prompts)
  folder.close()
  assert "data: 9 prompts are answered, among them 3 duplicate prompts\n" in (tmp_path / "run" / "log.txt").read_text()
  found = json.loads((tmp_path / "run" / "data.json").read_text())
  assert (found["answered"], found["answered_different"], found["prompts"]["duplicate_prompts"]) == (9, 6, 3)
  prompts, _ = rollout_prompts(replace_values(settings, {"data.duplicates": "drop"}), policy)
  assert len(prompts) == 6 and prompts.counts["duplicate_prompts"] == 0
  assert answered_in_words(prompts) == "6 prompts are answered"


FORMS = {
  "prompts": lambda i: {"prompt": words(i), "topic": f"t{i}"},
  "lines": words,
  "completions": lambda i: {"prompt": words(i), "completion": "word6 word7"},
  "pairs": lambda i: {"prompt": words(i), "chosen": "word6", "rejected": "word7 word7"},
  "ids": lambda i: {"prompt_ids": [5, i + 2]},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_rows_gives_its_prompts(policy, tmp_path, form):
  name = "rows.txt" if form == "lines" else "rows.jsonl"
  path = write(tmp_path, [FORMS[form](i) for i in range(ROWS)], name)
  kept, held = rollout_prompts(config(path), policy)
  found = {row.ids.tobytes() for row in (*kept, *held)}
  expected = [[5, i + 2] if form == "ids" else ids(policy, words(i)) for i in range(ROWS)]
  assert found == {np.asarray(row, np.int32).tobytes() for row in expected}
  assert kept.counts["rows"] == kept.counts["kept"] == ROWS
  if form == "prompts":
    assert all(row.details == {"topic": f"t{row.number}"} for row in kept)


def test_pairs_in_hh_form_and_messages_go_through_the_template(policy, tmp_path):
  templated = dataclasses.replace(policy, tokenizer=policy.tokenizer.with_template(TEMPLATE))
  pairs = write(tmp_path, [{side: hh(i, side) for side in ("chosen", "rejected")} for i in range(ROWS)])
  talks = write(
    tmp_path, [{"messages": [*chat(i), {"role": "assistant", "content": "word6"}]} for i in range(ROWS)], "m.jsonl"
  )
  for path, text in ((pairs, "word1 {} word2"), (talks, "word1 word9 word2 word8 word7 <eos> word1 {} word2")):
    kept, held = rollout_prompts(config(path), templated)
    for row in (*kept, *held):
      assert row.ids.tolist() == ids(policy, text.format(words(row.number)))
      assert isinstance(row.given, list) and row.given[-1] == {"role": "user", "content": words(row.number)}


def test_messages_without_a_template_are_refused(policy, tmp_path):
  path = write(tmp_path, [{"messages": chat(i)} for i in range(ROWS)])
  with pytest.raises(DataError, match="template"):
    rollout_prompts(config(path), policy)


def test_ids_under_a_template_are_refused(policy, tmp_path):
  templated = dataclasses.replace(policy, tokenizer=policy.tokenizer.with_template(TEMPLATE))
  path = write(tmp_path, [FORMS["ids"](i) for i in range(ROWS)])
  with pytest.raises(DataError, match=r"rows\.jsonl:1: its prompt is given as token ids"):
    rollout_prompts(config(path), templated)


@pytest.mark.parametrize("fraction, count", [(0.1, 2), (0.5, 10), (0.0, 0), (0.01, 1)])
def test_prompts_are_kept_apart_for_looks(policy, tmp_path, fraction, count):
  path = write(tmp_path, [FORMS["prompts"](i % ROWS) for i in range(2 * ROWS)])  # every prompt twice
  settings = config(path, **{"data.eval_fraction": fraction})
  kept, held = rollout_prompts(settings, policy)
  apart = {row.ids.tobytes() for row in held}
  assert len(held) == len(apart) == count
  assert not apart & {row.ids.tobytes() for row in kept}
  assert len(kept) == 2 * (ROWS - count)
  looked_at, notes = held_out_prompts(settings, policy, held)
  assert [row.number for row in looked_at] == [row.number for row in held][:4]
  assert bool(notes) == (0 < count < 4)


def test_a_file_of_held_out_prompts_takes_them_from_the_training_ones(policy, tmp_path):
  path = write(tmp_path, [FORMS["prompts"](i) for i in range(ROWS)])
  other = write(tmp_path, [FORMS["pairs"](i) for i in range(15, 25)], "held.jsonl")
  kept, held = rollout_prompts(config(path, **{"data.eval_path": str(other)}), policy)
  assert [row.number for row in kept] == list(range(15))
  assert len(held) == 10 and held[0].where.startswith(str(other))
  with pytest.raises(DataError, match="no prompt is left to train on: 20 are held out of 20"):
    rollout_prompts(config(path, **{"data.eval_path": str(path)}), policy)


def test_the_first_prompts_are_taken_where_a_number_is_given(policy, tmp_path):
  path = write(tmp_path, [FORMS["prompts"](i) for i in range(ROWS)])
  kept, _ = rollout_prompts(config(path, **{"rollout.prompts": 5, "data.eval_fraction": 0.0}), policy)
  assert [row.number for row in kept] == [0, 1, 2, 3, 4]
  assert kept.counts["rows"] == ROWS


@pytest.mark.parametrize(
  "rows, said",
  [
    ([], "it holds no rows"),
    ([{"prompt": ""}] * 3, "none of its 3 rows gives a prompt: 3 empty prompt; .*rows.jsonl:1: its prompt is empty"),
    ([{"chosen": 1, "rejected": "word3", "prompt": 2}], "none of its 1 rows gives a prompt: 1 malformed"),
    ([{"ask": "word3"}], "columns ask hold no prompt"),
    ([{"prompt": " ".join(["word3"] * 60)}], "none of its 1 rows gives a prompt: 1 prompt too long; .* more than 40"),
  ],
)
def test_a_file_without_a_prompt_that_can_be_used_says_why(policy, tmp_path, rows, said):
  with pytest.raises(DataError, match=said):
    rollout_prompts(config(write(tmp_path, rows)), policy)


def test_prompts_that_leave_no_room_are_dropped_and_counted(policy, tmp_path):
  path = write(tmp_path, [{"prompt": " ".join([f"word{i}"] * (38 + i))} for i in range(6)])
  kept, _ = rollout_prompts(config(path, **{"data.eval_fraction": 0.0}), policy)
  assert [len(row.ids) for row in kept] == [38, 39, 40]  # with 8 more tokens they fill a row of 48
  assert kept.counts["dropped/prompt_too_long"] == 3
  kept, _ = rollout_prompts(
    config(path, **{"data.eval_fraction": 0.0, "batch.row_length": 100, "rollout.max_tokens": 25}), policy
  )
  assert [len(row.ids) for row in kept] == [38, 39]  # and the 64 positions of the model


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"batch.row_length": 9}, "more than 1, what rollout.max_tokens=8 leaves of batch.row_length=9"),
    (
      {"rollout.max_tokens": 60, "batch.row_length": 256},
      "more than 4, what rollout.max_tokens=60 leaves of the model's 64 positions",
    ),
    ({"data.max_prompt": 3}, "more than 3, data.max_prompt"),
  ],
)
def test_what_leaves_no_room_for_a_prompt_is_named(policy, tmp_path, changes, said):
  path = write(tmp_path, [" ".join(["word3"] * 7)], "prompts.txt")
  with pytest.raises(DataError) as caught:
    rollout_prompts(config(path, **changes), policy)
  assert str(caught.value).endswith(f"prompts.txt:1: its prompt has 7 tokens, {said}")


def test_a_word_that_the_policy_lacks_is_named_with_its_row(tmp_path):
  policy = load(write_tiny_model(tmp_path / "tiny"))
  words = Tokenizer.from_words([f"word{i}" for i in range(10)], eos="<eos>")  # no token for unknown words
  path = write(tmp_path, ["word1 word2", "word3", "word1 zebra"], "prompts.txt")
  with pytest.raises(DataError) as caught:
    rollout_prompts(config(path), dataclasses.replace(policy, tokenizer=words))
  assert str(caught.value) == f"{path}:3: tokenizer: the word 'zebra' is not in its vocabulary of 11"


@pytest.mark.parametrize("world", [False, True])
def test_answers_longer_than_the_models_positions_are_refused(policy, tmp_path, world):
  given = {"data.source": "world", "data.name": "complaint_desk", "data.path": ""} if world else {}
  settings = config(
    write(tmp_path, [FORMS["prompts"](0)]), **given, **{"rollout.max_tokens": 64, "batch.row_length": 200}
  )
  with pytest.raises(
    ConfigError, match=r"rollout.max_tokens=64 leaves no room for a prompt in the model's 64 positions"
  ):
    rollout_prompts(settings, policy)


def test_a_worlds_prompts_need_room_for_their_answers():
  world = {"data.source": "world", "data.name": "complaint_desk", "data.path": "", "rollout.reward": "auto"}
  few = new_model(replace_values(RunConfig(), {**world, "rollout.reward": "auto", "batch.row_length": 40}))
  settings = config("", **world, **{"rollout.max_tokens": 30, "batch.row_length": 200, "rollout.prompts": 50})
  with pytest.raises(
    ConfigError,
    match=r"rollout\.max_tokens=30 after the longest prompt of data\.name=complaint_desk \(\d+ tokens\) passes the 40 "
    r"positions of the model; lower it, or give another model\.path",
  ):
    rollout_prompts(settings, few)
  kept, held = rollout_prompts(config("", **world, **{"rollout.prompts": 50, "batch.row_length": 200}), few)
  assert len(kept) == 50 and held == []  # a world gives those of looks itself


def test_looks_without_a_held_out_prompt_are_left_out_or_refused(policy, tmp_path):
  path = write(tmp_path, [FORMS["prompts"](i) for i in range(ROWS)])
  settings = config(path, **{"data.eval_fraction": 0.0})
  _, held = rollout_prompts(settings, policy)
  assert held_out_prompts(settings, policy, held) == ([], [])
  settings = config(path, **{"data.eval_fraction": 0.0, "monitor.every": 4})
  with pytest.raises(DataError, match=r"monitor\.every=4 is set, but no prompt is held out"):
    held_out_prompts(settings, policy, held)


def test_rows_that_the_devices_do_not_divide_are_refused():
  check_rows(6, AbstractMesh((3, 1, 1), AXES))  # pyright: ignore[reportArgumentType]
  with pytest.raises(
    ConfigError, match=r"batch\.rows: 4 rows a group do not divide by the 6 devices .*a multiple of 6"
  ):
    check_rows(4, AbstractMesh((3, 2, 1), AXES))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("minibatches", [1, 2, 4])
def test_there_is_a_row_for_every_minibatch(minibatches):
  """However many prompts a row could hold: a step without rows would still move what has momentum."""
  draws = np.random.default_rng(0)
  prompts = [draws.integers(1, 9, draws.integers(2, 5)) for _ in range(8)]
  answers = [[draws.integers(1, 9, draws.integers(1, 4)) for _ in range(2)] for _ in prompts]
  shape = minibatch_shape(
    prompts=8, samples=2, longest_prompt=4, shortest_prompt=2, max_tokens=3, minibatches=minibatches, rows=1, length=500
  )
  rows = PackedRows(prompts, answers, shape)
  parts = split_rows(rows.count, minibatches, np.arange(rows.count))
  assert len(parts) == minibatches and min(map(len, parts)) >= 1
  assert np.concatenate(parts).tolist() == list(range(rows.count))
  for part in parts:
    rows.batch(part)  # fits the static shape
