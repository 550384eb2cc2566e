"""Pairs that the policy writes itself: a batch source that makes them anew every `online.refresh` steps.

::

  step s = roll-out i, update u         R = online.refresh updates a roll-out

  u = 0: parameters -> answers -> scores -> pairs; all of it is on disk (rollouts/000012.npz) before the first update
  u = 0 .. R - 1: the u-th packed step of these pairs, exactly as of a data set that holds them

With R as large as the run there is one roll-out, of the policy where it starts: offline learning from its own pairs. With
R = 1 every step learns from what the policy writes now. A run that was killed goes on with the stored roll-out.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dpojax.config.schema import BatchSettings, OnlineSettings, RolloutSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.packing import BatchShape, pack
from dpojax.data.prompts import PromptRow
from dpojax.errors import DataError
from dpojax.objectives.preference import Preference
from dpojax.rewards.reward import Reward
from dpojax.rollout.comparisons import BELOW_MARGIN, IDENTICAL, TIED
from dpojax.rollout.pair_making import make_pairs
from dpojax.rollout.writing import Sample
from dpojax.training.answering import ENDED, Write, constant_words, prompted, score_answers
from dpojax.training.on_policy import OnPolicy
from dpojax.training.rollout_files import read_rollout, save_rollout
from dpojax.training.trainer import Trainer
from dpojax.types import PackedBatch, Params

OPPONENT_NUMBER = 2**30  # prompts have numbers from here where the reference answers them: its draws are its own
LEFT_OUT = {
  IDENTICAL: "of identical answers",
  TIED: "of equal scores",
  BELOW_MARGIN: "below online.min_margin",
}


@dataclasses.dataclass(frozen=True)
class PairRollout:
  """K answers to each of P prompts, A = P * K, and the N pairs made of them.

  Attributes:
    prompts: i64[P], which of the run's prompts.
    tokens: i32[sum of lengths], the answers one after another, those to a prompt side by side.
    sampler_logp: f32[sum of lengths] nats of each token under the policy that wrote it, at the sampling temperature.
    length: i64[A].
    ended: u8[A], index into `ENDED`.
    by_reference: bool[A], whether the reference wrote it.
    reward: f64[A], as the reward gave it, normalised where that is asked for.
    score: f64[A], that with what a missing EOS does to it.
    pairs: i64[N, 2], the answers (winner, loser).
    metrics: what is recorded of it.
    update: the first step that was taken from it; above 0 where settings were changed in the middle of another.
  """

  prompts: np.ndarray
  tokens: np.ndarray
  sampler_logp: np.ndarray
  length: np.ndarray
  ended: np.ndarray
  by_reference: np.ndarray
  reward: np.ndarray
  score: np.ndarray
  pairs: np.ndarray
  metrics: Mapping[str, float]
  update: int = 0

  def save(self, path: pathlib.Path, identity: str, steps: range) -> None:
    """Writes it, whole or not at all; see `rollout_files.save_rollout`."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    facts = {name: fields.pop(name) for name in ("metrics", "update")}
    save_rollout(path, identity, steps, fields, facts | {"metrics": dict(facts["metrics"])})

  @classmethod
  def read(cls, path: pathlib.Path, identity: str, begun: int | None = None) -> "PairRollout | None":
    """Inverse of `save`; None where there is none, or one of another identity. See `rollout_files.read_rollout`.

    Raises:
      CheckpointError: the file is damaged.
    """
    found = read_rollout(path, identity, begun)
    return None if found is None else cls(**found[0], **found[1])

  @property
  def answers(self) -> list[np.ndarray]:
    """Tokens of each of the A answers."""
    return np.split(self.tokens, np.cumsum(self.length)[:-1])

  def dataset(self, prompts: Sequence[PromptRow]) -> TokenDataset:
    """The pairs as a data set, each with the difference of its scores as its margin; `prompts` are the run's."""
    answers, samples = self.answers, len(self.length) // len(self.prompts)
    ids = [np.asarray(prompts[i].ids, np.int32) for i in self.prompts.tolist()]
    score = self.score.tolist()
    return TokenDataset(
      [
        TokenExample(ids[won // samples], (answers[won], answers[lost]), margin=score[won] - score[lost])
        for won, lost in self.pairs.tolist()
      ]
    )


class OnlinePairs(OnPolicy[PairRollout]):
  """The batches of online learning: step -> packed pairs.

  Args:
    trainer: whose policy writes; its objective is a `Preference`.
    write: samples all answers to prompts, or half of them where there is an opponent.
    online, batch: see `config.schema`.
    shape: of a step, see `pair_making.pair_shape`.
    opponent: the parameters of the reference as it is, which writes the other half; None: the policy writes all.
    options: see `OnPolicy`; `batch_prompts` is `pair_making.prompts_of_rollout`.
  """

  def __init__(
    self,
    trainer: Trainer,
    write: Write,
    prompts: Sequence[PromptRow],
    reward: Reward,
    rollout: RolloutSettings,
    online: OnlineSettings,
    batch: BatchSettings,
    *,
    shape: BatchShape,
    opponent: Callable[[], Params] | None = None,
    **options: Any,
  ):
    assert isinstance(trainer.objective, Preference)
    super().__init__(trainer, write, prompts, reward, rollout, **options)
    self.online, self.batch, self.shape, self.opponent = online, batch, shape, opponent
    self._said_few = self._said_constant = False

  @property
  def updates(self) -> int:
    return self.online.refresh

  def read(self, path: pathlib.Path, identity: str, begun: int) -> PairRollout | None:
    return PairRollout.read(path, identity, begun)

  def __call__(self, step: int) -> PackedBatch:
    number, update = divmod(step, self.updates)
    if self.begins(step):
      self._current = self.begin(number, update)
      self._batches = Batches(self._current.dataset(self.prompts), self.batch, self.shape)
    self._tokens[step] = self._batches.num_tokens(update)
    batch = self._batches(update)
    if self.opponent is None:
      return batch
    index = np.asarray(batch.example_index)
    wrote = np.argmax(self._current.by_reference[self._current.pairs], axis=1)  # one of the two answers
    return dataclasses.replace(batch, example_opponent=np.where(index >= 0, wrote[index], -1).astype(np.int32))

  def make(self, number: int, update: int) -> PairRollout:
    chosen, prompts, numbers = self.asked(number)
    progress = self.progress(number, update)
    began = time.perf_counter()
    ids = [row.ids for row in prompts]
    samples = self.write(self.trainer.policy_params, ids, numbers, progress)
    own = len(samples[0])
    if self.opponent is not None:
      others = self.write(self.opponent(), ids, [OPPONENT_NUMBER + i for i in numbers], progress)
      samples = [[*several, *other] for several, other in zip(samples, others, strict=True)]
    flat = [sample for several in samples for sample in several]
    sampled = time.perf_counter()
    self.status(f"roll-out {number}: scoring {len(flat):,} answers")
    answers = prompted(prompts, samples, self.decode)
    raw, score, unnormalised = score_answers(self.reward, answers, self.rollout)
    scored = time.perf_counter()
    if not self._said_constant and (words := constant_words(self.reward, raw, "Winners are drawn by chance")):
      self._said_constant = True
      self.say(f"roll-out {number}: {words}")
    texts = [answer.answer for answer in answers]
    pairs, counts = make_pairs(texts, score, len(samples[0]), self.online, seed=self.rollout.seed, first=numbers[0])
    self._report(number, len(flat), pairs, counts)
    by_reference = np.tile(np.arange(len(samples[0])) >= own, len(samples))
    length = np.asarray([len(sample.tokens) for sample in flat])
    ours = ~by_reference
    metrics = {
      "objective/reward": float(np.mean(raw[ours])),
      "objective/reward_sd": float(np.std(raw[ours])),
      "objective/score": float(np.mean(score[ours])),
      **self._divergence(ids, [several[:own] for several in samples]),
      "rollout/eos_share": float(np.mean([sample.finished for sample, mine in zip(flat, ours, strict=True) if mine])),
      "rollout/length": float(np.mean(length[ours])),
      "pairs/margin": float(np.mean(score[pairs[:, 0]] - score[pairs[:, 1]])),
      **{f"pairs/{name}": float(count) for name, count in counts.items()},
      "time/sample": sampled - began,
      "time/reward": scored - sampled,
    }
    if self.rollout.normalise:
      metrics["objective/reward_raw"] = float(np.mean(unnormalised[ours]))
    if self.opponent is not None:
      metrics["objective/reward_of_reference"] = float(np.mean(raw[by_reference]))
    return PairRollout(
      prompts=chosen,
      tokens=np.concatenate([sample.tokens for sample in flat]),
      sampler_logp=np.concatenate([sample.logp for sample in flat]),
      length=length,
      ended=np.asarray([ENDED.index(sample.ended) for sample in flat], np.uint8),
      by_reference=by_reference,
      reward=raw,
      score=score,
      pairs=pairs,
      metrics=metrics,
      update=update,
    )

  def _report(self, number: int, answers: int, pairs: np.ndarray, counts: Mapping[str, int]) -> None:
    """Says what became of the first roll-out's pairs, and of those of the first that has few.

    Raises:
      DataError: there is none.
    """
    left_out = ", ".join(f"{counts[key]:,} {words}" for key, words in LEFT_OUT.items() if counts[key])
    what = f"{answers:,} answers to {self.batch_prompts:,} prompts"
    if not len(pairs):
      raise DataError(
        f"roll-out {number}: {what} make no pair ({left_out}); raise rollout.temperature or rollout.samples so that answers "
        "differ, lower online.min_margin, or set online.label=bradley_terry, under which equal scores make pairs too"
      )
    wanted = self.updates * self.batch.size
    passes = wanted / len(pairs)
    few = passes > 2 * self.online.epochs
    if number == 0 or (few and not self._said_few):
      less = f"; left out: {left_out}" if left_out else ""
      times = f"{passes:.3g} times, as so few are left" if few else f"{passes:.3g} times"
      self.say(f"roll-out {number}: {len(pairs):,} pairs of {what}, each read {times}{less}")
    self._said_few |= few

  def _divergence(self, prompts: Sequence[np.ndarray], samples: Sequence[Sequence[Sample]]) -> dict[str, float]:
    """KL from the policy to the reference by k1, over as many of the policy's answers as a step holds; {} if not to be had.

    Log-probs at another temperature than 1 are of another policy than the loss's, and no loss without a reference has one.
    """
    if self.rollout.temperature != 1:
      return {}
    examples = [
      TokenExample(np.asarray(ids, np.int32), tuple(sample.tokens for sample in several[k : k + 2]))
      for ids, several in zip(prompts, samples, strict=True)
      for k in range(0, len(several), 2)
    ][: self.batch.size]
    batch = pack(examples, self.shape, share_prompt=self.batch.share_prompt)
    outputs: Any = self.trainer.forward(self.trainer.place(batch), reference=True)
    if outputs.reference_logp is None:
      return {}
    answer_of = np.asarray(batch.answer_of)
    of_answers = np.asarray(batch.filled) & (answer_of % self.shape.answers < 2)  # a scored prompt is no answer
    gap = np.asarray(outputs.logp, np.float64) - np.asarray(outputs.reference_logp, np.float64)
    total = float(np.sum(gap[of_answers]))
    return {
      "objective/kl": total / sum(len(example.answers) for example in examples),
      "objective/kl_token": total / sum(example.scored for example in examples),
    }
