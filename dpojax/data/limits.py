"""Examples over a length limit: dropped, or cut by a stated rule."""

import dataclasses
from collections.abc import Sequence

from dpojax.config.schema import DataSettings

Ids = list[int]


@dataclasses.dataclass(frozen=True)
class Limits:
  """The limits of a data set in tokens; 0: none.

  Attributes:
    prompt, answer: of a prompt, of an answer.
    example: of the prompt and its longest answer, that is of the largest position.
    row: of the prompt and all its answers, which share a row.
    overlong: "drop", or "truncate_left" or "truncate_right": the side on which prompts are cut.
    bos_id: kept in front when a prompt is cut on the left.
  """

  prompt: int
  answer: int
  example: int
  row: int
  overlong: str
  bos_id: int | None = None

  @classmethod
  def of(cls, settings: DataSettings, row_length: int, bos_id: int | None) -> "Limits":
    example = settings.max_example or row_length
    return cls(settings.max_prompt, settings.max_answer, example, row_length, settings.overlong, bos_id)


def fit(prompt: Ids, answers: Sequence[Ids], limits: Limits) -> tuple[Ids, list[Ids]] | str:
  """The example within its limits, or why it is dropped.

  Truncation cuts, in this order: the prompt to `limits.prompt`; each answer on the right to
  `limits.answer`; then, for `limits.example` and again for `limits.row`, the prompt, but not below half
  the limit, and what is still too much off the longest answers. A cut answer has lost its EOS and gets
  no other.

  Returns:
    (prompt, answers), or one of "prompt_too_long", "answer_too_long", "example_too_long".
  """
  if limits.overlong == "drop":
    return _why_dropped(prompt, answers, limits) or (prompt, list(answers))
  if limits.prompt:
    prompt = cut_prompt(prompt, limits.prompt, limits)
  answers = [answer[: limits.answer or len(answer)] for answer in answers]
  if limits.example:
    longest = max(map(len, answers))
    prompt = cut_prompt(prompt, max(limits.example - longest, limits.example // 2), limits)
    answers = [answer[: limits.example - len(prompt)] for answer in answers]
  if limits.row:
    prompt = cut_prompt(prompt, max(limits.row - sum(map(len, answers)), limits.row // 2), limits)
    longest = longest_within([len(answer) for answer in answers], limits.row - len(prompt))
    answers = [answer[:longest] for answer in answers]
  return (prompt, answers) if prompt and all(answers) else "example_too_long"


def _why_dropped(prompt: Ids, answers: Sequence[Ids], limits: Limits) -> str:
  lengths = [len(answer) for answer in answers]
  if limits.prompt and len(prompt) > limits.prompt:
    return "prompt_too_long"
  if limits.answer and max(lengths) > limits.answer:
    return "answer_too_long"
  over_example = limits.example and len(prompt) + max(lengths) > limits.example
  over_row = limits.row and len(prompt) + sum(lengths) > limits.row
  return "example_too_long" if over_example or over_row else ""


def cut_prompt(prompt: Ids, longest: int, limits: Limits) -> Ids:
  """At most `longest` tokens of the prompt; cut on the left, it still begins with its BOS."""
  if len(prompt) <= longest:
    return prompt
  if limits.overlong == "truncate_right":
    return prompt[:longest]
  if prompt[0] == limits.bos_id and longest >= 2:
    return [prompt[0], *prompt[len(prompt) - longest + 1 :]]
  return prompt[len(prompt) - longest :]


def longest_within(lengths: Sequence[int], total: int) -> int:
  """The largest cap c for which the lengths, each cut to c, sum to no more than `total`."""
  remaining = total
  for place, length in enumerate(sorted(lengths)):
    share = remaining // (len(lengths) - place)
    if length > share:
      return max(share, 0)
    remaining -= length
  return max(lengths)
