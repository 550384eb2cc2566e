"""Every Bradley-Terry reward loss in float64, written down from its formula: the oracle of the reward losses.

Plain loops, no code of dpojax. Rewards are scores of whole answers; see `oracle_parts.py` for how the same functions
give derivatives.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from oracle_parts import log_sum_exp, loss_l, sigmoid, smoothed

WIN, TIE, LOSS = 1.0, 0.5, 0.0  # what was seen of the first answer of a pair


@dataclasses.dataclass(frozen=True)
class Rewards:
  """Scores of B pairs.

  Attributes:
    chosen, rejected: one score each.
    margin: by how much the chosen answer should win at least; None: 0.
    label: WIN, TIE or LOSS of the answer called chosen; None: all WIN.
    weight: of each pair; None: all 1.
  """

  chosen: Sequence[Any]
  rejected: Sequence[Any]
  margin: Sequence[float] | None = None
  label: Sequence[float] | None = None
  weight: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True)
class RankedRewards:
  """Scores of up to K answers of B prompts, best first; `present` says which exist, None: all."""

  reward: Sequence[Sequence[Any]]
  present: Sequence[Sequence[bool]] | None = None
  weight: Sequence[float] | None = None

  def rows(self) -> list[list]:
    present = self.present or [[True] * len(row) for row in self.reward]
    return [[r for r, there in zip(*row, strict=True) if there] for row in zip(self.reward, present, strict=True)]


def outcomes(rewards: Rewards) -> list[tuple]:
  """(lead of the chosen answer, label, centre term) of every pair; a margin is taken from the winner's lead."""
  size = len(rewards.chosen)
  each = zip(
    rewards.chosen, rewards.rejected, rewards.margin or [0.0] * size, rewards.label or [WIN] * size, strict=True
  )
  sign = {WIN: 1, TIE: 0, LOSS: -1}
  return [(w - l - sign[label] * margin, label, (w + l) ** 2) for w, l, margin, label in each]  # noqa: E741


def bradley_terry(rewards: Rewards, *, label_smoothing=0.0, centring=0.0):
  """L(r_w - r_l - margin), smoothed, + centring (r_w + r_l)^2; a tie is half a win of each. arXiv:2312.09244, Eq. 2."""
  values = []
  for lead, label, centre in outcomes(rewards):
    won, lost = smoothed(lead, label_smoothing), smoothed(-lead, label_smoothing)
    values.append({WIN: won, TIE: (won + lost) / 2, LOSS: lost}[label] + centring * centre)
  return values


def rao_kupper_probabilities(difference, theta):
  """P(win), P(tie), P(loss), arXiv:2410.05328 (BTT): theta >= 1, of which 1 is Bradley-Terry without ties."""
  win, lose = sigmoid(difference - np.log(theta)), sigmoid(-difference - np.log(theta))
  return win, (theta**2 - 1) * win * lose, lose


def davidson_probabilities(difference, nu):
  """P(win), P(tie), P(loss): exp(r_1), nu exp((r_1 + r_2) / 2), exp(r_2), normalised; 0 is Bradley-Terry."""
  total = np.exp(difference / 2) + nu + np.exp(-difference / 2)
  return np.exp(difference / 2) / total, nu / total, np.exp(-difference / 2) / total


def rao_kupper(rewards: Rewards, *, theta, centring=0.0):
  """-log likelihood of what was seen, written without the probabilities, which underflow."""
  values = []
  for lead, label, centre in outcomes(rewards):
    win, lose = loss_l(lead - np.log(theta)), loss_l(-lead - np.log(theta))
    tie = win + lose - np.log(theta**2 - 1) if theta > 1 else np.inf
    values.append({WIN: win, TIE: tie, LOSS: lose}[label] + centring * centre)
  return values


def davidson(rewards: Rewards, *, nu, centring=0.0):
  values = []
  for lead, label, centre in outcomes(rewards):
    exponents = {WIN: lead / 2, LOSS: -lead / 2}
    if nu > 0:
      exponents[TIE] = np.log(nu) + 0 * lead
    values.append(log_sum_exp(list(exponents.values())) - exponents[label] + centring * centre)
  return values


def plackett_luce(rewards: RankedRewards):
  """Sum over places k of log sum_{j >= k} e^{r_j} - r_k: a prompt weighs 1, however many answers it has."""
  return [sum(log_sum_exp(row[k:]) - row[k] for k in range(len(row))) for row in rewards.rows()]


def all_pairs(rewards: RankedRewards):
  """InstructGPT, arXiv:2203.02155, Eq. 1: the mean of L(r_i - r_j) over the pairs i before j; 0 with one answer."""
  values = []
  for row in rewards.rows():
    losses = [loss_l(better - worse) for better, worse in itertools.combinations(row, 2)]
    values.append(sum(losses) / len(losses) if losses else 0.0)
  return values
