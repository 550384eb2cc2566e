"""Learning from preferences: DPO and its relatives on pairs, rankings, triples or single labelled answers.

policy = reference = model.path
data -> packed batches (+ cached reference log-probs) -> loss of log-probs -> monitors -> checkpoint
"""

from dpojax import references
from dpojax.objectives.preference import Preference
from dpojax.parallel import make_mesh
from dpojax.recipes.inputs import Inputs
from dpojax.recipes.monitoring import policy_monitoring
from dpojax.recipes.session import Session
from dpojax.recipes.steps import fit_rows, make_batches, planned_steps, say_rows
from dpojax.training.loop import RunResult, train
from dpojax.training.monitors import Checkpoint, evaluations
from dpojax.training.run_folder import RunFolder
from dpojax.training.trainer import Trainer


def run(config, inputs: Inputs, folder: RunFolder) -> RunResult:
  """Trains the model of `model.path` by `loss.name` and watches what it writes.

  Raises:
    InputError: something that the user can mend; the message says how.
  """
  return train(**prepare(config, inputs, folder).arguments())


def prepare(config, inputs: Inputs, folder: RunFolder) -> Session:
  """All of the stage but its steps; errors as `run`."""
  mesh = make_mesh(config.parallel)  # devices that do not fit are an error before anything is read
  config = fit_rows(config, mesh)
  policy = inputs.language_model()
  splits = inputs.splits(policy)
  packed, held_out = make_batches(config, splits)
  steps = planned_steps(config, packed)

  start = inputs.reference(policy)
  watching = policy_monitoring(config, inputs, policy, splits, mesh)
  folder.begin(inputs.fingerprints(policy, splits, start) | watching.fingerprints, inputs.files())
  say_rows(folder, config)
  folder.describe(policy, splits, packed)
  reference = references.of(
    config.reference,
    model=policy.model,
    load=lambda: start.params,
    needed=config.loss_spec.reads("reference"),
    folder=folder.path,
    mesh=mesh,
    log=folder.log,
  )
  batches, held_out = reference.attach(packed), reference.attach(held_out)
  objective = Preference(policy.model, config.loss_spec, inputs.given.metrics)
  trainer = Trainer(
    objective,
    inputs.optimizer(steps, objective.parameters),
    policy.params,
    reference_params=reference.params,
    moving_reference=reference.moving,
    hyper={**config.loss_spec.hyper, **reference.hyper},
    mesh=mesh,
  )
  monitors = [
    *evaluations(held_out, config.evaluation.every),
    *inputs.given.monitors,
    *watching.monitors(folder, reference.full_params),
    Checkpoint(folder.checkpointer, folder.log, config.checkpoint.every),
  ]
  what = config.loss_spec.describe()
  return Session(folder, policy, trainer, batches, monitors, steps, what, reference, held_out=held_out)
