"""Batches that carry the reference's log-probs, read from its disk cache."""

import dataclasses
from collections.abc import Iterator

from dpojax.data.batches import Batches
from dpojax.training.reference_cache import ReferenceCache
from dpojax.types import PackedBatch


@dataclasses.dataclass(frozen=True)
class CachedReference:
  """`Batches` with `reference_logp` filled in; the cache must hold every answer of their data set."""

  batches: Batches
  cache: ReferenceCache

  def __call__(self, step: int) -> PackedBatch:
    return self.cache.attach(self.batches(step), self.batches.dataset)

  def in_order(self) -> Iterator[PackedBatch]:
    for batch in self.batches.in_order():
      yield self.cache.attach(batch, self.batches.dataset)

  def num_tokens(self, step: int) -> int:
    return self.batches.num_tokens(step)

  @property
  def steps_per_epoch(self) -> int:
    return self.batches.steps_per_epoch
