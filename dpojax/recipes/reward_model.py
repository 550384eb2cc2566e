"""A reward model from comparisons: a decoder with linear heads, trained by a Bradley-Terry likelihood.

model.path (its vocabulary head replaced) -> packed comparisons -> loss of rewards -> checkpoint -> normalisation
"""

import dataclasses

import jax

from dpojax.data.splits import Splits
from dpojax.errors import ConfigError
from dpojax.models.reward_model import RewardModel
from dpojax.objectives.reward_model import RewardObjective
from dpojax.parallel import make_mesh
from dpojax.recipes.inputs import Inputs
from dpojax.recipes.session import Session
from dpojax.recipes.steps import fit_rows, make_batches, planned_steps, say_rows
from dpojax.scoring.rewards import measure_normalisation
from dpojax.training.loop import RunResult, train
from dpojax.training.model_files import LoadedModel, save_description
from dpojax.training.monitors import Checkpoint, evaluations
from dpojax.training.run_folder import RunFolder
from dpojax.training.trainer import Trainer
from dpojax.types import Params

NORMALISED_ON = 2000  # examples at most whose answers say what a reward model's mean and spread are


def run(config, inputs: Inputs, folder: RunFolder) -> RunResult:
  """Trains reward heads, and the decoder under them, by `loss.name`.

  Raises:
    InputError: something that the user can mend; the message says how.
  """
  return train(**prepare(config, inputs, folder).arguments())


def prepare(config, inputs: Inputs, folder: RunFolder) -> Session:
  """All of the stage but its steps; errors as `run`."""
  mesh = make_mesh(config.parallel)  # devices that do not fit are an error before anything is read
  config = fit_rows(config, mesh)
  start = inputs.policy()
  splits = inputs.splits(start)
  batches, held_out = make_batches(config, splits)
  steps = planned_steps(config, batches)

  folder.begin(inputs.fingerprints(start, splits), inputs.files())
  say_rows(folder, config)
  scorer = with_reward_heads(config, start)
  folder.describe(scorer, splits, batches)
  reward = config.reward
  objective = RewardObjective(
    scorer.model, config.loss_spec, bootstrap=reward.bootstrap, seed=reward.seed + config.seed
  )
  optimizer = inputs.optimizer(steps, objective.parameters)
  trainer = Trainer(objective, optimizer, scorer.params, hyper=config.loss_spec.hyper, mesh=mesh)
  monitors = [
    *evaluations(held_out, config.evaluation.every),
    *inputs.given.monitors,
    Checkpoint(folder.checkpointer, folder.log, config.checkpoint.every),
  ]

  def normalise(result: RunResult) -> None:
    if result.reason != "preempted":
      measured = dataclasses.replace(scorer, model=normalised(config, scorer.model, trainer.params, splits))
      save_description(folder.path, measured, measured_at=result.step)

  what = config.loss_spec.describe()
  return Session(folder, scorer, trainer, batches, monitors, steps, what, held_out=held_out, at_end=normalise)


def with_reward_heads(config, loaded: LoadedModel) -> LoadedModel:
  """The model that the stage trains: a language model gets new heads, a reward model keeps its own.

  Raises:
    ConfigError: `reward.heads` asks for another number than the reward model has.
  """
  heads = config.reward.heads
  if isinstance(loaded.model, RewardModel):
    if heads not in (1, loaded.model.heads):
      raise ConfigError(
        f"reward.heads is {heads}, but {config.model.path} is a reward model of {loaded.model.heads}; leave it out"
      )
    return dataclasses.replace(loaded, model=dataclasses.replace(loaded.model, normalisation=None))
  model = RewardModel(loaded.model, heads)
  key = jax.random.key(config.reward.seed + config.seed)
  return LoadedModel(model, jax.device_get(model.with_head(loaded.params, key)), loaded.tokenizer)


def normalised(config, model: RewardModel, params: Params, splits: Splits) -> RewardModel:
  """The model with mean and standard deviation of its rewards over the held-out answers, or the training ones."""
  measured_on = splits.held_out if len(splits.held_out) else splits.train
  measured_on = measured_on.subset(range(min(len(measured_on), NORMALISED_ON)))
  batch = config.batch
  measured = measure_normalisation(model, params, measured_on, rows=batch.rows, row_length=batch.row_length)
  return dataclasses.replace(model, normalisation=measured)
