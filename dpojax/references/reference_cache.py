"""Reference log-probs on disk: per token, one record per (exact prompt ids, exact answer ids).

Per token and per answer, never per row or batch, so one cache serves every beta, loss, learning rate,
batch shape and packing, and every data set that shares rows. What the numbers do depend on (weights,
model config, precision, our numerics, adapters) names the folder, so another model never hits.
"""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.packing import BatchShape
from dpojax.data.slots import locate
from dpojax.errors import DataError, WeightsError
from dpojax.files import write_atomically
from dpojax.parallel.processes import check_one_process
from dpojax.references.record_store import MAGIC, RecordStore
from dpojax.scoring.packed import Progress, Score, score_steps
from dpojax.types import PackedBatch

# Raise it whenever the same weights and ids give other float32 log-probs than before. 1 stored log-probs of other tokens
# where the prompt was scored too (loss.nll_span=prompt_and_answer).
NUMERICS = 2
ABSENT = -1


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where a data set's answers are in the store's values.

  Attributes:
    start: i64[N, K] of answer k of example n, `ABSENT` where it is not stored or there is no such answer.
    length: i64[N, K] tokens, 0 where there is no such answer.
    first: i64[N, K] of the answer in `tokens`.
    tokens: i32[T], all answers' ids one after another.
  """

  start: np.ndarray
  length: np.ndarray
  first: np.ndarray
  tokens: np.ndarray


class ReferenceCache:
  """Per-token log-probs of one frozen model.

  Args:
    folder: of all caches; this model's is the subfolder named by its key. Runs may share it.
    weights: `weights_fingerprint` of the parameters.
    config: the model config as a JSON-like mapping.
    precision: of the matrix products that compute the log-probs.
    adapters: fingerprint of adapters on top of the weights, or None.
    warn: called with the text of each warning, such as a damaged file whose records are recomputed.
  """

  def __init__(
    self,
    folder: str | Path,
    *,
    weights: str,
    config: Mapping[str, Any],
    precision: str,
    adapters: str | None = None,
    warn: Callable[[str], None] = warnings.warn,
  ):
    key = dict(weights=weights, config=dict(config), precision=precision, adapters=adapters, numerics=NUMERICS)
    key["blocks"] = MAGIC.decode()
    text = json.dumps(key, indent=1, sort_keys=True)
    self.folder = Path(folder).absolute() / hashlib.sha256(text.encode()).hexdigest()
    primary = jax.process_index() == 0
    self._store = RecordStore(self.folder, warn, writable=primary, owner=self.folder.name)
    self._layouts: dict[str, Layout] = {}
    if primary:
      write_atomically(self.folder / "key.json", text + "\n")  # for people: what the folder's name stands for

  def missing(self, dataset: TokenDataset) -> list[TokenExample]:
    """The answers not stored yet, each once: examples reduced to them, in the data set's order."""
    seen: set[bytes] = set()
    reduced = []
    for n in range(len(dataset)):
      example = dataset[n]
      answers = []
      for answer, digest in zip(example.answers, record_digests(example), strict=True):
        if digest not in self._store.places and digest not in seen:
          seen.add(digest)
          answers.append(answer)
      if answers:
        reduced.append(dataclasses.replace(example, answers=tuple(answers), index=n))
    return reduced

  def fill(self, dataset: TokenDataset, score: Score, shape: BatchShape, progress: Progress | None = None) -> int:
    """Computes what is missing, in packed batches, each stored as soon as it is computed.

    Interrupted at any moment and called again, it goes on with the same batches, so the stored values
    do not depend on the interruption.

    Args:
      dataset: whose answers to score.
      score: packed batch [G, R, ...] -> f32[G, R, S] log-probs of `target`.
      shape: of the packed batches.
      progress: called with (answers computed, answers to compute) after each batch.

    Returns:
      How many answers were computed.

    Raises:
      WeightsError: a log-prob is not finite; names the row.
      ConfigError: there are several processes.
    """
    check_one_process()
    examples = self.missing(dataset)
    total = sum(len(example.answers) for example in examples)
    done = 0
    for step in score_steps(score, examples, shape, size=shape.groups * shape.rows):  # one example a row always fits
      vectors = step.by_token()
      for example, of_answers in zip(step.examples, vectors, strict=True):
        if not all(np.isfinite(vector).all() for vector in of_answers):
          where = dataset.where(examples[example.index].index)
          raise WeightsError(f"{where}: the reference model gives a log-prob that is not finite")
      digests = [digest for example in step.examples for digest in record_digests(example)]
      self._store.append(digests, [vector for of_answers in vectors for vector in of_answers])
      done += len(digests)
      if progress is not None:
        progress(done, total)
    self._layouts.clear()  # places of answers that were missing are known now
    return done

  def attach(self, batch: PackedBatch, dataset: TokenDataset) -> PackedBatch:
    """The batch with `reference_logp` f32[G, R, S], 0 in empty slots.

    Args:
      batch: NumPy arrays packed from `dataset`.
      dataset: its answers stored before by `fill`.

    Raises:
      DataError: an answer is not stored, or the batch was packed from other tokens.
    """
    layout = self._layouts.get(dataset.fingerprint)
    if layout is None:
      layout = self._layouts[dataset.fingerprint] = self._layout(dataset)
    slots = locate(batch).of_answers(dataset.num_answers)
    example, k = slots.example, slots.answer
    start = layout.start[example, k]
    if (start == ABSENT).any():
      n = int(example[np.argmax(start == ABSENT)])
      raise DataError(f"{dataset.where(n)}: its reference log-probs are not in {self.folder}; fill the cache first")
    inside = slots.rank < layout.length[example, k]
    token = layout.tokens[np.where(inside, layout.first[example, k] + slots.rank, 0)]
    if not (inside & (token == np.asarray(batch.target).reshape(-1)[slots.place])).all():
      raise DataError("the batch was packed from another data set than the one whose log-probs are to be attached")
    logp = np.zeros(np.shape(batch.target), np.float32)
    logp.reshape(-1)[slots.place] = self._store.values[start + slots.rank]
    return dataclasses.replace(batch, reference_logp=logp)

  def _layout(self, dataset: TokenDataset) -> Layout:
    shape = (len(dataset), dataset.num_answers)
    start = np.full(shape, ABSENT, np.int64)
    length, first = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    tokens: list[np.ndarray] = []
    total = 0
    for n in range(len(dataset)):
      example = dataset[n]
      for k, (answer, digest) in enumerate(zip(example.answers, record_digests(example), strict=True)):
        start[n, k] = self._store.places.get(digest, (ABSENT, 0))[0]
        length[n, k], first[n, k] = len(answer), total
        tokens.append(answer)
        total += len(answer)
    return Layout(start, length, first, np.concatenate(tokens) if tokens else np.zeros(0, np.int32))


