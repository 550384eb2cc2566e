"""Scores against a reward that is known, as that of a built-in environment."""

from collections.abc import Sequence

import numpy as np
import scipy

from dpojax.evaluation.estimates import number
from dpojax.evaluation.scored_pairs import ScoredRow

ROUNDING = 1e-14  # of the largest value: what a sum of float64 may leave of a difference that is 0


def against_gold_reward(rows: Sequence[ScoredRow]) -> dict[str, float | int | None] | None:
  """Correlations with the true reward over the answers of all rows that carry it; None where none does.

  A Bradley-Terry reward is known only up to a number added to all answers of a prompt, so two kinds are given:
  over all answers as they stand (`pearson`, `spearman`), and of what is left after the mean of its prompt's answers
  is taken from each score and each true reward (`pearson_within`). An answer that stands in several rows counts
  as often. None where one side does not vary.
  """
  known = [row for row in rows if row.true_reward is not None]
  if not known:
    return None
  scores = np.concatenate([row.scores for row in known])
  gold_reward = np.concatenate([np.asarray(row.true_reward, np.float64) for row in known])
  prompt = np.concatenate([np.full(len(row.scores), row.prompt, np.int64) for row in known])
  return {
    "pearson": number(pearson(scores, gold_reward)),
    "spearman": number(pearson(scipy.stats.rankdata(scores), scipy.stats.rankdata(gold_reward))),
    "pearson_within": number(pearson(centred(scores, prompt), centred(gold_reward, prompt))),
    "answers": len(scores),
  }


def pearson(x: np.ndarray, y: np.ndarray) -> float:
  """Correlation; NaN where one side does not vary."""
  everyone = np.zeros(len(x), np.int64)
  x, y = centred(x, everyone), centred(y, everyone)
  size = np.sqrt(np.sum(x**2)) * np.sqrt(np.sum(y**2))
  return float(np.sum(x * y) / size) if size > 0 else float("nan")


def centred(values: np.ndarray, prompt: np.ndarray) -> np.ndarray:
  """Each value minus the mean over its prompt; exactly 0 where only rounding is left."""
  _, inverse = np.unique(prompt, return_inverse=True)
  means = np.bincount(inverse, weights=values) / np.bincount(inverse)
  rest = values - means[inverse]
  return np.where(np.abs(rest) <= ROUNDING * np.max(np.abs(values)), 0.0, rest)
