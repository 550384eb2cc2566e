"""A stage that is ready to take steps: what a recipe has put together, and what remains to be done at the end."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from dpojax.references import Reference
from dpojax.training.loop import RunResult
from dpojax.training.model_files import LoadedModel
from dpojax.training.run_folder import RunFolder
from dpojax.training.trainer import BatchSource, DatasetBatches, Trainer


@dataclasses.dataclass
class Session:
  """What a recipe's `prepare` gives.

  Attributes:
    folder: of the stage, opened.
    model: what is trained, as it starts.
    trainer: takes the steps.
    batches: step -> packed batch.
    monitors: called between steps, in this order.
    steps: of the whole run.
    what: the run does, in words.
    reference: of a policy; None where there is none.
    held_out: batches of the held-out examples; None where there are none.
    at_end: called when the run has ended or was asked to stop, before that is written down.
  """

  folder: RunFolder
  model: LoadedModel
  trainer: Trainer
  batches: BatchSource
  monitors: Sequence[Any]
  steps: int
  what: str
  reference: Reference | None = None
  held_out: DatasetBatches | None = None
  at_end: Callable[[RunResult], None] = lambda result: None

  def arguments(self) -> dict[str, Any]:
    """Those of `training.loop.train`."""
    return {
      "folder": self.folder,
      "trainer": self.trainer,
      "batches": self.batches,
      "monitors": self.monitors,
      "steps": self.steps,
      "what": self.what,
      "at_end": self._end,
    }

  def _end(self, result: RunResult) -> None:
    self.at_end(result)
    self.folder.end(result)
