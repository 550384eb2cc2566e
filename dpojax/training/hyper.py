"""The numbers that may be changed between steps."""

import difflib
from collections.abc import Mapping
from typing import Any

from dpojax.errors import ConfigError
from dpojax.training.update import RATE


class Hyper(dict[str, float]):
  """Traced numbers by name: `hyper["beta"] = 0.5` takes effect at the next step and compiles nothing.

  Only names that are there from the start may be set.

  Raises (setting a number):
    ConfigError: there is none of that name; the message says which it might be.
  """

  def __setitem__(self, name: str, value: float) -> None:
    if name not in self:
      raise ConfigError(_no_such(name, list(self)))
    super().__setitem__(name, float(value))

  def update(self, *given: Any, **more: float) -> None:
    for name, value in dict(*given, **more).items():
      self[name] = value

  def setdefault(self, name: str, default: float = 0.0) -> float:
    if name not in self:
      self[name] = default
    return self[name]

  def __ior__(self, other: Mapping[str, float]) -> "Hyper":  # pyright: ignore[reportIncompatibleMethodOverride]
    self.update(other)
    return self


def start_hyper(of_optimizer: Mapping[str, float], given: Mapping[str, float]) -> Hyper:
  """The trainer's numbers: the optimizer's, then those that were given.

  Raises:
    ConfigError: a learning rate was given, and the optimizer takes none.
  """
  if RATE in given and RATE not in of_optimizer:
    raise ConfigError(no_rate())
  return Hyper({name: float(value) for name, value in {**of_optimizer, **given}.items()})


def no_rate() -> str:
  """Why a learning rate cannot be set that is part of an optax transformation."""
  return (
    f'hyper["{RATE}"]: the learning rate is part of the optax optimizer that the trainer was given, and cannot be '
    "changed between steps; give optax.inject_hyperparams(optax.adamw)(learning_rate=...) with a number and no "
    "schedule, or build another optimizer and trainer"
  )


def _no_such(name: str, names: list[str]) -> str:
  if name == RATE:
    return no_rate()
  near = difflib.get_close_matches(name, names, n=1)
  hint = f'did you mean "{near[0]}"? ' if near else ""
  return f'hyper["{name}"]: there is no such number; {hint}There are: {", ".join(sorted(names)) or "none"}'
