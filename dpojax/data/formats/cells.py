"""Single values as cells hold them: lists written as text, truth values, numbers; bounded in size and depth.

A CSV file holds a list as text, JSON or what Python printed of it::

    [{"role": "user", "content": "hi"}]       JSON
    [{'role': 'user', 'content': 'hi'}]       Python's repr, as pandas writes it
"""

import ast
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from dpojax.errors import DataError

MOST_DEPTH = 64  # lists and objects inside one another
MOST_LITERAL = 1_000_000  # characters of a list as Python prints it: its parser takes some hundred bytes for each
MOST_SHOWN = 60  # characters of a value in messages
LARGEST = 3.4028234e38  # of a float32
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
MISSING = (
  "nan",
  "NaN",
  "NAN",
  "None",
  "null",
  "NULL",
  "<NA>",
  "NaT",
)  # how pandas and others write a missing cell as text
# Roles of messages, and the one that each means.
ROLES = {name: name for name in ("system", "developer", "user", "assistant", "tool", "function")}
ROLES |= {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant"}
_OBJECT = re.compile(r"\s*(?:array\s*\(|\()?\s*[\[(]?\s*\{\s*[\"']")
_ROLE = re.compile(r"[\"'](role|from)[\"']\s*:")
_CONTENT = re.compile(r"[\"'](content|value|tool_calls)[\"']\s*:")


class DuplicateName(ValueError):
  """A JSON object that has a name twice, of which Python would keep the last without a word."""


def load_json(content: str | bytes) -> Any:
  """The value of a JSON text in which no object has a name twice.

  Raises:
    ValueError: it is no JSON, nested too deeply, or an object has a name twice.
  """
  try:
    value = json.loads(content, object_pairs_hook=_distinct)
  except RecursionError as error:
    raise ValueError(f"nested more than {MOST_DEPTH} deep") from error
  if depth_of(value) > MOST_DEPTH:
    raise ValueError(f"nested more than {MOST_DEPTH} deep")
  return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) != len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise DuplicateName(f"it has {shown(twice)} twice")
  return found


def load_list(content: str) -> Any:
  """The list or object that a text holds, as JSON or as Python prints it.

  Raises:
    ValueError: it is neither; says why.
  """
  try:
    return load_json(content)
  except DuplicateName:
    raise
  except ValueError as error:
    not_json = str(error)
  if len(content) > MOST_LITERAL:
    raise ValueError(f"no JSON ({not_json}), and too long for a Python list: {len(content):,} characters")
  try:
    value = ast.literal_eval(content.strip())
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    raise ValueError(f"neither JSON ({not_json}) nor a Python list") from None
  if depth_of(value) > MOST_DEPTH or not _is_plain(value):
    raise ValueError(f"no JSON ({not_json}), and a Python list that JSON cannot hold")
  return value


def _is_plain(value: Any) -> bool:
  """Whether JSON could hold it: no sets, bytes, tuples, complex numbers."""
  todo = [value]
  while todo:
    one = todo.pop()
    if isinstance(one, dict):
      if not all(isinstance(name, str) for name in one):
        return False
      todo += one.values()
    elif isinstance(one, list):
      todo += one
    elif not (one is None or isinstance(one, str | int | float | bool)):
      return False
  return True


def depth_of(value: Any) -> int:
  """How deep lists and objects lie in one another; 0: neither. Stops counting beyond `MOST_DEPTH`."""
  depth, level = 0, [value]
  while depth <= MOST_DEPTH:
    inner: list[Any] = []
    found = False
    for one in level:
      if isinstance(one, Mapping):
        found = True
        inner += [v for v in one.values() if isinstance(v, Mapping | list | tuple)]
      elif isinstance(one, list | tuple):
        found = True
        inner += [v for v in one if isinstance(v, Mapping | list | tuple)]
    if not found:
      break
    depth, level = depth + 1, inner
  return depth


