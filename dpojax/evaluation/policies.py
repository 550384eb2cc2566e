"""What several policies measure at common prompts, and how sure it is: means over prompts, each prompt's over its answers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Measured:
  """Of one policy at P prompts, K answers each.

  Attributes:
    kl: f64[P, K] nats, the exact KL to the reference along each answer.
    rewards: f64[P, K] by name.
    length: i64[P, K] tokens.
    finished: bool[P, K], whether the answer ended by itself.
  """

  kl: np.ndarray
  rewards: Mapping[str, np.ndarray]
  length: np.ndarray
  finished: np.ndarray

  def by_prompt(self) -> dict[str, np.ndarray]:
    """f64[P] means over a prompt's answers: "kl" and "reward/NAME"."""
    found = {"kl": self.kl} | {f"reward/{name}": values for name, values in self.rewards.items()}
    return {name: np.mean(values, axis=1) for name, values in found.items()}

  def summary(self) -> dict[str, Any]:
    """{"prompts", "samples", "kl", "kl_error", "reward/NAME", "reward/NAME_error", ..., "length", "finished"}; errors are
    standard errors over prompts.
    """
    prompts, samples = self.kl.shape
    found: dict[str, Any] = {"prompts": prompts, "samples": samples}
    for name, values in self.by_prompt().items():
      found[name] = float(np.mean(values))
      found[f"{name}_error"] = float(np.std(values, ddof=1) / np.sqrt(prompts))
    return found | {"length": float(np.mean(self.length)), "finished": float(np.mean(self.finished))}
