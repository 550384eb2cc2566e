"""How each metric is called, measured and printed."""

import dataclasses

from dpojax.training.numbers import format_number


@dataclasses.dataclass(frozen=True)
class Label:
  """A metric's name for people and its unit; shares are printed as percentages."""

  name: str
  unit: str = ""
  share: bool = False

  def axis(self) -> str:
    """The text of a plot's axis."""
    unit = "%" if self.share else self.unit
    return f"{self.name} ({unit})" if unit else self.name

  def format(self, value: float | None, error: float | None = None) -> str:
    """'0.6931', '71.2 %', '2.31 ± 0.08', or '-' where nothing was measured."""
    if value is None:
      return "-"
    if self.share:
      return f"{100 * value:.1f} %"
    return format_number(value) if not error else f"{value:.3f} ± {error:.3f}"


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
  "reward/true": Label("true reward"),
  "kl/sequence": Label("KL to the reference", "nats an answer"),
  "kl/token": Label("KL to the reference", "nats a token"),
  "length/policy": Label("length", "tokens"),
  "finished": Label("answers that end by themselves", share=True),
}
