"""The runs of the short door: supervised fine-tuning, preferences, reward models, policy gradients."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpojax.api.arguments import Arguments, RewardLike, Rows, named_metrics
from dpojax.api.pairs import Pairs, as_rows
from dpojax.api.run import Compared, OnData, Writing
from dpojax.data.examples import TokenDataset
from dpojax.data.splits import Splits
from dpojax.training.model_files import LoadedModel
from dpojax.training.update import GradientTransformation


class SFT(OnData, Writing):
  """Supervised fine-tuning on the best, or only, answer of every row."""

  def __init__(
    self,
    policy: LoadedModel | str,
    data: Rows,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    optimizer: GradientTransformation | None = None,
    monitors: Sequence[Any] = (),
    rewards: RewardLike | Sequence[RewardLike] | Mapping[str, RewardLike] = (),
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **folder: Any,
  ):
    """Arguments as of `DPO`."""
    arguments = Arguments(settings)
    arguments.model("model.path", policy)
    arguments.data(data)
    arguments.common(steps, epochs, batch_size, learning_rate, optimizer, monitors, seed)
    arguments.rewards("monitor.rewards", rewards)
    super().__init__("sft", arguments.settings, arguments.given(), **folder)


class DPO(OnData, Writing, Compared):
  """Learning from preferences: DPO, or any loss of `dpojax.losses` or of your own."""

  def __init__(
    self,
    policy: LoadedModel | str,
    pairs: Rows,
    *,
    loss: str | Callable[..., Any] | None = None,
    beta: float | None = None,
    reference: str | LoadedModel | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    optimizer: GradientTransformation | None = None,
    metrics: Sequence[Callable[..., Any]] = (),
    monitors: Sequence[Any] = (),
    rewards: RewardLike | Sequence[RewardLike] | Mapping[str, RewardLike] = (),
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **folder: Any,
  ):
    """Args:
      policy: where it starts: a model, or a path as of `dpojax.load`.
      pairs: of `read_pairs`, a path, rows, or tokenised examples. `Pairs` and paths hold some out, examples do not.
      loss: a name or a sum such as "dpo + 0.2*sft", or a function (see `losses.register`).
      beta: None: that of the loss.
      reference: "live" (the start, in every step), "cache" (its log-probs on disk), "moving" (TR-DPO), or another model.
      steps, epochs: length of the run, over which the learning rate falls.
      batch_size: examples a step, whatever rows and devices there are.
      learning_rate: peak of the built-in optimizer's.
      optimizer: an optax transformation in its place.
      metrics: functions of (policy, reference) log-probs that give f32[B], recorded under their names.
      monitors: functions of (step, trainer), or objects of `dpojax.training.monitors`.
      rewards: that score what the policy writes to held-out prompts: functions of (prompts, answers), reward models,
        objects of `dpojax.rewards.reward`, or texts such as "length"; the first decides.
      seed: of everything random.
      settings: further ones by dotted key: {"monitor.every": 20, "stop.patience": 2}.
      folder: `workdir`, `quiet`, `allow_config_change` of `Run`.

    Raises:
      As `Run`.
    """
    arguments = Arguments(settings)
    arguments.model("model.path", policy)
    arguments.data(pairs)
    arguments.loss(loss)
    arguments.set("loss.beta", beta)
    if isinstance(reference, str) and reference in ("live", "cache", "moving"):
      arguments.set("reference.kind", reference)
    elif reference is not None:
      arguments.model("reference.path", reference)
    arguments.common(steps, epochs, batch_size, learning_rate, optimizer, monitors, seed)
    arguments.rewards("monitor.rewards", rewards)
    super().__init__("preference", arguments.settings, arguments.given(metrics=named_metrics(metrics)), **folder)


class RewardModel(OnData):
  """A reward model from comparisons; `policy` is the model with its heads, for `score`, `PPO` and monitors."""

  def __init__(
    self,
    model: LoadedModel | str,
    pairs: Rows,
    *,
    loss: str | Callable[..., Any] | None = None,
    heads: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    optimizer: GradientTransformation | None = None,
    monitors: Sequence[Any] = (),
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **folder: Any,
  ):
    """Arguments as of `DPO`; `heads` on one decoder are an ensemble."""
    arguments = Arguments(settings)
    arguments.model("model.path", model)
    arguments.data(pairs)
    arguments.loss(loss)
    arguments.set("reward.heads", heads)
    arguments.common(steps, epochs, batch_size, learning_rate, optimizer, monitors, seed)
    super().__init__("reward_model", arguments.settings, arguments.given(), **folder)


class PPO(Writing):
  """Policy gradients: PPO with a critic, RLOO, GRPO, Dr. GRPO, REINFORCE."""

  def __init__(
    self,
    policy: LoadedModel | str,
    prompts: Rows | Sequence[str],
    reward: RewardLike,
    *,
    method: str | None = None,
    kl_coef: float | None = None,
    samples: int | None = None,
    max_tokens: int | None = None,
    critic: LoadedModel | str | None = None,
    reference: LoadedModel | str | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    optimizer: GradientTransformation | None = None,
    monitors: Sequence[Any] = (),
    rewards: RewardLike | Sequence[RewardLike] | Mapping[str, RewardLike] = (),
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **folder: Any,
  ):
    """Args:
    policy, reference: as of `DPO`; a reference here is always a model.
    prompts: texts, conversations, rows, or a file of them.
    reward: what scores answers; as one of `rewards` of `DPO`.
    method: ppo, rloo, grpo, dr_grpo or reinforce.
    kl_coef: weight of the KL to the reference.
    samples: answers to a prompt.
    max_tokens: longest answer.
    critic: what PPO's critic starts from; None: the reward model where there is one, else the policy.
    batch_size: prompts of a minibatch.
    Others as of `DPO`.
    """
    arguments = Arguments(settings)
    arguments.model("model.path", policy)
    if not isinstance(prompts, str | os.PathLike | Pairs) and not isinstance(prompts, Splits | TokenDataset):
      prompts = [row if isinstance(row, Mapping) else {"prompt": row} for row in as_rows(prompts)]
    arguments.data(prompts)
    arguments.rewards("rollout.reward", reward)
    arguments.set("policy_gradient.method", method)
    arguments.set("policy_gradient.kl_coef", kl_coef)
    arguments.set("rollout.samples", samples)
    arguments.set("rollout.max_tokens", max_tokens)
    if critic is not None:
      arguments.model("policy_gradient.critic_path", critic)
    if reference is not None:
      arguments.model("reference.path", reference)
    arguments.common(steps, epochs, batch_size, learning_rate, optimizer, monitors, seed)
    arguments.rewards("monitor.rewards", rewards)
    super().__init__("policy_gradient", arguments.settings, arguments.given(), **folder)
