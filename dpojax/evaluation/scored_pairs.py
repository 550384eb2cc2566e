"""Scored answers, and the comparisons that their labels make: what every figure is computed from."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class ScoredRow:
  """One row of data, scored.

  Attributes:
    scores: f64[K], higher is better. Only differences within the row matter, except to correlations.
    tokens: i64[K] answer tokens.
    level: i64[K] by the labels, 0 the best; answers of equal level are not compared with each other.
    prompt: the same number for rows of the same prompt: what a model says of them is not independent.
    subset: name of the part of the data the row belongs to; empty: none.
    tied: a pair that the labels call equally good.
    true_reward: f64[K] where the data carry it.
  """

  scores: np.ndarray
  tokens: np.ndarray
  level: np.ndarray
  prompt: int
  subset: str = ""
  tied: bool = False
  true_reward: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class ScoredPairs:
  """N comparisons of two answers to one prompt, the first the better one by the label.

  Attributes:
    margin: f64[N], score of the first minus score of the second.
    tied: bool[N], pairs labelled as equally good; their order means nothing.
    tokens: i64[N, 2] answer tokens.
    prompt: i64[N], equal for comparisons of the same prompt.
    subset: [N] names.
  """

  margin: np.ndarray
  tied: np.ndarray
  tokens: np.ndarray
  prompt: np.ndarray
  subset: np.ndarray

  def __len__(self) -> int:
    return len(self.margin)

  def where(self, mask: np.ndarray) -> "ScoredPairs":
    """Those for which `mask` (bool[N]) holds."""
    return ScoredPairs(self.margin[mask], self.tied[mask], self.tokens[mask], self.prompt[mask], self.subset[mask])

  @property
  def decided(self) -> "ScoredPairs":
    """Those with a better answer: accuracy has no meaning for the others."""
    return self.where(~self.tied)


def compare(rows: Sequence[ScoredRow]) -> ScoredPairs:
  """Every two answers of a row that differ in level, and the two of a tied pair.

  A ranking of K answers gives K(K-1)/2 comparisons, m right and n wrong answers give m·n.
  """
  margins, tied, tokens, prompts, subsets = [], [], [], [], []
  for row in rows:
    if row.tied:
      better, worse = np.asarray([0]), np.asarray([1])
    else:
      better, worse = np.nonzero(row.level[:, None] < row.level[None, :])
    count = len(better)
    margins.append(row.scores[better] - row.scores[worse])
    tokens.append(np.stack([row.tokens[better], row.tokens[worse]], axis=1))
    tied.append(np.full(count, row.tied))
    prompts.append(np.full(count, row.prompt, np.int64))
    subsets += [row.subset] * count
  return ScoredPairs(
    np.concatenate([np.zeros(0), *margins]),
    np.concatenate([np.zeros(0, bool), *tied]),
    np.concatenate([np.zeros((0, 2), np.int64), *tokens]),
    np.concatenate([np.zeros(0, np.int64), *prompts]),
    np.asarray(subsets, dtype=object),
  )


def wins(margin: np.ndarray) -> np.ndarray:
  """f64[N]: 1 where the first answer's score is higher, 1/2 where both are equal, else 0."""
  return (margin > 0) + 0.5 * (margin == 0)
