"""From a prompt and its answers as text to token ids.

Each answer is tokenised together with its prompt, because a tokenizer may join the last characters of
one with the first of the other. What all answers of a prompt then share, no further than the prompt's
own text, is the prompt, so the boundary is the same for all of them::

    prompt "a b"            a  b
    + " c"                  a  b  _c           prompt: a b     answers: _c | _d
    + " d"                  a  b  _d
    + "ly"                  a  bly             prompt: a       answers: b _c | b _d | bly
"""

import dataclasses
from collections.abc import Sequence

from dpojax.data.formats.common import Comparison, Message
from dpojax.data.templates import ChatTemplate
from dpojax.errors import DataError, TemplateError
from dpojax.interop.tokenizer import Tokenizer

Ids = list[int]


@dataclasses.dataclass(frozen=True)
class Tokenised:
  """Token ids of one comparison.

  Attributes:
    prompt: ids, BOS first where the tokenizer or the template writes one; may be empty.
    answers: ids, each ending in EOS once, but for those that did not end by themselves (`pretokenised` rows: as given).
    mismatch: whether the prompt's last token had to move to the answers.
  """

  prompt: Ids
  answers: list[Ids]
  mismatch: bool


def tokenise(
  comparisons: Sequence[Comparison],
  places: Sequence[str],
  tokenizer: Tokenizer,
  template: ChatTemplate | None,
  *,
  after_eos: str,
) -> list[Tokenised | DataError]:
  """Tokenises comparisons, each answer with its prompt.

  Args:
    comparisons: read rows; one without answers is a prompt alone.
    places: where each was read, for messages.
    tokenizer: text to ids.
    template: renders comparisons of kind "chat".
    after_eos: "drop" or "keep" what the template writes after an answer's EOS.

  Returns:
    One for each comparison: its ids, or the error for which it must be left out.

  Raises:
    DataError: conversations without a template; a tokenizer without EOS; a template that fails; a word that a
      tokenizer without an unknown token lacks.
  """
  if not tokenizer.eos_ids and any(row.answers and row.kind != "ids" for row in comparisons):
    raise DataError("the tokenizer has no EOS token to end answers with; add eos_token to tokenizer_config.json")
  texts = _texts(comparisons, places, tokenizer, template)
  encoded = iter(_encoded(texts, places, tokenizer))
  ending = tokenizer.encode(template.ending) if template else []
  found: list[Tokenised | DataError] = []
  for comparison, row in zip(comparisons, texts, strict=True):
    if isinstance(row, DataError):
      found.append(row)
      continue
    ids = [next(encoded) for _ in row]
    if comparison.kind == "ids":
      found.append(_given_ids(comparison, tokenizer.vocab_size))
      continue
    if comparison.kind == "chat":
      prompt, fulls = ids[0], [_end_rendered(full, ending, tokenizer, after_eos) for full in ids[1:]]
    else:
      prompt, fulls = _plain(ids[0], ids[1:], tokenizer)
    finished = comparison.finished or (True,) * len(fulls)
    fulls = [full if ended else _open_ended(full, tokenizer) for full, ended in zip(fulls, finished, strict=True)]
    found.append(_divide(prompt, fulls))
  return found


