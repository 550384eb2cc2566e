"""Examples over a length limit: dropped, or cut by a stated rule."""

import dataclasses
from collections.abc import Sequence

from dpojax.config.schema import DataSettings
from dpojax.data.formats.common import Answer, Message, PreferenceRow, answer_text
from dpojax.errors import RowError

Ids = list[int]
# A text of more characters than this for each token of its limit is over it, and is not tokenised to know by how much: a
# tokenizer takes some 70 bytes a character. Real text has 2 to 5 characters a token.
CHARACTERS_A_TOKEN = 64
JOINT = 200  # characters at a plain prompt's end that stay, so that answers are joined to what they were written after
MOST_CHARACTERS = 8_000_000  # of a prompt or an answer where there is no limit in tokens, or a very large one


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

  def characters(self, *tokens: int) -> int:
    """Characters beyond which a text is over the least of these limits in tokens (0: none)."""
    least = min(filter(None, tokens), default=0)
    return min(least * CHARACTERS_A_TOKEN, MOST_CHARACTERS) if least else MOST_CHARACTERS


def shorten(comparison: PreferenceRow, limits: Limits) -> PreferenceRow:
  """The comparison, its texts cut to what may at most fit its limits, so that what is tokenised stays bounded.

  With `overlong=truncate_left` the last characters of a prompt are kept and of a conversation the last messages' text,
  else the first; of an answer the first, and it has no EOS. `fit` cuts what is left to the token.

  Raises:
    RowError: with `overlong=drop`, a text is beyond its limit.
  """
  if comparison.kind == "ids":
    return comparison
  whole = limits.characters(limits.example, limits.row)
  prompt_most = min(limits.characters(limits.prompt), whole)
  answer_most = min(limits.characters(limits.answer), whole)
  prompt = comparison.prompt
  prompt_size = len(prompt) if isinstance(prompt, str) else sum(_size(message) for message in prompt)
  sizes = [_size(answer) for answer in comparison.answers]
  if prompt_size <= prompt_most and all(size <= answer_most for size in sizes):
    return comparison
  if limits.overlong == "drop":
    longest = max(sizes, default=0)
    if prompt_size > limits.characters(limits.prompt):
      raise RowError("prompt_too_long", _why("prompt", prompt_size, limits.prompt))
    if longest > limits.characters(limits.answer):
      raise RowError("answer_too_long", _why("longest answer", longest, limits.answer))
    raise RowError("example_too_long", _why("longest text", max(prompt_size, longest), limits.example or limits.row))
  if isinstance(prompt, str):
    kept: str | list[Message] = _cut_text(prompt, prompt_most, limits)
    if limits.overlong == "truncate_right":
      kept += prompt[max(prompt_most, len(prompt) - JOINT) :]
  else:
    kept = _cut_chat(prompt, prompt_most, limits)
  finished = comparison.finished or (True,) * len(sizes)
  return dataclasses.replace(
    comparison,
    prompt=kept,
    answers=tuple(_cut_answer(answer, answer_most) for answer in comparison.answers),
    finished=tuple(end and size <= answer_most for end, size in zip(finished, sizes, strict=True)),
  )


def _size(answer: Answer) -> int:
  return len(answer_text(answer))


def _why(what: str, size: int, tokens: int) -> str:
  limit = f"{CHARACTERS_A_TOKEN} for each of {tokens:,} tokens" if tokens else f"{MOST_CHARACTERS:,}"
  return f"its {what} has {size:,} characters, more than {limit}"


def _cut_text(text: str, most: int, limits: Limits) -> str:
  if len(text) <= most:
    return text
  return text[len(text) - most :] if limits.overlong == "truncate_left" else text[:most]


def _cut_chat(prompt: Sequence[Message], most: int, limits: Limits) -> list[Message]:
  left = limits.overlong == "truncate_left"
  kept: list[Message] = []
  for message in reversed(prompt) if left else prompt:
    content = _cut_text(message["content"], most, limits)
    most -= len(content)
    kept.append({**message, "content": content})
  return kept[::-1] if left else kept


def _cut_answer(answer: Answer, most: int) -> Answer:
  return answer[:most] if isinstance(answer, str) else {**answer, "content": answer["content"][:most]}


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
    allowance = remaining // (len(lengths) - place)
    if length > allowance:
      return max(allowance, 0)
    remaining -= length
  return max(lengths)
