"""Token data sets: identity, lengths, limits."""

import numpy as np
import pytest

from dpojax.data import TokenDataset, TokenExample
from dpojax.errors import DataError

PAIR = ([1, 2, 3], [[4, 5], [6]])


def test_fingerprint_sees_every_token_boundary_weight_and_origin():
  base = TokenDataset.from_examples([PAIR]).fingerprint
  assert base == TokenDataset.from_examples([PAIR]).fingerprint
  others = [
    TokenDataset.from_examples([([1, 2, 4], [[4, 5], [6]])]),
    TokenDataset.from_examples([([1, 2], [[3, 4, 5], [6]])]),
    TokenDataset.from_examples([([1, 2, 3], [[6], [4, 5]])]),
    TokenDataset.from_examples([PAIR, PAIR]),
    TokenDataset.from_examples([PAIR], origin="another tokenizer"),
    TokenDataset.from_examples([TokenExample(np.int32([1, 2, 3]), (np.int32([4, 5]), np.int32([6])), weight=0.5)]),
  ]
  assert len({base, *(other.fingerprint for other in others)}) == len(others) + 1


def test_examples_are_numbered_and_subsets_renumbered():
  dataset = TokenDataset.from_examples([PAIR] * 4, metadata=[{"row": f"f.jsonl:{i}"} for i in range(4)])
  assert [dataset[i].index for i in range(4)] == [0, 1, 2, 3]
  part = dataset.subset([3, 1])
  assert [part[i].index for i in range(2)] == [0, 1]
  assert [part.where(i) for i in range(2)] == ["f.jsonl:3", "f.jsonl:1"]


def test_positions_beyond_the_model_name_the_row():
  dataset = TokenDataset.from_examples([PAIR], metadata=[{"row": "pairs.jsonl:7"}])
  dataset.check_positions(5)
  with pytest.raises(
    DataError, match=r"pairs\.jsonl:7: prompt and longest answer have 5 tokens, but the model takes 4"
  ):
    dataset.check_positions(4)


def test_empty_parts_are_refused():
  with pytest.raises(DataError, match="example 1: the prompt is empty"):
    TokenDataset.from_examples([PAIR, ([], [[1]])])
  with pytest.raises(DataError, match="example 0: an answer is empty"):
    TokenDataset.from_examples([([1], [[1], []])])


def test_longest_segment_counts_prompt_and_all_answers():
  assert TokenDataset.from_examples([PAIR, ([1], [[2] * 9])]).longest_segment == 10
