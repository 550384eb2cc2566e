"""The model that the policy is compared with: live, cached or moving, behind one interface.

::

  kind     params  moving          hyper                         attach(batches)           full_params()
  none     {}      None            {}                            as they are               read by its loader
  Live     params  None            {}                            as they are               params
  Cached   {}      None            {}                            with `reference_logp`     read by its loader
  Moving   {}      initial params  reference_every, reference_mix  as they are             initial params

A stage gives `params` or `moving` and `hyper` to its trainer, trains on `attach(batches)` and evaluates on
`attach(held_out)`; `attach(None)` is None. `full_params` is for measuring the KL of what the policy writes, which
needs whole distributions. Cached fills its store in `attach`, with progress, and an interrupted fill goes on where
it stopped.
"""

import pathlib
from collections.abc import Callable
from typing import Protocol

from jax.sharding import Mesh

from dpojax.config.schema import ReferenceSettings
from dpojax.models.language_model import LanguageModel
from dpojax.references.cached import Cached
from dpojax.references.fingerprint import weights_fingerprint
from dpojax.references.live import Live
from dpojax.references.moving import Moving
from dpojax.references.reference import NoReference, Reference
from dpojax.types import Params

__all__ = ["Cached", "Live", "Log", "Moving", "NoReference", "Reference", "of", "weights_fingerprint"]


class Log(Protocol):
  """Where a reference says what it does; `dpojax.training.runlog.RunLog` is one."""

  def message(self, text: str) -> None:
    """A line that stays."""
    ...

  def status(self, text: str) -> None:
    """Passing text."""
    ...


def of(
  settings: ReferenceSettings,
  *,
  model: LanguageModel,
  load: Callable[[], Params],
  needed: bool,
  folder: pathlib.Path,
  mesh: Mesh | None,
  log: Log,
) -> Reference:
  """The reference that the settings ask for.

  Args:
    settings: kind, and what belongs to it.
    model: of policy and reference.
    load: reads the reference's parameters.
    needed: whether the loss reads a reference.
    folder: of the run; a cache without `settings.cache_dir` lies in it.
    mesh: the devices.
    log: told what is computed and what is wrong with a store.
  """
  if not needed:
    return NoReference(load)
  if settings.kind == "cache":
    where = settings.cache_dir or folder / "reference_cache"
    return Cached(model, load, where, mesh=mesh, precision=settings.precision, say=log.message, progress=log.status)
  if settings.kind == "moving":
    return Moving(load(), settings.every, settings.mix)
  return Live(load())
