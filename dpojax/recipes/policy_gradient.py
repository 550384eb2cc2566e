"""Policy gradients: the policy answers prompts, a reward scores what it wrote, and it moves towards what scored well.

prompts -> roll-out (answers -> scores -> packed rows -> log-probs, values -> advantages) -> epochs of minibatches
policy = reference = model.path; critic = a reward model, or a head on the policy
"""

from dpojax import references
from dpojax.parallel import make_mesh
from dpojax.recipes.critic import critic_start
from dpojax.recipes.inputs import Inputs
from dpojax.recipes.monitoring import policy_monitoring
from dpojax.recipes.prompts import rollout_prompts
from dpojax.recipes.rollouts import (
  described,
  left_out_hint,
  make_objective,
  make_rollouts,
  make_trainer,
  planned_steps,
  resolved,
)
from dpojax.recipes.session import Session
from dpojax.recipes.steps import fit_rows, say_rows
from dpojax.recipes.writing import normalised_reward, rollout_fingerprints, writer
from dpojax.rollout.stop import stop_texts
from dpojax.training.answering import text_of
from dpojax.training.loop import RunResult, train
from dpojax.training.monitors import Checkpoint
from dpojax.training.run_folder import RunFolder
from dpojax.training.stage_record import Fingerprint


def run(config, inputs: Inputs, folder: RunFolder) -> RunResult:
  """Trains the model of `model.path` by `policy_gradient.method` and watches what it writes.

  Raises:
    InputError: something that the user can mend; the message says how.
  """
  return train(**prepare(config, inputs, folder).arguments())


def prepare(config, inputs: Inputs, folder: RunFolder) -> Session:
  """All of the stage but its steps; errors as `run`."""
  mesh = make_mesh(config.parallel)  # devices that do not fit are an error before anything is read
  config = fit_rows(config, mesh)
  policy = inputs.language_model()
  prompts, held_out = rollout_prompts(config, policy, inputs.given.rows)
  config = resolved(config)
  settings, rollout = config.policy_gradient, config.rollout
  reward = inputs.reward(rollout.reward, "rollout.reward", policy.tokenizer, mesh=mesh if mesh.size > 1 else None)
  longest = max(len(row.ids) for row in prompts) + rollout.max_tokens
  critic_at = critic_start(inputs, policy, longest)
  critic = critic_at and critic_at.loaded
  start = inputs.reference(policy)
  watching = policy_monitoring(config, inputs, policy, held_out, mesh)
  steps = planned_steps(config, len(prompts))

  read = rollout_fingerprints(prompts, reward, rollout.reward)
  if critic is not None and settings.critic == "reward":
    read["critic"] = Fingerprint(critic.digest)
  folder.begin(inputs.fingerprints(policy, reference=start) | read | watching.fingerprints, inputs.files())
  say_rows(folder, config)
  reference = references.of(
    config.reference,
    model=policy.model,
    load=lambda: start.params,
    needed=True,
    folder=folder.path,
    mesh=mesh,
    log=folder.log,
  )
  objective = make_objective(config, policy, critic)
  trainer = make_trainer(
    config, objective, policy, critic, reference, inputs.optimizer(steps, objective.parameters), mesh=mesh
  )
  critics = {
    "critic": objective.critic,
    "shared": objective.shared,
    "critic_start": critic_at.words if critic_at else "",
  }
  folder.describe_prompts(policy, prompts, **critics)
  for sentence in critic_at.sentences(config) if critic_at else ():
    folder.log.message(sentence)
  write = writer(policy, rollout, mesh)
  text = text_of(policy.tokenizer, stop_texts(rollout.stop, "rollout.stop"))
  reward = normalised_reward(
    reward, rollout, write, prompts, reference.full_params, text, folder.path, folder.identity, folder.log
  )
  rollouts = make_rollouts(config, trainer, prompts, reward, write, text, folder.path, identity=folder.identity)
  rollouts.keep_in(folder)
  folder.log.move_limit = settings.update_kl_limit
  monitors = [
    *watching.monitors(folder, reference.full_params),
    *inputs.given.monitors,
    Checkpoint(folder.checkpointer, folder.log, config.checkpoint.every),
  ]

  def tidy_up(result: RunResult) -> None:
    if hint := left_out_hint(folder.log.records("train"), settings.update_kl_limit):
      folder.log.message(hint)
    rollouts.drop_old(result.step // rollouts.updates)

  what = described(config, steps)
  return Session(folder, policy, trainer, rollouts, monitors, steps, what, reference, at_end=tidy_up)
