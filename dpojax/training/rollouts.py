"""Roll-outs of a policy gradient: what the policy writes, scored, packed and cut into minibatches.

::

  step s = roll-out i, update u        U = epochs * minibatches updates a roll-out

  u = 0: parameters -> answers -> scores -> rows -> log-probs and values by the training forward -> advantages
         all of it is on disk (rollouts/000012.npz) before the first update
  u > 0: rows of epoch u // minibatches in an order of their own

A run that was killed goes on with the stored roll-out, so that later updates see what the earlier ones saw.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dpojax.config.schema import PolicyGradientSettings, RolloutSettings
from dpojax.data.packing import BatchShape
from dpojax.data.prompts import PromptRow
from dpojax.objectives import advantages
from dpojax.objectives.kl_control import CONTROLLERS
from dpojax.objectives.methods import advantages_of
from dpojax.objectives.policy_gradient import BEGUN_KL_COEF, KL_COEF, NEXT_KL_COEF, POLICY, STOPPED, PolicyGradient
from dpojax.rewards.reward import Reward
from dpojax.rollout.packed_rows import PackedRows, split_rows
from dpojax.training.answering import ENDED, Write, constant_words, permutation, prompted, score_answers
from dpojax.training.on_policy import OnPolicy
from dpojax.training.rollout_files import padded, read_rollout, save_rollout, scattered
from dpojax.training.trainer import Trainer
from dpojax.types import PackedBatch

PER_TOKEN = ("sampler_logp", "behaviour_logp", "reference_logp", "value", "advantage", "value_target")

NOTHING = (
  "Nothing can be learned from it: what is left of advantages is KL and rounding, which whitening and Adam turn into whole "
  "steps"
)


@dataclasses.dataclass(frozen=True)
class Rollout:
  """K answers to each of P prompts, A = P * K, and all that updates read of them; by token [A, T], 0 behind the end.

  Attributes:
    prompts: i64[P], which of the run's prompts.
    tokens: i32[A, T].
    length: i64[A].
    ended: u8[A], index into `ENDED`.
    reward: f64[A], as the reward gave it, normalised where that is asked for.
    score: f64[A], that with what a missing EOS does to it.
    sampler_logp: [A, T] by the sampler, another program than the next two; nats at its temperature.
    behaviour_logp, reference_logp: [A, T] by the training forward on the rows of the minibatches.
    value: [A, T] of the critic, or 0.
    advantage, value_target: f64[A, T], advantages not whitened by minibatch.
    kl_coef: that it was made with.
    metrics: what is recorded of it.
    update: the first update that was taken from it; above 0 where settings were changed in the middle of another.
  """

  prompts: np.ndarray
  tokens: np.ndarray
  length: np.ndarray
  ended: np.ndarray
  reward: np.ndarray
  score: np.ndarray
  sampler_logp: np.ndarray
  behaviour_logp: np.ndarray
  reference_logp: np.ndarray
  value: np.ndarray
  advantage: np.ndarray
  value_target: np.ndarray
  kl_coef: float
  metrics: Mapping[str, float]
  update: int = 0

  def save(self, path: pathlib.Path, identity: str, steps: range) -> None:
    """Writes it, whole or not at all; see `rollout_files.save_rollout`."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    mask = advantages.token_mask(self.length, self.tokens.shape[1])
    fields |= {name: fields[name][mask] for name in ("tokens", *PER_TOKEN)}
    facts = {name: fields.pop(name) for name in ("metrics", "kl_coef", "update")}
    save_rollout(path, identity, steps, fields, facts | {"metrics": dict(facts["metrics"])})

  @classmethod
  def read(cls, path: pathlib.Path, identity: str, begun: int | None = None) -> "Rollout | None":
    """Inverse of `save`; None where there is none, or one of another identity. See `rollout_files.read_rollout`.

    Raises:
      CheckpointError: the file is damaged.
    """
    found = read_rollout(path, identity, begun)
    if found is None:
      return None
    arrays, facts = found
    mask = advantages.token_mask(arrays["length"], int(arrays["length"].max()))
    arrays |= {name: scattered(arrays[name], mask) for name in ("tokens", *PER_TOKEN)}
    return cls(**arrays, **facts)

  def answers(self) -> list[list[np.ndarray]]:
    """Tokens of the K answers to each prompt."""
    flat = [tokens[:length] for tokens, length in zip(self.tokens, self.length, strict=True)]
    samples = len(flat) // len(self.prompts)
    return [flat[start : start + samples] for start in range(0, len(flat), samples)]


