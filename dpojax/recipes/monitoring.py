"""What watches a policy while it trains: looks at its answers to held-out prompts, the budget, the rule that stops."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh

from dpojax.config.schema import RunConfig
from dpojax.data.prompts import PromptRow, prompts_given, prompts_of
from dpojax.data.splits import Splits
from dpojax.environments import get_environment
from dpojax.errors import ConfigError, DataError
from dpojax.models.scoring_model import ScoringModel
from dpojax.recipes.inputs import Inputs, digest_of_text
from dpojax.rewards.reward import Judge, Reward
from dpojax.training.model_files import LoadedModel
from dpojax.training.monitors import KeepBest, SamplePolicy, StopRule
from dpojax.training.policy_samples import PolicySamples
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
    notes: what the log is to say of the prompts.
  """

  config: RunConfig
  policy: LoadedModel
  prompts: Sequence[PromptRow]
  rewards: Sequence[Reward]
  judge: Judge | None
  mesh: Mesh
  notes: Sequence[str] = ()

  @property
  def fingerprints(self) -> dict[str, Fingerprint]:
    """Of the rewards and the judge, for the stage's record."""
    found = {f"reward {reward.name}": reward.fingerprint for reward in self.rewards}
    if self.judge is not None:  # under a word of its own: it may be called as a reward is
      found[f"judge {self.judge.name}"] = self.judge.fingerprint
    return {name: Fingerprint(digest_of_text(text)) for name, text in found.items()}

  def sampler(
    self, folder: pathlib.Path, reference: Callable[[], Params], *, status: Callable[[str], None] | None = None
  ) -> PolicySampler:
    """What looks at the policy, and keeps the reference's answers in `folder`.

    Args:
      folder: of the run.
      reference: gives the parameters that KL is measured to.
      status: shows passing text, of how far a look is.
    """
    settings = self.config.monitor
    return PolicySampler(
      self.policy.model,
      self.policy.tokenizer,
      self.prompts,
      dataclasses.replace(settings, seed=settings.seed + self.config.seed),
      reference,
      rewards=self.rewards,
      judge=self.judge,
      folder=folder,
      mesh=self.mesh if self.mesh.size > 1 else None,
      status=status,
    )

  def monitors(self, folder: RunFolder, reference: Callable[[], Params]) -> list[Any]:
    """In the order in which they are to be called; `reference` gives the parameters that KL is measured to."""
    if not self.prompts:
      return []
    settings, stop, log = self.config.monitor, self.config.stop, folder.log
    for note in self.notes:
      log.message(f"monitor: {note}")
    sampler = self.sampler(folder.path, reference, status=log.status)
    sampling = SamplePolicy(sampler, folder.path, settings.every)
    if sampler.truncated:
      if stop.kl_budget:
        log.message("monitor: answers are drawn with top-k, a nucleus or greedily, so stop.kl_budget cannot be watched")
      return [sampling]
    so_far = PolicySamples(folder.path, log, self.rewards[0].name if self.rewards else "")
    rule = StopRule(stop, so_far, settings.every)
    if not self.rewards:
      return [sampling, rule]
    return [sampling, KeepBest(stop, so_far, folder.checkpointer, settings.every), rule]


def policy_monitoring(
  config: RunConfig, inputs: Inputs, policy: LoadedModel, held_out: Splits | Sequence[PromptRow], mesh: Mesh
) -> Monitoring:
  """Prompts and rewards of a stage that trains a policy.

  Args:
    config: of the stage.
    inputs: builds the rewards.
    policy: what is trained.
    held_out: prompts to look with, or examples, whose first different prompts they are; an environment gives its own.
    mesh: devices.

  Raises:
    InputError: a reward cannot be had; names the setting.
  """
  prompts, notes = held_out_prompts(config, policy, held_out)
  if not prompts:
    return Monitoring(config, policy, [], [], None, mesh)
  monitor, tokenizer, shared = config.monitor, policy.tokenizer, mesh if mesh.size > 1 else None
  rewards = inputs.rewards(monitor.rewards, "monitor.rewards", tokenizer, mesh=shared)
  judge = inputs.judge(monitor.judge, "monitor.judge", tokenizer, mesh=shared) if monitor.judge else None
  return Monitoring(config, policy, prompts, rewards, judge, mesh, notes)


