"""What several models say of one file, row by row: members joined, labels read, and why a row is left out."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dpojax.data.annotations import read_annotations
from dpojax.data.dataset import prompt_keys
from dpojax.data.examples import TokenDataset
from dpojax.errors import DataError
from dpojax.evaluation.ensemble import combine
from dpojax.evaluation.scored_pairs import ScoredRow

ScoreKind = Literal["reward", "implicit", "sum", "mean"]


NOT_FINITE = "the model gives it a score that is not finite"


@dataclasses.dataclass(frozen=True)
class ModelScores:
  """A data set as one model, or one ensemble of heads, scores it.

  Attributes:
    kind: what the scores are.
    dataset: the rows that could be read, tokenised for this model.
    scores: f64[M, K] a row of it, by M members.
    reference: in words, for implicit rewards.
    beta: of implicit rewards.
  """

  kind: ScoreKind
  dataset: TokenDataset
  scores: list[np.ndarray]
  reference: str = ""
  beta: float | None = None


@dataclasses.dataclass(frozen=True)
class ScoredExample:
  """A row of the data that every member scored.

  Attributes:
    number: of the row as read, from 0.
    row: its mean scores and labels.
    members: f64[M, K] scores.
    disagreement: f64[K], see `evaluation.ensemble.combine`; zeros for one member.
    id: the row's own name, where the data have one.
  """

  number: int
  row: ScoredRow
  members: np.ndarray
  disagreement: np.ndarray
  id: str = ""


def combined(
  models: Sequence[ModelScores], *, subset: str = "subset"
) -> tuple[list[ScoredExample], list[tuple[int, str]]]:
  """The rows that every model scored, with the labels of the data, and why each other row is left out.

  Token counts are the first model's. A pair is a tie where its column `tie` is true. The true reward is in
  `reward_chosen` and `reward_rejected`, or in `rewards`, a list.

  Args:
    models: of one file read with the same settings.
    subset: the column that names the part of the data a row belongs to.
  """
  left_out: dict[int, str] = {}
  for model in models:
    for number, why in model.dataset.dropped:
      left_out.setdefault(number, why)
  places = [{m["number"]: i for i, m in enumerate(model.dataset.metadata)} for model in models]
  first = models[0].dataset
  keys = prompt_keys(first)
  found = []
  for number, i in places[0].items():
    if number in left_out:
      continue
    where, details = first.where(i), first.metadata[i]["details"]
    if len(first[i].answers) < 2:
      left_out[number] = f"{where}: it has one answer, and there is nothing to compare it with"
      continue
    members = np.concatenate([model.scores[at[number]] for model, at in zip(models, places, strict=True)])
    if not np.all(np.isfinite(members)):
      left_out[number] = f"{where}: {NOT_FINITE}"
      continue
    try:
      tied = read_annotations({"tie": details.get("tie")}, members.shape[1]).tie
    except DataError as error:
      left_out[number] = f"{where}: {error}"
      continue
    scores, disagreement = combine(members)
    row = ScoredRow(
      scores,
      np.asarray([len(answer) for answer in first[i].answers]),
      _levels(details, len(scores)),
      int.from_bytes(hashlib.sha256(keys[i]).digest()[:8], "big") >> 1,
      str(details.get(subset, "")),
      tied,
      _true_reward(details, len(scores)),
    )
    found.append(ScoredExample(number, row, members, disagreement, str(details.get("id", ""))))
  return sorted(found, key=lambda example: example.number), sorted(left_out.items())


def format_of(dataset: TokenDataset) -> str:
  """The name of the row format that the data set was read with."""
  return dataset.origin.partition(" ")[0]


def _levels(details: dict[str, Any], count: int) -> np.ndarray:
  """0 for the right answers and 1 for the wrong ones where the row says how many are right, else the order."""
  if "num_correct" in details:
    return (np.arange(count) >= details["num_correct"]).astype(np.int64)
  return np.arange(count)


def _true_reward(details: dict[str, Any], count: int) -> np.ndarray | None:
  values = details.get("rewards", [details.get("reward_chosen"), details.get("reward_rejected")])
  if len(values) != count or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
    return None
  return np.asarray(values, np.float64)
