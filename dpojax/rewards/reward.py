"""What a reward is: a function of prompts and answers that gives a number for each."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

Message = dict[str, Any]  # role and content, both text, and other keys that the data have
Prompt = str | list[Message]


@dataclasses.dataclass(frozen=True)
class PromptedAnswer:
  """An answer and the prompt that it answers.

  Attributes:
    prompt: the text or the messages exactly as the data have them: no template applied, nothing stripped.
    answer: the answer's text, special tokens left out.
    prompt_ids: i32[P] what the policy read, template and BOS included; None where the answer was not sampled by it.
    answer_ids: i32[A] what the policy wrote, EOS included where it wrote one; None as above.
    finished: whether the answer ended by itself, not at a limit.
    details: other columns of the prompt's row.
  """

  prompt: Prompt
  answer: str
  prompt_ids: np.ndarray | None = None
  answer_ids: np.ndarray | None = None
  finished: bool = True
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Reward(Protocol):
  """A number for every answer: higher is better."""

  @property
  def name(self) -> str:
    """How records call it: metrics are `reward/NAME`."""
    ...

  @property
  def fingerprint(self) -> str:
    """Of all that decides its values, where it is known; "" where it is not (a service, a clock)."""
    ...

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    """f64[N], in the order of `answers`, each as if it stood alone.

    Raises:
      DataError: an answer cannot be scored; names its prompt.
    """
    ...


class Judge(Protocol):
  """Which of two answers to a prompt is better."""

  @property
  def name(self) -> str: ...
  @property
  def fingerprint(self) -> str: ...

  def __call__(self, first: Sequence[PromptedAnswer], second: Sequence[PromptedAnswer]) -> np.ndarray:
    """f64[N] in [0, 1]: the probability that the first is better; 1/2 is a tie. Both orders are asked and averaged."""
    ...
