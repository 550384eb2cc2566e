"""What every kind of reference offers, and having none."""

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeVar

from dpojax.data.batches import Batches
from dpojax.errors import ConfigError
from dpojax.references.reference_cache import CachedBatches
from dpojax.types import Params

Source = TypeVar("Source", bound=Batches | None)


class Reference(Protocol):
  """The model that the policy is compared with, as a stage uses it."""

  @property
  def params(self) -> Params:
    """What the step reads as frozen parameters; {} where it reads none."""
    ...

  @property
  def moving(self) -> Params | None:
    """Initial parameters of a reference that is part of the training state and follows the policy; else None."""
    ...

  @property
  def hyper(self) -> dict[str, float]:
    """Traced numbers that the step needs: "reference_every" and "reference_mix" of one that moves, else {}."""
    ...

  def attach(self, batches: Source) -> Source | CachedBatches:
    """Batches that carry the reference's log-probs where these are cached, else the batches as they are; None: None."""
    ...

  def full_params(self) -> Params:
    """The whole parameters, for measuring the KL of what the policy writes; read again where nobody holds them."""
    ...


@dataclasses.dataclass(frozen=True)
class NoReference:
  """For losses that read no reference.

  Attributes:
    load: reads the parameters that KL is measured to, where the policy started; None: there are none.
  """

  load: Callable[[], Params] | None = None

  @property
  def params(self) -> Params:
    return {}

  @property
  def moving(self) -> None:
    return None

  @property
  def hyper(self) -> dict[str, float]:
    return {}

  def attach(self, batches: Source) -> Source:
    return batches

  def full_params(self) -> Params:
    """As `Reference.full_params`.

    Raises:
      ConfigError: there is nothing to measure KL to.
    """
    if self.load is None:
      raise ConfigError("there is no reference to measure KL to; name a model (reference.path), or measure none")
    return self.load()
