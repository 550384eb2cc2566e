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
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dpojax.data.formats.cells import is_missing, shown
from dpojax.data.formats.common import REASONING, Answer, Message, PreferenceRow, answer_text, shared_length
from dpojax.data.templates import ChatTemplate, changed, left_out, tools_left_out
from dpojax.errors import DataError, RowError, TemplateError
from dpojax.interop.tokenizer import Tokenizer

Ids = list[int]
CHARACTERS_AT_ONCE = 2_000_000  # given to the tokenizer, which takes some 70 bytes for each
PROMPT_DIFFERS = "generation_prompt_differs"
# What may be odd about a row that is kept: names of counts.
ODDITIES = (
  PROMPT_DIFFERS,
  "template_drops_prompt_text",
  "template_changes_answers",
  "special_tokens_in_text",
  "missing_values_as_text",
  "answers_repeat_prompt",
)
LEAST_REPEATED = 8  # characters of a prompt with which answers do not begin by chance


@dataclasses.dataclass(frozen=True)
class Texts:
  """The prompt's text and each answer's, prompt included; none for rows of ids. `odd`: see `Tokenised`."""

  texts: list[str]
  odd: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Tokenised:
  """Token ids of one comparison.

  Attributes:
    prompt: ids, BOS first where the tokenizer or the template writes one; may be empty.
    answers: ids, each ending in EOS once, but for those that did not end by themselves (`pretokenised` rows: as given).
    mismatch: whether the prompt's last token had to move to the answers.
    odd: what is odd about the row (of `ODDITIES`) and in words.
  """

  prompt: Ids
  answers: list[Ids]
  mismatch: bool
  odd: Mapping[str, str] = dataclasses.field(default_factory=dict)


def tokenise(
  comparisons: Sequence[PreferenceRow],
  places: Sequence[str],
  tokenizer: Tokenizer,
  template: ChatTemplate | None,
  *,
  after_eos: str,
  complete: bool = False,
) -> list[Tokenised | DataError]:
  """Tokenises comparisons, each answer with its prompt.

  Args:
    comparisons: read rows; one without answers is a prompt alone.
    places: where each was read, for messages.
    tokenizer: text to ids.
    template: renders comparisons of kind "chat".
    after_eos: "drop" or "keep" what the template writes after an answer's EOS.
    complete: leave out rows of whose answers the template leaves out text, and say what else is odd: for rows of a file.

  Returns:
    One for each comparison: its ids, or the error for which it must be left out.

  Raises:
    DataError: conversations without a template; a tokenizer without EOS; a template that fails; a word that a
      tokenizer without an unknown token lacks.
  """
  if not tokenizer.eos_ids and any(row.answers and row.kind != "ids" for row in comparisons):
    raise DataError("the tokenizer has no EOS token to end answers with; add eos_token to tokenizer_config.json")
  texts = _texts(comparisons, places, tokenizer, template, complete)
  encoded = _encoded(texts, places, tokenizer)
  control, eos = (_control_tokens(tokenizer) if complete else None), _eos(tokenizer)
  ending = tokenizer.encode(template.ending) if template else []
  found: list[Tokenised | DataError] = []
  for comparison, row in zip(comparisons, texts, strict=True):
    if isinstance(row, DataError):
      found.append(row)
      continue
    ids = [next(encoded) for _ in row.texts]
    if comparison.kind == "ids":
      found.append(_given_ids(comparison, tokenizer.vocab_size))
      continue
    if comparison.kind == "chat":
      prompt, fulls = ids[0], [_end_rendered(full, ending, tokenizer, after_eos) for full in ids[1:]]
    else:
      prompt, fulls = _plain(ids[0], ids[1:], tokenizer)
    finished = comparison.finished or (True,) * len(fulls)
    fulls = [full if ended else _open_ended(full, tokenizer) for full, ended in zip(fulls, finished, strict=True)]
    odd = dict(row.odd)
    if token := _control_token_in(comparison, control, eos):
      odd["special_tokens_in_text"] = f"its text holds {token!r}, which becomes the special token and not letters"
    if complete:
      odd |= _odd_texts(comparison)
    found.append(dataclasses.replace(_divide(prompt, fulls), odd=odd))
  return found


