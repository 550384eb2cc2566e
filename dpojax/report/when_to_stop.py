"""What a run left about when to stop, `stop.json`, and what a report says of it."""

import dataclasses
import pathlib
from typing import Any

from dpojax import digests
from dpojax.errors import CheckpointError
from dpojax.files import parse_json
from dpojax.training.policy_samples import STOP
from dpojax.training.stopping import BudgetDecision, Decision


@dataclasses.dataclass(frozen=True)
class Best:
  """The look of highest reward among those that kept to the budget: see `training.stopping.best_under_budget`.

  Attributes:
    step: of the look.
    reward: its mean.
    kl_token: its KL to the reference, nats a token.
    label: of the reward, as in `reward/LABEL`; empty: the one that has this value at this step.
    checkpoint: where its parameters are kept; empty: they are not.
    start: the mean reward at step 0, where the run started; None: not known.
  """

  step: int
  reward: float
  kl_token: float
  label: str = ""
  checkpoint: str = ""
  start: float | None = None


@dataclasses.dataclass(frozen=True)
class WhenToStop:
  """What stands in `stop.json`: {"decision": Decision or null, "budget": BudgetDecision or null, "best": Best or null,
  "ended": whether the rule or the budget ended the run before its last step}.
  """

  decision: Decision | None = None
  budget: BudgetDecision | None = None
  best: Best | None = None
  ended: bool = False

  @property
  def stopped_at(self) -> int | None:
    """The step after which the rule or the budget ended the run; None where neither did."""
    verdicts = [verdict.step for verdict in (self.decision, self.budget) if verdict is not None and verdict.stop]
    return verdicts[0] if self.ended and verdicts else None

  def sentences(self) -> list[str]:
    """What the rule decided last and why, how KL compares with the budget, the best look within it."""
    lines = []
    decision, budget, best = self.decision, self.budget, self.best
    if decision is not None and not decision.measured():
      lines.append(f"The rule decided nothing: {decision.reason}.")
    elif decision is not None:
      what = (
        "let the run go on" if not decision.stop else "stopped the run" if self.ended else "would have stopped the run"
      )
      lines.append(f"The rule {what} after step {decision.step:,}, as {decision.reason}: {decision.measured()}.")
    if budget is not None:
      lines.append(
        budget.said() + (", which ended the run (stop.over_budget=stop)." if budget.stop and self.ended else ".")
      )
    if best is not None:
      within = " within the budget" if budget is None or budget.budget else ""
      start = "" if best.start is None else f" ({best.start:.3f} before training)"
      no_better = best.start is not None and best.start >= best.reward
      lines.append(
        f"Best look{within}: step {best.step:,}, reward {best.reward:.3f}{start} at KL {best.kl_token:.4f} nats a token. "
        + (
          "It is no better than what the run started from."
          if no_better
          else "The best of several noisy means is somewhat too high."
        )
        + (f" It is kept in {best.checkpoint}." if best.checkpoint else "")
      )
    elif budget is not None and budget.budget and budget.over:
      lines.append(f"No look after step 0 kept to the budget of {budget.budget:g}.")
    return lines


def read_when_to_stop(folder: pathlib.Path) -> WhenToStop | None:
  """`folder`/stop.json; None where there is none. CheckpointError when it is damaged."""
  path = folder / STOP
  try:
    found = parse_json(digests.read(folder, STOP).decode())
    kinds: dict[str, Any] = {"decision": Decision.from_json, "budget": BudgetDecision.from_json, "best": _best}
    read = {name: read(found[name]) for name, read in kinds.items() if found.get(name) is not None}
    return WhenToStop(**read, ended=bool(found.get("ended")))
  except FileNotFoundError:
    return None
  except CheckpointError:
    raise
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise CheckpointError(f"{path}: not a record of when to stop ({error}); delete it to go without") from None


def _best(values: dict[str, Any]) -> Best:
  words = {name: str(values.get(name) or "") for name in ("label", "checkpoint")}
  start = None if values.get("start") is None else float(values["start"])
  return Best(int(values["step"]), float(values["reward"]), float(values["kl_token"]), **words, start=start)
