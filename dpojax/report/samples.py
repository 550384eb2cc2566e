"""What the policy wrote before and after training, side by side."""

from collections.abc import Callable, Sequence
from typing import Any

from dpojax import terminal
from dpojax.environments import get_environment
from dpojax.errors import ConfigError
from dpojax.markdown import escape
from dpojax.training.numbers import reward_in_words

Sample = dict[str, Any]


def side_by_side(before: Sequence[Sample], after: Sequence[Sample], *, width: int = 100) -> str:
  """Two columns a prompt for a terminal of `width` characters.

  Args:
    before, after: records of the same prompts with `prompt`, `answer`, `tokens`, `finished` and, where answers are
      scored, `rewards`, a value by label.
  """
  column = max(20, (width - 3) // 2)
  blocks = []
  for old, new in zip(before, after, strict=True):
    left, right = (
      _wrap(f"{_caption(name, s)}\n{s['answer']}", column) for name, s in (("before", old), ("after", new))
    )
    height = max(len(left), len(right))
    left, right = left + [""] * (height - len(left)), right + [""] * (height - len(right))
    rows = [f"{terminal.left(a, column)} | {b}".rstrip() for a, b in zip(left, right, strict=True)]
    blocks.append("\n".join([*_wrap(f"> {old['prompt']}", 2 * column + 3), *rows]))
  return "\n\n".join(blocks)


def side_by_side_markdown(before: Sequence[Sample], after: Sequence[Sample]) -> str:
  """The same as Markdown tables, one a prompt."""
  blocks = []
  for old, new in zip(before, after, strict=True):
    head = " | ".join(escape(_caption(name, s)) for name, s in (("before", old), ("after", new)))
    body = " | ".join(escape(s["answer"]) for s in (old, new))
    blocks.append(f"Prompt: {escape(old['prompt'])}\n\n| {head} |\n|:--|:--|\n| {body} |")
  return "\n\n".join(blocks)


def display_of(source: object, name: object) -> Callable[[str], str]:
  """What turns a text of these data (`data.source`, `data.name`) into what a person reads: files hold it as the model does."""
  if source != "world":
    return str
  try:
    return get_environment(str(name)).display
  except ConfigError:  # of another version
    return str


def displayed(samples: Sequence[Sample], display: Callable[[str], str]) -> list[Sample]:
  """Samples with their prompts and answers as a person reads them."""
  return [{**s, "prompt": display(s["prompt"]), "answer": display(s["answer"])} for s in samples]


def prompt_in_words(prompt: Any) -> str:
  """A prompt as files hold it, text or messages, as one text: of a conversation each message under its role."""
  if not isinstance(prompt, list):
    return str(prompt)
  if [message.get("role") for message in prompt] == ["user"]:
    return str(prompt[0].get("content", ""))
  return "\n\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in prompt)


def _caption(name: str, sample: Sample) -> str:
  rewards = sample.get("rewards", {})
  reward = "".join(f", {reward_in_words(f'reward/{label}')} {float(value):.2f}" for label, value in rewards.items())
  end = "" if sample.get("finished", True) else ", cut off"
  return f"{name}: {sample['tokens']} tokens{reward}{end}"


def _wrap(text: str, width: int) -> list[str]:
  lines = []
  for line in terminal.shown(text).split("\n"):
    lines.extend(terminal.wrapped(line, width) or [""])
  return lines
