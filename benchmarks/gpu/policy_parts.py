"""Policy gradients on a device: what must hold of every roll-out, and that the policy learns from it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.gpu.setting import Setting, gpu, mesh_on, require, within
from dpojax.config.schema import OptimizerSettings, PolicyGradientSettings, RolloutSettings
from dpojax.data.prompts import PromptRow
from dpojax.models.reward_model import RewardModel
from dpojax.objectives.policy_gradient import PolicyGradient
from dpojax.rewards.reward import PromptedAnswer
from dpojax.rollout.packed_rows import minibatch_shape
from dpojax.rollout.sampler import generate
from dpojax.training.optimizer import make_optimizer
from dpojax.training.rollouts import Rollouts
from dpojax.training.trainer import Trainer, fetch

PROMPTS, SAMPLES, TOKENS, ROLLOUTS = 16, 4, 16, 6


class EvenTokens:
  """The share of an answer's tokens whose ids are even: a reward that any model can climb."""

  name, fingerprint = "even", "even"

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    return np.asarray([np.mean(np.asarray(answer.answer_ids) % 2 == 0) for answer in answers])


def policy_gradient(size: str) -> str:
  """PPO with a critic of its own: ratio exactly 1 at the first step of every roll-out, and the score rises."""
  setting = Setting.of(size, PROMPTS)
  said = []
  for precision in ("float32", "bfloat16"):
    model = setting.model(precision)
    critic = RewardModel(model)
    start = setting.params()
    trunk = {name: value for name, value in start.items() if name != "head"}
    zeros = np.zeros((1, setting.config.hidden), np.float32)
    objective = PolicyGradient(model, critic)
    optimizer = make_optimizer(OptimizerSettings(learning_rate=2e-3, schedule="constant"), 100, objective.parameters)
    numbers = {"clip": 0.2, "dual_clip": np.inf, "value_clip": 0.2, "value_coef": 0.1}
    trainer = Trainer(
      objective,
      optimizer,
      {"policy": start, "critic": trunk | {"score": zeros}},
      reference_params=setting.params(),
      hyper=numbers | {"entropy_coef": 0.0, "update_kl_limit": 0.0},
      mesh=mesh_on(gpu()),
    )
    rollout = RolloutSettings(samples=SAMPLES, max_tokens=TOKENS)
    settings = PolicyGradientSettings(
      epochs=2, minibatches=2, reduction="token", whiten="minibatch", kl="reward", kl_coef=0.0
    )
    rows = [PromptRow("", "", setting.dataset[i].prompt, f"row {i}", i) for i in range(PROMPTS)]
    lengths = [len(row.ids) for row in rows]
    shape = minibatch_shape(
      prompts=PROMPTS,
      samples=SAMPLES,
      longest_prompt=max(lengths),
      shortest_prompt=min(lengths),
      max_tokens=TOKENS,
      minibatches=2,
      rows=2,
      length=setting.row_length,
    )

    def write(params, prompts, numbers, progress, model=model):
      del progress
      return generate(
        model,
        params,
        prompts,
        samples=SAMPLES,
        max_tokens=TOKENS,
        eos_id=None,
        seed=5,
        numbers=numbers,
        mesh=mesh_on(gpu()),
      )

    with tempfile.TemporaryDirectory() as folder:
      rollouts = Rollouts(
        trainer,
        write,
        rows,
        EvenTokens(),
        rollout,
        settings,
        batch_prompts=PROMPTS,
        shape=shape,
        decode=lambda sample: "",
        folder=Path(folder),
      )
      firsts, scores, gaps = [], [], []
      for step, metrics in trainer.steps(rollouts, ROLLOUTS * rollouts.updates):
        if step % rollouts.updates == 1:
          firsts.append(fetch(metrics))
          assert rollouts.current is not None
          scores.append(rollouts.current.metrics["objective/score"])
          gaps.append(rollouts.current.metrics["rollout/logp_gap_max"])
    moved = max(first["policy/approx_kl"] for first in firsts)
    said.append(f"{precision}: {within('largest first approx_kl of 6 roll-outs', moved, 0.0)}")
    said.append(require(all(first["policy/ratio"] == 1.0 for first in firsts), "ratio 1"))
    if precision == "float32":
      said.append(within("sampler beside training", max(gaps), 1e-4))
    else:
      said.append(f"sampler beside training {max(gaps):.2g}")
    said.append(require(scores[-1] > scores[0] + 0.03, f"score {scores[0]:.3f} -> {scores[-1]:.3f}"))
  return ", ".join(said)
