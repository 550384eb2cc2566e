"""Objectives: what a stage minimises, in two pure halves.

`forward` runs the model on one row group of a step; `loss` turns its outputs into that group's part of the step's
loss, already divided by the step's `normalizers`, so that parts of groups and devices add up to the same number
however the step is packed. Metrics are (sum, count) pairs, divided on the host.

Where a loss compares examples with one another (`coupled`), parts of groups would not add up. Then every group goes
forward first, `loss` sees the whole step at once, and its gradient by each output is pulled back through `forward`
group by group.
"""

from typing import Any, Protocol

import jax

from dpojax.types import Declared, Metrics, PackedBatch, Params


class Objective(Protocol):
  """Hashable, so that equal objectives share one compiled step."""

  @property
  def coupled(self) -> bool:
    """Whether `loss` must see the whole step at once."""
    return False

  @property
  def running(self) -> dict[str, float]:
    """Statistics that go from step to step, at their start.

    They are part of the training state. `loss` finds the current ones in `hyper` under these names and
    gives the new ones as metrics of the same names, or `settle` does. Only coupled objectives may give them as metrics.
    """
    return {}

  @property
  def parameters(self) -> Declared:
    """What is declared of the parameters that are trained, such as `LanguageModel.parameters`: a pytree of `Parameter`.

    It decides how they lie on several devices, which of them decay, and whose gradients are added in place. What it
    leaves out is held by every device, and its gradient is added when it is known.
    """
    return {}

  def policy(self, params: Params) -> Params:
    """What of the trained parameters is the model that the stage is about: all, or those of one of several models."""
    return params

  def settle(
    self, metrics: Metrics, running: dict[str, jax.Array], hyper: dict, /
  ) -> tuple[jax.Array | bool, dict[str, jax.Array]]:
    """(whether the step is taken, new `running` numbers by name), once the metrics of the whole step are known.

    A step that is not taken leaves parameters and the optimizer's state as they are; metrics say so by "taken".
    """
    del metrics, running, hyper
    return True, {}

  def normalizers(self, batch: PackedBatch) -> dict[str, jax.Array]:
    """Denominators of the whole step: f32[] each, over all groups, never 0."""
    raise NotImplementedError

  def forward(self, params: Params, reference_params: Params, rows: PackedBatch, /) -> Any:
    """What the model says of one row group: a pytree of arrays [R, ...], differentiable in `params`.

    `reference_params` are the parameters of a live reference, or {}.
    """
    raise NotImplementedError

  def loss(self, outputs: Any, rows: PackedBatch, normalizers: dict, hyper: dict, /) -> tuple[jax.Array, Metrics]:
    """(part of the loss f32[], metrics) from the outputs of `rows`: one group, or a whole step.

    `hyper` are traced f32[] scalars such as beta, by the names the loss gives them.
    """
    raise NotImplementedError
