"""Columns under other names: a row's columns become the standard ones before a format is asked.

::

  {"system", "question", "accepted", "rejected", "note"}
      -> {"system", "prompt", "chosen", "rejected", "note"}       "note" is named as a text that nothing reads

`data.columns` maps other names (`prompt=ask,chosen=good`) and leaves columns out (`-note`). The usual spellings are those
of published data sets: Orca pairs (question), Alpaca (instruction, input, output), MetaMath (query, response), xP3 (inputs,
targets), paired Stack Exchange (response_j, response_k), ShareGPT (conversations).
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dpojax.data.formats import FORMATS
from dpojax.data.formats.cells import (
  from_json,
  is_empty,
  is_message,
  is_missing,
  looks_like_messages,
  messages_from_text,
  number,
)
from dpojax.data.formats.common import Row, is_messages, messages
from dpojax.errors import ConfigError, DataError

PROMPTS = ("question", "query", "instruction", "input", "inputs", "problem", "user_prompt", "user_message")
CONVERSATIONS = ("messages", "conversations", "conversation")
SYSTEMS = ("system_prompt", "system_message")
COMPLETIONS = ("response", "output", "answer", "target", "targets", "solution")
PAIRS = (  # (the better answer, the worse one)
  ("accepted", "rejected"),
  ("chosen", "reject"),
  ("chosen_response", "rejected_response"),
  ("response_chosen", "response_rejected"),
  ("chosen_answer", "rejected_answer"),
  ("answer_chosen", "answer_rejected"),
  ("preferred", "dispreferred"),
  ("preferred_response", "dispreferred_response"),
  ("better_response", "worse_response"),
  ("response_j", "response_k"),
)
SCORES = (
  ("chosen_score", "rejected_score"),
  ("rating_chosen", "rating_rejected"),
  ("chosen_rating", "rejected_rating"),
  ("chosen_reward", "rejected_reward"),
)
ANSWERS = ("chosen", "rejected", "answers", "samples", "completion")
LISTS = ("completions", "responses")  # of answers
JUDGED = ("tie", "margin", "weight", "score_chosen", "score_rejected")
STANDARD = tuple(
  dict.fromkeys(
    [*(column for form in FORMATS.values() for column in (*form.columns, *form.reads)), "system", "tools", *JUDGED]
  )
)
# Names of answers, which nobody who reads prompts alone misses.
ANSWER_NAMES = {*ANSWERS, *COMPLETIONS, *LISTS, *(name for pair in PAIRS for name in pair)}
# What says where a row comes from, in a word or two: no text that a model should have read.
ABOUT = re.compile(
  r"(^|_)(ids?|idx|index|uuid|uid|hash|source|src|dataset|subset|split|category|categories|type|task|lang|languages?|locale|"
  r"models?|url|link|date|time|timestamp|created|updated|author|license|version|domain|topics?|tags?|labels?|winner|row|"
  r"reward|rewards|rating|ratings|score|scores|status|file|name|path)(_|$)"
)
# Known whatever their case: "Question", "System Prompt".
_WORDS = {
  *STANDARD,
  *PROMPTS,
  *CONVERSATIONS,
  *SYSTEMS,
  *COMPLETIONS,
  *LISTS,
  *(name for pair in (*PAIRS, *SCORES) for name in pair),
}
LONG = 100  # characters from which on a text is named, whatever its column is called
MEDIA = re.compile(r"(^|_)(images?|audios?|videos?)(_|$)")


@dataclasses.dataclass(frozen=True)
class Columns:
  """What `data.columns` says.

  Attributes:
    given: standard name -> the data's.
    left_out: columns that are neither read nor named.
  """

  given: Mapping[str, str]
  left_out: frozenset[str]


def parse_columns(setting: str) -> Columns:
  """Reads `prompt=question,chosen=good,-note`.

  Raises:
    ConfigError: a word that is neither, a standard name that there is not, or a column given twice.
  """
  given: dict[str, str] = {}
  left_out: set[str] = set()
  for word in filter(None, (word.strip() for word in setting.split(","))):
    standard, equals, name = (part.strip() for part in word.partition("="))
    if word.startswith("-") and not equals and len(word) > 1:
      left_out.add(word[1:].strip())
      continue
    if not equals or not name:
      raise ConfigError(
        f"data.columns: {word!r} is neither STANDARD=COLUMN nor -COLUMN, such as prompt=question,-notes"
      )
    if standard not in STANDARD:
      close = difflib.get_close_matches(standard, STANDARD, 1)
      meant = f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(STANDARD)}"
      raise ConfigError(f"data.columns: no standard column {standard!r}{meant}")
    if standard in given or name in given.values() or name in left_out:
      raise ConfigError(f"data.columns: {standard if standard in given else name!r} is given twice")
    given[standard] = name
  if twice := left_out.intersection(given.values()):
    raise ConfigError(f"data.columns: {min(twice)!r} is both read and left out")
  return Columns(given, frozenset(left_out))


def check_present(columns: Columns, row: Row, where: str) -> None:
  """Raises DataError, naming the column, if `row` has neither a column that `data.columns` names nor its standard one."""
  for standard, name in columns.given.items():
    if name not in row and standard not in row:
      raise DataError(
        f"{where}: no column {name!r}, which data.columns={standard}={name} names; found {', '.join(row)}"
      )


def standard_row(row: Row, columns: Columns, *, answers: bool = True) -> dict[str, Any]:
  """The row with standard names where a column has a usual spelling of one, or `data.columns` says so.

  Args:
    row: as read.
    columns: what `data.columns` says, which goes before any spelling.
    answers: also of answers; False where prompts alone are read, whose other columns are for a reward.

  Raises:
    DataError: two columns may both be the prompt, or both the answer; or messages written as text cannot be read.
  """
  found = {name: value for name, value in row.items() if name not in columns.left_out}
  for name in [name for name in found if name not in _WORDS and _word(name) not in (None, *found)]:
    if name not in columns.given.values():
      found[str(_word(name))] = found.pop(name)
  moved = {standard: found.pop(name) for standard, name in columns.given.items() if name in found}
  for standard in moved:
    if standard in found:  # the data's own column of that name is another thing: nothing reads it
      found[f"{standard} (not read)"] = found.pop(standard)
  found |= moved
  if all(column in found for column in ("history", "human_ref_A", "human_ref_B")):
    return found
  _rename_first(found, "system", SYSTEMS)
  if answers:
    _rename_pair(found, ("chosen", "rejected"), PAIRS)
    if _numbers(found, SCORES):
      _rename_pair(found, ("score_chosen", "score_rejected"), SCORES)
  if found.get("prompt") is None and "prompt_ids" not in found:
    _find_prompt(found, answers)
  prompted = found.get("prompt") is not None
  if answers and prompted and not any(name in found for name in ANSWERS):
    _find_list(found)
  if answers and prompted and not any(c in found for c in (*ANSWERS, "response_0", "prompt_ids")):
    _rename_first(found, "completion", COMPLETIONS)
  for name in ("prompt", "chosen", "rejected", "completion", "messages"):
    if name in found:
      value = messages_from_text(found[name], name)
      found[name] = [value] if is_message(value) else value
  return found


@functools.lru_cache(4096)
def _word(name: str) -> str | None:
  """The known name that a column has but for case and spaces; None where it has none."""
  word = re.sub(r"[\s-]+", "_", name.strip().lower())
  return word if word in _WORDS else None


def _rename_first(row: dict[str, Any], standard: str, names: Sequence[str]) -> None:
  """The one of these columns that says something becomes the standard one, where there is none."""
  if row.get(standard) is not None:
    return
  there = [name for name in names if name in row]
  filled = [name for name in there if not _blank(row[name])]
  if len(filled) > 1:
    raise _ambiguous(standard, filled)
  if there:
    row[standard] = row.pop((filled or there)[0])


def _ambiguous(standard: str, names: Sequence[str]) -> DataError:
  listed = " and ".join(map(repr, names))
  return DataError(f"columns {listed} may each be the {standard}; say which by data.columns={standard}={names[0]}")


def _rename_pair(row: dict[str, Any], standard: tuple[str, str], pairs: Sequence[tuple[str, str]]) -> None:
  if all(name in row for name in standard):
    return
  for pair in pairs:
    if all(name in row for name in pair):
      values = [row.pop(name) for name in pair]
      row.update(zip(standard, values, strict=True))
      return


def _find_list(row: dict[str, Any]) -> None:
  """A list of answers under another name becomes `answers`, and `rewards` beside it what orders them."""
  name = next((name for name in LISTS if isinstance(from_json(row.get(name)), list)), "")
  if not name:
    return
  row["answers"] = row.pop(name)
  if "rewards" in row and "scores" not in row:
    row["scores"] = row.pop("rewards")


def _numbers(row: Row, pairs: Sequence[tuple[str, str]]) -> bool:
  """Whether the first of these pairs that the row has holds numbers."""
  for pair in pairs:
    if all(name in row for name in pair):
      try:
        return all(number(row[name], name) is not None for name in pair)
      except DataError:
        return False
  return False


def _blank(value: Any) -> bool:
  return is_empty(value) or value == []


def _find_prompt(row: dict[str, Any], answers: bool) -> None:
  """Gives the row its column `prompt`, or `messages` where a conversation stands alone."""
  answered = any(name in row for name in ("chosen", "rejected", "answers", "samples", "response_0"))
  texts = [name for name in PROMPTS if name in row and isinstance(row[name], str | None)]
  conversations = [name for name in CONVERSATIONS if name in row and _is_conversation(row[name])]
  alone = not answered and not any(name in row for name in ("completion", *COMPLETIONS))
  if conversations and not answered and (not answers or _ends_with_answer(row, conversations[0], anywhere=alone)):
    if answers and texts and any(name in row for name in COMPLETIONS):
      conversations = []  # the same twice: Alpaca's columns beside the conversation they make
    else:
      row["messages"] = row.pop(conversations[0])
      return
  if "instruction" in texts and "input" in texts:  # Alpaca: what to do, and with what
    texts.remove("input")
    instruction, given = row["instruction"], row.pop("input")
    row["instruction"] = "\n\n".join(
      part for part in (instruction, given) if not is_empty(part) and not is_missing(part)
    )
  filled = [name for name in texts if not _blank(row[name])]
  if filled:
    conversations = [name for name in conversations if not _ends_with_answer(row, name)]
  candidates = [*filled, *conversations] or texts
  if len(candidates) > 1:
    raise _ambiguous("prompt", candidates)
  if candidates:
    name = candidates[0]
    value = row.pop(name)
    row["prompt"] = _before_answer(value, row, name) if name in conversations else value


def _is_conversation(value: Any) -> bool:
  return is_messages(value) or looks_like_messages(value)


def _ends_with_answer(row: Row, name: str, *, anywhere: bool = False) -> bool:
  """Whether the last message of a conversation, or `anywhere` one of them, is the assistant's."""
  try:
    conversation = messages(row, name)
  except DataError:
    return False
  return any(message["role"] == "assistant" for message in conversation[0 if anywhere else -1 :])


