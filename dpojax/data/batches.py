"""Packed steps of a data set, each a pure function of (fingerprint, seed, step)."""

import dataclasses
import hashlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np

from dpojax.config.schema import BatchSettings
from dpojax.data.batch_shape import choose_shape
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.packing import BatchShape, check_fits, pack, plan_rows
from dpojax.types import PackedBatch


@dataclasses.dataclass(frozen=True)
class Fill:
  """How full packed steps are.

  Attributes:
    rows: fraction of token places that hold a token, over rows in use.
    groups: the same over all rows of the groups in use: what is computed.
    scored: fraction of scored slots in use, over rows in use.
    groups_per_step: row groups a step goes through, on average.
  """

  rows: float
  groups: float
  scored: float
  groups_per_step: float


class Batches:
  """Packed training steps: `batches(step)` is the same whenever and wherever it is asked.

  The stream of examples is one seeded permutation of the data set after another, and step s takes
  places [s * size, (s + 1) * size) of it. Where the data set is no multiple of the step, the last
  step of an epoch goes on into the next permutation, so no example is ever dropped and every step is
  full. Resuming needs the step number and nothing else.
  """

  def __init__(self, dataset: TokenDataset, batch: BatchSettings, shape: BatchShape | None = None):
    """Raises DataError if an example does not fit a row, naming where it was read."""
    self.dataset = dataset
    self.settings = batch
    self.shape = shape or choose_shape(dataset, batch)
    for i in range(len(dataset)):
      example = dataset[i]
      check_fits(example, example.row_tokens(batch.share_prompt), self._slots(example), self.shape, dataset.where(i))
    self._permutations: dict[int, np.ndarray] = {}

  @property
  def steps_per_epoch(self) -> int:
    """Steps after which every example was seen at least once."""
    return -(-len(self.dataset) // self.settings.size)

  def indices(self, step: int) -> np.ndarray:
    """i64[size] of the data set, the examples of `step`."""
    places = np.arange(step * self.settings.size, (step + 1) * self.settings.size)
    epochs, offsets = np.divmod(places, len(self.dataset))
    permutations = {epoch: self._permutation(epoch) for epoch in np.unique(epochs).tolist()}
    self._permutations = permutations  # the next step most likely asks for the same
    return np.asarray([permutations[e][o] for e, o in zip(epochs.tolist(), offsets.tolist(), strict=True)])

  def __call__(self, step: int) -> PackedBatch:
    return self._packed(self.indices(step))

  def num_tokens(self, step: int) -> int:
    """Tokens of `step` counted as each answer alone, its prompt included, however they are packed."""
    return sum(self.dataset[i].row_tokens(share_prompt=False) for i in self.indices(step))

  def in_order(self) -> Iterator[PackedBatch]:
    """Every example exactly once, in order, for evaluation; the last step may be partly empty."""
    for start in range(0, len(self.dataset), self.settings.size):
      yield self._packed(range(start, min(start + self.settings.size, len(self.dataset))))

  def fill(self, steps: int = 16) -> Fill:
    """How full the first `steps` steps are, planned from lengths."""
    tokens = scored = rows = groups = 0
    for step in range(steps):
      examples = [self.dataset[i] for i in self.indices(step)]
      sizes = [example.row_tokens(self.settings.share_prompt) for example in examples]
      slots = [self._slots(example) for example in examples]
      plan = plan_rows(sizes, slots, length=self.shape.length, slots=self.shape.scored, examples=self.shape.examples)
      tokens += sum(sizes)
      scored += sum(slots)
      rows += len(plan)
      groups += -(-len(plan) // self.shape.rows)
    return Fill(
      rows=tokens / (rows * self.shape.length),
      groups=tokens / (groups * self.shape.rows * self.shape.length),
      scored=scored / (rows * self.shape.scored),
      groups_per_step=groups / steps,
    )

  def _slots(self, example: TokenExample) -> int:
    return example.scored_slots(self.shape.score_prompt)

  def _packed(self, indices) -> PackedBatch:
    return pack([self.dataset[i] for i in indices], self.shape, share_prompt=self.settings.share_prompt)

  def _permutation(self, epoch: int) -> np.ndarray:
    if epoch in self._permutations:
      return self._permutations[epoch]
    name = f"{self.dataset.fingerprint} {self.settings.seed} {epoch}"
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return shuffled(len(self.dataset), key)


def shuffled(count: int, key: Any) -> np.ndarray:
  """i64[count]: a permutation that a key of Philox decides.

  Raw output and a stable sort: unlike `Generator.permutation`, the same in every NumPy.
  """
  return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")


def prefetch(
  function: Callable[[int], Any], start: int, stop: int, depth: int = 2
) -> Generator[tuple[int, Any], None, None]:
  """(step, function(step)) for steps in [start, stop), computed in a background thread.

  At most `depth` results wait. An exception of `function` is raised where its step would have come.
  Leaving the loop early closes the thread.
  """
  ready: queue.Queue = queue.Queue(maxsize=depth)
  closed = threading.Event()

  def put(item) -> bool:
    while not closed.is_set():
      try:
        ready.put(item, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def work():
    for step in range(start, stop):
      try:
        item = (step, function(step), None)
      except BaseException as error:
        item = (step, None, error)
      if not put(item) or item[2] is not None:
        return

  thread = threading.Thread(target=work, name="dpojax-prefetch", daemon=True)
  thread.start()
  try:
    for _ in range(start, stop):
      step, value, error = ready.get()
      if error is not None:
        raise error
      yield step, value
  finally:
    closed.set()
    thread.join()
