"""Turns of a conversation joined into one example, where the template lets them be.

Every turn is tokenised after its own history, as if it were the only one. A turn whose prompt begins with exactly the tokens
of the turn before, its history and its answer, goes on from it, and one pass over the row scores both::

    q1 a1 $                  q1 | a1 $
    q1 a1 $ q2 a2 $          q1 | a1 $ q2 a2 $        prompt | answer; q2 is read and not scored
               learned            +  + -  +  +

A template that writes history in another way (reasoning left out of earlier turns, say) breaks the chain, and the turn is
an example of its own: what is learned is always what the template gives.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

Ids = list[int]


@dataclasses.dataclass(frozen=True)
class Turn:
  """A turn as token ids: what stands before it, and itself."""

  prompt: Ids
  answer: Ids


@dataclasses.dataclass(frozen=True)
class Joined:
  """Turns that one example holds.

  Attributes:
    prompt: of the first of them.
    answer: all that follows it, up to the end of the last.
    learned: bool[A], which tokens of `answer` belong to a turn.
    members: positions of the turns, rising.
  """

  prompt: Ids
  answer: Ids
  learned: np.ndarray
  members: tuple[int, ...]


def join(turns: Sequence[Turn]) -> list[Joined]:
  """The turns of one conversation, in order, in as few examples as hold each after exactly its own prompt."""
  groups: list[list[int]] = []
  whole: Ids = []
  for i, turn in enumerate(turns):
    if groups and turn.prompt[: len(whole)] == whole:
      groups[-1].append(i)
    else:
      groups.append([i])
    whole = turn.prompt + turn.answer
  return [_joined(turns, members) for members in groups]


def _joined(turns: Sequence[Turn], members: Sequence[int]) -> Joined:
  first, last = turns[members[0]], turns[members[-1]]
  start = len(first.prompt)
  answer = (last.prompt + last.answer)[start:]
  learned = np.zeros(len(answer), bool)
  for turn in (turns[i] for i in members):
    learned[len(turn.prompt) - start : len(turn.prompt) - start + len(turn.answer)] = True
  return Joined(first.prompt, answer, learned, tuple(members))
