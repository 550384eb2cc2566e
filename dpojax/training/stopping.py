"""When a run stops: the reward of what the policy writes no longer rises, and its KL is stable.

A look is what the policy wrote to the same prompts under the same keys at some step, so looks are compared prompt by
prompt. The rule over the last n looks, n = `stop.patience`, which are n + 1 with the look that they are measured from:

    c_i     the rise of prompt i's reward: slope of the least-squares line through its n + 1 rewards, times the steps
    change  mean of c_i over N prompts;  error = sd(c_i) / sqrt(N)
    stop    when change <= error, and KL/token moved by at most max(kl_tolerance KL/token before, 2 errors of the move)

For n <= 2 the line's rise is the newest reward less the oldest. `benchmarks/stopping.py` measures how often the rule
stops runs that still rise and how soon it stops those that do not; `docs/decisions.md`, "When a run stops", says why
it is this rule. A rise smaller than its standard error cannot be told from none.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpojax.config.schema import StopSettings
from dpojax.errors import InputError
from dpojax.files import to_json_number
from dpojax.training.numbers import from_json_number

REWARD_ERRORS = 1.0  # a rise of at most this many standard errors is none
KL_ERRORS = 2.0  # a move of KL of at most this many is none; at 1, chance moves stable KL in a third of all looks
# KL below this is rounding of log-probs in float32. Relative to 0, the KL before the first step, every move is large.
KL_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class PolicySample:
  """What was measured of the answers to N prompts after `step`.

  Attributes:
    step: of the parameters that wrote.
    rewards: f64[N] by prompt.
    kl: f64[N] KL to the reference by prompt, nats an answer.
    tokens: i64[N] length of the answers.

  Raises:
    InputError: arrays differ in length, hold no prompt or no token, or a value is not finite; names step and prompt.
  """

  step: int
  rewards: np.ndarray
  kl: np.ndarray
  tokens: np.ndarray

  def __post_init__(self):
    for name in ("rewards", "kl", "tokens"):
      values = np.asarray(getattr(self, name), np.int64 if name == "tokens" else np.float64)
      object.__setattr__(self, name, values)
      if values.shape != (len(self.rewards),) or values.size == 0:
        raise InputError(
          f"look at step {self.step}: rewards, kl and tokens must be a number for each prompt each, not arrays of shape "
          f"{', '.join(str(np.shape(v)) for v in (self.rewards, self.kl, self.tokens))}"
        )
      if not np.all(np.isfinite(values)):
        at = int(np.argmin(np.isfinite(values)))
        raise InputError(
          f"look at step {self.step}: {name} of prompt {at} (the first is 0) is {values[at]}; the rule that stops a run "
          "compares finite numbers only. Mend what computes it, or set stop.patience to 0"
        )
    if np.min(self.tokens) < 0 or np.sum(self.tokens) == 0:
      raise InputError(
        f"look at step {self.step}: tokens must be lengths of answers, of which one at least is not empty"
      )

  @property
  def reward(self) -> float:
    """Mean over prompts."""
    return float(np.mean(self.rewards))

  @property
  def kl_token(self) -> float:
    """Nats a token: over all tokens of all answers."""
    return kl_per_token(self.kl, self.tokens)[0]

  @property
  def kl_token_error(self) -> float:
    """Standard error of `kl_token` over prompts, by the delta method; NaN of one prompt."""
    return kl_per_token(self.kl, self.tokens)[1]


@dataclasses.dataclass(frozen=True)
class Decision:
  """What the rule says after a look, with its figures. Figures are None where it could not be applied.

  Attributes:
    stop: whether to end the run.
    reason: in words.
    step: of the newest look.
    first_step: of the look that the change is measured from.
    prompts: how many, N.
    change: mean rise of the reward between the two steps.
    error: its standard error, paired by prompt.
    ratio: change / error; the run goes on while it is above 1.
    kl_before, kl_now: KL to the reference at the two steps, nats a token.
    kl_error: standard error of kl_now - kl_before, paired by prompt.
    kl_tolerance: largest move that counts as stable, nats a token.
    budget: `stop.kl_budget`, nats a token; 0: any.
    over_budget: whether KL exceeds it; what follows from that is `budget`'s to say.
  """

  stop: bool
  reason: str
  step: int | None = None
  first_step: int | None = None
  prompts: int | None = None
  change: float | None = None
  error: float | None = None
  ratio: float | None = None
  kl_before: float | None = None
  kl_now: float | None = None
  kl_error: float | None = None
  kl_tolerance: float | None = None
  budget: float | None = None
  over_budget: bool | None = None

  @property
  def kl_change(self) -> float | None:
    """kl_now - kl_before."""
    return None if self.kl_now is None or self.kl_before is None else self.kl_now - self.kl_before

  def as_json(self) -> dict[str, Any]:
    """The figures by name, as JSON holds them."""
    return {name: _as_json(value) for name, value in {**vars(self), "kl_change": self.kl_change}.items()}

  @classmethod
  def from_json(cls, figures: dict[str, Any]) -> "Decision":
    """The inverse of `as_json`."""
    return cls(**_from_json(cls, figures))

  def measured(self) -> str:
    """`reward +0.012 ± 0.034 over steps 200 to 300 (256 prompts, paired), KL 0.131 → 0.133 nats a token`, or nothing."""
    if self.change is None or self.kl_before is None or self.kl_now is None:
      return ""
    return (
      f"reward {self.change:+.3f} ± {self.error:.3f} over steps {self.first_step:,} to {self.step:,} "
      f"({self.prompts} prompts, paired), KL {_nats(self.kl_before)} → {_nats(self.kl_now)} nats a token"
    )

  def said(self) -> str:
    """What was measured, and `: stop` or `: go on, reward rises`; `stop rule: ...` where it decided nothing."""
    if not (measured := self.measured()):
      return f"stop rule: {self.reason}"
    return f"{measured}: " + ("stop" if self.stop else f"go on, {self.reason}")


@dataclasses.dataclass(frozen=True)
class BudgetDecision:
  """How a look's KL compares with the budget.

  Attributes:
    step: of the look.
    kl_token: nats a token. Its point estimate decides.
    error: its standard error over prompts; NaN of one prompt.
    budget: `stop.kl_budget`; 0: any KL keeps to it.
    over: whether kl_token > budget.
    stop: whether the run has to end for it: `stop.over_budget=stop`.
  """

  step: int
  kl_token: float
  error: float
  budget: float
  over: bool
  stop: bool

  @property
  def times(self) -> float | None:
    """kl_token as a multiple of the budget; None without a budget."""
    return self.kl_token / self.budget if self.budget else None

  def as_json(self) -> dict[str, Any]:
    """The figures by name, as JSON holds them."""
    return {name: _as_json(value) for name, value in {**vars(self), "times": self.times}.items()}

  @classmethod
  def from_json(cls, figures: dict[str, Any]) -> "BudgetDecision":
    """The inverse of `as_json`."""
    return cls(**_from_json(cls, figures))

  def said(self) -> str:
    """`KL 0.131 ± 0.004 nats a token at step 300 is 2.6 times the budget of 0.05`."""
    error = f" ± {_nats(self.error, self.kl_token)}" if math.isfinite(self.error) else ""
    text = f"KL {_nats(self.kl_token)}{error} nats a token at step {self.step:,}"
    if not self.budget:
      return f"{text}; no budget is set"
    if self.over:
      return f"{text} is {self.times:.1f} times the budget of {self.budget:g}"
    return f"{text} keeps to the budget of {self.budget:g}"


def should_stop(samples: Sequence[PolicySample], settings: StopSettings) -> Decision:
  """The rule of the module, applied to the newest look.

  Args:
    samples: every look so far at the same prompts, oldest first. Only the last `patience` + 1 are read.
    settings: `patience`, `kl_tolerance`, `kl_budget`.

  Raises:
    InputError: the looks are not at the same number of prompts, or their steps do not rise.
  """
  patience = settings.patience
  if patience == 0:
    return Decision(False, "stop.patience is 0: never")
  missing = patience + 1 - len(samples)
  if missing > 0:
    newest = samples[-1].step if samples else None
    return Decision(False, f"{missing} more look{'s' * (missing > 1)} to come before it applies", newest)
  window = samples[-patience - 1 :]
  first, last = window[0], window[-1]
  _check_paired(window)
  if len(last.rewards) == 1:
    reason = "one prompt has no standard error; set monitor.prompts to 2 or more"
    return Decision(False, reason, last.step, first.step, 1)

  change, error = reward_change(
    np.stack([sample.rewards for sample in window]), np.asarray([sample.step for sample in window])
  )
  before, now, kl_error = kl_change(first.kl, first.tokens, last.kl, last.tokens)
  tolerance = stable_within(before, kl_error, settings.kl_tolerance)
  rises, moves = bool(change > REWARD_ERRORS * error), bool(abs(now - before) > tolerance)
  reasons = {
    (False, False): "reward no longer rises and KL is stable",
    (False, True): "KL is not stable",
    (True, False): "reward rises",
    (True, True): "reward rises and KL is not stable",
  }
  return Decision(
    stop=not rises and not moves,
    reason=reasons[rises, moves],
    step=last.step,
    first_step=first.step,
    prompts=len(last.rewards),
    change=float(change),
    error=float(error),
    ratio=_ratio(float(change), float(error)),
    kl_before=float(before),
    kl_now=float(now),
    kl_error=float(kl_error),
    kl_tolerance=float(tolerance),
    budget=settings.kl_budget,
    over_budget=budget(last, settings).over,
  )


def budget(sample: PolicySample, settings: StopSettings) -> BudgetDecision:
  """Whether the look's KL exceeds `stop.kl_budget`, which is not scaled by the loss's beta."""
  over = settings.kl_budget > 0 and sample.kl_token > settings.kl_budget
  stop = over and settings.over_budget == "stop"
  return BudgetDecision(sample.step, sample.kl_token, sample.kl_token_error, settings.kl_budget, over, stop)


def best_under_budget(samples: Sequence[PolicySample], settings: StopSettings) -> int | None:
  """Index of the look of highest mean reward among those that keep to the budget; None where none does.

  Step 0 is left out: there the policy is the reference. Of equal rewards the earlier look is taken, which moved less.
  The highest of several noisy means is too high on average; a run's report gives its standard error beside it.
  """
  within = [i for i, sample in enumerate(samples) if sample.step > 0 and not budget(sample, settings).over]
  return max(within, key=lambda i: samples[i].reward, default=None)


def reward_change(rewards: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean rise of the reward over a window of looks, and its standard error, paired by prompt.

  Args:
    rewards: f64[..., L, N] of L >= 2 looks at N >= 2 prompts; leading axes are runs of their own.
    steps: i64[L], rising.

  Returns:
    (change, error), both f64[...]: the least-squares slope of the rewards over the steps, times the steps between the
    first look and the last.
  """
  steps = np.asarray(steps, np.float64)
  centred = steps - np.mean(steps)
  weights = centred / np.sum(centred**2) * (steps[-1] - steps[0])
  # Less the first look's, so that rewards that are all the same give exactly 0.
  rises = np.einsum("l,...ln->...n", weights, rewards - rewards[..., :1, :])
  return np.mean(rises, axis=-1), standard_error(rises)


