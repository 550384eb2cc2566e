"""Byte-level BPE tokenizers out of GGUF files."""

import dataclasses
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from dpojax.errors import WeightsError

_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type that stand for whole tokens in a text
_LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class GgufTokenizer:
  """What a GGUF file says of its tokenizer; `adds_bos` is None where it does not say."""

  backend: tokenizers.Tokenizer
  special_tokens: dict[str, str]
  chat_template: str | None
  adds_bos: bool | None


def read_gguf_tokenizer(path: str | Path) -> GgufTokenizer:
  """Reads the `tokenizer.*` keys of a GGUF file.

  Raises:
    WeightsError: no such file, not GGUF, or a tokenizer other than byte-level BPE ("gpt2") with a
      known pre-tokenizer; names the key.
  """
  keys = _read_keys(Path(path))

  def need(key: str) -> Any:
    if key not in keys:
      raise WeightsError(f"{path}: no key {key}; the file carries no complete tokenizer")
    return keys[key]

  kind = need("tokenizer.ggml.model")
  if kind != "gpt2":
    raise WeightsError(f"{path}: tokenizer.ggml.model is {kind!r}; only 'gpt2' (byte-level BPE) is read from GGUF")
  split = _pre_tokenizer(path, keys.get("tokenizer.ggml.pre", "gpt-2"))
  tokens = need("tokenizer.ggml.tokens")
  vocabulary = {text: i for i, text in enumerate(tokens)}
  merges = [tuple(merge.split(" ", 1)) for merge in need("tokenizer.ggml.merges")]
  if odd := [merge for merge, pair in zip(need("tokenizer.ggml.merges"), merges, strict=True) if len(pair) != 2]:
    raise WeightsError(f"{path}: tokenizer.ggml.merges holds {odd[0]!r}, not two tokens")
  try:
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=split.whole_words))  # type: ignore[call-arg]
  except Exception as error:  # the library raises bare Exception
    raise WeightsError(f"{path}: tokenizer.ggml.merges does not fit tokenizer.ggml.tokens: {error}") from error
  backend.pre_tokenizer = pre_tokenizers.Sequence(split.steps)  # type: ignore[assignment]
  backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
  for text, what in zip(tokens, keys.get("tokenizer.ggml.token_type", []), strict=False):
    if what == _CONTROL:
      backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    elif what == _USER_DEFINED:
      backend.add_tokens([AddedToken(text, special=False, normalized=False)])

  special = {}
  names = dict(bos_token="bos", eos_token="eos", pad_token="padding", unk_token="unknown")
  for name, key in names.items():
    i = keys.get(f"tokenizer.ggml.{key}_token_id")
    if i is not None:
      if not 0 <= i < len(tokens):
        raise WeightsError(f"{path}: tokenizer.ggml.{key}_token_id is {i}, outside the {len(tokens)} tokens")
      special[name] = tokens[i]
  return GgufTokenizer(backend, special, keys.get("tokenizer.chat_template"), keys.get("tokenizer.ggml.add_bos_token"))


@dataclasses.dataclass(frozen=True)
class _Split:
  steps: list
  whole_words: bool = False  # a word found whole in the vocabulary is one token, whatever the merges


def _pre_tokenizer(path: str | Path, name: str) -> _Split:
  byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
  if name in ("gpt-2", "default"):
    return _Split([byte_level])
  if name == "smollm":
    return _Split([pre_tokenizers.Digits(individual_digits=True), byte_level])
  if name == "llama-bpe":
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _Split([pre_tokenizers.Split(Regex(_LLAMA3), "isolated"), plain], whole_words=True)
  raise WeightsError(f"{path}: tokenizer.ggml.pre is {name!r}; known: 'default', 'gpt-2', 'llama-bpe', 'smollm'")


def _read_keys(path: Path) -> dict[str, Any]:
  if not path.is_file():
    raise WeightsError(f"{path}: no such file")
  from dpojax.interop.gguf_reader import GgufReader  # imported late: gguf costs 70 ms

  try:
    fields = GgufReader(path).fields
    return {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}
  except Exception as error:  # whatever damaged bytes lead the reader into
    raise WeightsError(f"{path}: not a readable GGUF file: {error}") from error