class Rollouts(OnPolicy[Rollout]):
  """The batches of a policy gradient: step -> minibatch.

  Args:
    settings: see `config.schema`; with every "auto" resolved.
    shape: of a minibatch.
    options: see `OnPolicy`.

  Attributes:
    current: the latest roll-out.
  """

  def __init__(
    self,
    trainer: Trainer,
    write: Write,
    prompts: Sequence[PromptRow],
    reward: Reward,
    rollout: RolloutSettings,
    settings: PolicyGradientSettings,
    *,
    shape: BatchShape,
    **options: Any,
  ):
    assert isinstance(trainer.objective, PolicyGradient)
    super().__init__(trainer, write, prompts, reward, rollout, **options)
    self.settings, self.shape = settings, shape
    self.current: Rollout | None = None
    self._said_constant = False

  @property
  def updates(self) -> int:
    return self.settings.epochs * self.settings.minibatches

  def read(self, path: pathlib.Path, identity: str, begun: int) -> Rollout | None:
    return Rollout.read(path, identity, begun)

  def __call__(self, step: int) -> PackedBatch:
    number, update = divmod(step, self.updates)
    if self.begins(step):
      self.current = found = self.begin(number, update)
      if update == found.update:
        self._control(found)
      self._packed = PackedRows([self.prompts[i].ids for i in found.prompts], found.answers(), self.shape)
      self._slots = self._by_slot(found, self._packed)
    rows = self._packed
    chosen = self._rows(number, update, rows)
    if update and self.settings.update_kl_limit and float(self.trainer.state.running[STOPPED]):
      chosen = chosen[:0]  # the policy has moved far enough: a step without rows costs nothing and changes nothing
    self._tokens[step] = int(np.sum(rows.tokens[chosen]))
    per_slot = {name: values[chosen] for name, values in self._slots.items()}
    if self.settings.whiten == "minibatch":
      per_slot["advantage"] = advantages.whiten(per_slot["advantage"], rows.filled[chosen])
    kind = per_slot["behaviour_logp"].dtype
    return rows.batch(chosen, {name: values.astype(kind) for name, values in per_slot.items()})

  def _control(self, found: Rollout) -> None:
    """Sets the state's statistics for the steps of a roll-out, and the weight of KL that the next one is made with."""
    control = CONTROLLERS[self.settings.kl_controller]
    kl, episodes = found.metrics["objective/kl"], len(found.length)
    following = control(found.kl_coef, kl, self.settings.kl_target, episodes, self.settings.kl_horizon)
    begun = self.settings.kl_coef
    self.trainer.set_running(**{KL_COEF: found.kl_coef, NEXT_KL_COEF: following, BEGUN_KL_COEF: begun, STOPPED: 0.0})

  def _coefficient(self, update: int) -> float:
    """The weight of KL that a new roll-out is made with: the setting, or what a controller has made of it since."""
    setting, running = self.settings.kl_coef, self.trainer.state.running
    if self.settings.kl_controller == "fixed" or float(running[BEGUN_KL_COEF]) != float(np.float32(setting)):
      return setting  # where it was changed, or nothing was taken yet, a controller begins with it
    return float(running[KL_COEF if update else NEXT_KL_COEF])

  def make(self, number: int, update: int) -> Rollout:
    coef = self._coefficient(update)
    chosen, prompts, numbers = self.asked(number)
    began = time.perf_counter()
    ids = [row.ids for row in prompts]
    samples = self.write(self.trainer.policy_params, ids, numbers, self.progress(number, update))
    flat = [sample for several in samples for sample in several]
    sampled = time.perf_counter()
    self.status(f"roll-out {number}: scoring {len(flat):,} answers")
    raw, score, unnormalised = score_answers(self.reward, prompted(prompts, samples, self.decode), self.rollout)
    if not self._said_constant and (words := constant_words(self.reward, raw, NOTHING)):
      self._said_constant = True
      self.say(f"roll-out {number}: {words}")
    scored = time.perf_counter()
    rows = PackedRows(ids, [[sample.tokens for sample in several] for several in samples], self.shape)
    arrays = self._forward(number, rows)
    entropy, length = arrays.pop("entropy"), rows.mask.sum(axis=1)
    written = padded([sample.logp for sample in flat], rows.mask)
    k1 = arrays["behaviour_logp"].astype(np.float64) - arrays["reference_logp"]
    advantage, target = advantages_of(
      self.settings, self.rollout.samples, score, k1, arrays["value"], length, coef=coef
    )
    made = Rollout(
      prompts=chosen,
      tokens=padded([sample.tokens for sample in flat], rows.mask),
      length=length,
      ended=np.asarray([ENDED.index(sample.ended) for sample in flat], np.uint8),
      reward=raw,
      score=score,
      sampler_logp=written,
      advantage=advantage,
      value_target=target,
      kl_coef=coef,
      update=update,
      metrics={},
      **arrays,
    )
    times = {"sample": sampled - began, "reward": scored - sampled, "forward": time.perf_counter() - scored}
    metrics = self._metrics(made, entropy) | {f"time/{name}": seconds for name, seconds in times.items()}
    if self.rollout.normalise:
      metrics["objective/reward_raw"] = float(np.mean(unnormalised))
    return dataclasses.replace(made, metrics=metrics)

  def _forward(self, number: int, rows: PackedRows) -> dict[str, np.ndarray]:
    """[A, T] log-probs and values, computed on exactly the minibatches of the first epoch.

    Those of the policy and the critic by the pass that the updates differentiate: the ratio of the first is exactly 1.
    """
    found: dict[str, np.ndarray] = {}
    kind = jax.tree.leaves(self.trainer.params)[0].dtype
    for update in range(self.settings.minibatches):
      chosen = self._rows(number, update, rows)
      none = np.zeros((len(chosen), self.shape.scored), kind)
      batch = self.trainer.place(rows.batch(chosen, dict.fromkeys(self._read(), none)))
      outputs, reference_logp = self.trainer.outputs(batch), self._reference_logp(batch)
      for name, values in (
        ("behaviour_logp", outputs.logp),
        ("reference_logp", reference_logp),
        ("value", outputs.value),
        ("entropy", outputs.entropy),
      ):
        values = none if values is None else rows.rows_of(np.asarray(values), len(chosen))
        found.setdefault(name, np.zeros((rows.count, values.shape[1]), values.dtype))[chosen] = values
    return {name: rows.by_token(values) for name, values in found.items()}

  def _reference_logp(self, batch: PackedBatch) -> jax.Array:
    """[G, R, S] by a plain forward pass; in bfloat16, where another program rounds by hundredths of a nat, by the same."""
    trainer = self.trainer
    assert isinstance(trainer.objective, PolicyGradient)
    if trainer.objective.model.precision == "float32":
      return trainer.forward(batch, reference=True, only="reference_logp")
    return trainer.outputs(batch, trainer.params | {POLICY: trainer.compared_params}).logp

  def _read(self) -> tuple[str, ...]:
    """Fields of a batch that the loss reads per slot."""
    with_critic = ("old_value", "value_target") if self.settings.method == "ppo" else ()
    with_kl = ("reference_logp",) if self.settings.kl == "loss" else ()
    return ("behaviour_logp", "advantage", *with_critic, *with_kl)

  def _metrics(self, made: Rollout, entropy: np.ndarray) -> dict[str, float]:
    """What is recorded of a roll-out, and of the [A, T] entropy of its policy."""
    mask = advantages.token_mask(made.length, made.tokens.shape[1])
    behaviour, coef = made.behaviour_logp.astype(np.float64), made.kl_coef
    kl = np.sum(behaviour - made.reference_logp, axis=1)  # both 0 behind the end
    gap = np.abs(behaviour - made.sampler_logp)[mask]
    metrics = {
      "objective/score": float(np.mean(made.score)),
      "objective/reward": float(np.mean(made.reward)),
      "objective/reward_sd": float(np.std(made.reward)),
      "objective/kl": float(np.mean(kl)),
      "objective/kl_token": float(np.sum(kl) / np.sum(made.length)),
      "objective/kl_coef": coef,
      "objective/non_score_reward": -coef * float(np.mean(kl)),
      "objective/rlhf_reward": float(np.mean(made.score)) - coef * float(np.mean(kl)),
      "objective/entropy": float(np.mean(entropy[mask])),
      "rollout/logp_gap": float(np.mean(gap)),
      "rollout/logp_gap_max": float(np.max(gap)),
      "rollout/eos_share": float(np.mean(made.ended != ENDED.index("length"))),
      "rollout/length": float(np.mean(made.length)),
    }
    if self.settings.method == "ppo":
      errors, spread = (made.value_target - made.value)[mask], np.var(made.value_target[mask])
      metrics["value/explained_variance"] = float(1 - np.var(errors) / spread) if spread else 0.0
      metrics["value/mean"] = float(np.mean(made.value[mask]))
    return metrics

  def _rows(self, number: int, update: int, rows: PackedRows) -> np.ndarray:
    """Numbers of the rows of an update: every epoch has a permutation of its own."""
    epoch, part = divmod(update, self.settings.minibatches)
    order = permutation(rows.count, self.rollout.seed, number, epoch)
    return split_rows(rows.count, self.settings.minibatches, order)[part]

  def _by_slot(self, found: Rollout, rows: PackedRows) -> dict[str, np.ndarray]:
    """[rows, S] of the fields that the loss reads, by field of `PackedBatch`."""
    values = {
      "behaviour_logp": found.behaviour_logp,
      "advantage": found.advantage,
      "reference_logp": found.reference_logp,
      "old_value": found.value,
      "value_target": found.value_target,
    }
    return {name: rows.by_slot(values[name]) for name in self._read()}
