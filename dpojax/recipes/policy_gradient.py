"""Policy gradients: the policy answers prompts, a reward scores what it wrote, and it moves towards what scored well.

prompts -> roll-out (answers -> scores -> packed rows -> log-probs, values -> advantages) -> epochs of minibatches
policy = reference = model.path; critic = a reward model, or a head on the policy
"""

import dataclasses
import math

import numpy as np

from dpojax import references
from dpojax.config.schema import PolicyGradientSettings
from dpojax.errors import ConfigError
from dpojax.models.reward_model import RewardModel
from dpojax.objectives.policy_gradient import PolicyGradient
from dpojax.parallel import make_mesh
from dpojax.recipes.inputs import Inputs, digest_of_text
from dpojax.recipes.monitoring import policy_monitoring
from dpojax.recipes.prompts import rollout_prompts
from dpojax.recipes.writing import normalised_reward, writer
from dpojax.rollout.packed_rows import minibatch_shape
from dpojax.rollout.stop import stop_texts
from dpojax.training.answering import text_of
from dpojax.training.loop import RunResult, train
from dpojax.training.monitors import Checkpoint
from dpojax.training.optimizer import make_optimizer
from dpojax.training.rollouts import Rollouts
from dpojax.training.run_folder import RunFolder
from dpojax.training.stage_record import Fingerprint
from dpojax.training.trainer import Trainer

# What "auto" means: (reduction, whiten, kl) of each method.
DEFAULTS = {
  "ppo": ("token", "minibatch", "reward"),
  "rloo": ("sequence", "none", "reward"),
  "reinforce": ("sequence", "none", "reward"),
  "grpo": ("answer", "none", "loss"),
  "dr_grpo": ("constant", "none", "loss"),
}


def run(config, inputs: Inputs, folder: RunFolder) -> RunResult:
  """Trains the model of `model.path` by `policy_gradient.method` and watches what it writes.

  Raises:
    InputError: something that the user can mend; the message says how.
  """
  mesh = make_mesh(config.parallel)  # devices that do not fit are an error before anything is read
  shared_mesh = mesh if mesh.size > 1 else None
  settings, rollout = resolved(config.policy_gradient), config.rollout
  rollout = dataclasses.replace(rollout, seed=rollout.seed + config.seed)
  policy = inputs.language_model()
  prompts, held_out = rollout_prompts(config, policy)
  reward = inputs.reward(rollout.reward, "rollout.reward", policy.tokenizer, mesh=shared_mesh)
  critic = inputs.critic(policy) if settings.method == "ppo" else None
  start = inputs.reference(policy)
  watching = policy_monitoring(config, inputs, policy, held_out, mesh)
  size = settings.minibatches * config.batch.size
  lengths = [len(row.ids) for row in prompts]
  shape = minibatch_shape(
    prompts=size,
    samples=rollout.samples,
    longest_prompt=max(lengths),
    shortest_prompt=min(lengths),
    max_tokens=rollout.max_tokens,
    minibatches=settings.minibatches,
    rows=config.batch.rows,
    length=config.batch.row_length,
  )
  steps = planned_steps(config, settings, len(prompts))

  read = {
    "prompts": Fingerprint(digest_of_text(repr([row.ids.tolist() for row in prompts])), f"{len(prompts):,} prompts"),
    "reward": Fingerprint(digest_of_text(reward.fingerprint), rollout.reward),
  }
  if critic is not None and settings.critic == "reward":
    read["critic"] = Fingerprint(critic.digest)
  folder.begin(inputs.fingerprints(policy, reference=start) | read | watching.fingerprints, inputs.files())
  head = critic.model if critic is not None else None
  shares = settings.critic == "shared"
  folder.describe_prompts(policy, prompts.counts, prompts.notes, critic=head, shared=shares)
  reference = references.of(
    config.reference,
    model=policy.model,
    load=lambda: start.params,
    needed=True,
    folder=folder.path,
    mesh=mesh,
    log=folder.log,
  )
  objective = PolicyGradient(
    policy.model,
    RewardModel(policy.model) if head is not None and shares else head,
    shares,
    temperature=rollout.temperature,
    reduction=settings.reduction,  # pyright: ignore[reportArgumentType]
    longest=rollout.max_tokens,
    kl_loss=settings.kl == "loss",
    entropy_bonus=settings.entropy_coef > 0,
  )
  params = {"policy": policy.params}
  if critic is not None:
    zero = np.zeros((1, policy.model.config.hidden), np.float32)
    params["critic"] = {"score": zero} if shares else critic.params
  trainer = Trainer(
    objective,
    make_optimizer(config.optimizer, steps, objective.parameters),
    params,
    reference_params=reference.params,
    moving_reference=reference.moving,
    hyper={**hyper(settings), **reference.hyper},
    mesh=mesh,
  )
  write = writer(policy, rollout, mesh)
  text = text_of(policy.tokenizer, stop_texts(rollout.stop, "rollout.stop"))
  reward = normalised_reward(reward, rollout, write, prompts, reference.full_params, text, folder)
  rollouts = Rollouts(
    trainer,
    write,
    prompts,
    reward,
    rollout,
    settings,
    batch_prompts=size,
    shape=shape,
    decode=text,
    folder=folder.path,
    identity=folder.identity,
    record=lambda step, metrics: folder.record_once(step, "rollout", metrics),
    status=folder.log.status,
    oldest_step=folder.oldest_step,
  )
  monitors = [
    *watching.monitors(folder, reference.full_params),
    Checkpoint(folder.checkpointer, folder.log, config.checkpoint.every),
  ]
  result = train(folder, trainer, rollouts, monitors, steps=steps, what=described(config, settings, size))
  rollouts.drop_old(result.step // rollouts.updates)
  folder.end(result)
  return result


def resolved(settings: PolicyGradientSettings) -> PolicyGradientSettings:
  """The settings with what "auto" means for the method."""
  names = ("reduction", "whiten", "kl")
  chosen = {
    name: default if getattr(settings, name) == "auto" else getattr(settings, name)
    for name, default in zip(names, DEFAULTS[settings.method], strict=True)
  }
  return dataclasses.replace(settings, **chosen)


def hyper(settings: PolicyGradientSettings) -> dict[str, float]:
  """The traced numbers of the objective."""
  return {
    "clip": settings.clip,
    "dual_clip": settings.dual_clip or math.inf,
    "value_clip": settings.value_clip,
    "value_coef": settings.value_coef,
    "entropy_coef": settings.entropy_coef,
    "update_kl_limit": settings.update_kl_limit,
  }


def planned_steps(config, settings: PolicyGradientSettings, prompts: int) -> int:
  """`train.steps`, or what `train.epochs` passes over the prompts take.

  Raises:
    ConfigError: the warm-up is longer.
  """
  size = settings.minibatches * config.batch.size
  rollouts = max(1, round(config.train.epochs * prompts / size))
  steps = config.train.steps or rollouts * settings.epochs * settings.minibatches
  if config.optimizer.warmup_steps > steps:
    raise ConfigError(
      f"optimizer.warmup_steps is {config.optimizer.warmup_steps}, more than the {steps} steps of the run"
    )
  return steps


def described(config, settings: PolicyGradientSettings, prompts: int) -> str:
  """The run in words."""
  updates = settings.epochs * settings.minibatches
  return (
    f"{settings.method}: roll-outs of {prompts * config.rollout.samples:,} answers ({config.rollout.samples} to each of "
    f"{prompts:,} prompts), {updates} steps from each"
  )
