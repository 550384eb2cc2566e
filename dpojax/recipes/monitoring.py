"""What watches a policy while it trains: looks at its answers to held-out prompts, the budget, the rule that stops."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from dpojax.config.schema import RunConfig
from dpojax.data.dataset import encode_prompts
from dpojax.data.prompts import PromptRow, prompts_of
from dpojax.data.splits import Splits
from dpojax.data.worlds import get_world
from dpojax.recipes.inputs import Inputs
from dpojax.training.model_files import LoadedModel
from dpojax.training.monitors import KeepBest, SamplePolicy, StopRule
from dpojax.training.run_folder import RunFolder
from dpojax.training.sample_policy import PolicySampler
from dpojax.types import Params


def policy_monitors(
  config: RunConfig,
  inputs: Inputs,
  policy: LoadedModel,
  splits: Splits,
  reference: Callable[[], Params],
  folder: RunFolder,
  mesh: Mesh,
) -> list[Any]:
  """Monitors of what the policy writes, in the order in which they are to be called; none where there are no prompts.

  Args:
    config: of the stage.
    inputs: builds the rewards.
    policy: what is trained, and its tokenizer.
    splits: the prompts are the first different ones of the held-out examples; a world gives its own.
    reference: gives the parameters that KL is measured to.
    folder: of the run.
    mesh: devices.

  Raises:
    InputError: a reward cannot be had; names the setting.
  """
  prompts = held_out_prompts(config, policy, splits)
  if not prompts:
    return []
  settings = dataclasses.replace(config.monitor, seed=config.monitor.seed + config.seed)
  world = get_world(config.data.name) if config.data.source == "world" else None
  rewards = inputs.rewards(settings.rewards, "monitor.rewards", policy.tokenizer)
  sampler = PolicySampler(
    policy.model,
    policy.tokenizer,
    prompts,
    settings,
    reference,
    rewards=rewards,
    judge=inputs.judge(settings.judge, "monitor.judge", policy.tokenizer) if settings.judge else None,
    folder=folder.path,
    display=world.display if world else str,
    mesh=mesh if mesh.size > 1 else None,
  )
  monitors: list[Any] = [SamplePolicy(sampler, folder.path, settings.every)]
  reward = rewards[0].name if rewards else ""
  if sampler.truncated:
    if config.stop.kl_budget:
      folder.log.message(
        "monitor: top-k, a nucleus or greedy choice is set, so no KL can be compared with stop.kl_budget"
      )
    return monitors
  if reward:
    monitors.append(KeepBest(config.stop, reward, folder.checkpointer, folder.log, folder.path, settings.every))
  return [*monitors, StopRule(config.stop, reward, folder.log, folder.path, settings.every)]


def held_out_prompts(config: RunConfig, policy: LoadedModel, splits: Splits) -> list[PromptRow]:
  """The prompts that the policy answers at every look."""
  wanted = config.monitor.prompts
  if config.data.source != "world":
    return prompts_of(splits.held_out, wanted)
  world = get_world(config.data.name)
  texts = world.prompts(wanted, config.monitor.seed, split="held_out")
  encoded = encode_prompts(texts, config.data, policy.tokenizer)
  return [
    PromptRow(given=text, text=text, ids=ids, where=f"prompt {i}", number=i, details={})
    for i, (text, ids) in enumerate(zip(texts, encoded, strict=True))
  ]
