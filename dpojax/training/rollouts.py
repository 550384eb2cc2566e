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
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from dpojax.config.schema import PolicyGradientSettings, RolloutSettings
from dpojax.data.packing import PackShape
from dpojax.data.prompts import PromptRow
from dpojax.objectives import advantages
from dpojax.objectives.kl_control import CONTROLLERS
from dpojax.objectives.methods import advantages_of
from dpojax.objectives.policy_gradient import KL_COEF, NEXT_KL_COEF, POLICY, STOPPED, PolicyGradient
from dpojax.rewards.reward import Reward
from dpojax.rollout.packed_rows import PackedRows, split_rows
from dpojax.rollout.writing import Sample
from dpojax.training.answering import ENDED, Write, chosen_prompts, permutation, prompted, score_answers
from dpojax.training.preemption import Interrupted
from dpojax.training.rollout_files import (
  ROLLOUTS,
  check_begun,
  drop,
  padded,
  read_rollout,
  rollout_path,
  save_rollout,
  scattered,
)
from dpojax.training.trainer import Trainer
from dpojax.types import PackedBatch

PER_TOKEN = ("sampler_logp", "behaviour_logp", "reference_logp", "value", "advantage", "value_target")


@dataclasses.dataclass(frozen=True)
class Rollout:
  """K answers to each of P prompts, A = P * K, and all that updates read of them; by token [A, T], 0 behind the end.

  Attributes:
    prompts: i64[P], which of the run's prompts.
    tokens: i32[A, T].
    length: i64[A].
    ended: u8[A], index into `ENDED`.
    reward: f64[A], as the reward gave it.
    score: f64[A], normalised and with what a missing EOS does to it.
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

  def save(self, path: pathlib.Path, identity: str) -> None:
    """Writes it, whole or not at all."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    mask = advantages.token_mask(self.length, self.tokens.shape[1])
    fields |= {name: fields[name][mask] for name in ("tokens", *PER_TOKEN)}
    facts = {name: fields.pop(name) for name in ("metrics", "kl_coef", "update")}
    save_rollout(path, identity, fields, facts | {"metrics": dict(facts["metrics"])})

  @classmethod
  def read(cls, path: pathlib.Path, identity: str) -> "Rollout | None":
    """Inverse of `save`; None where there is none, or one of another identity.

    Raises:
      CheckpointError: the file is damaged.
    """
    found = read_rollout(path, identity)
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


