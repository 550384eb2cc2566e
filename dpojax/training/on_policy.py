"""What every source of batches has that the policy writes itself: numbered roll-outs, each on disk before its first step.

::

  step s = roll-out i, update u        roll-out i gives `updates` steps

  u = 0: the roll-out is made with the parameters as they are, or read where an earlier start has stored it
  u > 0: it is at hand, or read: a run that was killed goes on with what it had, whatever has become of the parameters
"""

import abc
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from dpojax.config.schema import RolloutSettings
from dpojax.data.prompts import PromptRow
from dpojax.rewards.reward import Reward
from dpojax.rollout.writing import Sample
from dpojax.training.answering import Write, chosen_prompts
from dpojax.training.preemption import Interrupted
from dpojax.training.rollout_files import ROLLOUTS, check_begun, drop, rollout_path
from dpojax.training.trainer import Trainer


class Stored(Protocol):
  """A roll-out: what is recorded of it, and the first update that was taken from it.

  `update` is above 0 where settings were changed in the middle of another one.
  """

  @property
  def metrics(self) -> Mapping[str, float]: ...
  @property
  def update(self) -> int: ...

  def save(self, path: pathlib.Path, identity: str, steps: range) -> None: ...


class Folder(Protocol):
  """Where a run is kept: see `dpojax.training.run_folder.RunFolder`."""

  log: Any

  def oldest_step(self) -> int: ...


Made = TypeVar("Made", bound=Stored)


class OnPolicy(abc.ABC, Generic[Made]):
  """A batch source whose roll-outs are made when their first step is asked for. Subclasses say how, and what a step is.

  Args:
    trainer: whose policy writes.
    write: samples.
    prompts: of the run; roll-out i reads the next ones of one permutation after another.
    reward: scores answers.
    rollout: see `config.schema`.
    batch_prompts: P, prompts of a roll-out.
    decode: the answer's text.
    folder: `rollouts/` is in it.
    identity: of the stage: roll-outs of another are not read.

  Attributes:
    record: called with (step, metrics) of a roll-out when its first step is asked for.
    say, status: show a line that stays, and passing text.
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
    *,
    batch_prompts: int,
    decode: Callable[[Sample], str],
    folder: pathlib.Path,
    identity: str = "",
  ):
    self.trainer, self.write, self.prompts, self.reward, self.rollout = trainer, write, prompts, reward, rollout
    self.batch_prompts, self.decode = batch_prompts, decode
    self._folder, self._identity = folder / ROLLOUTS, identity
    self._number = -1  # of the roll-out at hand
    self._tokens: dict[int, int] = {}
    self.record: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None
    self.say: Callable[[str], None] = lambda text: None
    self.status: Callable[[str], None] = lambda text: None
    self.oldest_step: Callable[[], int] = lambda: 0
    self.interrupted: Callable[[int], bool] = lambda step: False

  @property
  @abc.abstractmethod
  def updates(self) -> int:
    """Steps of a roll-out."""

  @abc.abstractmethod
  def read(self, path: pathlib.Path, identity: str, begun: int) -> Made | None:
    """The roll-out in a file, made after step `begun`; None where there is none, or one of another identity."""

  @abc.abstractmethod
  def make(self, number: int, update: int) -> Made:
    """Roll-out `number`, of which `update` steps were taken from one of other settings."""

  def keep_in(self, folder: Folder) -> None:
    """Tells what it does to the folder of a run."""
    # A roll-out of other settings may be recorded at this step, by a start that was killed here.
    self.record = lambda step, metrics: folder.log.record_latest(step, "rollout", metrics)
    self.say, self.status, self.oldest_step = folder.log.message, folder.log.status, folder.oldest_step

  def num_tokens(self, step: int) -> int:
    """Tokens of a step that was taken, each answer alone with its prompt."""
    return self._tokens.pop(step, 0)

  def begins(self, step: int) -> bool:
    """Whether the batch of a step waits for a roll-out."""
    return self._number != step // self.updates

  def drop_old(self, number: int) -> None:
    """Deletes roll-outs before that number which no checkpoint goes back to."""
    needed = min(self.oldest_step() // self.updates, number)
    drop(self._folder, lambda other: other < needed)

  def begin(self, number: int, update: int) -> Made:
    """The roll-out of that number, from disk or new. It is the one at hand once its steps can be taken."""
    path, begun = rollout_path(self._folder, number), number * self.updates
    found = self.read(path, self._identity, begun)
    if found is None:
      check_begun(self._folder, number, self._identity, update, self.updates)
    if found is None or found.update > update:
      # One of other settings cannot be gone on with: what is left of its updates is taken from a new one.
      found = self.make(number, update)
      drop(self._folder, lambda other: other > number)  # written by a policy that never read this one
      found.save(path, self._identity, range(begun + update, begun + self.updates))
      self.drop_old(number)
    if update == found.update:
      self.record(begun + update, found.metrics)
    self._number = number
    return found

  def asked(self, number: int) -> tuple[Any, list[PromptRow], range]:
    """(i64[P] places, rows, numbers in the sampler's keys) of the prompts that a roll-out answers."""
    chosen = chosen_prompts(len(self.prompts), self.batch_prompts, number, self.rollout.seed)
    first = number * self.batch_prompts
    return chosen, [self.prompts[i] for i in chosen], range(first, first + self.batch_prompts)

  def progress(self, number: int, update: int) -> Callable[[int, int], None]:
    """What the sampler calls every few tokens: shows how far it is, and stops it where the run was asked to stop."""

    def shown(done: int, tokens: int) -> None:
      if self.interrupted(number * self.updates + update):
        raise Interrupted
      total = self.batch_prompts * self.rollout.samples
      self.status(f"roll-out {number}: {done:,} of {total:,} answers, {tokens:,} tokens")

    return shown
