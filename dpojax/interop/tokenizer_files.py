"""The files of a transformers tokenizer, read one by one; each may come from a stranger, and what is wrong with it is named."""

import codecs
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from dpojax.errors import WeightsError
from dpojax.interop.json_object import MOST, read_object, token_ids

CONFIG = "tokenizer_config.json"
MOST_ID = 2**24 - 1  # the library takes memory for every id up to the largest, and ends the process where there is none
SPECIAL_KEYS = ("bos_token", "eos_token", "pad_token", "unk_token")


def read_backend(folder: Path) -> tokenizers.Tokenizer:
  """`tokenizer.json`; WeightsError where it is missing or damaged."""
  file = folder / "tokenizer.json"
  if not file.is_file():
    hint = ""
    if (folder / "tokenizer.model").is_file():
      hint = "; tokenizer.model alone is not read: save the tokenizer once with transformers' fast tokenizer"
    raise WeightsError(f"{file}: no such file; a model folder needs its tokenizer{hint}")
  try:
    backend = tokenizers.Tokenizer.from_buffer(file.read_bytes().removeprefix(codecs.BOM_UTF8))
  except (KeyboardInterrupt, SystemExit):
    raise
  except BaseException as error:  # the library raises bare Exception, and its panics are no Exception
    raise WeightsError(f"{file}: not a tokenizer that `tokenizers` {tokenizers.__version__} reads: {error}") from error
  _check_ids(backend, file)
  return backend


def _check_ids(backend: tokenizers.Tokenizer, file: Path) -> None:
  """Raises WeightsError for an id that is too large, or that two words of the vocabulary have."""
  vocabulary = backend.get_vocab(with_added_tokens=True)
  last = max(vocabulary, key=vocabulary.__getitem__, default="")
  if vocabulary and vocabulary[last] > MOST_ID:
    raise WeightsError(f"{file}: the token {last!r} has the id {vocabulary[last]:,}; ids go up to {MOST_ID:,}")
  if len(set(vocabulary.values())) == len(vocabulary):
    return
  words: dict[int, str] = {}  # an added token may have the id of a word that it stands for
  for word, i in backend.get_vocab(with_added_tokens=False).items():
    if words.setdefault(i, word) != word:
      raise WeightsError(f"{file}: {words[i]!r} and {word!r} both have the id {i}; each token needs its own")


def special_tokens(config: Mapping[str, Any], file: Path) -> dict[str, str]:
  """bos, eos, pad and unk of a config, each written as text, as {"content": text}, or as null or "" where there is none.

  Raises:
    WeightsError: one is written as something else; without its EOS a model would never end an answer.
  """
  found = {}
  for key in SPECIAL_KEYS:
    value = config.get(key)
    value = value.get("content", 0) if isinstance(value, dict) else value
    if not (value is None or isinstance(value, str)):
      raise WeightsError(f"{file}: {key} is {config[key]!r:.80}; it must be the text of a token, or null")
    if value:
      found[key] = value
  return found


def add_tokens(backend: tokenizers.Tokenizer, folder: Path, config: Mapping[str, Any]) -> None:
  """Adds the tokens that stand beside `tokenizer.json`, each at the id it claims."""
  beside = folder / "added_tokens.json"
  claimed = {text: (_id(i, beside, text), False) for text, i in read_object(beside, absent={}).items()}
  file = folder / CONFIG
  decoder = config.get("added_tokens_decoder") or {}
  if not isinstance(decoder, dict):
    raise WeightsError(f"{file}: added_tokens_decoder is {type(decoder).__name__}; it must be an object of ids")
  for i, entry in decoder.items():
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
      raise WeightsError(f"{file}: added_tokens_decoder[{i!r}] has no text 'content'")
    claimed[entry["content"]] = (_id(i, file, entry["content"]), entry.get("special") is True)
  for text, (i, special) in sorted(claimed.items(), key=lambda item: item[1]):
    if backend.token_to_id(text) is None:
      token = AddedToken(text, special=special, normalized=False)
      backend.add_special_tokens([token]) if special else backend.add_tokens([token])
    if backend.token_to_id(text) != i:
      raise WeightsError(
        f"{folder}: added token {text!r} claims id {i} but has {backend.token_to_id(text)} in tokenizer.json"
      )


def read_template(folder: Path, config: Mapping[str, Any]) -> str | None:
  """The chat template: `chat_template.jinja`, else the config's only one, or of several the `default`."""
  file = folder / "chat_template.jinja"
  if file.is_file():
    try:
      return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
      raise WeightsError(f"{file}: not UTF-8: {error}") from error
  template, where = config.get("chat_template"), f"{folder / CONFIG}: chat_template"
  if isinstance(template, list):  # several, by name
    if not all(isinstance(entry, dict) and {"name", "template"} <= set(entry) for entry in template):
      raise WeightsError(f"{where} is a list of other things than objects with 'name' and 'template'")
    named = {str(entry["name"]): entry["template"] for entry in template}
    if "default" not in named:
      raise WeightsError(f"{where} has {sorted(named)} but no 'default'")
    template = named["default"]
  if template is not None and not isinstance(template, str):
    raise WeightsError(f"{where} is {type(template).__name__}; it must be Jinja source as text")
  return template


def generation_ends(folder: Path, backend: tokenizers.Tokenizer) -> list[int]:
  """`eos_token_id`, one id or a list, of generation_config.json, else of config.json."""
  for name in ("generation_config.json", "config.json"):
    file = folder / name
    config = read_object(file, absent={})
    if config.get("eos_token_id") is not None:
      ends = list(token_ids(config, "eos_token_id", None, where=f"{file}: "))
      if unknown := [i for i in ends if backend.id_to_token(i) is None]:
        raise WeightsError(f"{file}: eos_token_id {unknown[0]} is not an id of tokenizer.json")
      return ends
  return []


def max_length(config: Mapping[str, Any]) -> int | None:
  """`model_max_length`, None where it is absent or transformers' "without end"."""
  limit = config.get("model_max_length")
  if isinstance(limit, bool) or not isinstance(limit, int | float) or not 1 <= limit < 1e9:
    return None
  return int(limit)


def _id(value: Any, file: Path, text: str) -> int:
  """The id that a token claims, a whole number or its digits as the key of a JSON object."""
  number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 12 else value
  if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MOST:
    raise WeightsError(f"{file}: added token {text!r} claims the id {value!r}; an id is a whole number from 0")
  return number
