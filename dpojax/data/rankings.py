"""Pairs made of rankings: two answers of a row, the better one first."""

import dataclasses
import itertools

from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.errors import DataError

PAIRS, TIED, WITHOUT = "pairs", "pairs_tied", "rows_without_pair"  # counts


def expand(dataset: TokenDataset, choose: str) -> TokenDataset:
  """Every ranking as pairs, each an example of its own, so that a prompt is read once for each pair of its answers.

  Answers of equal scores make no pair, which is counted. Rows of two answers and no scores stay as they are::

      x: a 9, b 5, c 5        all: a > b, a > c    best_worst: a > c    adjacent: a > b

  The margin of a pair is the difference of its scores, where scores have one. A pair has its row's weight.

  Args:
    dataset: rankings, best first.
    choose: "all": every two answers; "best_worst": the first against the last; "adjacent": neighbours; "none": as it is.

  Raises:
    DataError: no two answers of any row differ in their scores.
  """
  if choose == "none":
    return dataset
  examples: list[TokenExample] = []
  metadata = []
  tied = without = 0
  for index in range(len(dataset)):
    example, about = dataset[index], dataset.metadata[index]
    if len(example.answers) == 2 and not example.scores:
      examples.append(example)
      metadata.append(about)
      continue
    places = chosen_places(len(example.answers), choose)
    chosen = [(i, j) for i, j in places if not (example.scores and example.scores[i] == example.scores[j])]
    tied += len(places) - len(chosen)
    without += not chosen
    for i, j in chosen:
      examples.append(_pair(example, i, j))
      texts = about.get("answers")
      metadata.append({**about, "answers": [texts[i], texts[j]]} if texts else about)
  if not examples:
    raise DataError(f"no pairs are left: data.pairs={choose}, and in all {without:,} rows the scores are equal")
  return TokenDataset(
    examples,
    metadata=metadata,
    counts=dict(dataset.counts) | {PAIRS: len(examples), TIED: tied, WITHOUT: without},
    notes=dataset.notes,
    warnings=dataset.warnings,
    dropped=dataset.dropped,
    origin=f"{dataset.origin} pairs={choose}",
  )


def chosen_places(answers: int, choose: str) -> list[tuple[int, int]]:
  """Places (better, worse) of the pairs that `choose` makes of a ranking of so many answers, see `expand`."""
  if choose == "best_worst":
    return [(0, answers - 1)]
  return list(itertools.pairwise(range(answers)) if choose == "adjacent" else itertools.combinations(range(answers), 2))


def _pair(example: TokenExample, i: int, j: int) -> TokenExample:
  margin = example.scores[i] - example.scores[j] if example.scores_have_units else example.margin
  answers = (example.answers[i], example.answers[j])
  return dataclasses.replace(example, answers=answers, margin=margin, label=1.0, scores=(), scores_have_units=False)
