"""From a config to a run: its model, data, objective and trainer, and the stages one after another."""

from dpojax.assemble.pieces import (
  Data,
  Loaded,
  build_batches,
  build_data,
  build_look,
  build_model,
  build_objective,
  build_trainer,
  load_language_model,
  load_model,
)
from dpojax.assemble.run import Session, run

__all__ = [
  "Data",
  "Loaded",
  "Session",
  "build_batches",
  "build_data",
  "build_look",
  "build_model",
  "build_objective",
  "build_trainer",
  "load_language_model",
  "load_model",
  "run",
]
