"""Online preference learning: DPO, or any loss of pairs, on pairs that the policy writes while it trains.

prompts -> every `online.refresh` steps a roll-out (answers -> scores -> pairs) -> packed pairs -> loss of log-probs
policy = reference = model.path; `online.refresh` as large as the run: offline, on the start's own pairs
"""

import dataclasses

from dpojax import references
from dpojax.config.schema import OnlineSettings
from dpojax.objectives.preference import Preference
from dpojax.parallel import make_mesh
from dpojax.recipes.inputs import Inputs, digest_of_text
from dpojax.recipes.monitoring import policy_monitoring
from dpojax.recipes.prompts import rollout_prompts
from dpojax.recipes.session import Session
from dpojax.recipes.steps import fit_rows, rollout_steps, say_rows
from dpojax.recipes.writing import normalised_reward, rollout_fingerprints, writer
from dpojax.rollout.pair_making import pair_shape, prompts_of_rollout
from dpojax.rollout.size import check_size
from dpojax.rollout.stop import stop_texts
from dpojax.training.answering import text_of
from dpojax.training.loop import RunResult, train
from dpojax.training.monitors import Checkpoint
from dpojax.training.online_pairs import OnlinePairs
from dpojax.training.run_folder import RunFolder
from dpojax.training.stage_record import Fingerprint
from dpojax.training.trainer import Trainer


def run(config, inputs: Inputs, folder: RunFolder) -> RunResult:
  """Trains the model of `model.path` by `loss.name` on pairs of its own and watches what it writes.

  Raises:
    InputError: something that the user can mend; the message says how.
  """
  return train(**prepare(config, inputs, folder).arguments())


def prepare(config, inputs: Inputs, folder: RunFolder) -> Session:
  """All of the stage but its steps; errors as `run`."""
  mesh = make_mesh(config.parallel)  # devices that do not fit are an error before anything is read
  config = fit_rows(config, mesh)
  online = resolved(config)
  rollout = dataclasses.replace(config.rollout, seed=config.rollout.seed + config.seed)
  batch = dataclasses.replace(config.batch, seed=config.batch.seed + config.seed)
  policy = inputs.language_model()
  prompts, held_out = rollout_prompts(config, policy, inputs.given.rows)
  shared_mesh = mesh if mesh.size > 1 else None
  reward = inputs.reward(rollout.reward, "rollout.reward", policy.tokenizer, mesh=shared_mesh)
  start = inputs.reference(policy)
  watching = policy_monitoring(config, inputs, policy, held_out, mesh)
  lengths = [len(row.ids) for row in prompts]
  shape = pair_shape(
    batch,
    longest_prompt=max(lengths),
    shortest_prompt=min(lengths),
    max_tokens=rollout.max_tokens,
    score_prompt=config.loss_spec.score_prompt,
  )
  size = prompts_of_rollout(batch.size, rollout.samples, online)
  steps = planned_steps(config, online, size, len(prompts))

  check_size(size * rollout.samples, "online.refresh, batch.size or rollout.samples, or raise online.epochs")
  read = rollout_fingerprints(prompts, reward, rollout.reward)
  # A longer run of one roll-out would need a larger one.
  read["roll-out"] = Fingerprint(digest_of_text(str(online.refresh)), f"pairs for {online.refresh:,} steps")
  folder.begin(inputs.fingerprints(policy, reference=start) | read | watching.fingerprints, inputs.files())
  say_rows(folder, config)
  folder.describe_prompts(policy, prompts)
  reference = references.of(
    config.reference,
    model=policy.model,
    load=lambda: start.params,
    needed=config.loss_spec.reads("reference"),
    folder=folder.path,
    mesh=mesh,
    log=folder.log,
  )
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
  against_reference = online.opponent == "reference"
  # Either of two writes half of the answers.
  written = dataclasses.replace(rollout, samples=rollout.samples // 2) if against_reference else rollout
  write = writer(policy, written, mesh)
  text = text_of(policy.tokenizer, stop_texts(rollout.stop, "rollout.stop"))
  reward = normalised_reward(
    reward, written, write, prompts, reference.full_params, text, folder.path, folder.identity, folder.log
  )
  pairs = OnlinePairs(
    trainer,
    write,
    prompts,
    reward,
    rollout,
    online,
    batch,
    batch_prompts=size,
    shape=shape,
    decode=text,
    folder=folder.path,
    identity=folder.identity,
    opponent=(lambda: trainer.compared_params or reference.full_params()) if against_reference else None,
  )
  pairs.keep_in(folder)
  monitors = [
    *watching.monitors(folder, reference.full_params),
    *inputs.given.monitors,
    Checkpoint(folder.checkpointer, folder.log, config.checkpoint.every),
  ]
  what = f"{config.loss_spec.describe()}: {described(config, online, size, steps)}"

  def tidy_up(result: RunResult) -> None:
    pairs.drop_old(result.step // pairs.updates)

  return Session(folder, policy, trainer, pairs, monitors, steps, what, reference, at_end=tidy_up)


def resolved(config) -> OnlineSettings:
  """The settings with no more steps a roll-out than the run has."""
  return dataclasses.replace(
    config.online, refresh=min(config.online.refresh, config.train.steps or config.online.refresh)
  )


def planned_steps(config, online: OnlineSettings, size: int, prompts: int) -> int:
  """`train.steps`, or what `train.epochs` passes over the prompts take, `size` of them a roll-out.

  Raises:
    ConfigError: the warm-up is longer.
  """
  return rollout_steps(config, prompts, size, online.refresh)


def described(config, online: OnlineSettings, size: int, steps: int) -> str:
  """The roll-outs in words."""
  many = f"{size * config.rollout.samples:,} answers ({config.rollout.samples} to each of {size:,} prompts"
  many += ", half of them by the reference)" if online.opponent == "reference" else ")"
  if online.refresh >= steps:
    return f"offline, one roll-out of {many}"
  return f"roll-outs of {many}, {online.refresh:,} steps from each"
