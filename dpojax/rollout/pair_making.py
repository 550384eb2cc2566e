"""Pairs among the answers of a roll-out, how many prompts they take, and the shape that every step of them fits."""

from collections.abc import Sequence

import numpy as np

from dpojax.config.schema import BatchSettings, OnlineSettings
from dpojax.data.packing import BatchShape
from dpojax.errors import ConfigError
from dpojax.rollout.comparisons import BELOW_MARGIN, IDENTICAL, NOT_CHOSEN, TIED, WRITTEN, pairs_of


def make_pairs(
  texts: Sequence[str], score: np.ndarray, samples: int, settings: OnlineSettings, *, seed: int, first: int
) -> tuple[np.ndarray, dict[str, int]]:
  """Which answers are compared and which win.

  Answers 0 .. K - 1 to a prompt are compared as `settings.choose` says. Where the opponent is the reference, which wrote
  the second half of them, answer j of the policy meets answer j of the reference.

  Args:
    texts, score: of A answers, those to a prompt side by side.
    samples: K, answers a prompt.
    seed, first: all that draws depend on; `first` is the number of the first prompt.

  Returns:
    (i64[N, 2] answers (winner, loser), what became of all pairs that could be: see `comparisons.Pairs`).
  """
  half = samples // 2
  groups = [(j, half + j) for j in range(half)] if settings.opponent == "reference" else [tuple(range(samples))]
  pairs: list[tuple[int, int]] = []
  counts: dict[str, int] = dict.fromkeys((WRITTEN, IDENTICAL, TIED, BELOW_MARGIN, NOT_CHOSEN), 0)
  for prompt in range(len(texts) // samples):
    for g, group in enumerate(groups):
      answers = [prompt * samples + k for k in group]
      found = pairs_of(
        [texts[a] for a in answers],
        score[answers],
        choose=settings.choose,
        label=settings.label,
        min_margin=settings.min_margin,
        seed=seed,
        place=(first + prompt) * len(groups) + g,
      )
      counts = {name: count + found.counts[name] for name, count in counts.items()}
      pairs += [(answers[won], answers[lost]) for won, lost in found.won_lost]
  return np.asarray(pairs, np.int64).reshape(-1, 2), counts


def prompts_of_rollout(batch_size: int, samples: int, settings: OnlineSettings) -> int:
  """P, the prompts whose pairs make `refresh` steps in `epochs` passes, where no pair is left out."""
  of_prompt = {
    "all": samples * (samples - 1) // 2,
    "adjacent": samples - 1,
    "best_worst": 1,
    "best_random": 1,
  }[settings.choose]
  if settings.opponent == "reference":
    of_prompt = samples // 2
  return max(1, int(np.ceil(settings.refresh * batch_size / settings.epochs / of_prompt)))


def pair_shape(
  batch: BatchSettings, *, longest_prompt: int, shortest_prompt: int, max_tokens: int, score_prompt: bool = False
) -> BatchShape:
  """The static shape that every step of every roll-out fits, from limits alone: nothing compiles anew on the way.

  Args:
    batch: of the stage; its `scored` and `examples` hold where they are given.
    longest_prompt, shortest_prompt: tokens.
    max_tokens: of an answer.
    score_prompt: the prompt's tokens are scored too.

  Raises:
    ConfigError: the longest prompt and two answers may not fit a row.
  """
  copies = 1 if batch.share_prompt else 2
  tokens = copies * longest_prompt + 2 * max_tokens
  if tokens > batch.row_length:
    raise ConfigError(
      f"batch.row_length={batch.row_length} has no room for the longest prompt ({longest_prompt} tokens) and two answers "
      f"of rollout.max_tokens={max_tokens}, which take {tokens}; raise it, or set data.max_prompt"
    )
  needed, scored = 2 * max_tokens + score_prompt * (longest_prompt - 1), batch.scored or batch.row_length
  if scored < needed:
    raise ConfigError(
      f"batch.scored={scored} has no room for two answers of rollout.max_tokens={max_tokens}"
      f"{' and their prompt, which the loss reads' * score_prompt}; set it to {needed} or more, or to 0"
    )
  return BatchShape(
    groups=-(-batch.size // batch.rows),
    rows=batch.rows,
    length=batch.row_length,
    scored=scored,
    examples=batch.examples or min(batch.size, batch.row_length // (copies * shortest_prompt + 2)),
    answers=2 + score_prompt,
    score_prompt=score_prompt,
  )
