"""Rewards as a setting names them: kinds, terms and sums, as plain values. `spec` reads them from text."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from dpojax.config.keys import STAGE

Value = float | bool | str
JUDGE = "judge"
GIVEN = "given"  # the FILE of a function that a Python program gives: python:given:NAME
LONGEST_LABEL = 40

_PLAIN = re.compile(r"[^\s,?&+'\"]+")  # an argument or a value that needs no quotes


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of reward.

  Attributes:
    argument: what it is, in words; empty: the kind has none.
    options: name -> reads its text, raising ValueError that says what is wanted.
  """

  argument: str = ""
  options: Mapping[str, Callable[[str], Value]] = dataclasses.field(default_factory=dict)


def _truth(text: str) -> bool:
  if text.lower() not in ("true", "false"):
    raise ValueError("true or false")
  return text.lower() == "true"


def _positive(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not 0 < value < math.inf:
    raise ValueError("a number above 0")
  return value


def _path(text: str) -> str:
  if not text:
    raise ValueError("a path")
  return text


KINDS: dict[str, Kind] = {
  "true": Kind(),
  "model": Kind("the PATH of a reward model", {"less": _positive, "normalised": _truth}),
  "implicit": Kind("the PATH of a trained policy", {"reference": _path, "beta": _positive}),
  "sentiment": Kind(),
  "length": Kind(),
  "regex": Kind("a PATTERN", {"count": _truth}),
  "python": Kind("FILE:FUNCTION"),
}


@dataclasses.dataclass(frozen=True)
class TermSpec:
  """One weighted term of a sum.

  Attributes:
    kind: a name of `KINDS`.
    argument: path, pattern or FILE:FUNCTION, without quotes; empty where the kind has none.
    options: (name, value), those given.
    weight: what its values are multiplied with.
  """

  kind: str
  argument: str = ""
  options: tuple[tuple[str, Value], ...] = ()
  weight: float = 1.0

  def option(self, name: str, default: Any = None) -> Any:
    """The value of an option, or `default` where it is not given."""
    return dict(self.options).get(name, default)

  @property
  def paths(self) -> tuple[str, ...]:
    """Models that it reads: paths, or stage:NAME."""
    if self.kind not in ("model", "implicit"):
      return ()
    reference = self.option("reference")
    return (self.argument, *([reference] if reference else []))

  @property
  def function(self) -> tuple[str, str]:
    """(file, function) of kind python."""
    return divide_function(self.argument)

  @property
  def label(self) -> str:
    """A short name, of letters that a metric's name may have."""
    if self.kind in ("model", "implicit"):
      parts = [part for part in self.argument.removeprefix(STAGE).split("/") if part] or [self.kind]
      short = f"{parts[-3]}-{parts[-1]}" if len(parts) > 2 and parts[-2] == "checkpoints" else parts[-1]
    else:
      short = {"regex": self.argument, "python": self.argument.rpartition(":")[2]}.get(self.kind, self.kind)
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", short)[:LONGEST_LABEL]
    return safe if re.search(r"[A-Za-z0-9]", safe) else self.kind

  @property
  def text(self) -> str:
    """The term as written, but for its weight; the same for equal terms."""
    written = self.kind + (f":{_quoted(self.argument)}" if self.argument else "")
    if self.options:
      written += "?" + "&".join(f"{name}={_quoted(_shown(value))}" for name, value in self.options)
    return written

  def __str__(self) -> str:
    return self.text if self.weight == 1 else f"{_shown(self.weight)}*{self.text}"


@dataclasses.dataclass(frozen=True)
class RewardSpec:
  """One reward: a weighted sum of terms, often of one.

  Attributes:
    label: how metrics call it, `reward/LABEL`.
    terms: at least one, no two of them alike.
    named: whether the label was given.
    key: the setting that says it, for messages; not compared.
  """

  label: str
  terms: tuple[TermSpec, ...]
  named: bool = False
  key: str = dataclasses.field(default="", compare=False)

  @functools.cached_property
  def paths(self) -> tuple[str, ...]:
    """Models that it reads, each once: paths, or stage:NAME."""
    return tuple(dict.fromkeys(path for term in self.terms for path in term.paths))

  @functools.cached_property
  def files(self) -> tuple[str, ...]:
    """The user's own files of Python that it runs, each once."""
    files = dict.fromkeys(term.function[0] for term in self.terms if term.kind == "python")
    return tuple(file for file in files if file != GIVEN)

  def __str__(self) -> str:
    return (f"{self.label}=" if self.named else "") + " + ".join(map(str, self.terms))


@dataclasses.dataclass(frozen=True)
class JudgeSpec:
  """A user's judge, `judge:FILE:FUNCTION`."""

  argument: str
  key: str = dataclasses.field(default="", compare=False)

  @property
  def label(self) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", self.function[1])

  @property
  def function(self) -> tuple[str, str]:
    """(file, function)."""
    return divide_function(self.argument)

  @property
  def files(self) -> tuple[str, ...]:
    return (self.function[0],)

  paths: tuple[str, ...] = ()

  def __str__(self) -> str:
    return f"{JUDGE}:{_quoted(self.argument)}"


def divide_function(argument: str) -> tuple[str, str]:
  """(file, function) of FILE:FUNCTION."""
  file, _, function = argument.rpartition(":")
  return file, function


def _quoted(text: str) -> str:
  """As it must stand to be read back."""
  if _PLAIN.fullmatch(text) and ":'" not in text and ':"' not in text:
    return text
  return "'" + text.replace("'", "''") + "'"


def _shown(value: Value) -> str:
  if isinstance(value, str):
    return value
  return str(value).lower() if isinstance(value, bool) else repr(float(value)).removesuffix(".0")
