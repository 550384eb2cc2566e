"""How each metric is called, measured and printed."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from dpojax.training.numbers import format_number, reward_in_words, rewards_of, tied


@dataclasses.dataclass(frozen=True)
class Label:
  """A metric's name for people, its unit and decimals; shares are printed as percentages.

  `tiny` numbers, which decimals would make 0, are printed by their significant digits.
  """

  name: str
  unit: str = ""
  share: bool = False
  decimals: int = 4
  tiny: bool = False

  def axis(self) -> str:
    """The text of a plot's axis."""
    unit = "%" if self.share else self.unit
    return f"{self.name} ({unit})" if unit else self.name

  def format(self, value: float | None, error: float | None = None) -> str:
    """'0.6931', '71.2 %', '2.310 ± 0.081', or '-' where nothing was measured."""
    if value is None or (self.share and math.isnan(value)):
      return "-"
    if self.share:
      text = f"{100 * value:.1f} %"
      return "0.0 %" if text == "-0.0 %" else text
    if self.tiny:
      return format_number(value)
    text = f"{value:.{self.decimals}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return f"{text} ± {error:.{self.decimals}f}" if error else text


HELD_OUT = {
  "loss": Label("loss"),
  "rewards/accuracies": Label("reward accuracy", share=True),
  "accuracy/length_matched": Label("reward accuracy, lengths alike", share=True),
  "rewards/margins": Label("reward margin"),
  "rewards/chosen": Label("reward of chosen"),
  "rewards/rejected": Label("reward of rejected"),
  "displacement/chosen": Label("chosen less likely than under the reference", share=True),
  "mean_token_accuracy": Label("token accuracy", share=True),
  "entropy": Label("entropy", "nats a token"),
}

# Of what the policy writes, after its rewards. `kl/*` are exact over each next token's distribution, along sampled answers.
POLICY = {
  "win_rate": Label("win rate against the reference", share=True),
  "kl/sequence": Label("KL to the reference", "nats an answer", decimals=3),
  "kl/token": Label("KL to the reference", "nats a token"),
  "path_kl/sequence": Label("KL along truncated samples", "nats an answer", decimals=3),
  "path_kl/token": Label("KL along truncated samples", "nats a token"),
  "kl/k1": Label("KL by k1, mean log-ratio", "nats an answer", decimals=3),
  "kl/k3": Label("KL by k3", "nats an answer", decimals=3),
  "entropy": Label("entropy", "nats a token"),
  "length/policy": Label("length", "tokens", decimals=1),
  "finished": Label("answers that end by themselves", share=True),
  "distinct/1": Label("distinct-1, tokens", share=True),
  "distinct/2": Label("distinct-2, pairs of tokens", share=True),
}

# Of roll-outs, and of the steps that learn from them (`report.rollouts`).
ROLLOUT = {
  "objective/score": Label("score", decimals=3),
  "objective/reward": Label("reward, before what a missing end does", decimals=3),
  "objective/reward_raw": Label("reward, not normalised", decimals=3),
  "objective/rlhf_reward": Label("score less KL penalty", decimals=3),
  "objective/kl": Label("KL by k1", "nats an answer", decimals=3),
  "objective/kl_token": Label("KL by k1", "nats a token"),
  "objective/kl_coef": Label("weight of KL"),
  "objective/entropy": Label("entropy", "nats a token"),
  "rollout/length": Label("length", "tokens", decimals=1),
  "rollout/eos_share": Label("answers that end by themselves", share=True),
  "policy/approx_kl": Label("largest move of the policy", tiny=True),
  "policy/clip_fraction": Label("ratios beyond the clip", share=True),
  "policy/ratio_variance": Label("largest variance of ratios", tiny=True),
  "steps/taken": Label("steps taken", share=True),
  "value/loss": Label("value loss"),
  "value/explained_variance": Label("variance explained", share=True),
  # Of pairs that the policy writes (`online`), and what became of the others.
  "pairs/pairs": Label("pairs made", decimals=1),
  "pairs/tied": Label("left out: equal scores", decimals=1),
  "pairs/identical": Label("left out: identical answers", decimals=1),
  "pairs/below_margin": Label("left out: below online.min_margin", decimals=1),
  "pairs/margin": Label("score of the winner less the loser's", decimals=3),
  "objective/reward_of_reference": Label("reward of the reference's answers", decimals=3),
  "rollout/logp_gap": Label("sampler apart from training", "nats a token", tiny=True),
}

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
