"""Answers as the examples that a model scores: the ids that were written, or its own tokens of the same text."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from dpojax.config.schema import DataSettings
from dpojax.data.dataset import open_template
from dpojax.data.examples import TokenDataset, TokenExample, as_ids
from dpojax.data.formats.common import PreferenceRow
from dpojax.data.formats.hh import ANSWER, turns_and_answers
from dpojax.data.templates import ChatTemplate
from dpojax.data.tokenise import tokenise
from dpojax.errors import DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.rewards.reward import PromptedAnswer

Ids = tuple[int, ...]
MOST_TOKENS = 2048  # of a row that answers share with their prompt; more answers get a row of their own
SHOWN = 60  # characters of a prompt in messages


@dataclasses.dataclass(frozen=True)
class Placed:
  """Answers as a data set, and where each answer lies in it: (example, answer of it).

  Equal answers to a prompt share a place, so that they have equal scores, bit for bit.
  """

  dataset: TokenDataset
  places: Sequence[tuple[int, int]]

  def in_order(self, values: Sequence[np.ndarray]) -> np.ndarray:
    """[N, ...] values of the answers as given, from [..., K] values of each example."""
    return np.stack([values[example][..., answer] for example, answer in self.places])


def name_of(answer: PromptedAnswer, number: int) -> str:
  """How messages call an answer."""
  prompt = answer.prompt if isinstance(answer.prompt, str) else answer.prompt[-1]["content"] if answer.prompt else ""
  words = " ".join(prompt.split())
  return f"answer {number} (prompt {words[:SHOWN] + '…' if len(words) > SHOWN else words!r})"


def examples_of(answers: Sequence[PromptedAnswer], tokenizer: Tokenizer, policy: Tokenizer | None) -> Placed:
  """The examples of N >= 1 answers, those of one prompt beside each other.

  Where the policy's tokenizer, template included, is the model's own, ids are taken exactly as they were written: an
  answer that was cut at the limit ends at its last token. Elsewhere prompt and answer are tokenised as rows of a file
  are: messages through the model's chat template, a text as it stands (a dialogue in HH's form as messages where there
  is a template), EOS at the end of answers that ended by themselves.

  Args:
    answers: to be scored.
    tokenizer: the model's, with its chat template.
    policy: the one that made the answers' ids; None: not known.

  Raises:
    DataError: an answer cannot be tokenised; names its prompt.
  """
  same = policy is not None and policy.fingerprint() == tokenizer.fingerprint()
  written = [same and a.prompt_ids is not None and a.answer_ids is not None and len(a.answer_ids) > 0 for a in answers]
  read = iter(_tokenised([(i, a) for i, a in enumerate(answers) if not written[i]], tokenizer))
  ids = [
    (tuple(np.asarray(a.prompt_ids).tolist()), tuple(np.asarray(a.answer_ids).tolist())) if own else next(read)
    for a, own in zip(answers, written, strict=True)
  ]
  return _placed(answers, ids)


def check_fits(placed: Placed, max_positions: int, vocab_size: int, tokenizer: Tokenizer, model: str) -> None:
  """Raises DataError, naming the prompt, for an answer that the model called `model` has no positions or rows for."""
  dataset = placed.dataset
  for example in (dataset[i] for i in range(len(dataset))):
    if example.longest > max_positions:
      raise DataError(
        f"{dataset.where(example.index)}: prompt and answer have {example.longest} tokens, but {model} takes "
        f"{max_positions} positions; give shorter prompts (data.max_prompt) or answers (max_tokens), or a model with "
        "more positions"
      )
  dataset.check_vocabulary(vocab_size, tokenizer)


def _placed(answers: Sequence[PromptedAnswer], ids: Sequence[tuple[Ids, Ids]]) -> Placed:
  """Groups answers by their prompts' ids, a prompt's in rows of at most `MOST_TOKENS` where one alone does not need more."""
  examples: list[tuple[Ids, list[Ids]]] = []
  metadata, places = [], []
  room: dict[Ids, int] = {}  # the example of a prompt that still takes answers
  known: dict[tuple[Ids, Ids], tuple[int, int]] = {}
  for number, (prompt, answer) in enumerate(ids):
    if (prompt, answer) not in known:
      at = room.get(prompt)
      if at is None or len(prompt) + sum(map(len, examples[at][1])) + len(answer) > MOST_TOKENS:
        at = room[prompt] = len(examples)
        examples.append((prompt, []))
        metadata.append({"row": name_of(answers[number], number)})
      examples[at][1].append(answer)
      known[prompt, answer] = (at, len(examples[at][1]) - 1)
    places.append(known[prompt, answer])
  made = [TokenExample(as_ids(prompt), tuple(map(as_ids, each))) for prompt, each in examples]
  return Placed(TokenDataset(made, metadata=metadata), places)


def _tokenised(answers: Sequence[tuple[int, PromptedAnswer]], tokenizer: Tokenizer) -> Iterator[tuple[Ids, Ids]]:
  """(prompt, answer) ids of each, by the path that rows of a file take."""
  if not answers:
    return
  template = open_template(DataSettings(), tokenizer)
  try:
    names = [name_of(answer, number) for number, answer in answers]
    read = [_comparison(answer, template, name) for (_, answer), name in zip(answers, names, strict=True)]
    found = tokenise(read, names, tokenizer, template, after_eos="drop")
  finally:
    if template is not None:
      template.close()
  for name, (_, answer), ids in zip(names, answers, found, strict=True):
    if isinstance(ids, DataError):
      raise DataError(f"{name}: {ids}") from ids
    prompt, tokens = tuple(ids.prompt), tuple(ids.answers[0])
    if not answer.finished and len(tokens) > 1 and tokens[-1] in tokenizer.eos_ids:
      tokens = tokens[:-1]
    if not prompt and len(tokens) > 1:  # without BOS nothing predicts the first token, as in rows of plain text
      prompt, tokens = tokens[:1], tokens[1:]
    if not prompt:
      raise DataError(f"{name}: the prompt is empty, and the tokenizer puts no BOS before it; write some text")
    yield prompt, tokens


def _comparison(answer: PromptedAnswer, template: ChatTemplate | None, name: str) -> PreferenceRow:
  prompt, text = answer.prompt, answer.answer
  if not isinstance(prompt, str):
    if template is None:
      raise DataError(
        f"{name}: its prompt is a list of messages, but the reward's model has no chat template to read them by; train it "
        "with the data.template that the policy has"
      )
    return PreferenceRow("chat", list(prompt), (text,), tools=answer.details.get("tools"))
  if template is not None and prompt.startswith("\n\nHuman:") and prompt.endswith(ANSWER):
    return PreferenceRow("chat", *turns_and_answers(prompt, (text.strip(),)))
  return PreferenceRow("text", prompt, (text,))