def _encoded(texts: Sequence[Texts | DataError], places: Sequence[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
  """Ids of all texts, of `CHARACTERS_AT_ONCE` at once; DataError, naming the place, for one that the tokenizer has no ids for."""
  rows = [(place, row.texts) for place, row in zip(places, texts, strict=True) if not isinstance(row, DataError)]
  every = [(place, text) for place, row in rows for text in row]
  start = held = 0
  for i, (_, text) in enumerate(every):
    if i > start and held + len(text) > CHARACTERS_AT_ONCE:
      yield from _encode(every[start:i], tokenizer)
      start, held = i, 0
    held += len(text)
  yield from _encode(every[start:], tokenizer)


def _encode(texts: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[list[int]]:
  try:
    return tokenizer.encode_batch([text for _, text in texts])
  except DataError:
    for place, text in texts:
      try:
        tokenizer.encode(text)
      except DataError as error:
        raise DataError(f"{place}: {error}") from error
    raise


def _texts(
  comparisons: Sequence[PreferenceRow],
  places: Sequence[str],
  tokenizer: Tokenizer,
  template: ChatTemplate | None,
  complete: bool,
) -> list[Texts | DataError]:
  """For each comparison the prompt's text and each answer's, prompt included; nothing for ids."""
  texts: list[Texts | DataError] = []
  for comparison, place in zip(comparisons, places, strict=True):
    if comparison.kind == "chat" and template is None:
      raise DataError(
        f"{place}: it holds messages, but the tokenizer has no chat template; give one as data.template=FILE.jinja"
      )
    if comparison.kind != "text":
      texts.append(Texts([]))
      continue
    start = comparison.prompt + tokenizer.separator if comparison.prompt else ""
    texts.append(Texts([comparison.prompt, *(start + answer for answer in comparison.answers)]))
  chats = [i for i, comparison in enumerate(comparisons) if comparison.kind == "chat"]
  if template is not None and chats:
    some = [comparisons[i] for i in chats]
    eos = _eos(tokenizer)
    for i, rendered in zip(chats, _render(template, some, [places[i] for i in chats], eos), strict=True):
      texts[i] = rendered
      if complete and isinstance(rendered, Texts):
        texts[i] = _checked(comparisons[i], rendered, template, eos)
  return texts


def _eos(tokenizer: Tokenizer) -> str:
  """The text of EOS: one that an answer's text brings along would stand beside the template's."""
  return tokenizer.decode(tokenizer.eos_ids[:1])


def _render(
  template: ChatTemplate, comparisons: Sequence[PreferenceRow], places: Sequence[str], eos: str
) -> list[Texts | DataError]:
  functions = [comparison.tools for comparison in comparisons]
  prompts = template.render([c.prompt for c in comparisons], places, add_generation_prompt=True, tools=functions)
  whole: list[list[Message]] = []
  whole_places: list[str] = []
  whole_functions: list[list[Any] | None] = []
  for comparison, place in zip(comparisons, places, strict=True):
    whole += [[*comparison.prompt, _message(answer, eos)] for answer in comparison.answers]
    whole_places += [place] * len(comparison.answers)
    whole_functions += [comparison.tools] * len(comparison.answers)
  answers = iter(template.render(whole, whole_places, add_generation_prompt=False, tools=whole_functions))
  rows: list[Texts | DataError] = []
  for comparison, prompt in zip(comparisons, prompts, strict=True):
    parts = [prompt, *(next(answers) for _ in comparison.answers)]
    refused = [part for part in parts if isinstance(part, TemplateError)]
    rows.append(refused[0] if refused else Texts([part for part in parts if isinstance(part, str)]))
  return rows


def _message(answer: Answer, eos: str) -> Message:
  """The assistant's message, its text without the EOS at its end."""
  others = {} if isinstance(answer, str) else answer
  return {**others, "role": "assistant", "content": answer_text(answer).removesuffix(eos)}


def _checked(comparison: PreferenceRow, rendered: Texts, template: ChatTemplate, eos: str) -> Texts | DataError:
  """The texts with what is odd about them; RowError where the template leaves out part of an answer."""
  prompt, *fulls = rendered.texts
  odd: dict[str, str] = {}
  for answer, full in zip(comparison.answers, fulls, strict=True):
    differs = not full.startswith(prompt)
    # What both begin with may reach into the answer, no further than the characters that open one.
    shared = shared_length(prompt, full) if differs else len(prompt)
    missing = left_out(_message(answer, eos), full[max(0, shared - template.opening) :])
    if missing:
      return RowError(
        "template_drops_text",
        f"the chat template leaves out part of an answer, {missing}; give a template that writes it "
        "(data.template=FILE.jinja), or answers without it",
      )
    if differs:
      odd[PROMPT_DIFFERS] = (
        f"the template's generation prompt ends in {prompt[shared:][-30:] or prompt[-30:]!r}, with which answers do not "
        "begin: sampling goes on from another prompt than training"
      )
    elif isinstance(answer, str) and (
      written := changed(answer.removesuffix(eos), full[shared:], template.ending, eos)
    ):
      said = f"for the answer {shown(answer)} the chat template writes {shown(written)}"
      odd.setdefault("template_changes_answers", said)
  missing = next(filter(None, (left_out(_heard(message), prompt) for message in comparison.prompt)), "")
  named = (str(message["name"]) for message in comparison.prompt if message.get("name"))
  missing = missing or next((f"the name {shown(name)}" for name in named if name not in prompt), "")
  missing = missing or tools_left_out(comparison.tools or (), prompt)
  if missing:
    odd["template_drops_prompt_text"] = f"the chat template leaves out part of the prompt, {missing}"
  return Texts(rendered.texts, odd)


def _heard(message: Message) -> Message:
  """A message of the prompt without the reasoning behind it, which many templates leave out of earlier turns on purpose."""
  return {key: value for key, value in message.items() if key not in REASONING}


def _control_tokens(tokenizer: Tokenizer) -> re.Pattern[str] | None:
  texts = sorted(tokenizer.control_tokens(), key=len, reverse=True)
  return re.compile("|".join(map(re.escape, texts))) if texts else None


def _control_token_in(comparison: PreferenceRow, control: re.Pattern[str] | None, eos: str) -> str:
  """The first control token that a row's own text holds, the EOS at an answer's end left out; "" where there is none."""
  if control is None or comparison.kind == "ids":
    return ""
  texts = [*_prompt_texts(comparison), *(answer_text(answer).removesuffix(eos) for answer in comparison.answers)]
  return next((found.group() for found in map(control.search, texts) if found), "")


def _prompt_texts(comparison: PreferenceRow) -> list[str]:
  prompt = comparison.prompt
  return [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]


def _odd_texts(comparison: PreferenceRow) -> dict[str, str]:
  """What is odd about a row's texts as they were given: of `ODDITIES`, and in words."""
  odd: dict[str, str] = {}
  prompt, answers = _prompt_texts(comparison), [answer_text(answer) for answer in comparison.answers]
  if missing := next(filter(is_missing, (*prompt, *answers)), None):
    odd["missing_values_as_text"] = (
      f"a text of it reads {missing!r}, as a missing value is written; leave such rows out"
    )
  asked = prompt[-1].strip() if prompt else ""
  if answers and len(asked) >= LEAST_REPEATED and all(answer.lstrip().startswith(asked) for answer in answers):
    odd["answers_repeat_prompt"] = "its answers begin with the whole prompt again, which is learned as a part of them"
  return odd


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


def _given_ids(comparison: PreferenceRow, vocab_size: int) -> Tokenised | DataError:
  for ids in (comparison.prompt, *comparison.answers):
    wrong = [i for i in ids if not 0 <= i < vocab_size]
    if wrong:
      return DataError(f"token id {shown(wrong[0])} is outside the vocabulary of {vocab_size}")
  return Tokenised(comparison.prompt, list(comparison.answers), mismatch=False)
