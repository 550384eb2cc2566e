"""Sampled answers and their rewards as rows of data: pairs, whole rankings, and all choices of three."""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.data.prompts import PromptRow
from dpojax.rollout.answers_file import SampledAnswer
from dpojax.rollout.comparisons import pairs_of, ranking_of

Row = dict[str, Any]
LEFT_OUT = {
  "identical": "of identical answers",
  "not_chosen": "not chosen",
  "below_margin": "below the least margin",
  "tied": "of equal rewards",
}


@dataclasses.dataclass(frozen=True)
class ComparisonRows:
  """Rows of each kind, in the order of the prompts.

  Attributes:
    pairs: format `explicit`, or `conversational` where the prompt is messages.
    rankings, triples: format `ranked`: all different answers to a prompt, and every three of them, best first.
    counts: "prompts"; "alike", of which all answers are the same; "answers"; "cut", which ended at the limit; and what
      became of every two answers to a prompt, see `comparisons.Pairs`.
  """

  pairs: list[Row]
  rankings: list[Row]
  triples: list[Row]
  counts: Mapping[str, int]

  @property
  def summary(self) -> str:
    """What was compared, and what was left out."""
    counts = self.counts
    drawn = sum(pair["reward_chosen"] < pair["reward_rejected"] for pair in self.pairs)
    left_out = [f"{counts[key]:,} {words}" for key, words in LEFT_OUT.items() if counts[key]]
    return (
      f"{counts['answers']:,} answers to {counts['prompts']:,} prompts, {counts['cut']:,} cut at the limit"
      + (f"; pairs left out: {', '.join(left_out)}" if left_out else "")
      + (f"; in {drawn:,} pairs the lower reward was drawn as the winner" if drawn else "")
      + (f"; {counts['alike']:,} prompts have one distinct answer" if counts["alike"] else "")
    )


def comparison_rows(
  prompts: Sequence[PromptRow],
  answers: Sequence[Sequence[SampledAnswer]],
  rewards: Sequence[np.ndarray],
  *,
  reward: str,
  choose: str,
  label: str,
  min_margin: float,
  seed: int,
) -> ComparisonRows:
  """Rows {"prompt", "chosen", "rejected", "reward_chosen", "reward_rejected"} and {"prompt", "answers", "rewards"}.

  All of them carry "row" and "samples", where in the file of answers theirs stand, best first, and "reward", the name of
  what ordered them. Rankings and triples hold all different answers, whatever pairs are chosen.

  Args:
    prompts: answered.
    answers: of each prompt.
    rewards: f64[N] of each prompt's.
    reward: its name.
    choose, label, min_margin, seed: as of `pairs_of`; a prompt's place is the number of its row.
  """
  pairs, rankings, triples = [], [], []
  counts = collections.Counter(prompts=len(prompts), answers=sum(map(len, answers)), **dict.fromkeys(LEFT_OUT, 0))
  counts |= {"pairs": 0, "alike": 0, "cut": 0}
  for row, several, values in zip(prompts, answers, rewards, strict=True):
    texts = [answer.text for answer in several]
    counts["cut"] += sum(not answer.finished for answer in several)
    counts["alike"] += len(set(texts)) == 1
    found = pairs_of(texts, values, choose=choose, label=label, min_margin=min_margin, seed=seed, place=row.number)
    counts.update(found.counts)
    pairs += [_pair(row, texts, values, places, reward) for places in found.won_lost]
    order = ranking_of(texts, values, label=label, seed=seed, place=row.number)
    if len(order) > 1:
      rankings.append(_ranking(row, texts, values, order, reward))
    triples += [_ranking(row, texts, values, places, reward) for places in itertools.combinations(order, 3)]
  return ComparisonRows(pairs, rankings, triples, dict(counts))


def _pair(row: PromptRow, texts: Sequence[str], rewards: np.ndarray, places: tuple[int, ...], name: str) -> Row:
  chosen, rejected = (
    [{"role": "assistant", "content": texts[i]}] if isinstance(row.given, list) else texts[i] for i in places
  )
  won, lost = (float(rewards[i]) for i in places)
  answers = {"chosen": chosen, "rejected": rejected, "reward_chosen": won, "reward_rejected": lost}
  return {**row.columns, **answers, **_origin(row, places, name)}


def _ranking(row: PromptRow, texts: Sequence[str], rewards: np.ndarray, places: tuple[int, ...], name: str) -> Row:
  answers = {"answers": [texts[i] for i in places], "rewards": [float(rewards[i]) for i in places]}
  return {**row.columns, **answers, **_origin(row, places, name)}


def _origin(row: PromptRow, places: tuple[int, ...], name: str) -> Row:
  return {"row": row.number, "samples": list(places), "reward": name}
