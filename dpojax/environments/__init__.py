"""Built-in environments: made-up text whose true reward is known, so that what a method gains can be measured.

An environment gives prompts, answers to learn writing from, and a reward. `sft_rows` makes rows as a data file would hold
them; pairs are made of what a model writes, see `dpojax.recipes.pairs`.

`environments.bandit` has no text: arms of known reward, whose optimum and divergences are closed forms.
"""

from collections.abc import Sequence
from typing import Protocol

from dpojax.environments.complaint_desk import ComplaintDesk, ComplaintDeskGaps
from dpojax.errors import ConfigError

__all__ = ["Environment", "end_token", "get_environment", "sft_rows"]

end_token = "<eos>"  # what ends an answer in the vocabulary of every environment


class Environment(Protocol):
  """What an environment offers. All of it is a pure function of its arguments."""

  name: str
  words: list[str]  # every word of prompts and answers; text is words between single spaces

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits of prompts: "train", "held_out", then those that ask how a policy generalises."""
    ...

  def prompts(self, n: int, seed: int, split: str = "train") -> list[str]:
    """`n` prompts of a split; the splits share none."""
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


_ENVIRONMENTS: dict[str, type[Environment]] = {kind.name: kind for kind in (ComplaintDesk, ComplaintDeskGaps)}


def get_environment(name: str) -> Environment:
  """The environment of that name.

  Raises:
    ConfigError: there is none.
  """
  if name not in _ENVIRONMENTS:
    raise ConfigError(f"data.name: no built-in environment {name!r}; there is {', '.join(sorted(_ENVIRONMENTS))}")
  return _ENVIRONMENTS[name]()


World, get_world = Environment, get_environment  # their earlier names


def sft_rows(environment: Environment, n: int, seed: int, split: str = "train") -> list[dict[str, str]]:
  """`n` prompts with one answer each: rows {"prompt", "completion"}."""
  prompts = environment.prompts(n, seed, split)
  return [{"prompt": p, "completion": environment.answer(p, (seed, i))} for i, p in enumerate(prompts)]
