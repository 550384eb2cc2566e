"""Supervised fine-tuning: the model learns to write the answers of the data.

data (one answer a prompt, or the turns of a conversation) -> packed batches -> next-token cross-entropy -> looks at what it writes, checkpoint
"""

from dpojax.objectives.sft import Sft
from dpojax.parallel import make_mesh
from dpojax.recipes.inputs import Inputs
from dpojax.recipes.monitoring import policy_monitoring, without_policy_samples
from dpojax.recipes.session import Session
from dpojax.recipes.steps import fit_rows, make_batches, planned_steps, say_rows
from dpojax.training.loop import RunResult, train
from dpojax.training.monitors import Checkpoint, evaluations
from dpojax.training.run_folder import RunFolder
from dpojax.training.trainer import Trainer


def run(config, inputs: Inputs, folder: RunFolder) -> RunResult:
  """Fine-tunes the model of `model.path`, or a new one, on the best answer of every row, of conversations on every turn.

  Raises:
    InputError: something that the user can mend; the message says how.
  """
  return train(**prepare(config, inputs, folder).arguments())


def prepare(config, inputs: Inputs, folder: RunFolder) -> Session:
  """All of the stage but its steps; errors as `run`."""
  mesh = make_mesh(config.parallel)  # devices that do not fit are an error before anything is read
  config = fit_rows(config, mesh)
  model = inputs.language_model()
  splits = inputs.splits(model)
  batches, held_out = make_batches(config, splits)
  steps = planned_steps(config, batches)

  watched = config if config.monitor.every else without_policy_samples(config)
  watching, start = policy_monitoring(watched, inputs, model, splits, mesh), model.params
  folder.begin(inputs.fingerprints(model, splits) | watching.fingerprints, inputs.files())
  say_rows(folder, config)
  folder.describe(model, splits, batches)
  objective = Sft(model.model)
  optimizer = inputs.optimizer(steps, objective.parameters)
  trainer = Trainer(objective, optimizer, model.params, mesh=mesh)
  monitors = [
    *evaluations(held_out, config.evaluation.every),
    *inputs.given.monitors,
    *watching.monitors(folder, lambda: start),
    Checkpoint(folder.checkpointer, folder.log, config.checkpoint.every),
  ]
  return Session(folder, model, trainer, batches, monitors, steps, "fine-tuning", held_out=held_out)
