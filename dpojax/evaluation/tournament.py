"""A tournament of policies: their answers to common prompts play each other, and Bradley-Terry strengths rank them.

::

  rewards f64[P, J] -> games: at every prompt every two policies, in both orders
    -> P(i wins) = sigmoid(r_i - r_j), drawn -> strengths, intervals, ranks that they leave open

A game is what a pair of recipe=pairs is, so this says how well comparisons alone would order the policies; the true order
is that of their mean rewards.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dpojax.bradley_terry import Comparisons, Pseudo, fit, leaderboard


def play(rewards: np.ndarray, names: Sequence[str], games: int, seed: int = 0) -> Comparisons:
  """The games of a tournament.

  Args:
    rewards: f64[P, J] of one answer of each of J policies to each of P prompts.
    names: of the policies.
    games: G of every two policies at every prompt; who is named first takes turns.
    seed: of the draws.

  Returns:
    P * J (J - 1) / 2 * G games, clustered by prompt: those of one prompt share their answers.
  """
  prompts, policies = rewards.shape
  first, second = np.triu_indices(policies, 1)
  pair = np.tile(np.arange(len(first)), games)
  swapped = np.repeat(np.arange(games) % 2 == 1, len(first))
  first, second = np.where(swapped, second[pair], first[pair]), np.where(swapped, first[pair], second[pair])
  chance = 1 / (1 + np.exp(rewards[:, second] - rewards[:, first]))  # [P, games]
  won = np.random.default_rng(seed).random(chance.shape) < chance
  winner, loser = np.where(won, first, second), np.where(won, second, first)
  called = np.asarray(names, object)
  cluster = np.repeat(np.arange(prompts), len(first))
  return Comparisons.from_pairs(called[winner.ravel()], called[loser.ravel()], items=list(names), cluster=cluster)


def tournament(rewards: np.ndarray, names: Sequence[str], games: int, seed: int = 0) -> dict[str, Any]:
  """Strengths of the policies, the strongest first, beside the true order; arguments as `play`.

  Strengths are log-odds, their mean 0, so that differences are comparable with those of rewards where games are one
  Bradley-Terry model; intervals (95 %) and ranks count prompts, not games, as independent. A policy that won or lost every
  game has strengths pulled to the others by one game's worth of draws (`bradley_terry.Pseudo`).

  Returns:
    {"games", "prompts", "prior" (whether draws were added), "items": [{"name", "strength", "low", "high", "rank",
    "rank_low", "rank_high", "wins", "games", "true_rank", "reward"}, ...]}; ranks from 1, equal rewards share one.
  """
  played = play(rewards, names, games, seed)
  found = fit(played, on_disconnected="prior", prior=None)
  board = leaderboard(found, scale=1, base=np.e, offset=0, kind="cluster")
  means = np.mean(rewards, axis=0)
  items = []
  for row in board:
    reward = float(means[list(names).index(row["item"])])
    items.append(
      {
        "name": row["item"],
        "strength": float(row["rating"]),
        "low": float(row["low"]),
        "high": float(row["high"]),
        "rank": row["rank"],
        "rank_low": row["rank_low"],
        "rank_high": row["rank_high"],
        "wins": float(row["wins"]),
        "games": float(row["games"]),
        "true_rank": int(1 + np.sum(means > reward)),
        "reward": reward,
      }
    )
  return {
    "games": len(played),
    "prompts": len(rewards),
    "prior": isinstance(found.prior, Pseudo),
    "items": items,
  }
