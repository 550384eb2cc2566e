"""Conversations: every turn is learned after exactly what it would stand after alone, in as few examples as that allows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.config.schema import BatchSettings, DataSettings
from dpojax.data import Batches, TokenDataset, TokenExample, dataset_from_rows, load_dataset
from dpojax.data.doctor import gist, lengths, rows_report
from dpojax.data.show import show_row
from dpojax.data.token_cache import decode, encode
from dpojax.data.turns import Turn, join
from dpojax.errors import DataError
from dpojax.types import Answers
from tests.data.test_sources import as_jsonl

# As Qwen 3's: the reasoning of a turn is written while it is the last, and never again.
FORGETFUL = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and loop.last %}{{ '(' + (m.reasoning_content or '') + ')' }}{% endif %}{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def user(text):
  return {"role": "user", "content": text}


def assistant(text, **others):
  return {"role": "assistant", "content": text, **others}


TALK = [
  user("hello there"),
  assistant("yes, hello."),
  user("what is the sky?"),
  assistant("blue"),
  user("now?"),
  assistant("no"),
]


def read(rows, tokenizer, *, row_length=512, **options):
  return dataset_from_rows(rows, DataSettings(**options), tokenizer, answers=Answers.ONE, row_length=row_length)


def learned_turns(dataset):
  """(tokens before, tokens of) every stretch of learned tokens, of all examples in order."""
  found = []
  for i in range(len(dataset)):
    example = dataset[i]
    whole = np.concatenate([example.prompt, example.answers[0]]).tolist()
    mask = example.learned[0] if example.learned else np.ones(len(example.answers[0]), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]]))).tolist()
    for start, end in zip(edges[::2], edges[1::2], strict=True):
      at = len(example.prompt)
      found.append((whole[: at + start], whole[at + start : at + end]))
  return found


def alone(conversations, tokenizer, **options):
  """The same of conversations read for their last turn only."""
  return learned_turns(read([{"messages": talk} for talk in conversations], tokenizer, train_turns="last", **options))


@pytest.mark.slow
@pytest.mark.parametrize("after_eos", ["drop", "keep"])
@pytest.mark.parametrize("name", ["chatml", "llama"])
def test_every_turn_stands_after_what_it_would_stand_after_alone(name, after_eos, request):
  tokenizer = request.getfixturevalue(name)
  data = read([{"messages": TALK}], tokenizer, after_eos=after_eos)
  assert len(data) == 1 and data.counts["turns"] == 3 and data.counts["turns_apart"] == 0
  assert learned_turns(data) == alone([TALK[:2], TALK[:4], TALK], tokenizer, after_eos=after_eos)
  assert data[0].scored == sum(len(turn) for _, turn in learned_turns(data)) < data[0].answer_tokens
  assert data.metadata[0]["given"] == [TALK[0]]
  assert data.metadata[0]["answers"] == [
    "yes, hello.\n\nuser: what is the sky?\n\nassistant: blue\n\nuser: now?\n\nassistant: no"
  ]


def test_the_last_turn_alone_is_learned_where_that_is_asked_for(chatml):
  data = read([{"messages": TALK}], chatml, train_turns="last")
  assert data[0].learned == () and chatml.decode(data[0].answers[0]) == "no<|im_end|>"
  assert data.metadata[0]["given"] == TALK[:-1] and data.counts["turns"] == 0


def test_only_whole_conversations_have_turns_to_learn(chatml):
  pair = {"prompt": TALK[:-1], "chosen": [TALK[-1]], "rejected": [assistant("maybe")]}
  for row in (pair, {"prompt": TALK[:-1], "completion": [TALK[-1]]}):
    data = read([row], chatml)
    assert data[0].learned == () and chatml.decode(data[0].answers[0]) == "no<|im_end|>"


def test_a_template_that_forgets_gives_every_turn_an_example_and_says_so(chatml):
  talk = [message | ({"reasoning_content": "hm"} if message["role"] == "assistant" else {}) for message in TALK]
  tokenizer = chatml.with_template(FORGETFUL)
  data = read([{"messages": talk}, {"messages": talk[:2]}], tokenizer, eval_fraction=0.0)
  assert len(data) == 4 and data.counts["kept"] == 2 and data.counts["turns_apart"] == 2
  assert learned_turns(data) == alone([talk[:2], talk[:4], talk, talk[:2]], tokenizer)
  assert (
    "turns apart: 2 of 4 turns; rows[0]: the template (or a limit) gives a later turn another history"
    in data.warnings[0]
  )
  assert "2 turns apart" in gist(data.counts) and "(4 turns)" in gist(data.counts)
  assert "apart, history differs" in rows_report(data, data)


def test_turns_of_one_conversation_are_held_out_together(chatml, tmp_path):
  talks = [[user(f"question {i}"), *TALK[1:]] for i in range(12)]
  path = tmp_path / "talks.jsonl"
  path.write_bytes(as_jsonl([{"messages": talk} for talk in talks]))
  options = DataSettings(path=str(path), eval_fraction=0.3)
  tokenizer = chatml.with_template(FORGETFUL)
  train, held_out = load_dataset(options, tokenizer, answers=Answers.ONE, row_length=512)
  rows = [{part.metadata[i]["number"] for i in range(len(part))} for part in (train, held_out)]
  assert len(train) + len(held_out) == 36 and not rows[0] & rows[1] and len(rows[1]) == 4
  held = tmp_path / "held.jsonl"
  held.write_bytes(as_jsonl([{"messages": talks[0][:2]}]))
  options = DataSettings(path=str(path), eval_path=str(held))
  train, _ = load_dataset(options, tokenizer, answers=Answers.ONE, row_length=512)
  assert len(train) == 33 and train.counts["kept"] == 11 and train.counts["dropped/held_out_prompt"] == 1


LEFT_OUT = {
  "flagged": ([TALK[0], assistant("yes", weight=0), *TALK[2:4]], 1, 0),
  "flagged false": ([TALK[0], assistant("yes", train=False), *TALK[2:4]], 1, 0),
  "flagged true": ([TALK[0], assistant("yes", train=True), TALK[2], assistant("blue", weight="1")], 2, 0),
  "empty": ([TALK[0], assistant(""), *TALK[2:4]], 1, 1),
  "nothing before it": ([assistant("hello"), *TALK[2:4]], 1, 1),
  "after another": ([*TALK[:2], assistant("and"), *TALK[2:4]], 2, 1),
  "a question at the end": ([*TALK[:4], user("more?")], 2, 0),
}


@pytest.mark.parametrize(("talk", "turns", "left_out"), LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_turns_that_cannot_be_learned_are_read_and_counted(chatml, talk, turns, left_out):
  data = read([{"messages": TALK}, {"messages": talk}], chatml)
  assert (data.counts["turns"], data.counts["turns_left_out"]) == (3 + turns, left_out)
  assert data.counts["kept"] == len(data) == 2
  for before, turn in learned_turns(data)[3:]:
    text = chatml.decode(before)
    assert text.endswith("<|im_start|>assistant\n") and len(turn) > 1
  whole = chatml.decode(np.concatenate([data[1].prompt, data[1].answers[0]]))
  spoken = talk[: max(i for i, message in enumerate(talk) if message["role"] == "assistant") + 1]
  assert whole == "\n".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>" for m in spoken)
  assert any("turns left out" in warning and "rows[1]" in warning for warning in data.warnings) == bool(left_out)


@pytest.mark.parametrize(
  ("talk", "why"),
  [
    ([TALK[0]], "fit no known format|no message of the assistant"),
    ([TALK[0], assistant("yes", weight=0)], "no message of the assistant that its flags let be learned"),
    ([TALK[0], assistant("yes", weight=0.5), *TALK[2:4]], "message 1 of column 'messages' has 'weight' 0.5"),
  ],
)
def test_a_conversation_without_a_turn_to_learn_is_malformed(chatml, talk, why):
  with pytest.raises(DataError, match=why):
    read([{"messages": talk}], chatml)


def test_turns_beyond_a_limit_are_left_out_and_those_before_stay(chatml):
  sizes = [len(before) + len(turn) for before, turn in alone([TALK[:2], TALK[:4], TALK], chatml)]
  data = read([{"messages": TALK}], chatml, row_length=sizes[1])
  assert learned_turns(data) == alone([TALK[:2], TALK[:4]], chatml)
  assert data.counts["turns_left_out"] == 1 and "example too long" in data.warnings[0]
  with pytest.raises(DataError, match="1 example_too_long"):
    read([{"messages": TALK}], chatml, row_length=sizes[0] - 1)


def test_a_turn_whose_history_is_cut_is_an_example_of_its_own(chatml):
  sizes = [len(before) + len(turn) for before, turn in alone([TALK[:2], TALK[:4], TALK], chatml)]
  options = {"row_length": sizes[1], "overlong": "truncate_left"}
  data = read([{"messages": TALK}], chatml, **options)
  assert [len(data[i].prompt) + len(data[i].answers[0]) for i in range(len(data))] == [sizes[1], sizes[1]]
  assert learned_turns(data) == alone([TALK[:2], TALK[:4], TALK], chatml, **options)


def test_calls_of_tools_are_turns_too(chatml):
  call = {"type": "function", "function": {"name": "sky", "arguments": {"town": "Rome"}}}
  template = chatml.chat_template.replace("message['content']", "message['content'] ~ (message.tool_calls or '')")
  talk = [user("sky?"), assistant("", tool_calls=[call]), {"role": "tool", "content": "blue"}, assistant("it is blue")]
  data = read([{"messages": talk}], chatml.with_template(template))
  assert data.counts["turns"] == 2 and data.counts["turns_apart"] == 0
  (_, first), (_, second) = [[chatml.decode(ids) for ids in turn] for turn in learned_turns(data)]
  assert "'name': 'sky'" in first and second == "it is blue<|im_end|>"


def test_a_mask_is_part_of_what_a_data_set_is_and_is_kept_on_disk():
  example = TokenExample(np.arange(1, 4), (np.arange(5, 10),), learned=(np.asarray([1, 1, 0, 0, 1], bool),))
  others = [TokenExample(np.arange(1, 4), (np.arange(5, 10),)), TokenExample(np.arange(2, 4), (np.arange(5, 8),))]
  data = TokenDataset([others[0], example, others[1]])
  assert data.fingerprint != TokenDataset([others[0], others[0], others[1]]).fingerprint
  entry = encode(data)
  assert entry is not None
  again = decode(entry)
  assert again.fingerprint == data.fingerprint
  assert [[mask.tolist() for mask in again[i].learned] for i in range(3)] == [
    [],
    [[True, True, False, False, True]],
    [],
  ]


@pytest.mark.parametrize(("mask", "why"), [([1, 0], "other lengths"), ([0, 0, 0], "no token of an answer is learned")])
def test_masks_that_cannot_be_are_refused(mask, why):
  with pytest.raises(DataError, match=why):
    TokenDataset.from_examples([TokenExample(np.arange(3), (np.arange(3),), learned=(np.asarray(mask, bool),))])


def test_a_packed_row_scores_the_turns_and_nothing_else(chatml):
  data = read([{"messages": TALK}], chatml)
  batches = Batches(data, BatchSettings(size=1, rows=1, row_length=512))
  batch = batches(0)
  assert int(batch.filled.sum()) == data[0].scored
  view = show_row(batch, chatml, dataset=data)
  scored = "".join(token.text for token in view.examples[0].answers[0] if token.scored)
  assert scored == "yes, hello.<|im_end|>blue<|im_end|>no<|im_end|>"
  assert "⟦blue<|im_end|>⟧" in str(view) and lengths(data)["learned tokens"] == [data[0].scored]


IDS = st.lists(st.integers(0, 2), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(IDS, IDS, st.booleans()), min_size=1, max_size=6))
def test_joined_turns_are_the_turns_that_were_given(parts):
  turns, history = [], []
  for question, answer, forgets in parts:
    history = (history[1:] if forgets else history) + question
    turns.append(Turn(list(history), list(answer)))
    history = history + answer
  groups = join(turns)
  assert [i for group in groups for i in group.members] == list(range(len(turns)))
  for group in groups:
    whole = group.prompt + group.answer
    mine = [turns[i] for i in group.members]
    for turn in mine:
      assert whole[: len(turn.prompt) + len(turn.answer)] == turn.prompt + turn.answer
    spans = {p for turn in mine for p in range(len(turn.prompt), len(turn.prompt) + len(turn.answer))}
    assert spans == {len(group.prompt) + i for i in np.flatnonzero(group.learned).tolist()}
