"""Rows of an environment: reproducible, and in the words of its tokenizer."""

import pytest

from dpojax.environments import end_token, get_environment, sft_rows
from dpojax.errors import ConfigError
from dpojax.interop.tokenizer import Tokenizer

WORLD = get_environment("complaint_desk")


@pytest.mark.slow
def test_sft_rows():
  rows = sft_rows(WORLD, 20, seed=4)
  assert rows == sft_rows(WORLD, 20, seed=4) != sft_rows(WORLD, 20, seed=5)
  assert rows[:10] == sft_rows(WORLD, 10, seed=4)
  assert rows[3]["completion"] == WORLD.answer(rows[3]["prompt"], (4, 3))
  assert all(set(row) == {"prompt", "completion"} for row in rows)
  held_out = {row["prompt"] for row in sft_rows(WORLD, 2000, 0, "held_out")}
  assert not held_out & {row["prompt"] for row in sft_rows(WORLD, 5000, 0)}


def test_a_word_tokenizer_keeps_every_text():
  tokenizer = Tokenizer.from_words(WORLD.words, eos=end_token)
  texts = [text for row in sft_rows(WORLD, 200, seed=0) for text in row.values()]
  assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts


def test_a_wrong_name():
  with pytest.raises(ConfigError, match=r"data.name: no built-in environment 'zoo'; there is complaint_desk"):
    get_environment("zoo")