def _before_answer(value: Any, row: Row, name: str) -> Any:
  """The conversation without the answer at its end, where the chosen one is the whole of it again."""
  if not is_messages(row.get("chosen")):
    return value
  try:
    conversation, chosen = messages({name: value}, name), messages(row, "chosen")
  except DataError:
    return value
  repeated = conversation[-1]["role"] == "assistant" and len(chosen) == len(conversation) > 1
  return conversation[:-1] if repeated and chosen[:-1] == conversation[:-1] else value


def is_unread_text(name: str, value: Any) -> bool:
  """Whether a column that nothing reads looks as if a model should have: a text, messages, media, or what holds them."""
  if isinstance(value, str):
    text = value.strip()
    if not text or _is_number(text):
      return False
    about = ABOUT.search(re.sub(r"[^a-z0-9]+", "_", name.lower()))
    return not about or len(text) > LONG
  if isinstance(value, list) and value:
    if MEDIA.search(name.lower()) or is_messages(value):
      return True
    return isinstance(value[0], str | Mapping | list) and is_unread_text(name, value[0])
  if isinstance(value, bytes | Mapping) and value and MEDIA.search(name.lower()):
    return True
  if isinstance(value, bytes):  # text in a binary column
    try:
      return is_unread_text(name, value.decode())
    except UnicodeDecodeError:
      return False
  return isinstance(value, Mapping) and any(is_unread_text(f"{name}_{key}", inner) for key, inner in value.items())


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return text.lower() in ("true", "false")
  return True
