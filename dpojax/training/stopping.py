"""When to stop: reward no longer rises and KL is stable."""

from collections.abc import Sequence

from dpojax.config.schema import StopSettings


def should_stop(looks: Sequence[tuple[float, float]], settings: StopSettings) -> bool:
  """Whether the latest looks show neither a higher reward nor a moving KL.

  Args:
    looks: (mean reward, KL per token in nats) of every look so far, oldest first.
    settings: with patience P > 0: stop when none of the last P looks raised the best earlier reward
      by more than `min_gain`, and KL per token moved by at most the share `kl_tolerance` over them.
  """
  patience = settings.patience
  if patience == 0 or len(looks) <= patience:
    return False
  earlier, latest = looks[:-patience], looks[-patience:]
  best = max(reward for reward, _ in earlier)
  if any(reward > best + settings.min_gain for reward, _ in latest):
    return False
  before, now = earlier[-1][1], latest[-1][1]
  return abs(now - before) <= settings.kl_tolerance * max(abs(before), 1e-9)
