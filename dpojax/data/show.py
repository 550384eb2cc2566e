"""Packed rows made readable: every example decoded, the scored tokens standing out.

What is shown as scored is read from the scored slots of the batch, not from where it was meant to be
scored, so that a look at a row checks it.
"""

import dataclasses
import html
import itertools
from collections.abc import Sequence

import numpy as np

from dpojax import terminal
from dpojax.data.examples import TokenDataset
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import PackedBatch

# Chosen (or the best), rejected, then further answers in turn.
ANSI = ("\x1b[32m", "\x1b[31m", "\x1b[36m", "\x1b[33m", "\x1b[35m", "\x1b[34m")
ANSI_DIM, ANSI_BOLD, ANSI_END = "\x1b[2m", "\x1b[1m", "\x1b[0m"
CSS = ("#1a7f37", "#cf222e", "#0b7285", "#9a6700", "#8250df", "#0969da")


@dataclasses.dataclass(frozen=True)
class ShownToken:
  """One token of a row: printable text, id, position within prompt and own answer, and whether it is scored."""

  text: str
  id: int
  position: int
  scored: bool


@dataclasses.dataclass(frozen=True)
class ShownExample:
  """An example as it lies in a row: its prompt's tokens once, and those of each answer; `where` it was read.

  `answer_names` says what each answer is.
  """

  index: int
  where: str
  prompt: tuple[ShownToken, ...]
  answers: tuple[tuple[ShownToken, ...], ...]
  answer_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RowView:
  """A packed row, decoded. `print` shows scored tokens in ⟦ ⟧, a notebook in colour."""

  examples: tuple[ShownExample, ...]

  def __str__(self) -> str:
    return self.text(colour=False)

  def text(self, *, colour: bool) -> str:
    """The row for a terminal: scored tokens coloured, or between ⟦ and ⟧."""
    lines = []
    for example in self.examples:
      heading = _heading(example)
      lines.append(f"{ANSI_BOLD}{heading}{ANSI_END}" if colour else heading)
      lines.append(_paragraph("prompt", example.prompt, ANSI[0] if colour else None))
      for k, (name, answer) in enumerate(zip(example.answer_names, example.answers, strict=True)):
        lines.append(_paragraph(name, answer, ANSI[k % len(ANSI)] if colour else None))
      lines.append("")
    return "\n".join(lines)

  def html(self) -> str:
    """The row as HTML; pointing at a token tells its id and position."""
    parts = []
    for example in self.examples:
      parts.append(f"<p><b>{html.escape(_heading(example))}</b></p>")
      parts.append(_html_paragraph("prompt", example.prompt, "inherit"))
      for k, (name, answer) in enumerate(zip(example.answer_names, example.answers, strict=True)):
        parts.append(_html_paragraph(name, answer, CSS[k % len(CSS)]))
    return f'<div style="font-family:monospace;white-space:pre-wrap">{"".join(parts)}</div>'

  def _repr_html_(self) -> str:
    return self.html()


