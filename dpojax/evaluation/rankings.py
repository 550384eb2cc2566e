"""Rows of more than two answers: whether the best comes first and how well the order is kept."""

from collections.abc import Sequence

import numpy as np

from dpojax.evaluation.estimates import Estimate, fraction, mean
from dpojax.evaluation.scored_pairs import ScoredRow


def top_one(scores: np.ndarray, level: np.ndarray) -> float:
  """1 if the highest score is that of an answer of the best level; of m answers sharing it, their fraction of the best.

  With one best answer this is RewardBench 2's rule: 1/m where the best answer is one of m with the highest score.
  """
  highest = scores == np.max(scores)
  return float(np.mean(level[highest] == np.min(level)))


def kendall_tau(scores: np.ndarray, level: np.ndarray) -> float:
  """(concordant - discordant) / pairs of different level, in [-1, 1]; equal scores count 0. NaN without a pair.

  Kendall's tau where neither side has ties.
  """
  better, worse = np.nonzero(level[:, None] < level[None, :])
  return float(np.mean(np.sign(scores[better] - scores[worse]))) if len(better) else float("nan")


def rankings(rows: Sequence[ScoredRow]) -> dict[str, Estimate]:
  """Figures that count every row once, however many answers it has: `top_one`, `kendall_tau`, `ordered_pairs`."""
  compared = [row for row in rows if not row.tied and np.ptp(row.level) > 0]
  prompt = np.asarray([row.prompt for row in compared], np.int64)
  first = np.asarray([top_one(row.scores, row.level) for row in compared])
  tau = np.asarray([kendall_tau(row.scores, row.level) for row in compared])
  return {
    "top_one": fraction(first, prompt),
    "kendall_tau": mean(tau, prompt),
    "ordered_pairs": fraction((tau + 1) / 2, prompt),
  }
