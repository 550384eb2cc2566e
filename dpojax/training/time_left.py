"""How long a run will still take, from how long its steps took, or its roll-outs where a step may wait for one."""

import collections
import time

RECENT = 200  # steps that the time left is guessed from: many, as a look at the policy between two of them takes long
ROLLOUTS = 8  # whole roll-outs, likewise


class TimeLeft:
  """Asked after every step.

  Attributes:
    cycle: steps after which those that take longer, such as the first from a roll-out, come again.
  """

  def __init__(self):
    self.cycle = 1
    self._recent: collections.deque[tuple[int, float]] = collections.deque(maxlen=RECENT)  # (step, seconds)
    self._ends: collections.deque[tuple[int, float]] = collections.deque(maxlen=ROLLOUTS + 1)  # of roll-outs, likewise
    self._cold: tuple[int, float] | None = None  # where the run began: the roll-out that follows waits for compilation
    self._first: tuple[int, float] | None = None  # of the roll-out at hand: its first step, with what made it

  def begin(self, step: int) -> None:
    """The run goes on after `step`: what comes now is time of the next one."""
    now = time.monotonic()
    self._recent.append((step, now))
    if step % self.cycle == 0:
      self._cold = step, now
      self._ends.append(self._cold)

  def taken(self, step: int) -> None:
    """Step `step` ended just now."""
    now = time.monotonic()
    self._recent.append((step, now))
    if step % self.cycle == 1:
      self._first = step, now
    if step % self.cycle == 0:
      self._ends.append((step, now))

  def seconds(self, total: int) -> float | None:
    """To the end of a run of `total` steps; None where nothing is known yet."""
    return self._by_steps(total) if self.cycle == 1 else self._by_rollouts(total)

  def _by_steps(self, total: int) -> float | None:
    cold = bool(self._recent) and self._recent[0] == self._cold  # the first step waits for compilation
    if len(self._recent) < 2 + cold:
      return None
    (first, began), (step, now) = self._recent[int(cold)], self._recent[-1]
    return (now - began) / max(step - first, 1) * (total - step)

  def _by_rollouts(self, total: int) -> float | None:
    """Seconds of a whole roll-out, what makes it included, for each that is left, less what is past of the one at hand.

    In the first it is guessed: what made it, and as long for each of its steps as for those that were taken.
    """
    if not self._ends:
      return None
    warm = len(self._ends) > 2 and self._ends[0] == self._cold
    (first, began), (end, ended) = self._ends[int(warm)], self._ends[-1]
    step, now = self._recent[-1]
    if end > first:
      each = (ended - began) / (end - first) * self.cycle
    elif self._first is not None and step > self._first[0] > end:
      started, at = self._first
      each = at - ended + (now - at) / (step - started) * (self.cycle - 1)
    else:
      return None
    return max(0.0, each * (total - end) / self.cycle - (now - ended))