def from_json(value: Any) -> Any:
  """Lists written as text, as CSV files hold them; anything else unchanged."""
  if isinstance(value, str) and value.lstrip()[:1] == "[" and value.rstrip()[-1:] == "]":
    try:
      return load_list(value)
    except ValueError:
      return value
  return value


def looks_like_messages(value: Any) -> bool:
  """Whether a text was meant as messages: it begins as a list of objects that have a role and content."""
  if not isinstance(value, str) or not _OBJECT.match(value):
    return False
  beginning = value[:2000]
  return bool(_ROLE.search(beginning) and (_CONTENT.search(beginning) or _CONTENT.search(value[-2000:])))


def messages_from_text(value: Any, column: str) -> Any:
  """Messages written as text become a list; a text that only talks of roles stays one; anything else unchanged.

  Raises:
    DataError: it was meant as messages and cannot be read.
  """
  value = _once_decoded(value)
  if not looks_like_messages(value):
    return value
  try:
    found = load_list(value)
  except ValueError as error:
    raise DataError(
      f"column {column!r} begins like a list of messages, but is {error}; write lists as JSON, such as json.dumps makes it"
    ) from None
  first: Any = found[0] if isinstance(found, list) and found else found
  return found if is_message(first) and str(first.get("role", "user")).strip().lower() in ROLES else value


def _once_decoded(value: Any) -> Any:
  """The text inside a JSON text where it looks like messages, which were written twice as JSON; else the value."""
  if not isinstance(value, str) or value.lstrip()[:1] != '"' or value.rstrip()[-1:] != '"':
    return value
  try:
    inner = load_json(value)
  except ValueError:
    return value
  return inner if looks_like_messages(inner) else value


def is_message(value: Any) -> bool:
  """Whether it is an object with a role and content, or ShareGPT's "from" and "value"."""
  if not isinstance(value, Mapping):
    return False
  return ("role" in value and ("content" in value or "tool_calls" in value)) or ("from" in value and "value" in value)


def is_empty(value: Any) -> bool:
  """Whether a cell says nothing: null, or blank text."""
  return value is None or (isinstance(value, str) and not value.strip())


def is_missing(value: Any) -> bool:
  """Whether a text is what pandas or Python writes in the place of a missing value."""
  return isinstance(value, str) and value.strip() in MISSING


def truth(value: Any) -> bool | None:
  """True for true, 1 and 1.0, also as text; False for false, 0 and 0.0; None for anything else."""
  return TRUTH.get(str(value).strip().lower()) if isinstance(value, bool | int | float | str) else None


def number(value: Any, column: str) -> float | None:
  """A number that float32 holds, also written as text; None where the cell says nothing.

  Raises:
    DataError: it is no number, not finite, or beyond float32.
  """
  if is_empty(value):
    return None
  if isinstance(value, bool) or not isinstance(value, int | float | str):
    raise DataError(f"column {column!r} holds {kind_of(value)}, not a number")
  try:
    found = float(value)
  except ValueError:
    found = math.nan
  except OverflowError:  # a whole number of hundreds of digits
    found = math.inf
  if not math.isfinite(found):
    raise DataError(f"column {column!r} holds {shown(value)}, not a finite number")
  if not fits_float32(found):
    raise DataError(f"column {column!r} holds {found:g}, beyond float32 ({LARGEST:.2g})")
  return found


def fits_float32(value: float) -> bool:
  """Whether it is finite as float32."""
  return abs(value) <= LARGEST


def shown(value: Any) -> str:
  """A value as messages show it: short."""
  try:
    text = repr(value[: MOST_SHOWN + 1] if isinstance(value, str) else value)
  except (ValueError, RecursionError):  # Python prints no whole number of more than 4,300 digits, and nothing too deep
    return f"{kind_of(value)} too large to show"
  return text if len(text) <= MOST_SHOWN + 2 else text[:MOST_SHOWN] + "…"


def kind_of(value: Any) -> str:
  """A value's kind in the words of a data file."""
  names = {str: "text", bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
  return "nothing" if value is None else names.get(type(value), type(value).__name__)
