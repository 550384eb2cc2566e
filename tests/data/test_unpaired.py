"""Single answers made from pairs, and their mismatched partners."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpojax.config.schema import DataSettings
from dpojax.data.examples import TokenDataset, TokenExample, as_ids
from dpojax.data.splits import read_splits
from dpojax.data.unpaired import unpaired, with_mismatched
from dpojax.errors import DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import Answers


def example(prompt, *answers, **details):
  return TokenExample(as_ids(prompt), tuple(as_ids(a) for a in answers), **details)


def plain(dataset):
  """[(prompt, answers, label)] as lists."""
  return [
    (dataset[i].prompt.tolist(), [a.tolist() for a in dataset[i].answers], dataset[i].label)
    for i in range(len(dataset))
  ]


def test_a_pair_becomes_a_desirable_and_an_undesirable_answer():
  dataset = TokenDataset([example([1, 2], [3], [4, 5], weight=0.5), example([6], [7], label=0.0)])
  singles = unpaired(dataset)
  assert plain(singles) == [([1, 2], [[3]], 1.0), ([1, 2], [[4, 5]], 0.0), ([6], [[7]], 0.0)]
  assert [singles[i].weight for i in range(3)] == [0.5, 0.5, 1.0]
  assert [singles[i].index for i in range(3)] == [0, 1, 2]


def test_a_tie_says_nothing_of_either_answer_and_is_counted():
  dataset = TokenDataset([example([1], [3], [4], label=0.5), example([1], [3], [4])], counts={"rows": 2})
  singles = unpaired(dataset)
  assert len(singles) == 2
  assert singles.counts == {"rows": 2, "dropped/ties": 1}
  with pytest.raises(DataError, match="every pair is a tie"):
    unpaired(dataset.subset([0]))


def test_a_ranking_is_refused_with_its_place():
  dataset = TokenDataset([example([1], [3], [4], [5])], metadata=[{"row": "ranked.jsonl:1"}])
  with pytest.raises(DataError, match=r"ranked.jsonl:1: it has 3 answers"):
    unpaired(dataset)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12).filter(lambda prompts: len(set(prompts)) > 1))
def test_a_partner_is_the_next_answer_to_another_prompt(prompts):
  dataset = TokenDataset([example([1 + p], [10 + i]) for i, p in enumerate(prompts)])
  paired = with_mismatched(dataset, row_length=16, max_positions=16)
  for i, prompt in enumerate(prompts):
    following = [j % len(prompts) for j in range(i + 1, i + len(prompts))]
    partner = next(j for j in following if prompts[j] != prompt)  # brute force
    assert paired[i].answers[1].tolist() == [10 + partner]
    assert paired[i].answers[0].tolist() == [10 + i]


def test_a_partner_that_does_not_fit_is_cut_on_the_right():
  dataset = TokenDataset([example([1, 1], [2, 2, 2]), example([3], np.arange(4, 12))])
  paired = with_mismatched(dataset, row_length=12, max_positions=6)
  assert paired[0].answers[1].tolist() == [4, 5, 6, 7]  # 2 prompt tokens + 4 = 6 positions
  assert paired[1].answers[1].tolist() == [2, 2, 2]  # 9 tokens in the row, 3 left
  with pytest.raises(DataError, match="leave no room in a row of 9"):
    with_mismatched(dataset, row_length=9, max_positions=16)


def test_one_prompt_alone_has_no_partner():
  dataset = TokenDataset([example([1], [2]), example([1], [3])])
  with pytest.raises(DataError, match="all examples have the same prompt"):
    with_mismatched(dataset, row_length=16, max_positions=16)


def test_examples_of_one_held_out_prompt_are_compared_with_answers_of_training():
  held_out = TokenDataset([example([1], [2]), example([1], [3]), example([1], [4])])
  train = TokenDataset([example([1], [7]), example([5], [8]), example([6], [9])])
  paired = with_mismatched(held_out, row_length=16, max_positions=16, others=train)
  assert [paired[i].answers[-1].tolist() for i in range(3)] == [[8], [9], [8]]
  two = TokenDataset([example([1], [2]), example([5], [3])])  # of two prompts, each other's
  assert plain(with_mismatched(two, row_length=16, max_positions=16, others=train)) == plain(
    with_mismatched(two, row_length=16, max_positions=16)
  )
  with pytest.raises(DataError, match="all examples of the held-out part have the same prompt"):
    with_mismatched(held_out, row_length=16, max_positions=16, others=train.subset([0]), part="the held-out part")


def test_one_held_out_prompt_of_a_file_is_enough():
  rows = [{"prompt": p, "completion": "c", "label": n % 2 == 0} for n, p in enumerate("abde")]
  words = Tokenizer.from_words(list("abcde"), eos="<end>")
  splits = read_splits(
    DataSettings(eval_fraction=0.25),
    words,
    answers=Answers.UNPAIRED,
    row_length=32,
    max_positions=32,
    vocab_size=words.vocab_size,
    rows=rows,
    mismatched=True,
  )
  assert len(splits.held_out) == 1 and len(splits.held_out[0].answers) == 2


def test_labels_and_margins_are_part_of_what_a_data_set_is():
  base = TokenDataset([example([1], [2], [3])])
  assert base.fingerprint == TokenDataset([example([1], [2], [3], label=1.0, margin=0.0)]).fingerprint
  others = [TokenDataset([example([1], [2], [3], **d)]).fingerprint for d in ({"label": 0.5}, {"margin": 0.5})]
  assert len({base.fingerprint, *others}) == 3


@pytest.mark.parametrize(("label", "kind"), [(1.0, "desirable"), (0.0, "undesirable")])
def test_answers_of_one_label_are_named(label, kind):
  dataset = TokenDataset([example([1], [2], label=label), example([3], [4], label=label)])
  assert unpaired(dataset).warnings == [f"all 2 answers are {kind} (label): nothing is told of the other kind"]
  assert not unpaired(TokenDataset([example([1], [2]), example([3], [4], label=0.0)])).warnings
