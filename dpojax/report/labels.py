"""How each metric is called, measured and printed."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from dpojax.training.numbers import tied


@dataclasses.dataclass(frozen=True)
class Label:
  """A metric's name for people, its unit and decimals; shares are printed as percentages."""

  name: str
  unit: str = ""
  share: bool = False
  decimals: int = 4

  def axis(self) -> str:
    """The text of a plot's axis."""
    unit = "%" if self.share else self.unit
    return f"{self.name} ({unit})" if unit else self.name

  def format(self, value: float | None, error: float | None = None) -> str:
    """'0.6931', '71.2 %', '2.310 ± 0.081', or '-' where nothing was measured."""
    if value is None or (self.share and math.isnan(value)):
      return "-"
    if self.share:
      return f"{100 * value:.1f} %"
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

POLICY = {
  "reward/true": Label("true reward", decimals=3),
  "kl/sequence": Label("KL to the reference", "nats an answer", decimals=3),
  "kl/token": Label("KL to the reference", "nats a token"),
  "length/policy": Label("length", "tokens", decimals=1),
  "finished": Label("answers that end by themselves", share=True),
}


def shown(label: Label, metrics: Mapping[str, Any], name: str) -> str:
  """The metric called `name` as people read it: as `Label.format`, or 'tied' (`training.numbers.tied`)."""
  if name in metrics and tied(metrics, name):
    return "tied"
  value, error = (float(metrics[key]) if key in metrics else None for key in (name, f"{name}_error"))
  return label.format(value, error)
