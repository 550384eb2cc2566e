"""The trainer that the benchmarks of a step measure."""

from dpojax.config.schema import RunConfig
from dpojax.objectives.preference import Preference
from dpojax.training.model_files import LoadedModel
from dpojax.training.optimizer import make_optimizer
from dpojax.training.trainer import Trainer


def live_trainer(config: RunConfig, policy: LoadedModel, steps: int) -> Trainer:
  """As a run of so many steps has it whose reference is the policy at its start, these very arrays."""
  objective = Preference(policy.model, config.loss_spec)
  optimizer = make_optimizer(config.optimizer, steps, objective.parameters)
  return Trainer(objective, optimizer, policy.params, reference_params=policy.params, hyper=config.loss_spec.hyper)
