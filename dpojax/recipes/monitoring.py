"""What watches a policy while it trains: looks at its answers to held-out prompts, the budget, the rule that stops."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh

from dpojax.config.schema import RunConfig
from dpojax.data.prompts import PromptRow, prompts_given, prompts_of
from dpojax.data.splits import Splits
from dpojax.data.worlds import get_world
from dpojax.recipes.inputs import Inputs, digest_of_text
from dpojax.rewards.reward import Judge, Reward
from dpojax.training.model_files import LoadedModel
from dpojax.training.monitors import KeepBest, SamplePolicy, StopRule
from dpojax.training.run_folder import RunFolder
from dpojax.training.sample_policy import PolicySampler
from dpojax.training.stage_record import Fingerprint
from dpojax.types import Params


@dataclasses.dataclass(frozen=True)
class Monitoring:
  """What a stage watches its policy with.

  Attributes:
    config: of the stage.
    policy: what is trained, and its tokenizer.
    prompts: that it answers at every look; none: it is not looked at.
    rewards: that score its answers; the first decides.
    judge: of win rates; None: the first reward.
    mesh: devices.
  """

  config: RunConfig
  policy: LoadedModel
  prompts: Sequence[PromptRow]
  rewards: Sequence[Reward]
  judge: Judge | None
  mesh: Mesh

  @property
  def fingerprints(self) -> dict[str, Fingerprint]:
    """Of the rewards and the judge, for the stage's record."""
    scorers: list[Reward | Judge] = [*self.rewards, *([self.judge] if self.judge else [])]
    return {f"reward {x.name}": Fingerprint(digest_of_text(x.fingerprint)) for x in scorers}

  def monitors(self, folder: RunFolder, reference: Callable[[], Params]) -> list[Any]:
    """In the order in which they are to be called; `reference` gives the parameters that KL is measured to."""
    if not self.prompts:
      return []
    settings, stop, log = self.config.monitor, self.config.stop, folder.log
    world = get_world(self.config.data.name) if self.config.data.source == "world" else None
    sampler = PolicySampler(
      self.policy.model,
      self.policy.tokenizer,
      self.prompts,
      dataclasses.replace(settings, seed=settings.seed + self.config.seed),
      reference,
      rewards=self.rewards,
      judge=self.judge,
      folder=folder.path,
      display=world.display if world else str,
      mesh=self.mesh if self.mesh.size > 1 else None,
      status=log.status,
    )
    if len(self.prompts) < settings.prompts:
      log.message(f"monitor: {len(self.prompts):,} different held-out prompts, of monitor.prompts={settings.prompts:,}")
    looks = SamplePolicy(sampler, folder.path, settings.every)
    if sampler.truncated:
      if stop.kl_budget:
        log.message("monitor: answers are drawn with top-k, a nucleus or greedily, so stop.kl_budget cannot be watched")
      return [looks]
    rule = StopRule(stop, self.rewards[0].name if self.rewards else "", log, folder.path, settings.every)
    if not self.rewards:
      return [looks, rule]
    return [looks, KeepBest(stop, rule.reward, folder.checkpointer, log, folder.path, settings.every), rule]


def policy_monitoring(config: RunConfig, inputs: Inputs, policy: LoadedModel, splits: Splits, mesh: Mesh) -> Monitoring:
  """Prompts and rewards of a stage that trains a policy.

  Args:
    config: of the stage.
    inputs: builds the rewards.
    policy: what is trained.
    splits: the prompts are the first different ones of the held-out examples; a world gives its own.
    mesh: devices.

  Raises:
    InputError: a reward cannot be had; names the setting.
  """
  prompts = held_out_prompts(config, policy, splits)
  if not prompts:
    return Monitoring(config, policy, [], [], None, mesh)
  monitor, tokenizer, shared = config.monitor, policy.tokenizer, mesh if mesh.size > 1 else None
  rewards = inputs.rewards(monitor.rewards, "monitor.rewards", tokenizer, mesh=shared)
  judge = inputs.judge(monitor.judge, "monitor.judge", tokenizer, mesh=shared) if monitor.judge else None
  return Monitoring(config, policy, prompts, rewards, judge, mesh)


def held_out_prompts(config: RunConfig, policy: LoadedModel, splits: Splits) -> list[PromptRow]:
  """The prompts that the policy answers at every look."""
  wanted = config.monitor.prompts
  if wanted == 0:
    return []
  if config.data.source != "world":
    return prompts_of(splits.held_out, wanted)
  world = get_world(config.data.name)
  texts = world.prompts(wanted, config.monitor.seed, split="held_out")
  found = prompts_given(texts, dataclasses.replace(config.data, template="auto"), policy.tokenizer)
  # As the world has them, which is what its reward reads, not as the one message that a template makes of them.
  return [dataclasses.replace(row, given=text) for row, text in zip(found, texts, strict=True)]


def without_looks(config: RunConfig) -> RunConfig:
  """The same settings, with no look at the policy."""
  return dataclasses.replace(config, monitor=dataclasses.replace(config.monitor, prompts=0))
