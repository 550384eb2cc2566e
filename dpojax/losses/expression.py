"""What `loss.name` says: one loss, or a weighted sum of several.

    dpo
    dpo + 0.2*sft
    0.8*dpo(beta=0.1) + 0.2*simpo(beta=2, gamma=1)

Every term may set options of its own; what it leaves open comes from the options given for all terms,
and what these leave open from the loss itself.
"""

import dataclasses
import inspect
import math
import re
from collections.abc import Mapping

from dpojax.errors import ConfigError
from dpojax.losses import get_loss, loss_options

BETA = 0.1  # scales the reported rewards where no loss reads a beta

_TERM = re.compile(
  r"\s*(?:(?P<weight>-?[\d.]+(?:[eE][+-]?\d+)?)\s*\*)?\s*(?P<name>[A-Za-z_]\w*)\s*(?:\((?P<options>[^()]*)\))?\s*(?:\+|$)"
)


@dataclasses.dataclass(frozen=True)
class Term:
  """One loss of a sum.

  Attributes:
    name: of `dpojax.losses`.
    weight: what its values are multiplied with.
    options: (option, value) that the term sets for itself.
  """

  name: str
  weight: float = 1.0
  options: tuple[tuple[str, float], ...] = ()


def parse_losses(text: str) -> tuple[Term, ...]:
  """The terms of `loss.name`.

  >>> parse_losses("dpo + 0.2*simpo(gamma=1)")
  (Term(name='dpo', weight=1.0, options=()), Term(name='simpo', weight=0.2, options=(('gamma', 1.0),)))

  Raises:
    ConfigError: it cannot be read; a loss or an option is unknown; a loss comes twice; or the losses
      read different kinds of data.
  """
  terms, at, more = [], 0, True
  while more:
    found = _TERM.match(text, at)
    if found is None:
      raise ConfigError(
        f"loss.name: cannot read {text[at:].strip()!r} in {text!r}; write NAME, or 0.2*NAME(option=1) + ..."
      )
    terms.append(_term(found))
    at, more = found.end(), found[0].endswith("+")
  names = [term.name for term in terms]
  for name in names:
    if names.count(name) > 1:
      raise ConfigError(f"loss.name: {name} comes twice in {text!r}; give it one weight")
  kinds = {term.name: get_loss(term.name).answers for term in terms}
  if len(set(kinds.values())) > 1:
    listed = ", ".join(f"{name} reads a {kind.replace('_', ' of ')}" for name, kind in kinds.items())
    raise ConfigError(f"loss.name: the losses of {text!r} read different data ({listed}); a sum needs one kind")
  return tuple(terms)


def _term(found: re.Match) -> Term:
  name = found["name"]
  known = numeric_options(name)  # raises where there is no such loss
  options = []
  for item in filter(None, map(str.strip, (found["options"] or "").split(","))):
    option, _, value = (piece.strip() for piece in item.partition("="))
    if option not in known:
      raise ConfigError(f"loss.name: {name} has no option {option!r}; it has {', '.join(known) or 'none'}")
    options.append((option, _number(value, f"{name}({option}=...)")))
  return Term(
    name, 1.0 if found["weight"] is None else _number(found["weight"], f"the weight of {name}"), tuple(options)
  )


def _number(text: str, what: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise ConfigError(f"loss.name: {what} must be a number, got {text!r}")
  return value


def numeric_options(name: str) -> tuple[str, ...]:
  """The options of the loss `name` that are numbers: all but `f_divergence`."""
  return tuple(option for option in loss_options(name) if option != "f_divergence")


def default_of(name: str, option: str) -> float | None:
  """The default that the loss `name` has for `option`, None where it has none."""
  default = inspect.signature(get_loss(name).function).parameters[option].default
  return float(default) if isinstance(default, (int, float)) else None


def hyper_parameters(terms: tuple[Term, ...], given: Mapping[str, float | None]) -> dict[str, float]:
  """The traced numbers of a sum of losses, by the names under which an objective looks for them.

  An option is under its own name, as the first loss that reads it has it: `beta`, `gamma`. Where another
  loss has another value it is under `NAME.gamma`, and weights under `NAME.weight`. `beta` is always there.

  Args:
    terms: of `parse_losses`.
    given: options set for all terms; None: left open.
  """
  hyper: dict[str, float] = {}
  for term in terms:
    own = dict(term.options)
    for option in numeric_options(term.name):
      common = given.get(option)
      value = own.get(option, default_of(term.name, option) if common is None else common)
      if value is None:
        continue
      if hyper.setdefault(option, value) != value:
        hyper[f"{term.name}.{option}"] = value
    if len(terms) > 1 or term.weight != 1:
      hyper[f"{term.name}.weight"] = term.weight
  beta = given.get("beta")
  hyper.setdefault("beta", BETA if beta is None else beta)
  return hyper
