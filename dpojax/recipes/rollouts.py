"""The trainer and the roll-outs of a policy gradient, from the settings of a stage."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from dpojax.config.resolved import resolved as with_autos
from dpojax.config.schema import PolicyGradientSettings, RunConfig
from dpojax.data.prompts import PromptRow
from dpojax.models.reward_model import RewardModel
from dpojax.objectives.policy_gradient import PolicyGradient
from dpojax.recipes.steps import rollout_steps
from dpojax.references import Reference
from dpojax.rewards.reward import Reward
from dpojax.rollout.packed_rows import minibatch_shape
from dpojax.rollout.writing import Sample
from dpojax.training.answering import Write
from dpojax.training.model_files import LoadedModel
from dpojax.training.rollouts import Rollouts
from dpojax.training.trainer import Trainer
from dpojax.training.update import GradientTransformation


def resolved(config: RunConfig) -> RunConfig:
  """The settings with what "auto" means for the method, and the stage's seed in that of roll-outs."""
  rollout = dataclasses.replace(config.rollout, seed=config.rollout.seed + config.seed)
  return dataclasses.replace(config, policy_gradient=with_autos(config.policy_gradient), rollout=rollout)


def prompts_of_rollout(config: RunConfig) -> int:
  """P, prompts that a roll-out answers."""
  return config.policy_gradient.minibatches * config.batch.size


def planned_steps(config: RunConfig, prompts: int) -> int:
  """`train.steps`, or what `train.epochs` passes over the prompts take.

  Raises:
    ConfigError: the warm-up is longer.
  """
  settings = config.policy_gradient
  return rollout_steps(config, prompts, prompts_of_rollout(config), settings.epochs * settings.minibatches)


def make_objective(config: RunConfig, policy: LoadedModel, critic: LoadedModel | None) -> PolicyGradient:
  """What the stage minimises; `critic` as in `make_trainer`, `config` as `resolved` gives it."""
  settings, rollout = config.policy_gradient, config.rollout
  shared = critic is not None and settings.critic == "shared"
  head = RewardModel(policy.model) if shared else critic.model if critic is not None else None
  return PolicyGradient(
    policy.model,
    head,
    shared,
    temperature=rollout.temperature,
    reduction=settings.reduction,  # pyright: ignore[reportArgumentType]
    longest=rollout.max_tokens,
    kl_loss=settings.kl == "loss",
    entropy_bonus=settings.entropy_coef > 0,
  )


def make_trainer(
  config: RunConfig,
  objective: PolicyGradient,
  policy: LoadedModel,
  critic: LoadedModel | None,
  reference: Reference,
  optimizer: GradientTransformation,
  *,
  mesh: Mesh | None = None,
) -> Trainer:
  """A trainer of the policy, and of the critic where there is one.

  Args:
    config: see `resolved`.
    objective: see `make_objective`.
    policy: where it starts.
    critic: what a critic of its own starts from (`Inputs.critic`); None: the method needs none.
    reference: that KL is measured to.
    optimizer: of both.
    mesh: devices.
  """
  params = {"policy": policy.params}
  if critic is not None:
    zero = np.zeros((1, policy.model.config.hidden), np.float32)
    params["critic"] = {"score": zero} if objective.shared else critic.params
  return Trainer(
    objective,
    optimizer,
    params,
    reference_params=reference.params,
    moving_reference=reference.moving,
    hyper={**hyper(config.policy_gradient), **reference.hyper},
    mesh=mesh,
  )


def make_rollouts(
  config: RunConfig,
  trainer: Trainer,
  prompts: Sequence[PromptRow],
  reward: Reward,
  write: Write,
  decode: Callable[[Sample], str],
  folder: pathlib.Path,
  *,
  identity: str = "",
) -> Rollouts:
  """The batches of a trainer: see `training.rollouts.Rollouts`; `config` as `resolved` gives it.

  Raises:
    ConfigError: a row has no room for the longest prompt and an answer.
  """
  settings, rollout, batch = config.policy_gradient, config.rollout, config.batch
  lengths = [len(row.ids) for row in prompts]
  shape = minibatch_shape(
    prompts=prompts_of_rollout(config),
    samples=rollout.samples,
    longest_prompt=max(lengths),
    shortest_prompt=min(lengths),
    max_tokens=rollout.max_tokens,
    minibatches=settings.minibatches,
    rows=batch.rows,
    length=batch.row_length,
  )
  return Rollouts(
    trainer,
    write,
    prompts,
    reward,
    rollout,
    settings,
    batch_prompts=prompts_of_rollout(config),
    shape=shape,
    decode=decode,
    folder=folder,
    identity=identity,
  )


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


def left_out_hint(records: Sequence[Mapping[str, float]], limit: float) -> str:
  """What to change where more than half of the steps, records of split "train", were left out; else ""."""
  taken = [record["taken"] for record in records if "taken" in record]
  if not taken or 2 * sum(taken) >= len(taken):
    return ""
  return (
    f"{len(taken) - int(sum(taken)):,} of {len(taken):,} steps were left out, because the policy had moved further from the "
    f"one that wrote the roll-out than policy_gradient.update_kl_limit={limit:g}: lower optimizer.learning_rate or "
    "policy_gradient.epochs, so that fewer steps are in vain"
  )


def described(config: RunConfig, steps: int) -> str:
  """The run in words."""
  settings, samples, prompts = config.policy_gradient, config.rollout.samples, prompts_of_rollout(config)
  updates = settings.epochs * settings.minibatches
  rollouts = -(-steps // updates)
  return (
    f"{settings.method}: {rollouts:,} roll-out{'s' * (rollouts > 1)} of {prompts * samples:,} answers ({samples} to each of "
    f"{prompts:,} prompts), {updates} step{'s' * (updates > 1)} from each"
  )
