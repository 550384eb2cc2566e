"""Built-in worlds: made-up text whose true reward is known, so that what a method gains can be measured.

A world gives prompts, answers to learn writing from, and a reward. `sft_rows` and `pair_rows` turn
these into rows as a data file would hold them.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from dpojax.data.worlds.complaint_desk import ComplaintDesk
from dpojax.errors import ConfigError

__all__ = ["World", "end_token", "get_world", "pair_rows", "ranking_rows", "sft_rows"]

end_token = "<eos>"  # what ends an answer in the vocabulary of every world


class World(Protocol):
  """What a world offers. All of it is a pure function of its arguments."""

  name: str
  words: list[str]  # every word of prompts and answers; text is words between single spaces

  def prompts(self, n: int, seed: int, split: str = "train") -> list[str]:
    """`n` prompts of the split "train" or "held_out"; the splits share none."""
    ...

  def answer(self, prompt: str, seed: int | Sequence[int]) -> str:
    """An answer of mixed quality, for supervised fine-tuning."""
    ...

  def good_answer(self, prompt: str) -> str:
    """An answer of high reward."""
    ...

  def reward(self, prompt: str, answer: str) -> float:
    """The true reward of any answer, special tokens left out."""
    ...

  def display(self, text: str) -> str:
    """A text as a person would write it."""
    ...


_WORLDS: dict[str, type[World]] = {ComplaintDesk.name: ComplaintDesk}


def get_world(name: str) -> World:
  """The world of that name.

  Raises:
    ConfigError: there is none.
  """
  if name not in _WORLDS:
    raise ConfigError(f"data.name: no built-in world {name!r}; there is {', '.join(sorted(_WORLDS))}")
  return _WORLDS[name]()


def sft_rows(world: World, n: int, seed: int, split: str = "train") -> list[dict[str, str]]:
  """`n` prompts with one answer each: rows {"prompt", "completion"}."""
  prompts = world.prompts(n, seed, split)
  return [{"prompt": p, "completion": world.answer(p, (seed, i))} for i, p in enumerate(prompts)]


def ranking_rows(
  world: World,
  prompts: Sequence[str],
  answers_per_prompt: Sequence[Sequence[str]],
  label: str,
  seed: int,
  size: int = 0,
) -> list[dict]:
  """The different answers to a prompt as a ranking.

  Args:
    world: gives the reward.
    prompts: N prompts.
    answers_per_prompt: N lists of answers, without special tokens.
    label: "bradley_terry": drawn by Plackett-Luce, answer i next with probability exp(r_i) / sum of exp(r_j)
      over those left, so that any two answers are in the order in which `pair_rows` puts them, with the same
      probability; "highest": by reward, the first written first among equals.
    seed: of the draws; the draws for a prompt depend on nothing but `seed` and its place.
    size: answers of a row; every choice of that many becomes a row. 0: all in one row.

  Returns:
    Rows {"prompt", "answers", "rewards"}, best answer first; prompts with fewer than two (or `size`)
    different answers are left out.
  """
  _check_label(label)
  rows = []
  for place, (prompt, answers) in enumerate(zip(prompts, answers_per_prompt, strict=True)):
    different = list(dict.fromkeys(answers))
    rewards = np.asarray([world.reward(prompt, answer) for answer in different])
    # Sorting by reward plus Gumbel noise draws from Plackett-Luce (Yellott 1977).
    noise = np.random.default_rng([seed, place, 1]).gumbel(size=len(different))
    order = np.argsort(-rewards - (noise if label == "bradley_terry" else 0), kind="stable").tolist()
    for chosen in itertools.combinations(order, size or max(len(order), 2)):
      rows.append(
        {"prompt": prompt, "answers": [different[i] for i in chosen], "rewards": [float(rewards[i]) for i in chosen]}
      )
  return rows


def pair_rows(
  world: World,
  prompts: Sequence[str],
  answers_per_prompt: Sequence[Sequence[str]],
  label: str,
  seed: int,
) -> list[dict]:
  """Every two different answers to a prompt as a pair, labelled by the true reward.

  Args:
    world: gives the reward.
    prompts: N prompts.
    answers_per_prompt: N lists of answers, without special tokens.
    label: "bradley_terry": answer i beats j with probability sigmoid(r_i - r_j); "highest": the
      higher reward wins, and pairs of equal reward are left out.
    seed: of the draws; the draws for a prompt depend on nothing but `seed` and its place.

  Returns:
    Rows {"prompt", "chosen", "rejected", "reward_chosen", "reward_rejected"}, prompts in order.
  """
  _check_label(label)
  rows = []
  for place, (prompt, answers) in enumerate(zip(prompts, answers_per_prompt, strict=True)):
    uniform = np.random.default_rng([seed, place]).random(len(answers) ** 2).reshape(len(answers), -1)
    rewards = [world.reward(prompt, answer) for answer in answers]
    for i, j in itertools.combinations(range(len(answers)), 2):
      difference = rewards[i] - rewards[j]
      if answers[i] == answers[j] or (label == "highest" and difference == 0):
        continue
      first_wins = difference > 0 if label == "highest" else uniform[i, j] < 1 / (1 + np.exp(-difference))
      won, lost = (i, j) if first_wins else (j, i)
      rows.append(
        {
          "prompt": prompt,
          "chosen": answers[won],
          "rejected": answers[lost],
          "reward_chosen": rewards[won],
          "reward_rejected": rewards[lost],
        }
      )
  return rows


def _check_label(label: str) -> None:
  if label not in ("bradley_terry", "highest"):
    raise ConfigError(f"pairs.label is {label!r}; choose bradley_terry or highest")
