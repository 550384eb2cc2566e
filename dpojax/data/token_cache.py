"""Tokenised data sets kept on disk, so that a second start does not wait for the tokenizer.

An entry is what became of all rows of one source: ids, texts, counts and notes, before any are held out. Its key holds
everything that it was made from: the rows themselves, the settings, the tokenizer, the template, the versions of the
libraries that do the work, and our own source code, so no key outlives a change of any of them.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from dpojax import __version__
from dpojax.config.schema import DataSettings
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.sources import Source
from dpojax.data.templates import template_source
from dpojax.disk_cache import DiskCache, own_folder
from dpojax.interop.tokenizer import Tokenizer
from dpojax.types import Answers

FOLDER = "DPOJAX_TOKEN_CACHE"
ENTRY = ".tokens"
MOST_BYTES = 4 * 2**30  # of all entries; a million pairs like those of HH take about two
# Settings that decide what is held out, which pairs rankings make, and how many texts an environment writes: nothing that becomes of a row of a source.
AFTERWARDS = ("eval_path", "eval_split", "eval_fraction", "seed", "texts", "pairs")
LIBRARIES = ("tokenizers", "jinja2", "datasets", "pyarrow", "numpy")
OUR_CODE = ("data", "interop")  # packages whose source decides what becomes of a row


def warn(message: str) -> None:
  print(f"dpojax: token cache: {message}", file=sys.stderr, flush=True)


class TokenCache:
  """Data sets by what they were made from, in one folder.

  Args:
    root: of the entries of all versions. The first thing that goes wrong there (a damaged entry, a full disk) is said on
      stderr, and the data are tokenised anew.
  """

  def __init__(self, root: pathlib.Path):
    """Raises OSError: the folder cannot be made, or is open to others."""
    folder = own_folder(root.expanduser() / f"dpojax-{__version__}")
    self._files = DiskCache(folder, ENTRY, MOST_BYTES, what="data set", made="tokenised", say=warn)

  @classmethod
  def from_environment(cls) -> "TokenCache | None":
    """The cache in the folder that DPOJAX_TOKEN_CACHE names; None without a name, or if it cannot be used."""
    root = os.environ.get(FOLDER, "")
    try:
      return cls(pathlib.Path(root)) if root else None
    except OSError as error:
      warn(f"{root}: {error.strerror or error}; data are tokenised at every start")
      return None

  def dataset(
    self,
    source: Source,
    settings: DataSettings,
    tokenizer: Tokenizer,
    *,
    answers: Answers,
    row_length: int,
    make: Callable[[], TokenDataset],
  ) -> TokenDataset:
    """The data set that `make` would give, read if it is here, else made and kept for the next time."""
    identity = source.identity()
    if not identity:
      return make()
    key = _key(identity, source.name, settings, tokenizer, answers, row_length)
    entry = self._files.get(key)
    if entry is not None:
      return decode(entry)
    dataset = make()
    if source.identity() == identity:  # else somebody wrote the file while we read it
      entry = encode(dataset)
      if entry is not None:
        self._files.put(key, entry)
    return dataset


def _key(
  identity: str, name: str, settings: DataSettings, tokenizer: Tokenizer, answers: Answers, row_length: int
) -> str:
  facts = {
    "rows": identity,
    "name": name,  # the places that messages name
    "settings": {key: value for key, value in dataclasses.asdict(settings).items() if key not in AFTERWARDS},
    "tokenizer": tokenizer.fingerprint(),
    "template": template_source(settings.template, tokenizer),
    "answers": answers.value,
    "row_length": row_length,
    "code": our_code(),
    "versions": [sys.version, *(importlib.metadata.version(library) for library in LIBRARIES)],
  }
  return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@functools.cache
def our_code() -> str:
  """sha256 of the source files that decide what becomes of a row, as 64 hexadecimal digits."""
  digest = hashlib.sha256()
  package = pathlib.Path(__file__).parents[1]
  for file in sorted(file for name in OUR_CODE for file in (package / name).rglob("*.py")):
    content = file.read_bytes()
    digest.update(f"{file.relative_to(package)} {len(content)}\n".encode() + content)
  return digest.hexdigest()


def encode(dataset: TokenDataset) -> bytes | None:
  """The data set as the bytes of an .npz; None where its rows carry what JSON does not give back (times, NaN)."""
  whole = {
    "counts": dataset.counts,
    "notes": dataset.notes,
    "warnings": dataset.warnings,
    "dropped": [list(drop) for drop in dataset.dropped],
    "origin": dataset.origin,
    "answer_names": list(dataset.answer_names),
  }
  lines = []
  for value in (whole, *dataset.metadata):
    line = _as_json(value)
    if line is None:
      return None
    lines.append(line)
  text = b"\n".join(lines)
  del lines
  examples = [dataset[i] for i in range(len(dataset))]
  parts = [ids for example in examples for ids in (example.prompt, *example.answers)]
  masks = [mask for example in examples for mask in example.learned]
  stream = io.BytesIO()
  np.savez(
    stream,
    ids=np.concatenate(parts) if parts else np.zeros(0, np.int32),
    lengths=np.asarray([len(ids) for ids in parts], np.int64),
    parts=np.asarray([1 + len(example.answers) for example in examples], np.int64),
    learned=np.packbits(np.concatenate(masks)) if masks else np.zeros(0, np.uint8),
    masked=np.asarray([bool(example.learned) for example in examples], bool),
    scores=np.asarray([score for example in examples for score in example.scores], np.float64),
    scored=np.asarray([(len(e.scores), e.scores_have_units) for e in examples], np.int64).reshape(-1, 2),
    judged=np.asarray([(e.weight, e.label, e.margin) for e in examples], np.float64).reshape(-1, 3),
    text=np.frombuffer(text, np.uint8),
  )
  return stream.getvalue()


def _as_json(value: Any) -> bytes | None:
  """One line that JSON reads back as the same value, or None."""
  try:
    line = json.dumps(value)
  except (TypeError, ValueError, RecursionError):
    return None
  return line.encode() if json.loads(line) == value else None


def decode(entry: bytes) -> TokenDataset:
  """Inverse of `encode`."""
  with np.load(io.BytesIO(entry), allow_pickle=False) as stored:
    ids, lengths, parts, judged = (stored[name] for name in ("ids", "lengths", "parts", "judged"))
    learned, masked = np.unpackbits(stored["learned"]).astype(bool), stored["masked"].tolist()
    scores, scored = stored["scores"].tolist(), stored["scored"].tolist()
    whole, *metadata = map(json.loads, stored["text"].tobytes().split(b"\n"))
  ends = np.cumsum(lengths).tolist()
  arrays = [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]
  examples: list[TokenExample] = []
  first = at = scores_at = 0
  for number, (weight, label, margin), has_mask in zip(parts.tolist(), judged.tolist(), masked, strict=True):
    prompt, *answers = arrays[first : first + number]
    first += number
    masks = []
    for answer in answers if has_mask else ():
      masks.append(learned[at : at + len(answer)])
      at += len(answer)
    count, units = scored[len(examples)]
    mine, scores_at = tuple(scores[scores_at : scores_at + count]), scores_at + count
    annotations = {"weight": weight, "label": label, "margin": margin}
    known = {"learned": tuple(masks), "scores": mine, "scores_have_units": bool(units)}
    examples.append(TokenExample(prompt, tuple(answers), **annotations, **known))
  whole["dropped"] = [(number, why) for number, why in whole["dropped"]]
  return TokenDataset(examples, metadata=metadata, **whole)
