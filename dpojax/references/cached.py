"""A reference of which only per-token log-probs are kept, on disk."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

from jax.sharding import Mesh

from dpojax.data.batches import Batches
from dpojax.models.language_model import LanguageModel
from dpojax.references.fingerprint import weights_fingerprint
from dpojax.references.reference import Source
from dpojax.references.reference_cache import CachedBatches, ReferenceCache
from dpojax.scoring.logps import logps_of_rows
from dpojax.scoring.packed import Scorer
from dpojax.types import PackedBatch, Params


class Cached:
  """Log-probs computed once, stored, and attached to the batches; the step reads no parameters.

  One cache serves every beta, loss, learning rate, batch shape and packing. Parameters are on the devices
  only while something is computed.

  Args:
    model: of policy and reference.
    load: reads the reference's parameters; called again whenever they are needed, and what it gives is not kept.
    folder: of the caches of all models; runs may share it.
    mesh: the devices that compute log-probs.
    precision: of their matrix products, "float32" or "bfloat16".
    say: called with what was computed and with warnings, such as a damaged file whose records are computed again.
    progress: called with passing text while log-probs are computed.

  Raises, from `attach`:
    WeightsError: a log-prob is not finite; names the row.
    ConfigError: there are several processes.
  """

  def __init__(
    self,
    model: LanguageModel,
    load: Callable[[], Params],
    folder: str | pathlib.Path,
    *,
    mesh: Mesh | None,
    precision: str,
    say: Callable[[str], None],
    progress: Callable[[str], None] = lambda text: None,
  ):
    self.params: Params = {}
    self.moving = None
    self.hyper: dict[str, float] = {}
    self._model = dataclasses.replace(model, precision=precision)
    self._load, self._folder, self._mesh = load, folder, mesh
    self._say, self._progress = say, progress
    self._cache: ReferenceCache | None = None

  def attach(self, batches: Source) -> Source | CachedBatches:
    """The batches with log-probs of every answer of their data set; computes first those that no earlier run stored."""
    if batches is None:
      return batches
    load = functools.cache(self._load)  # once for fingerprint and scorer
    if self._cache is None:
      self._cache = self._open(load)
    self._fill(self._cache, batches, load)
    return CachedBatches(batches, self._cache)

  def full_params(self) -> Params:
    return self._load()

  def _open(self, load: Callable[[], Params]) -> ReferenceCache:
    return ReferenceCache(
      self._folder,
      weights=weights_fingerprint(load()),
      config=self._model.config.to_dict(),
      precision=self._model.precision,
      warn=self._say,
    )

  def _fill(self, cache: ReferenceCache, batches: Batches, load: Callable[[], Params]) -> None:
    scorer: list[Scorer] = []

    def score(batch: PackedBatch):
      if not scorer:  # nothing is placed where nothing is missing
        scorer.append(Scorer(logps_of_rows, self._model, load(), self._mesh))
      return scorer[0](batch)

    def report(done: int, total: int) -> None:
      self._progress(f"reference log-probs: {done:,} of {total:,} answers")

    computed = cache.fill(batches.dataset, score, batches.shape, report)
    self._say(f"reference log-probs: {computed:,} answers computed, the others read from {cache.folder}")
