"""Real preference pairs as token ids (`benchmarks/data/hh_tokens.jsonl.gz`), cut to a model's vocabulary and length."""

import gzip
import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).resolve().parents[1] / "data" / "hh_tokens.jsonl.gz"


def read_ids(pairs: int) -> list[dict[str, list[int]]]:
  """The first pairs: `prompt_ids`, `chosen_ids`, `rejected_ids`."""
  with gzip.open(FILE, "rt") as file:
    rows = [json.loads(line) for line in file]
  if pairs > len(rows):
    raise ValueError(f"{FILE} holds {len(rows)} pairs, not {pairs}")
  return rows[:pairs]


def read_rows(pairs: int, *, vocabulary: int, longest: int | None = None):
  """The first pairs as a `TokenDataset`, ids modulo the vocabulary, each part cut to a third of `longest` tokens."""
  from dpojax.data.examples import TokenDataset  # TRL's Python has no dpojax, and reads ids alone

  most = None if longest is None else longest // 3
  return TokenDataset.from_examples(
    [
      (
        np.asarray(row["prompt_ids"][:most]) % vocabulary,
        [np.asarray(row[side][:most]) % vocabulary for side in ("chosen_ids", "rejected_ids")],
      )
      for row in read_ids(pairs)
    ]
  )
