"""One tokenizer for every source: a transformers folder, a GGUF file, or a list of words.

It wraps the `tokenizers` library and adds what that library leaves to others: which token begins and
ends a text, whether the tokenizer itself adds the first one, and the chat template.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers, processors

from dpojax.errors import DataError, InputError, WeightsError
from dpojax.files import replacing_path, write_atomically, write_json
from dpojax.interop.json_object import read_object
from dpojax.interop.tokenizer_files import (
  add_tokens,
  generation_ends,
  max_length,
  read_backend,
  read_template,
  special_tokens,
)

_JOINERS = ("ByteLevel", "Metaspace", "ByteFallback", "Fuse", "WordPiece", "BPEDecoder")


class Tokenizer:
  """Text to token ids and back. Immutable after construction; safe to share between threads.

  Attributes:
    vocab_size: number of token ids.
    bos_id, eos_id, pad_id: ids, or None where the tokenizer has no such token.
    eos_ids: every id that ends a generated answer, `eos_id` first.
    chat_template: Jinja source, or None.
    adds_bos: whether the tokenizer's own post-processor puts BOS before a text. `encode` never does.
    special_tokens: text of `bos_token`, `eos_token`, `pad_token`, `unk_token` where known, as chat
      templates use them.
  """

  def __init__(
    self,
    backend: tokenizers.Tokenizer,
    *,
    special_tokens: dict[str, str],
    chat_template: str | None = None,
    eos_ids: Iterable[int] = (),
    max_length: int | None = None,
  ):
    """
    Args:
      backend: the tokenizer proper; truncation and padding are switched off.
      special_tokens: any of `bos_token`, `eos_token`, `pad_token`, `unk_token` to their text.
      chat_template: Jinja source.
      eos_ids: further ids that end an answer; the first stands in for a missing `eos_token`.
      max_length: the longest text the model was made for, kept for `save`.

    Raises:
      WeightsError: a special token other than `pad_token` is not in the vocabulary.
    """
    backend.no_truncation()
    backend.no_padding()
    known = {}
    for key, text in special_tokens.items():
      if backend.token_to_id(text) is not None:
        known[key] = text
      elif key != "pad_token":  # nothing here pads, and transformers invents missing pad tokens
        raise WeightsError(f"tokenizer: {key} is {text!r}, which its vocabulary lacks")
    eos = backend.token_to_id(known["eos_token"]) if "eos_token" in known else None
    ends = [] if eos is None else [eos]
    ends += [i for i in eos_ids if i not in ends]
    if ends and "eos_token" not in known:
      known["eos_token"] = backend.id_to_token(ends[0])
    self.special_tokens = known
    self.bos_id = backend.token_to_id(known["bos_token"]) if "bos_token" in known else None
    self.pad_id = backend.token_to_id(known["pad_token"]) if "pad_token" in known else None
    self.eos_id = ends[0] if ends else None
    self.eos_ids = tuple(ends)
    self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
    self.chat_template = chat_template
    self.adds_bos = self.bos_id is not None and _added_first(backend) == self.bos_id
    self._backend = backend
    self._max_length = max_length
    decoder = json.loads(backend.to_str()).get("decoder")
    self._byte_level = '"ByteLevel"' in json.dumps(decoder)
    self._words = not any(f'"{name}"' in json.dumps(decoder) for name in _JOINERS)

  @property
  def separator(self) -> str:
    """What to put between two texts that are joined: a space where tokens are words, else nothing."""
    return " " if self._words else ""

  def encode(self, text: str) -> list[int]:
    """Token ids of `text`. Special tokens written in it are recognised; none is added."""
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """`encode` of many texts, in parallel."""
    try:
      return [e.ids for e in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    except Exception as error:
      raise DataError(self._why_not(texts, error)) from error

  def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
    return self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

  def pieces(self, ids: Iterable[int]) -> list[str]:
    """Printable text of each token; joined, they read as the text (bytes of a split character as U+FFFD)."""
    texts = []
    for n, i in enumerate(ids):
      token = self._backend.id_to_token(int(i))
      if token is None:
        texts.append(f"<{int(i)}?>")
      elif self._words:
        texts.append(token if n == 0 else f" {token}")
      elif self._byte_level:
        texts.append(_text_of_bytes(token))
      else:
        texts.append(token.replace("▁", " "))
    return texts

  def with_template(self, source: str | None) -> "Tokenizer":
    """The same with another chat template; None: without one."""
    changed = copy.copy(self)
    changed.chat_template = source
    return changed

  def tokens_from(self, first: int) -> dict[int, str]:
    """id -> text of every token whose id is `first` or more, rising."""
    vocabulary = self._backend.get_vocab(with_added_tokens=True)
    return dict(sorted((i, text) for text, i in vocabulary.items() if i >= first))

  def added_tokens(self) -> set[str]:
    """Texts of the tokens that are found as a whole, special or not."""
    return {token.content for token in self._backend.get_added_tokens_decoder().values()}

  def control_tokens(self) -> set[str]:
    """Texts of the special tokens: wherever a text holds one, it becomes that token and not letters."""
    return {token.content for token in self._backend.get_added_tokens_decoder().values() if token.special}

  def with_pad_token(self, text: str) -> "Tokenizer":
    """The same with the token `text` for padding.

    Raises:
      WeightsError: it is not in the vocabulary, or ends answers.
    """
    token = self._backend.token_to_id(text)
    if token is None:
      raise WeightsError(f"pad token {text!r} is not in the vocabulary of {self.vocab_size}")
    if token in self.eos_ids:
      raise WeightsError(f"pad token {text!r} ends answers (EOS); padding needs a token of its own")
    changed = copy.copy(self)
    changed.special_tokens = self.special_tokens | {"pad_token": text}
    changed.pad_id = token
    return changed

  def spare_token(self) -> str | None:
    """A special token that ends no text: fit for padding. None where every special token has a use.

    The pad token itself unless it ends answers, else one named for padding, else any that neither the chat
    template nor another role uses, else the unknown token where tokens can spell every text.
    """
    added = self._backend.get_added_tokens_decoder()
    special = [token.content for i, token in sorted(added.items()) if token.special and i not in self.eos_ids]
    pad, unknown = (self.special_tokens.get(key) for key in ("pad_token", "unk_token"))
    used = {*self.special_tokens.values()} - {pad}
    free = [text for text in special if text not in used and text not in (self.chat_template or "")]
    named = [text for text in special if "pad" in text.lower() and text not in used]
    own = [pad] if pad is not None and self.pad_id not in self.eos_ids else []
    last = [unknown] if unknown in special and not self._words else []
    return next(iter([*own, *named, *free, *last]), None)

  def fingerprint(self) -> str:
    """SHA-256 of everything that decides ids and rendered text: vocabulary, special tokens, template."""
    definition = [self._backend.to_str(), sorted(self.special_tokens.items()), self.eos_ids, self.chat_template]
    return hashlib.sha256(json.dumps(definition).encode()).hexdigest()

  def ids_fingerprint(self) -> str:
    """SHA-256 of what decides a text's ids alone: as `fingerprint`, without template and padding."""
    special = sorted((name, text) for name, text in self.special_tokens.items() if name != "pad_token")
    return hashlib.sha256(json.dumps([self._backend.to_str(), special, self.eos_ids]).encode()).hexdigest()

  def save(self, folder: str | Path) -> None:
    """Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` as transformers reads them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing_path(folder / "tokenizer.json") as part:
      self._backend.save(str(part))
    config: dict[str, Any] = dict(self.special_tokens, clean_up_tokenization_spaces=False)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if self._max_length is not None:
      config["model_max_length"] = self._max_length
    write_json(folder / "tokenizer_config.json", config)
    if self.chat_template is not None:
      write_atomically(folder / "chat_template.jinja", self.chat_template)
    else:
      (folder / "chat_template.jinja").unlink(missing_ok=True)  # of a run that went on without one
    if len(self.eos_ids) > 1:  # where transformers keeps the other ends; a model's own file says the same
      _add_generation_ends(folder / "generation_config.json", self.eos_ids)

  @classmethod
  def from_folder(cls, path: str | Path) -> "Tokenizer":
    """The tokenizer of a transformers folder.

    Raises:
      WeightsError: `tokenizer.json` is missing, or any of the files read is damaged; names the file.
    """
    folder = Path(path)
    backend = read_backend(folder)
    config = read_object(folder / "tokenizer_config.json", absent={})
    add_tokens(backend, folder, config)
    beside = read_object(folder / "special_tokens_map.json", absent={})
    special = special_tokens({**beside, **config}, folder / "tokenizer_config.json")
    for key in ("bos_token", "eos_token"):
      if key in special and backend.token_to_id(special[key]) is None:
        raise WeightsError(f"{folder / 'tokenizer_config.json'}: {key} is {special[key]!r}, not in tokenizer.json")
    if "unk_token" in special and backend.token_to_id(special["unk_token"]) is None:
      del special["unk_token"]  # several published configs name one that their vocabulary lacks
    _obey_add_bos(backend, config.get("add_bos_token"), special.get("bos_token"))
    return cls(
      backend,
      special_tokens=special,
      chat_template=read_template(folder, config),
      eos_ids=generation_ends(folder, backend),
      max_length=max_length(config),
    )

  @classmethod
  def from_gguf(cls, path: str | Path) -> "Tokenizer":
    """The tokenizer inside a GGUF file.

    Raises:
      WeightsError: the file is missing, damaged, or holds a kind of tokenizer that is not supported
        (names the key).
    """
    from dpojax.interop.gguf_tokenizer import read_gguf_tokenizer

    parts = read_gguf_tokenizer(path)
    _obey_add_bos(parts.backend, parts.adds_bos, parts.special_tokens.get("bos_token"))
    return cls(parts.backend, special_tokens=parts.special_tokens, chat_template=parts.chat_template)

  @classmethod
  def from_words(
    cls, words: Sequence[str], *, eos: str, unknown: str | None = None, chat_template: str | None = None
  ) -> "Tokenizer":
    """A token per word, split at white space; ids in the order of `words`, and decoding joins by single spaces.

    Args:
      words: distinct, without white space. `eos` and `unknown` are put first unless they are among them.
      eos: the token that ends an answer.
      unknown: stands for any other word; without it an unknown word is a `DataError`.
      chat_template: Jinja source.
    """
    specials = [t for t in (eos, unknown) if t is not None]
    ordered = [t for t in specials if t not in words] + list(words)
    if len(set(ordered)) != len(ordered):
      raise InputError(f"words: {next(w for w in ordered if ordered.count(w) > 1)!r} appears twice")
    if wrong := [w for w in ordered if not w or re.search(r"\s", w)]:
      raise InputError(f"words: {wrong[0]!r} is empty or holds white space")
    vocabulary = {word: i for i, word in enumerate(ordered)}
    unk = {} if unknown is None else {"unk_token": unknown}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, **unk))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    special = dict(eos_token=eos, pad_token=eos, **unk)
    return cls(backend, special_tokens=special, chat_template=chat_template)

  def _why_not(self, texts: Sequence[str], error: Exception) -> str:
    for n, text in enumerate(texts):
      if not isinstance(text, str):
        return f"tokenizer: text {n} is {type(text).__name__}, not str"
      if lone := next((c for c in text if "\ud800" <= c <= "\udfff"), ""):
        which = f"text {n}" if len(texts) > 1 else "the text"
        return f"tokenizer: {which} holds half a character (a lone surrogate, U+{ord(lone):04X}), which no text may"
      for word in text.split() if self._words else ():
        if self._backend.token_to_id(word) is None:
          which = f" of text {n}" if len(texts) > 1 else ""
          return f"tokenizer: the word {word!r}{which} is not in its vocabulary of {self.vocab_size}"
    return f"tokenizer: {error}"


def _added_first(backend: tokenizers.Tokenizer) -> int | None:
  """The id that the post-processor puts before a text, or None."""
  ids = backend.encode("", add_special_tokens=True).ids
  return ids[0] if ids else None


def _obey_add_bos(backend: tokenizers.Tokenizer, wanted: bool | None, bos: str | None) -> None:
  """Makes the post-processor do what an explicit `add_bos_token` says, as transformers does."""
  if wanted is None or bos is None or bool(wanted) == (_added_first(backend) == backend.token_to_id(bos)):
    return
  single = f"{bos}:0 $A:0" if wanted else "$A:0"
  backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
    single=single, pair=f"{single} $B:1", special_tokens=[(bos, backend.token_to_id(bos))] if wanted else []
  )


def _byte_table() -> dict[str, int]:
  """The printable stand-ins of byte-level BPE: bytes that print stand for themselves, the others follow from U+0100."""
  printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  others = [b for b in range(256) if b not in printing]
  return {chr(b): b for b in printing} | {chr(0x100 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_table()


def _text_of_bytes(token: str) -> str:
  if any(char not in _BYTE_OF for char in token):
    return token  # an added token, stored as plain text
  return bytes(_BYTE_OF[char] for char in token).decode("utf-8", errors="replace")


def _add_generation_ends(file: Path, eos_ids: Sequence[int]) -> None:
  config = read_object(file, absent={})
  config.setdefault("eos_token_id", list(eos_ids))
  write_json(file, config)
