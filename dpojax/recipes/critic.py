"""Where the critic of method=ppo starts: the network, whether its head is kept, and both in words."""

import dataclasses

import numpy as np

from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError
from dpojax.models.reward_model import RewardModel
from dpojax.recipes.inputs import Inputs
from dpojax.rewards.spec import read_reward
from dpojax.training.model_files import LoadedModel, has_critic, load, load_critic

ZERO = "with a head of zeros"


@dataclasses.dataclass(frozen=True)
class CriticStart:
  """What a critic starts from.

  Attributes:
    loaded: as a reward model of one head. A critic that shares the policy's decoder takes nothing of it.
    keeps_head: it goes on from another critic, head included; else its head is zero.
    words: where it starts, to stand after "the critic starts from".
  """

  loaded: LoadedModel
  keeps_head: bool
  words: str

  def sentences(self, config: RunConfig) -> list[str]:
    """What the log says of it."""
    said = [f"the critic starts from {self.words}"]
    if self.keeps_head and config.rollout.normalise:
      said.append(
        "the critic's head was trained on the scores of another run, and rollout.normalise measures gain and bias of this "
        "one's anew: its first values may stand on another scale, see value/explained_variance and value/mean"
      )
    return said


def critic_start(inputs: Inputs, policy: LoadedModel, tokens: int = 0) -> CriticStart | None:
  """The critic's start: of a head on the policy the policy, else the network of `policy_gradient.critic_path`, else the
  reward model of `rollout.reward`, where it is one, else the policy. None where the method has no critic.

  The critic of another run, or one that was exported, goes on with its head; any other starts with a head of zeros.

  Args:
    tokens: of the longest prompt and answer that it reads; 0: not known.

  Raises:
    ConfigError: it reads other tokens than the policy writes, or has no positions for so many.
  """
  config = inputs.config
  settings = config.policy_gradient
  if settings.method != "ppo":
    return None
  if settings.critic == "shared":
    return CriticStart(_without_head(policy), False, f"the policy's own decoder, which it shares, {ZERO}")
  path, of = settings.critic_path, ""
  if not path:
    spec = read_reward(config.rollout.reward, "rollout.reward", environment=inputs.environment() is not None)
    if [term.kind for term in spec.terms] == ["model"]:
      path, of = spec.terms[0].argument, ", the model of rollout.reward"
  if not path:
    name = f", {config.model.path}" if config.model.path else ""
    return CriticStart(_without_head(policy), False, f"a copy of the policy{name}, {ZERO}")
  loaded, goes_on = _read(inputs, path)
  if loaded.tokenizer.ids_fingerprint() != policy.tokenizer.ids_fingerprint():
    raise ConfigError(
      f"policy_gradient.critic_path: {path} has another tokenizer than the policy, so it cannot read what the policy "
      "writes token by token; name a model with the policy's, or set policy_gradient.critic=shared"
    )
  positions = loaded.model.config.max_positions
  if positions and tokens > positions:
    raise ConfigError(
      f"policy_gradient.critic_path: {path} has {positions} positions, but the longest prompt and an answer of "
      f"rollout.max_tokens={config.rollout.max_tokens} take {tokens}; lower it, set data.max_prompt, or name a model with more "
      "positions"
    )
  if goes_on:
    return CriticStart(loaded, True, f"the critic of {path}{of}, whose head is kept")
  if isinstance(loaded.model, RewardModel):
    words = f"the reward model {path}{of}, {ZERO}: rewards of whole answers are no values"
  else:
    words = f"{path}: it has no critic; its policy's decoder, {ZERO}"
  return CriticStart(_without_head(loaded), False, words)


def _read(inputs: Inputs, path: str) -> tuple[LoadedModel, bool]:
  """(the model at a path, whether it is a critic), read once in a process."""
  settings = inputs.config.model
  if path in inputs.given.models:
    return inputs.given.models[path], False
  key = ("critic", path, inputs.identity(path), settings.precision, settings.remat)
  if key not in inputs.memory:
    place = inputs.place(path)
    goes_on = has_critic(place)
    read = load_critic if goes_on else load
    inputs.memory[key] = read(place, precision=settings.precision, remat=settings.remat), goes_on
  return inputs.memory[key]


def _without_head(loaded: LoadedModel) -> LoadedModel:
  decoder = loaded.model.model if isinstance(loaded.model, RewardModel) else loaded.model
  params = {name: value for name, value in loaded.params.items() if name not in ("head", "score")}
  zero = np.zeros((1, decoder.config.hidden), np.float32)
  return dataclasses.replace(loaded, model=RewardModel(decoder), params=params | {"score": zero})
