"""A reference whose parameters the step reads: its log-probs are computed beside the policy's."""

import dataclasses

from dpojax.references.reference import Source
from dpojax.types import Params


@dataclasses.dataclass(frozen=True)
class Live:
  """Frozen parameters in the step.

  Costs their memory and a forward pass a step; policy and reference go through one program, so that at
  the start their log-ratio is exactly 0, in bfloat16 too.

  Attributes:
    params: arrays already on the devices are used as they are, not copied: never those that a trainer donates.
  """

  params: Params

  @property
  def moving(self) -> None:
    return None

  @property
  def hyper(self) -> dict[str, float]:
    return {}

  def attach(self, batches: Source) -> Source:
    return batches

  def full_params(self) -> Params:
    return self.params
