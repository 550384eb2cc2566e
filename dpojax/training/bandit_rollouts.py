"""A bandit as roll-outs see it: a writer that draws arms on the host, its reward, and `Rollouts` of both.

The writer takes the place of the sampler and nothing else changes: rows, log-probs by the training forward, advantages
and minibatches are those of any run.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from dpojax.config.schema import PolicyGradientSettings, RolloutSettings
from dpojax.data.prompts import PromptRow
from dpojax.environments.bandit import Bandit
from dpojax.models.tabular import TabularModel
from dpojax.objectives.policy_gradient import PolicyGradient
from dpojax.rewards.reward import PromptedAnswer
from dpojax.rollout.packed_rows import minibatch_shape
from dpojax.rollout.writing import Sample
from dpojax.training.answering import Write
from dpojax.training.rollouts import Rollouts
from dpojax.training.trainer import Trainer
from dpojax.types import Params


@dataclasses.dataclass(frozen=True)
class BanditReward:
  """The reward of the arm that an answer is."""

  bandit: Bandit
  name: str = "bandit"

  @property
  def fingerprint(self) -> str:
    return f"bandit {self.bandit.rewards.tolist()}"

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    return self.bandit.rewards[[int(np.asarray(answer.answer_ids)[0]) for answer in answers]]


def arm_writer(model: TabularModel, samples: int, *, temperature: float = 1.0, seed: int = 0) -> Write:
  """Draws `samples` arms a prompt from the policy as it is: answers of one token that have ended.

  What a prompt of number n gets depends on (seed, n, the policy) and on no other prompt.
  """

  def write(
    params: Params, prompts: Sequence[np.ndarray], numbers: Sequence[int], progress: Callable[[int, int], None]
  ) -> list[list[Sample]]:
    logp = model.log_probs(params, temperature)
    upto = np.cumsum(np.exp(logp))
    written = []
    for number in numbers:
      uniform = np.random.Generator(np.random.Philox(key=[seed, number])).random(samples)
      # The sum of all is 1 but for rounding, and no draw may lie beyond it.
      arms = np.minimum(np.searchsorted(upto, uniform * upto[-1], side="right"), len(logp) - 1)
      written.append([Sample(np.asarray([arm], np.int32), "eos", logp[[arm]].astype(np.float32)) for arm in arms])
    progress(len(prompts) * samples, len(prompts) * samples)
    return written

  return write


def bandit_rollouts(
  trainer: Trainer,
  bandit: Bandit,
  settings: PolicyGradientSettings,
  *,
  prompts: int,
  samples: int,
  folder: pathlib.Path,
  seed: int = 0,
  **options,
) -> Rollouts:
  """Roll-outs of `prompts` groups of `samples` arms each, drawn anew for every roll-out.

  Args:
    trainer: of a `PolicyGradient` of a `TabularModel`.
    settings: with every "auto" resolved.
    folder: roll-outs are stored in it; made where it is missing.
    seed: of arms and of the order of rows.
    options: further ones of `Rollouts`.
  """
  objective = trainer.objective
  assert isinstance(objective, PolicyGradient) and isinstance(objective.model, TabularModel)
  model, temperature = objective.model, objective.temperature
  folder.mkdir(parents=True, exist_ok=True)
  row = PromptRow(given="", text="", ids=np.zeros(1, np.int32), where="the bandit", number=0)
  rollout = RolloutSettings(samples=samples, max_tokens=1, temperature=temperature, seed=seed)
  shape = minibatch_shape(
    prompts=prompts,
    samples=samples,
    longest_prompt=1,
    shortest_prompt=1,
    max_tokens=1,
    minibatches=settings.minibatches,
    rows=-(-prompts // settings.minibatches),
    length=1 + samples,
  )
  return Rollouts(
    trainer,
    arm_writer(model, samples, temperature=temperature, seed=seed),
    [row] * prompts,
    BanditReward(bandit),
    rollout,
    settings,
    batch_prompts=prompts,
    shape=shape,
    decode=lambda sample: str(int(sample.tokens[0])),
    folder=folder,
    **options,
  )