def held_out_prompts(
  config: RunConfig, policy: LoadedModel, held_out: Splits | Sequence[PromptRow]
) -> tuple[list[PromptRow], list[str]]:
  """(the prompts that the policy answers at every look, what is to be said of their number).

  Raises:
    InputError: looks are wanted, and there is no prompt for them, or too few for `stop.patience`.
  """
  wanted = config.monitor.prompts
  if wanted == 0 or (isinstance(policy.model, ScoringModel) and not policy.model.writes):
    return [], []
  if config.data.source == "world":
    found, notes = _environment_prompts(config, policy), []
  else:
    every = prompts_of(held_out.held_out) if isinstance(held_out, Splits) else held_out
    found, notes = _data_prompts(config, policy, every)
  if config.stop.patience and len(found) < 2:
    raise ConfigError(
      "stop.patience is set, but one held-out prompt has no standard error that a rise could be told from; raise "
      "monitor.prompts, or hold out more of the data (data.eval_fraction, data.eval_path or data.eval_split)"
    )
  return found, notes


def _data_prompts(
  config: RunConfig, policy: LoadedModel, every: Sequence[PromptRow]
) -> tuple[list[PromptRow], list[str]]:
  """The first different ones of the held-out examples that leave room for an answer."""
  settings, positions = config.monitor, policy.model.config.max_positions
  fit = [row for row in every if not positions or len(row.ids) + settings.max_tokens <= positions]
  if every and not fit:
    raise ConfigError(
      f"monitor.max_tokens={settings.max_tokens} leaves no room for any of the {len(every):,} held-out prompts in the "
      f"model's {positions} positions; lower it, or set monitor.prompts=0"
    )
  if settings.every and not fit:
    raise DataError(
      f"monitor.every={settings.every} is set, but no prompt is held out for the policy to answer; "
      "raise data.eval_fraction, name a data.eval_path or data.eval_split, or set monitor.every=0"
    )
  found, notes = [_as_read(row, policy) for row in fit[: settings.prompts]], []
  if found and len(found) < settings.prompts:
    notes.append(f"{len(found):,} different prompts are held out, not monitor.prompts={settings.prompts:,}")
  if long := len(every) - len(fit):
    notes.append(
      f"{long:,} of {len(every):,} held-out prompts are left out, as monitor.max_tokens={settings.max_tokens} more tokens "
      f"pass the model's {positions} positions"
    )
  return found, notes


def _as_read(row: PromptRow, policy: LoadedModel) -> PromptRow:
  """A row of plain text has no prompt, and where there is no BOS its first token stands in: that is what is answered."""
  text = policy.tokenizer.decode(row.ids, skip_special_tokens=True) if row.given == "" else ""
  return dataclasses.replace(row, given=text, text=text) if text else row


def _environment_prompts(config: RunConfig, policy: LoadedModel) -> list[PromptRow]:
  wanted, environment = config.monitor.prompts, get_environment(config.data.name)
  texts = environment.prompts(wanted, config.monitor.seed, split="held_out")
  found = prompts_given(texts, dataclasses.replace(config.data, template="auto"), policy.tokenizer)
  # As the environment has them, which is what its reward reads, not as the one message that a template makes of them.
  return [dataclasses.replace(row, given=text) for row, text in zip(found, texts, strict=True)]


def without_policy_samples(config: RunConfig) -> RunConfig:
  """The same settings, with no look at the policy."""
  return dataclasses.replace(config, monitor=dataclasses.replace(config.monitor, prompts=0))
