"""A reference that follows the policy (TR-DPO)."""

import dataclasses

from dpojax.references.reference import Source
from dpojax.types import Params


@dataclasses.dataclass(frozen=True)
class Moving:
  """A part of the training state: every `every` steps, reference <- mix * policy + (1 - mix) * reference.

  The move itself is in the step (`dpojax.training.step.move_reference`); KL is measured to where the
  reference began.

  Attributes:
    start: initial parameters; copied into the state, so they survive donation.
    every: steps between moves, at least 1.
    mix: fraction of the policy in a move, in (0, 1]; 1: the policy itself.

  References:
    Gorbatovski et al. 2024, arXiv:2404.09656, Eq. 7 and 8: soft and hard updates.
  """

  start: Params
  every: int
  mix: float

  @property
  def params(self) -> Params:
    return {}

  @property
  def moving(self) -> Params:
    return self.start

  @property
  def hyper(self) -> dict[str, float]:
    return {"reference_every": float(self.every), "reference_mix": self.mix}

  def attach(self, batches: Source) -> Source:
    return batches

  def full_params(self) -> Params:
    return self.start
