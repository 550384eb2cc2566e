"""Numbers as people read them, and as JSON can hold them."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

# Fractions of pairs won.
WON = ("rewards/accuracies", "accuracy/length_matched", "displacement/chosen")
TIE = 1e-6  # a mean reward margin below this


def from_json_number(value: Any) -> float | int:
  """The inverse of `to_json_number`; TypeError or ValueError of what it does not write."""
  if not isinstance(value, int | float | str):
    raise TypeError(f"{value!r:.60} is no number")
  return float(value) if isinstance(value, str) else value


def format_number(value: float) -> str:
  """Four significant digits, grouped by thousands, never `-0`: 0.6931, 12,346, 1.5e-06.

  >>> [format_number(x) for x in (0.693147, 12345.6, 1.5e-6, 3.0, -0.0, float("nan"))]
  ['0.6931', '12,346', '1.5e-06', '3', '0', 'nan']
  """
  if not math.isfinite(value):
    return str(float(value))
  if value == 0:
    return "0"
  return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def tied(metrics: Mapping[str, Any], name: str) -> bool:
  """Whether the metric called `name` is a fraction of pairs won that says nothing.

  While the policy still is the reference every pair is a tie, decided by rounding. Where all labels are ties nothing is
  to be won, and `rewards/accuracies` is NaN.
  """
  if name not in WON:
    return False
  decided = not math.isnan(float(metrics.get("rewards/accuracies", 0.0)))
  of_labels = name != "displacement/chosen" and not decided
  return of_labels or abs(float(metrics.get("rewards/margins", 1.0))) < TIE


def rewards_of(names: Iterable[str]) -> list[str]:
  """The metrics `reward/LABEL` among names of metrics: the true reward first, no standard errors.

  >>> rewards_of(["kl/token", "reward/length", "reward/length_error", "reward/true"])
  ['reward/true', 'reward/length']
  """
  found = [name for name in dict.fromkeys(names) if name.startswith("reward/")]
  found = [name for name in found if not (name.endswith("_error") and name.removesuffix("_error") in found)]
  return sorted(found, key=lambda name: name != "reward/true")  # a stable sort


def reward_in_words(name: str) -> str:
  """What a person reads for a metric `reward/LABEL`; a name that says "reward" itself is enough.

  >>> [reward_in_words(f"reward/{label}") for label in ("true", "length", "reward_model", "model:runs/reward")]
  ['true reward', 'reward length', 'reward_model', 'reward model:runs/reward']
  """
  label = name.removeprefix("reward/")
  enough = re.fullmatch(r"\w*reward\w*", label, re.IGNORECASE)
  return "true reward" if label == "true" else label if enough else f"reward {label}"


def format_duration(seconds: float) -> str:
  """Hours, minutes and seconds: 42s, 3m05s, 1h02m.

  >>> [format_duration(s) for s in (0.4, 42, 185, 3725, float("nan"))]
  ['0s', '42s', '3m05s', '1h02m', '?']
  """
  if not math.isfinite(seconds) or seconds < 0:
    return "?"
  whole = round(seconds)
  if whole < 60:
    return f"{whole}s"
  minutes, rest = divmod(whole, 60)
  if minutes < 60:
    return f"{minutes}m{rest:02d}s"
  return f"{minutes // 60}h{minutes % 60:02d}m"
