"""Several models that score the same answers: their mean, and where they disagree."""

from collections.abc import Sequence

import numpy as np

from dpojax.evaluation.estimates import fraction, mean
from dpojax.evaluation.scored_pairs import wins


def combine(members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(f64[K] mean score, f64[K] disagreement) of f64[M, K] scores by M members.

  Disagreement is the standard deviation over members (divided by M), after the mean over the row's answers is
  taken from each member's scores: a reward is known only up to a constant, and two members that differ by one agree.
  """
  relative = members - np.mean(members, axis=1, keepdims=True)
  return np.mean(members, axis=0), np.std(relative, axis=0)


def ensemble_figures(margins: np.ndarray, prompt: np.ndarray) -> dict:
  """Accuracy of each member, and how it depends on whether they agree.

  Args:
    margins: f64[M, N] score of the better minus that of the worse answer, by each member.
    prompt: i64[N].
  """
  agreed = np.all(margins > 0, axis=0) | np.all(margins < 0, axis=0)
  joint = wins(np.mean(margins, axis=0))
  return {
    "members": len(margins),
    "accuracy_of_each": [fraction(wins(row), prompt).to_json() for row in margins],
    "margin_disagreement": mean(np.std(margins, axis=0), prompt).to_json(),
    "unanimous": fraction(agreed.astype(np.float64), prompt).to_json(),
    "accuracy_when_unanimous": fraction(joint[agreed], prompt[agreed]).to_json(),
    "accuracy_otherwise": fraction(joint[~agreed], prompt[~agreed]).to_json(),
  }


def stack_margins(rows: Sequence[np.ndarray], levels: Sequence[np.ndarray]) -> np.ndarray:
  """f64[M, N] margins, in `compare`'s order, of rows of f64[M, K] scores; tied rows are for the caller to leave out."""
  found = []
  for scores, level in zip(rows, levels, strict=True):
    better, worse = np.nonzero(level[:, None] < level[None, :])
    found.append(scores[:, better] - scores[:, worse])
  return np.concatenate(found, axis=1)