def _encoded(texts: Sequence[list[str] | DataError], places: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
  """Ids of all texts; DataError, naming the place, for one that the tokenizer has no ids for."""
  rows = [(place, row) for place, row in zip(places, texts, strict=True) if not isinstance(row, DataError)]
  try:
    return tokenizer.encode_batch([text for _, row in rows for text in row])
  except DataError:
    for place, row in rows:
      for text in row:
        try:
          tokenizer.encode(text)
        except DataError as error:
          raise DataError(f"{place}: {error}") from error
    raise


def _texts(
  comparisons: Sequence[Comparison], places: Sequence[str], tokenizer: Tokenizer, template: ChatTemplate | None
) -> list[list[str] | DataError]:
  """For each comparison the prompt's text and each answer's, prompt included; nothing for ids."""
  texts: list[list[str] | DataError] = []
  for comparison, place in zip(comparisons, places, strict=True):
    if comparison.kind == "chat" and template is None:
      raise DataError(
        f"{place}: it holds messages, but the tokenizer has no chat template; give one as data.template=FILE.jinja"
      )
    if comparison.kind != "text":
      texts.append([])
      continue
    start = comparison.prompt + tokenizer.separator if comparison.prompt else ""
    texts.append([comparison.prompt, *(start + answer for answer in comparison.answers)])
  chats = [i for i, comparison in enumerate(comparisons) if comparison.kind == "chat"]
  if template is not None and chats:
    for i, rendered in zip(
      chats, _render(template, [comparisons[i] for i in chats], [places[i] for i in chats], tokenizer), strict=True
    ):
      texts[i] = rendered
  return texts


def _render(
  template: ChatTemplate, comparisons: Sequence[Comparison], places: Sequence[str], tokenizer: Tokenizer
) -> list[list[str] | DataError]:
  eos = tokenizer.decode(
    tokenizer.eos_ids[:1]
  )  # one that the answer's text brings along would stand beside the template's
  prompts = template.render([c.prompt for c in comparisons], places, add_generation_prompt=True)
  whole: list[list[Message]] = []
  whole_places: list[str] = []
  for comparison, place in zip(comparisons, places, strict=True):
    contents = [answer.removesuffix(eos) for answer in comparison.answers]
    whole += [[*comparison.prompt, {"role": "assistant", "content": content}] for content in contents]
    whole_places += [place] * len(comparison.answers)
  answers = iter(template.render(whole, whole_places, add_generation_prompt=False))
  rows: list[list[str] | DataError] = []
  for comparison, prompt in zip(comparisons, prompts, strict=True):
    parts = [prompt, *(next(answers) for _ in comparison.answers)]
    refused = [part for part in parts if isinstance(part, TemplateError)]
    rows.append(refused[0] if refused else [part for part in parts if isinstance(part, str)])
  return rows


def _plain(prompt: Ids, fulls: list[Ids], tokenizer: Tokenizer) -> tuple[Ids, list[Ids]]:
  """BOS before texts that the tokenizer begins with one, EOS after each answer, neither twice."""
  if tokenizer.adds_bos and tokenizer.bos_id is not None:
    bos = [tokenizer.bos_id]
    prompt, *fulls = [ids if ids[:1] == bos else bos + ids for ids in (prompt, *fulls)]
  eos = list(tokenizer.eos_ids[:1])
  return prompt, [ids if ids and ids[-1] in tokenizer.eos_ids else ids + eos for ids in fulls]


def _end_rendered(full: Ids, ending: Ids, tokenizer: Tokenizer, after_eos: str) -> Ids:
  """Makes a rendered answer end with its EOS, or with what the template writes after it."""
  in_ending = [i for i, token in enumerate(ending) if token in tokenizer.eos_ids]
  if in_ending and full[len(full) - len(ending) + in_ending[0] :] == ending[in_ending[0] :]:
    at = len(full) - len(ending) + in_ending[0]
  else:  # the template ends its answers in more than one way
    at = max((i for i, token in enumerate(full) if token in tokenizer.eos_ids), default=-1)
    if at < 0 or tokenizer.decode(full[at + 1 :]).strip():
      return [*full, tokenizer.eos_ids[0]]
  return full if after_eos == "keep" else full[: at + 1]


def _open_ended(full: Ids, tokenizer: Tokenizer) -> Ids:
  """Without the EOS at its end and what a template writes behind that."""
  return full[: max(i for i, token in enumerate(full) if token in tokenizer.eos_ids)]


def _divide(prompt: Ids, fulls: list[Ids]) -> Tokenised:
  """Divides whole texts at the end of the tokens that the prompt and all of them share."""
  shared = len(prompt)
  for ids in fulls:
    if ids[:shared] != prompt[:shared]:
      pairs = enumerate(zip(prompt[:shared], ids, strict=False))
      shared = next((i for i, (one, other) in pairs if one != other), min(shared, len(ids)))
  return Tokenised(prompt[:shared], [ids[shared:] for ids in fulls], mismatch=shared < len(prompt))


def _given_ids(comparison: Comparison, vocab_size: int) -> Tokenised | DataError:
  for ids in (comparison.prompt, *comparison.answers):
    wrong = [i for i in ids if not 0 <= i < vocab_size]
    if wrong:
      return DataError(f"token id {wrong[0]} is outside the vocabulary of {vocab_size}")
  return Tokenised(comparison.prompt, list(comparison.answers), mismatch=False)
