"""How each metric is called, measured and printed."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from dpojax.metrics import METRICS
from dpojax.training.numbers import format_number, reward_in_words, rewards_of, tied


@dataclasses.dataclass(frozen=True)
class Label:
  """A metric's name for people, its unit and decimals; shares are printed as percentages.

  `tiny` numbers, which decimals would make 0, are printed by their significant digits.
  """

  name: str
  unit: str = ""
  fraction: bool = False
  decimals: int = 4
  tiny: bool = False

  def axis(self) -> str:
    """The text of a plot's axis."""
    unit = "%" if self.fraction else self.unit
    return f"{self.name} ({unit})" if unit else self.name

  def format(self, value: float | None, error: float | None = None) -> str:
    """'0.6931', '71.2 %', '2.310 ± 0.081', or '-' where nothing was measured."""
    if value is None or (self.fraction and math.isnan(value)):
      return "-"
    if self.fraction:
      text = f"{100 * value:.1f} %"
      return "0.0 %" if text == "-0.0 %" else text
    if self.tiny:
      return format_number(value)
    text = f"{value:.{self.decimals}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return f"{text} ± {error:.{self.decimals}f}" if error else text


def _labels(*names: str) -> dict[str, Label]:
  """Labels of these metrics, from the one table of them."""
  return {
    name: Label(m.label, m.unit, fraction=m.fraction, decimals=m.decimals, tiny=m.tiny)
    for name, m in ((name, METRICS[name]) for name in names)
  }


HELD_OUT = _labels(
  "loss",
  "rewards/accuracies",
  "accuracy/length_matched",
  "rewards/margins",
  "rewards/chosen",
  "rewards/rejected",
  "displacement/chosen",
  "mean_token_accuracy",
  "entropy",
)

# Of what the policy writes, after its rewards. `kl/*` are exact over each next token's distribution, along sampled answers.
POLICY = _labels(
  "win_rate",
  "kl/sequence",
  "kl/token",
  "path_kl/sequence",
  "path_kl/token",
  "kl/k1",
  "kl/k3",
  "entropy",
  "length/policy",
  "finished",
  "distinct/1",
  "distinct/2",
)

# Of roll-outs, and of the steps that learn from them (`report.rollouts`).
ROLLOUT = _labels(
  "objective/score",
  "objective/reward",
  "objective/reward_raw",
  "objective/rlhf_reward",
  "objective/kl",
  "objective/kl_token",
  "objective/kl_coef",
  "objective/entropy",
  "rollout/length",
  "rollout/eos_share",
  "policy/approx_kl",
  "policy/clip_fraction",
  "policy/ratio_variance",
  "steps/taken",
  "value/loss",
  "value/explained_variance",
  # Of pairs that the policy writes (`online`), and what became of the others.
  "pairs/pairs",
  "pairs/tied",
  "pairs/identical",
  "pairs/below_margin",
  "pairs/margin",
  "objective/reward_of_reference",
  "rollout/logp_gap",
)

NORMALISED = ("objective/score", "objective/reward", "objective/rlhf_reward")  # where rollout.normalise is set


def rollout_labels(*, normalised: bool) -> dict[str, Label]:
  """`ROLLOUT`, in which scores of a normalised reward are called so."""
  named = {name: dataclasses.replace(ROLLOUT[name], name=f"{ROLLOUT[name].name} (normalised)") for name in NORMALISED}
  return ROLLOUT | named if normalised else dict(ROLLOUT)


def policy_labels(names: Iterable[str]) -> dict[str, Label]:
  """Labels of those of `names` that a report shows of what the policy writes, in its order: rewards first."""
  names = list(names)
  rewards = {name: Label(reward_in_words(name), decimals=3) for name in rewards_of(names)}
  return rewards | {name: label for name, label in POLICY.items() if name in names}


def shown(label: Label, metrics: Mapping[str, Any], name: str) -> str:
  """The metric called `name` as people read it: as `Label.format`, or 'tied' (`training.numbers.tied`).

  With `name_low` and `name_high` beside it the interval follows: '61.2 % (55.0 to 67.0)'.
  """
  if name in metrics and tied(metrics, name):
    return "tied"
  value, error, low, high = (
    float(metrics[key]) if key in metrics else None for key in (name, f"{name}_error", f"{name}_low", f"{name}_high")
  )
  text = label.format(value, error)
  if low is None or high is None or text == "-":
    return text
  return f"{text} ({label.format(low).removesuffix(' %')} to {label.format(high).removesuffix(' %')})"
