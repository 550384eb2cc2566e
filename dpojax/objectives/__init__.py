"""Objectives: what a stage minimises, as pure functions of parameters and a packed row group.

An objective is called once for every row group of a step and returns that group's share of the
step's loss, already divided by the step's `totals`, so that shares of groups and devices add up to
the same number however the step is packed. Its metrics are (sum, count) pairs, divided on the host.
"""

from typing import Protocol

import jax

from dpojax.types import Metrics, PackedBatch, Params


class Objective(Protocol):
  """Hashable, so that equal objectives share one compiled step."""

  def totals(self, batch: PackedBatch) -> dict[str, jax.Array]:
    """Denominators of the whole step: f32[] each, over all groups, never 0."""
    ...

  def __call__(
    self, params: Params, frozen: Params, rows: PackedBatch, totals: dict, hyper: dict
  ) -> tuple[jax.Array, Metrics]:
    """(this group's share of the loss f32[], metrics) of one row group [R, ...].

    `frozen` are the parameters of a live reference, or {}; `hyper` are traced f32[] scalars such as
    beta, by the names the loss gives them.
    """
    ...
