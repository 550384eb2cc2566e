"""The first sentences of a page: which method is better where they can be compared, at what cost, and how sure that is."""

import math
from collections.abc import Mapping

from dpojax.report.costs import Cost
from dpojax.report.frontier import BEST_OF_N, CANDIDATES, Interval, reward_at
from dpojax.report.page.chart import titled
from dpojax.report.page.method_table import DPO, Methods
from dpojax.report.paired import ENOUGH
from dpojax.training.numbers import reward_in_words


def summary(methods: Methods, costs: Mapping[str, Cost]) -> list[str]:
  """Sentences; none where fewer than two trained methods reach a KL in common.

  The KL is that which most trained methods reach, DPO among them where it was run; of equal ones the largest, where they differ most.
  """
  at = {kl: _reached(methods, kl) for kl in CANDIDATES}
  kl = max(CANDIDATES, key=lambda kl: (DPO in at[kl], len(at[kl]), kl))
  found = dict(sorted(at[kl].items(), key=lambda item: -item[1].value))
  if len(found) < 2:
    return []
  words = reward_in_words(f"reward/{methods.reward}")
  rewards = "; ".join(f"{name}: {_said(interval)}" for name, interval in found.items())
  sentences = [f"{titled(words)} at {kl:g} nats an answer: {rewards}."]
  flops = {name: costs[name].flops for name in found if math.isfinite(costs[name].flops) and costs[name].flops > 0}
  if len(flops) > 1:
    least = min(flops, key=lambda name: flops[name])
    others = "; ".join(f"{name}: {value / flops[least]:.1f} times" for name, value in flops.items() if name != least)
    sentences.append(f"Operations, the whole upstream counted, are fewest of {least}; {others} as many.")
  learned = [f"{name}: {costs[name].labels:,} labelled comparisons" for name in found if costs[name].labels]
  learned += [f"{name}: {costs[name].judged:,} answers judged by no model" for name in found if costs[name].judged]
  if learned:
    sentences.append(f"What they learned from: {'; '.join(learned)}.")
  seeds = max(interval.seeds for interval in found.values())
  if seeds < ENOUGH:
    sentences.append(f"{seeds} seed{'s' * (seeds > 1)}: exploratory. Intervals are 95 %.")
  else:
    sentences.append(f"{seeds} seeds; intervals are 95 % of the mean over them.")
  return sentences


def _reached(methods: Methods, kl: float) -> dict[str, Interval]:
  found = {
    name: reward_at(methods.curve(name), kl) for name in methods.names if name != BEST_OF_N and name in methods.series
  }
  return {name: interval for name, interval in found.items() if interval is not None}


def _said(interval: Interval) -> str:
  ends = f" ({interval.low:.2f} to {interval.high:.2f})" if math.isfinite(interval.low) else ""
  return f"{interval.value:.2f}{ends}"