def show_row(
  batch: PackedBatch, tokenizer: Tokenizer, *, group: int = 0, row: int = 0, dataset: TokenDataset | None = None
) -> RowView:
  """Decodes one row of a whole packed step.

  Args:
    batch: arrays with leading axes [G, R].
    tokenizer: the one that made the ids.
    group, row: which row.
    dataset: the one the batch was made from, to tell where its examples were read.
  """
  tokens, position, answer_row = (np.asarray(x)[group, row] for x in (batch.tokens, batch.position, batch.answer))
  segment = np.asarray(batch.segment)[group, row]
  indices = np.asarray(batch.example_index)[group, row]
  scored = _scored_places(batch, group, row)
  per_example = batch.answers_per_example

  def shown(places) -> tuple[ShownToken, ...]:
    texts = token_texts(tokenizer, tokens[places].tolist())
    numbers = zip(texts, places.tolist(), strict=True)
    return tuple(ShownToken(text, int(tokens[i]), int(position[i]), i in scored) for text, i in numbers)

  examples = []
  for e in np.flatnonzero(indices >= 0).tolist():
    used = [a for a in range(e * per_example, (e + 1) * per_example) if (answer_row == a).any()]
    answers = [np.flatnonzero(answer_row == a) for a in used]
    prompt = np.flatnonzero((answer_row == -1) & (segment == segment[answers[0][0]]))
    index = int(indices[e])
    where = dataset.where(index) if dataset else ""
    names = answer_names(dataset, len(answers))
    shown_answers = tuple(shown(places) for places in answers)
    examples.append(ShownExample(index, where, shown(prompt), shown_answers, names))
  return RowView(tuple(examples))


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
  """Text of each token; where tokens split a character, the last of them carries it and the others are empty."""
  texts = tokenizer.pieces(ids)
  start = 0
  while start < len(ids):
    end = start + 1
    if "\ufffd" in texts[start]:
      for longer in range(start + 1, min(start + 6, len(ids)) + 1):  # UTF-8 takes up to four bytes a character
        text = tokenizer.decode(ids[start:longer])
        if "\ufffd" not in text:
          texts[start:longer] = [""] * (longer - start - 1) + [text]
          end = longer
          break
    start = end
  return texts


def answer_names(dataset: TokenDataset | None, count: int) -> tuple[str, ...]:
  """What the data set calls its answers; else chosen and rejected, rank 1, 2, ..., or answer where there is one."""
  if dataset and dataset.answer_names:
    return dataset.answer_names
  if count <= 2:
    return ("answer",) if count == 1 else ("chosen", "rejected")
  return tuple(f"rank {k + 1}" for k in range(count))


def _scored_places(batch: PackedBatch, group: int, row: int) -> set[int]:
  """Places of the row whose token some scored slot predicts."""
  tokens, answer = np.asarray(batch.tokens)[group, row], np.asarray(batch.answer)[group, row]
  found = set()
  slots = (np.asarray(x)[group, row].tolist() for x in (batch.scored_at, batch.target, batch.answer_of))
  for at, target, slot in zip(*slots, strict=True):
    # A slot without an answer scores the prompt, whose tokens stand one behind the other.
    following = np.flatnonzero(answer[at + 1 :] == (slot if (answer == slot).any() else -1))
    if following.size and tokens[at + 1 + following[0]] == target:
      found.add(int(at + 1 + following[0]))
  return found


def _heading(example: ShownExample) -> str:
  lengths = " + ".join(str(len(answer)) for answer in example.answers)
  where = f" ({terminal.in_line(example.where)})" if example.where else ""
  return f"example {example.index}{where}: {len(example.prompt)} prompt + {lengths} answer tokens"


def _paragraph(name: str, tokens: Sequence[ShownToken], colour: str | None) -> str:
  """A name and tokens, further lines set in under the first."""
  parts = []
  for scored, run in itertools.groupby(tokens, key=lambda token: token.scored):
    text = terminal.shown("".join(token.text for token in run))
    if colour is None:
      parts.append(f"⟦{text}⟧" if scored else text)
    else:
      parts.append(f"{colour if scored else ANSI_DIM}{text}{ANSI_END}")
  name = terminal.in_line(name)
  indent = max(10, terminal.width(name) + 1)
  return terminal.left(name, indent) + "".join(parts).replace("\n", "\n" + " " * indent)


def _html_paragraph(name: str, tokens: Sequence[ShownToken], colour: str) -> str:
  spans = []
  for token in tokens:
    style = f"color:{colour};font-weight:600" if token.scored else "opacity:0.6"
    about = f"id {token.id}, position {token.position}{', scored' if token.scored else ''}"
    spans.append(f'<span style="{style}" title="{about}">{html.escape(terminal.shown(token.text))}</span>')
  return f"<p><i>{html.escape(terminal.in_line(name))}</i>  {''.join(spans)}</p>"
