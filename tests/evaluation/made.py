"""Scored rows made for tests."""

import numpy as np

from dpojax.evaluation import ScoredRow


def pair(first, second, *, tokens=(10, 10), prompt=0, subset="", tied=False, truth=None):
  """A pair whose first answer is labelled the better one."""
  return ScoredRow(
    np.asarray([first, second], np.float64),
    np.asarray(tokens),
    np.asarray([0, 1]),
    prompt,
    subset,
    tied,
    None if truth is None else np.asarray(truth, np.float64),
  )


def from_margins(margins, prompts=None, tied=None):
  """Pairs of these margins, each with a prompt of its own unless told."""
  return [
    pair(margin, 0.0, prompt=i if prompts is None else int(prompts[i]), tied=tied is not None and bool(tied[i]))
    for i, margin in enumerate(margins)
  ]


def drawn(count, *, scale=1.0, spread=1.5, seed=0):
  """Pairs labelled by true logits d ~ N(0, spread^2), p(first wins) = sigmoid(d); margins are scale * d, signed."""
  generator = np.random.default_rng(seed)
  d = spread * generator.standard_normal(count)
  first_wins = generator.random(count) < 1 / (1 + np.exp(-d))
  return from_margins(scale * np.where(first_wins, d, -d))
