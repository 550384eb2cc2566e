"""Real roll-outs of a model of a few thousand parameters: what tests of policy gradients train."""

import dataclasses

import jax
import numpy as np

from dpojax.config.resolved import resolved
from dpojax.config.schema import OptimizerSettings, ParallelSettings, PolicyGradientSettings, RolloutSettings
from dpojax.data.prompts import PromptRow
from dpojax.models.language_model import LanguageModel
from dpojax.models.reward_model import RewardModel
from dpojax.objectives.policy_gradient import PolicyGradient
from dpojax.parallel import make_mesh
from dpojax.parallel.rules import whole_rows
from dpojax.recipes.rollouts import hyper
from dpojax.rollout.packed_rows import minibatch_shape
from dpojax.rollout.sampler import generate
from dpojax.training.optimizer import make_optimizer
from dpojax.training.rollouts import Rollouts
from dpojax.training.trainer import Trainer, fetch
from tests.training.tiny import CONFIG

EOS = 3


class EvenShare:
  """The share of even tokens: a fraction, and the same for the same answer."""

  name, fingerprint = "even", "even"

  def __call__(self, answers):
    return np.asarray([np.mean(np.asarray(answer.answer_ids) % 2 == 0) for answer in answers])


def make_prompts(count=12, seed=0):
  """Prompts of 3 to 8 random tokens."""
  draws = np.random.default_rng(seed)
  texts = [draws.integers(4, CONFIG.vocab_size, draws.integers(3, 9)).astype(np.int32) for _ in range(count)]
  return [PromptRow(str(number), str(number), ids, "made", number) for number, ids in enumerate(texts)]


def sampler(model, rollout, mesh=None):
  """What a recipe's `writer` is, without a tokenizer."""
  shared = mesh if mesh is not None and mesh.size > 1 else None

  def write(params, prompts, numbers, progress):
    return generate(
      model,
      params,
      prompts,
      samples=rollout.samples,
      max_tokens=rollout.max_tokens,
      eos_id=EOS,
      temperature=rollout.temperature,
      seed=rollout.seed,
      numbers=numbers,
      rows=whole_rows(64, shared),
      mesh=shared,
      progress=progress,
    )

  return write


@dataclasses.dataclass
class Stage:
  """A policy gradient without a run folder; `records` holds (step, metrics) of every roll-out made or read."""

  trainer: Trainer
  rollouts: Rollouts
  records: list

  def run(self, steps):
    """[metrics] of that many further steps."""
    start = int(self.trainer.state.step)
    return [fetch(metrics) for _, metrics in self.trainer.steps(self.rollouts, start + steps)]

  def restore(self, state):
    """Goes on from a state on the host."""
    self.trainer.state = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), state, self.trainer.state)
    return self


def make_stage(
  folder,
  *,
  method="ppo",
  critic="reward",
  precision="float32",
  remat="layer",
  rows=1,
  row_length=48,
  batch_size=4,
  samples=2,
  max_tokens=8,
  temperature=1.0,
  learning_rate=3e-3,
  schedule="constant",
  steps=1000,
  prompts=None,
  reward=None,
  write=None,
  parallel=None,
  dtype=np.float32,
  rollout=None,
  options=None,
  moving=None,
  **settings,
):
  """A stage of 2 epochs and 2 minibatches; `settings` of `PolicyGradientSettings`, `options` are `identity` and attributes of `Rollouts`.

  Two stages of the same shapes, objective and schedule share their compiled programs.
  """
  folder.mkdir(parents=True, exist_ok=True)
  prompts = make_prompts() if prompts is None else prompts
  settings = PolicyGradientSettings(
    **{"method": method, "critic": critic, "epochs": 2, "minibatches": 2, "update_kl_limit": 0.0} | settings
  )
  settings = resolved(settings)
  rollout = RolloutSettings(
    **{"samples": samples, "max_tokens": max_tokens, "temperature": temperature, "seed": 5} | (rollout or {})
  )
  model = LanguageModel(CONFIG, precision, remat, chunk=16)
  size = settings.minibatches * batch_size
  lengths = [len(row.ids) for row in prompts]
  shape = minibatch_shape(
    prompts=size,
    samples=rollout.samples,
    longest_prompt=max(lengths),
    shortest_prompt=min(lengths),
    max_tokens=rollout.max_tokens,
    minibatches=settings.minibatches,
    rows=rows,
    length=row_length,
  )
  shared = critic == "shared"
  head = RewardModel(model) if method == "ppo" else None
  start = jax.tree.map(lambda x: np.asarray(x, dtype), model.init(jax.random.key(0)))
  params = {"policy": start}
  if head is not None:
    own = jax.tree.map(lambda x: np.asarray(x, dtype), head.init(jax.random.key(1)))
    params["critic"] = {"score": np.zeros((1, CONFIG.hidden), dtype)} if shared else own
  objective = PolicyGradient(
    model,
    head,
    shared and head is not None,
    temperature=rollout.temperature,
    reduction=settings.reduction,
    longest=rollout.max_tokens,
    kl_loss=settings.kl == "loss",
    entropy_bonus=settings.entropy_coef > 0,
  )
  axes = {"data": 1} | (parallel or {})
  mesh = make_mesh(ParallelSettings(**axes), jax.devices()[: int(np.prod(list(axes.values())))])
  optimizer = OptimizerSettings(learning_rate=learning_rate, schedule=schedule, eps=1e-5)
  trainer = Trainer(
    objective,
    make_optimizer(optimizer, steps, objective.parameters),
    params,
    reference_params=None if moving else start,
    moving_reference=start if moving else None,
    hyper=hyper(settings) | (dict(zip(("reference_every", "reference_mix"), moving, strict=True)) if moving else {}),
    mesh=mesh,
  )
  records = []
  rollouts = Rollouts(
    trainer,
    write or sampler(model, rollout, mesh),
    prompts,
    reward or EvenShare(),
    rollout,
    settings,
    batch_prompts=size,
    shape=shape,
    decode=lambda sample: " ".join(map(str, sample.tokens.tolist())),
    folder=folder,
    identity=(options or {}).get("identity", "this"),
  )
  rollouts.record = lambda step, metrics: records.append((step, dict(metrics)))
  for name, value in (options or {}).items():
    if name != "identity":
      setattr(rollouts, name, value)
  return Stage(trainer, rollouts, records)
