"""Packed batches of a stage, and how many steps it takes."""

import dataclasses

from jax.sharding import Mesh

from dpojax.config.schema import RunConfig
from dpojax.data.batch_shape import choose_shape
from dpojax.data.batches import Batches
from dpojax.data.splits import Splits
from dpojax.errors import ConfigError
from dpojax.parallel.rules import whole_rows
from dpojax.training.run_folder import RunFolder


def fit_rows(config: RunConfig, mesh: Mesh) -> RunConfig:
  """The settings with `batch.rows` rounded up to what the devices divide.

  A step stays `batch.size` examples, and the run folder keeps the number that was asked for, so that a run resumes on other
  devices.
  """
  rows = whole_rows(config.batch.rows, mesh)
  if rows == config.batch.rows:
    return config
  return dataclasses.replace(config, batch=dataclasses.replace(config.batch, rows=rows))


def say_rows(folder: RunFolder, config: RunConfig) -> None:
  """A line in the log where `fit_rows` took other rows than the settings say."""
  wanted, rows = folder.config.batch.rows, config.batch.rows
  if rows != wanted:
    folder.log.message(
      f"batch.rows={wanted}: a row group has {rows} rows here, a multiple of the devices that share it; a step stays "
      f"{config.batch.size} examples"
    )


def make_batches(config: RunConfig, splits: Splits) -> tuple[Batches, Batches | None]:
  """Packed steps of the training and of the held-out examples (None if there are none), in one shape."""
  settings = dataclasses.replace(config.batch, seed=config.batch.seed + config.seed)
  if config.recipe == "reward_model" and not settings.scored:
    settings = dataclasses.replace(settings, scored=settings.row_length)  # they cost nothing without a vocabulary head
  score_prompt = config.recipe == "preference" and config.loss_spec.score_prompt
  shape = choose_shape(splits.train, settings, splits.held_out, score_prompt=score_prompt)
  held_out = Batches(splits.held_out, settings, shape) if len(splits.held_out) else None
  return Batches(splits.train, settings, shape), held_out


def planned_steps(config: RunConfig, batches: Batches) -> int:
  """`train.steps`, or as many as `train.epochs` passes take.

  Raises:
    ConfigError: the warm-up is longer.
  """
  steps = config.train.steps or max(1, round(config.train.epochs * batches.steps_per_epoch))
  warmup = config.optimizer.warmup_steps
  if warmup > steps:
    raise ConfigError(
      f"optimizer.warmup_steps is {warmup}, more than the {steps} steps that train.epochs={config.train.epochs:g} "
      f"takes of {len(batches.dataset):,} examples; the full learning rate would never be reached"
    )
  return steps


def rollout_steps(config: RunConfig, prompts: int, size: int, updates: int) -> int:
  """`train.steps`, or as many as `train.epochs` passes over the prompts take.

  Args:
    prompts: of the run.
    size: prompts of a roll-out.
    updates: steps from each.

  Raises:
    ConfigError: the warm-up is longer.
  """
  steps = config.train.steps or max(1, round(config.train.epochs * prompts / size)) * updates
  warmup = config.optimizer.warmup_steps
  if warmup > steps:
    raise ConfigError(f"optimizer.warmup_steps is {warmup}, more than the {steps} steps of the run; lower it")
  return steps
