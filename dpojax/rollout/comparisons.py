"""Which of the answers to a prompt are compared, and which wins. NumPy only; pure functions of answers and rewards."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from dpojax.data.rankings import chosen_places
from dpojax.errors import ConfigError

IDENTICAL, NOT_CHOSEN, BELOW_MARGIN, TIED, WRITTEN = "identical", "not_chosen", "below_margin", "tied", "pairs"
CHOICES = ("all", "best_worst", "best_random", "adjacent")
LABELS = ("bradley_terry", "highest")


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Comparisons among the N answers to one prompt.

  Attributes:
    won_lost: places (winner, loser).
    counts: what became of each of the N (N - 1) / 2 pairs of answers: "pairs" (in `won_lost`), "identical" (the same
      text), "not_chosen", "below_margin" or "tied" (equal rewards under label="highest").
  """

  won_lost: tuple[tuple[int, int], ...]
  counts: Mapping[str, int]


def pairs_of(
  answers: Sequence[str],
  rewards: Sequence[float] | np.ndarray,
  *,
  choose: str = "all",
  label: str = "bradley_terry",
  min_margin: float = 0.0,
  seed: int = 0,
  place: int = 0,
) -> Pairs:
  """Pairs of different answers, each with a winner.

  Args:
    answers: N texts.
    rewards: f64[N]; the higher the better.
    choose: "all": every two answers. The others read different texts only, each where it stands first: "best_worst": the
      highest reward against the lowest; "best_random": the highest against one of the others, drawn; "adjacent":
      neighbours in the order of rewards. Among equal rewards the first written is the better.
    label: "bradley_terry": answer i beats j with probability sigmoid(r_i - r_j); "highest": the higher reward wins, and
      equal rewards make no pair.
    min_margin: pairs whose rewards differ by less are left out.
    seed, place: all that the draws depend on; `place` is the prompt's. The winner of two answers does not depend on what
      else is chosen.

  Returns:
    Pairs in the order of their places, the one that stands first before.

  Raises:
    ConfigError: no such `choose` or `label`.
  """
  _check("choose", choose, CHOICES)
  _check("label", label, LABELS)
  rewards = np.asarray(rewards, np.float64)
  count = len(answers)
  uniform = np.random.default_rng([seed, place]).random(count**2).reshape(count, -1)
  chosen = _chosen(answers, rewards, choose, seed, place)
  found: list[tuple[int, int]] = []
  counts: dict[str, int] = dict.fromkeys((WRITTEN, IDENTICAL, NOT_CHOSEN, BELOW_MARGIN, TIED), 0)
  for i, j in itertools.combinations(range(count), 2):
    difference = rewards[i] - rewards[j]
    if answers[i] == answers[j]:
      counts[IDENTICAL] += 1
    elif (i, j) not in chosen:
      counts[NOT_CHOSEN] += 1
    elif abs(difference) < min_margin:
      counts[BELOW_MARGIN] += 1
    elif label == "highest" and difference == 0:
      counts[TIED] += 1
    else:
      counts[WRITTEN] += 1
      first_wins = difference > 0 if label == "highest" else uniform[i, j] < _sigmoid(difference)
      found.append((i, j) if first_wins else (j, i))
  return Pairs(tuple(found), counts)


def ranking_of(
  answers: Sequence[str],
  rewards: Sequence[float] | np.ndarray,
  *,
  label: str = "bradley_terry",
  seed: int = 0,
  place: int = 0,
) -> tuple[int, ...]:
  """Places of the different answers, best first; of equal texts that of the first.

  Args:
    answers, rewards, seed, place: as of `pairs_of`.
    label: "bradley_terry": drawn by Plackett-Luce, answer i next with probability exp(r_i) / sum of exp(r_j) over those
      left, so that any two answers are in the order in which `pairs_of` puts them, with the same probability;
      "highest": by reward, the first written first among equals.

  Raises:
    ConfigError: no such `label`.
  """
  _check("label", label, LABELS)
  different = _different(answers)
  # Sorting by reward plus Gumbel noise draws from Plackett-Luce (Yellott 1977).
  noise = np.random.default_rng([seed, place, 1]).gumbel(size=len(different))
  scores = np.asarray(rewards, np.float64)[different]
  order = np.argsort(-scores - (noise if label == "bradley_terry" else 0), kind="stable")
  return tuple(different[i] for i in order)


def _chosen(answers: Sequence[str], rewards: np.ndarray, choose: str, seed: int, place: int) -> set[tuple[int, int]]:
  """Pairs of places, the smaller first, that `choose` means."""
  if choose == "all":
    return set(itertools.combinations(range(len(answers)), 2))
  ordered = sorted(_different(answers), key=lambda i: (-rewards[i], i))
  if len(ordered) < 2:
    return set()
  if choose == "best_random":
    best, *others = ordered
    chosen = [(best, others[np.random.default_rng([seed, place, 2]).integers(len(others))])]
  else:
    chosen = [(ordered[i], ordered[j]) for i, j in chosen_places(len(ordered), choose)]
  return {(min(pair), max(pair)) for pair in chosen}


def _different(answers: Sequence[str]) -> list[int]:
  """Places of the different texts, each where it stands first."""
  found: dict[str, int] = {}
  for i, text in enumerate(answers):
    found.setdefault(text, i)
  return list(found.values())


def _sigmoid(x: float) -> float:
  with np.errstate(over="ignore"):
    return 1 / (1 + np.exp(-x))


def _check(name: str, value: str, known: Sequence[str]) -> None:
  if value not in known:
    raise ConfigError(f"pairs.{name} is {value!r}; choose {', '.join(known)}")