def record_digests(example: TokenExample) -> list[bytes]:
  """32 bytes for each answer: sha256 of the exact prompt and answer ids."""
  prompt = np.asarray(example.prompt, "<i4").tobytes()
  before = hashlib.sha256(len(prompt).to_bytes(8, "little") + prompt)
  digests = []
  for answer in example.answers:
    digest = before.copy()
    digest.update(np.asarray(answer, "<i4").tobytes())
    digests.append(digest.digest())
  return digests


@dataclasses.dataclass(frozen=True)
class CachedBatches:
  """`Batches` whose steps carry `reference_logp`; the cache must hold every answer of their data set."""

  batches: Batches
  cache: ReferenceCache

  @property
  def dataset(self) -> TokenDataset:
    return self.batches.dataset

  @property
  def shape(self) -> BatchShape:
    return self.batches.shape

  @property
  def steps_per_epoch(self) -> int:
    return self.batches.steps_per_epoch

  def __call__(self, step: int) -> PackedBatch:
    return self.cache.attach(self.batches(step), self.dataset)

  def in_order(self) -> Iterator[PackedBatch]:
    for batch in self.batches.in_order():
      yield self.cache.attach(batch, self.dataset)

  def num_tokens(self, step: int) -> int:
    return self.batches.num_tokens(step)