class Rollouts:
  """The batches of a policy gradient: step -> minibatch. The roll-out is made when its first minibatch is asked for.

  Args:
    trainer: whose policy writes.
    write: samples.
    prompts: of the run; roll-out i reads the next ones of one permutation after another.
    reward: scores answers.
    rollout, settings: see `config.schema`; `settings` with every "auto" resolved.
    batch_prompts: P, prompts of a roll-out.
    shape: of a minibatch.
    decode: the answer's text.
    folder: `rollouts/` is in it.
    identity: of the stage: roll-outs of another are not read.

  Attributes:
    current: the latest roll-out.
    record: called with (step, metrics) of a new roll-out.
    status: shows passing text.
    oldest_step: gives the oldest checkpoint that a run may go back to; roll-outs before it are deleted.
    interrupted: asked with a step while a roll-out is made; true ends it by `Interrupted`.
  """

  ahead = False

  def __init__(
    self,
    trainer: Trainer,
    write: Write,
    prompts: Sequence[PromptRow],
    reward: Reward,
    rollout: RolloutSettings,
    settings: PolicyGradientSettings,
    *,
    batch_prompts: int,
    shape: PackShape,
    decode: Callable[[Sample], str],
    folder: pathlib.Path,
    identity: str = "",
  ):
    assert isinstance(trainer.objective, PolicyGradient)
    self.trainer, self.write, self.prompts, self.reward = trainer, write, prompts, reward
    self.rollout, self.settings, self.shape = rollout, settings, shape
    self.batch_prompts, self.decode = batch_prompts, decode
    self._folder, self._identity = folder / ROLLOUTS, identity
    self._current: tuple[int, Rollout, PackedRows] | None = None
    self._tokens: dict[int, int] = {}
    self.record: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None
    self.status: Callable[[str], None] = lambda text: None
    self.oldest_step: Callable[[], int] = lambda: 0
    self.interrupted: Callable[[int], bool] = lambda step: False

  @property
  def current(self) -> Rollout | None:
    return None if self._current is None else self._current[1]

  @property
  def updates(self) -> int:
    """Steps of a roll-out."""
    return self.settings.epochs * self.settings.minibatches

  def num_tokens(self, step: int) -> int:
    """Tokens of a step that was taken, each answer alone with its prompt."""
    return self._tokens.pop(step, 0)

  def __call__(self, step: int) -> PackedBatch:
    number, update = divmod(step, self.updates)
    current = self._current
    if current is None or self.begins(step):
      current = self._current = (number, *self._begin(number, update))
    _, rollout, rows = current
    chosen = self._rows(number, update, rows)
    self._tokens[step] = int(np.sum(rows.tokens[chosen]))
    if update and self.settings.update_kl_limit and float(self.trainer.state.running[STOPPED]):
      chosen = chosen[:0]  # the policy has moved far enough: a step without rows costs nothing and changes nothing
      self._tokens[step] = 0
    return rows.batch(chosen, self._per_slot(rollout, rows, chosen))

  def begins(self, step: int) -> bool:
    """Whether the batch of a step waits for a roll-out."""
    return self._current is None or self._current[0] != step // self.updates

  def _begin(self, number: int, update: int) -> tuple[Rollout, PackedRows]:
    """The roll-out of that number, from disk or new; at its first update the state's statistics are set."""
    path = rollout_path(self._folder, number)
    found = Rollout.read(path, self._identity)
    if found is None:
      check_begun(path, update, self.updates)
    if found is None or found.update > update:
      # One of other settings cannot be gone on with: what is left of its updates is taken from a new one.
      running = self.trainer.state.running[KL_COEF if update else NEXT_KL_COEF]
      found = self._make(number, update, float(running) if number or update else self.settings.kl_coef)
      drop(self._folder, lambda other: other > number)  # written by a policy that never read this one
      found.save(path, self._identity)
      self.drop_old(number)
    rows = PackedRows([self.prompts[i].ids for i in found.prompts], found.answers(), self.shape)
    if update == found.update:
      control = CONTROLLERS[self.settings.kl_controller]
      kl, episodes = found.metrics["objective/kl"], len(found.length)
      following = control(found.kl_coef, kl, self.settings.kl_target, episodes, self.settings.kl_horizon)
      self.trainer.set_running(**{KL_COEF: found.kl_coef, NEXT_KL_COEF: following, STOPPED: 0.0})
      self.record(number * self.updates + update, found.metrics)
    return found, rows

  def _make(self, number: int, update: int, coef: float) -> Rollout:
    chosen = chosen_prompts(len(self.prompts), self.batch_prompts, number, self.rollout.seed)
    prompts = [self.prompts[i] for i in chosen]
    first = number * self.batch_prompts

    def progress(done: int, tokens: int) -> None:
      if self.interrupted(number * self.updates + update):
        raise Interrupted
      self.status(f"roll-out {number}: {done:,}/{len(prompts) * self.rollout.samples:,} answers, {tokens:,} tokens")

    began = time.perf_counter()
    ids = [row.ids for row in prompts]
    samples = self.write(self.trainer.policy_params, ids, range(first, first + len(ids)), progress)
    flat = [sample for several in samples for sample in several]
    sampled = time.perf_counter()
    self.status(f"roll-out {number}: scoring {len(flat):,} answers")
    raw, score = score_answers(self.reward, prompted(prompts, samples, self.decode), self.rollout)
    scored = time.perf_counter()
    rows = PackedRows(ids, [[sample.tokens for sample in several] for several in samples], self.shape)
    arrays = self._forward(number, rows)
    behaviour, reference = arrays["behaviour_logp"], arrays["reference_logp"]
    length = rows.mask.sum(axis=1)
    written = padded([sample.logp for sample in flat], rows.mask)
    k1 = behaviour.astype(np.float64) - reference
    advantage, target = advantages_of(
      self.settings, self.rollout.samples, score, k1, arrays["value"], length, coef=coef
    )
    metrics = self._metrics(rows.mask, raw, score, flat, written, arrays, target, coef)
    metrics |= {"time/sample": sampled - began, "time/reward": scored - sampled}
    return Rollout(
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
      metrics=metrics | {"time/forward": time.perf_counter() - scored},
      **arrays,
    )

  def _forward(self, number: int, rows: PackedRows) -> dict[str, np.ndarray]:
    """[A, T] log-probs and values, computed on exactly the minibatches of the first epoch.

    Those of the policy and the critic by the pass that the updates differentiate: the ratio of the first is exactly 1.
    """
    found: dict[str, np.ndarray] = {}
    none = np.zeros((rows.count, self.shape.scored), jax.tree.leaves(self.trainer.params)[0].dtype)
    for update in range(self.settings.minibatches):
      chosen = self._rows(number, update, rows)
      batch = self.trainer.place(rows.batch(chosen, dict.fromkeys(self._read(), none)))
      outputs, reference_logp = self.trainer.outputs(batch), self._reference_logp(batch)
      for name, values in (
        ("behaviour_logp", outputs.logp),
        ("reference_logp", reference_logp),
        ("value", outputs.value),
        ("entropy", outputs.entropy),
      ):
        values = none if values is None else rows.rows_of(np.asarray(values), len(chosen))
        found.setdefault(name, np.zeros((rows.count, values.shape[1]), values.dtype))[chosen] = values[: len(chosen)]
    return {name: rows.by_token(values) for name, values in found.items()}

  def _reference_logp(self, batch: PackedBatch) -> jax.Array:
    """[G, R, S] by a plain forward pass; in bfloat16, where another program rounds by hundredths of a nat, by the same."""
    trainer = self.trainer
    assert isinstance(trainer.objective, PolicyGradient)
    if trainer.objective.model.precision == "float32":
      return trainer.forward(batch, reference=True).reference_logp
    return trainer.outputs(batch, trainer.params | {POLICY: trainer.compared_params}).logp

  def _read(self) -> tuple[str, ...]:
    """Fields of a batch that the loss reads per slot."""
    with_critic = ("old_value", "value_target") if self.settings.method == "ppo" else ()
    with_kl = ("reference_logp",) if self.settings.kl == "loss" else ()
    return ("behaviour_logp", "advantage", *with_critic, *with_kl)

  def _metrics(
    self,
    mask: np.ndarray,
    raw: np.ndarray,
    score: np.ndarray,
    samples: Sequence[Sample],
    written: np.ndarray,
    arrays: dict[str, np.ndarray],
    target: np.ndarray,
    coef: float,
  ) -> dict[str, float]:
    """What is recorded of a roll-out; `entropy` is taken out of `arrays`."""
    behaviour = arrays["behaviour_logp"].astype(np.float64)
    kl = np.sum(np.where(mask, behaviour - arrays["reference_logp"], 0.0), axis=1)
    gap = np.abs(behaviour - written)[mask]
    entropy = arrays.pop("entropy")
    metrics = {
      "objective/score": float(np.mean(score)),
      "objective/reward": float(np.mean(raw)),
      "objective/reward_sd": float(np.std(raw)),
      "objective/kl": float(np.mean(kl)),
      "objective/kl_token": float(np.sum(kl) / np.sum(mask)),
      "objective/kl_coef": coef,
      "objective/non_score_reward": -coef * float(np.mean(kl)),
      "objective/rlhf_reward": float(np.mean(score)) - coef * float(np.mean(kl)),
      "objective/entropy": float(np.mean(entropy[mask])),
      "rollout/logp_gap": float(np.mean(gap)),
      "rollout/logp_gap_max": float(np.max(gap)),
      "rollout/eos_share": float(np.mean([sample.finished for sample in samples])),
      "rollout/length": float(np.mean(np.sum(mask, axis=1))),
    }
    if self.settings.method == "ppo":
      errors, spread = (target - arrays["value"])[mask], np.var(target[mask])
      metrics["value/explained_variance"] = float(1 - np.var(errors) / spread) if spread else 0.0
      metrics["value/mean"] = float(np.mean(arrays["value"][mask]))
    return metrics

  def _rows(self, number: int, update: int, rows: PackedRows) -> np.ndarray:
    """Numbers of the rows of an update: every epoch has a permutation of its own."""
    epoch, part = divmod(update, self.settings.minibatches)
    order = permutation(rows.count, self.rollout.seed, number, epoch)
    return split_rows(rows.count, self.settings.minibatches, order)[part]

  def _per_slot(self, rollout: Rollout, rows: PackedRows, chosen: np.ndarray) -> dict[str, np.ndarray]:
    kind = rollout.behaviour_logp.dtype
    advantage = rows.by_slot(rollout.advantage)
    if self.settings.whiten == "minibatch" and len(chosen):
      here = np.zeros(advantage.shape[0], bool)
      here[chosen] = True
      advantage = advantages.whiten(advantage, rows.filled & here[:, None])
    found = {"behaviour_logp": rows.by_slot(rollout.behaviour_logp), "advantage": advantage.astype(kind)}
    if self.settings.kl == "loss":
      found["reference_logp"] = rows.by_slot(rollout.reference_logp)
    if self.settings.method == "ppo":
      found["old_value"] = rows.by_slot(rollout.value)
      found["value_target"] = rows.by_slot(rollout.value_target).astype(kind)
    return found

  def drop_old(self, number: int) -> None:
    """Deletes roll-outs before that number which no checkpoint goes back to."""
    needed = min(self.oldest_step() // self.updates, number)
    drop(self._folder, lambda other: other < needed)