def kl_per_token(kl: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
  """(nats a token over all tokens, its standard error over prompts by the delta method) of f64[N] and i64[N]."""
  return float(np.sum(kl) / np.sum(tokens)), float(standard_error(_influence(kl, tokens)))


def kl_change(
  kl_before: np.ndarray, tokens_before: np.ndarray, kl_now: np.ndarray, tokens_now: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(KL/token before, now, standard error of the difference), each f64[...], of arrays [..., N] by prompt.

  KL a token is the ratio of two sums, so the error is that of its linear part (the delta method): the difference of
  (kl_i - ratio tokens_i) / mean(tokens) between the looks, paired by prompt.
  """
  before, now = (np.sum(kl, -1) / np.sum(n, -1) for kl, n in ((kl_before, tokens_before), (kl_now, tokens_now)))
  return before, now, standard_error(_influence(kl_now, tokens_now) - _influence(kl_before, tokens_before))


def stable_within(before: np.ndarray, error: np.ndarray, tolerance: float, errors: float = KL_ERRORS) -> np.ndarray:
  """Largest move of KL/token that counts as stable, f64[...]: see the module."""
  return np.maximum(np.maximum(tolerance * np.abs(before), errors * error), KL_ROUNDING)


def _influence(kl: np.ndarray, tokens: np.ndarray) -> np.ndarray:
  ratio = np.sum(kl, -1, keepdims=True) / np.sum(tokens, -1, keepdims=True)
  return (kl - ratio * tokens) / np.mean(tokens, -1, keepdims=True)


def standard_error(values: np.ndarray) -> np.ndarray:
  """Of the means of f64[..., N], f64[...]; NaN of one value."""
  count = values.shape[-1]
  return np.std(values, axis=-1, ddof=1) / math.sqrt(count) if count > 1 else np.full(values.shape[:-1], math.nan)


def _ratio(change: float, error: float) -> float:
  if error > 0:
    return change / error
  return 0.0 if change == 0 else math.copysign(math.inf, change)


def _check_paired(samples: Sequence[PolicySample]) -> None:
  first = samples[0]
  for before, sample in itertools.pairwise(samples):
    if len(sample.rewards) != len(first.rewards):
      raise InputError(
        f"looks at steps {first.step} and {sample.step} are of {len(first.rewards)} and {len(sample.rewards)} prompts: the "
        "prompts changed on the way, and looks are compared prompt by prompt. Start again in a new --workdir"
      )
    if sample.step <= before.step:
      raise InputError(f"a look at step {sample.step} comes after one at step {before.step}; looks are oldest first")


def _nats(value: float, of: float | None = None) -> str:
  """Three decimals, four of a KL below a tenth; `of`: the KL that `value` is an error of."""
  return f"{value:z.{3 if (value if of is None else of) >= 0.0995 else 4}f}"  # z: -0.0000 is rounding


def _as_json(value: Any) -> Any:
  return to_json_number(value) if isinstance(value, float) else value


def _from_json(kind: type, figures: dict[str, Any]) -> dict[str, Any]:
  read = {}
  for field in dataclasses.fields(kind):
    if field.name in figures:
      value = figures[field.name]
      known = field.name == "reason" or (value is None and "None" in str(field.type))
      read[field.name] = value if known else from_json_number(value)
  return read
