"""What a run minimises: one loss or a weighted sum of several, as `loss.name` says it, and what changes it.

    dpo
    dpo + 0.2*sft
    0.8*dpo(beta=0.1) + 0.2*simpo(beta=2, gamma=1)

Every term may set options of its own; what it leaves open comes from the options given for all terms,
and what these leave open from the loss itself. `loss_spec` reads this once; everybody else reads the `LossSpec`.
"""

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping

from dpojax.errors import ConfigError
from dpojax.losses import BUILT_IN, LOSSES, Loss, get_loss, loss_options
from dpojax.losses.foreign_names import as_sum
from dpojax.types import Answers

BETA = 0.1  # scales the reported rewards where no loss reads a beta
TOLD = ("beta", "tau", "alpha")  # the option that sets a loss's strength, the first that it reads

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


@dataclasses.dataclass(frozen=True)
class LossSpec:
  """What is minimised.

  Specs that differ in numbers only are equal and hash alike, so that the objectives made of them share one compiled
  step: its numbers come traced, as `hyper`.

  Attributes:
    names: of `dpojax.losses`, in the order of the sum; all read the same kind of data.
    f_divergence: what takes the place of the log-ratio in losses that allow it, a name of `losses.divergences`.
    wpo: weigh pairs by how likely the policy is to write them (`losses.modifiers.wpo_weights`).
    ld: shorten the longer answer's tail by `hyper["ld_alpha"]` (`losses.modifiers.length_desensitised`).
    dynamic_beta: move beta with the batch's reward gap (`losses.modifiers.dynamic_beta`).
    margins: subtract `hyper["margin_scale"]` times the data's margins from the logit.
    score_prompt: a likelihood is over prompt and answer, so the prompt's tokens are scored too.
    own: the functions of those losses that are not part of dpojax: another one of the same name is another loss.
    terms: the sum as written, with its numbers; not compared.
    hyper: the numbers, by the names under which an objective looks for them (`hyper_parameters`); not compared.
  """

  names: tuple[str, ...]
  f_divergence: str = "reverse_kl"
  wpo: bool = False
  ld: bool = False
  dynamic_beta: bool = False
  margins: bool = False
  score_prompt: bool = False
  own: tuple[Callable, ...] = ()
  terms: tuple[Term, ...] = dataclasses.field(default=(), compare=False)
  hyper: Mapping[str, float] = dataclasses.field(default_factory=dict, compare=False)

  @functools.cached_property
  def losses(self) -> tuple[Loss, ...]:
    return tuple(get_loss(name) for name in self.names)

  @property
  def answers(self) -> Answers:
    """What an example holds."""
    return self.losses[0].answers

  @property
  def of_rewards(self) -> bool:
    """Whether it trains a reward model."""
    return self.losses[0].of_rewards

  def reads(self, what: str) -> bool:
    """Whether one of the losses reads the reference, its whole distributions ("token_kl"), ...; see `Loss.reads`."""
    return any(what in loss.reads for loss in self.losses)

  def describe(self) -> str:
    """In a few words: "dpo, beta 0.1", "unlikelihood, alpha 0.1", "preferred_ft"; the betas of a sum only where its losses
    have the same."""
    name = " + ".join(term.name if term.weight == 1 else f"{term.weight:g} {term.name}" for term in self.terms)
    if self.of_rewards:
      return f"reward model, {name}"
    several = any(key.endswith(".beta") for key in self.hyper)
    read = {option for term in self.terms for option in get_loss(term.name).options}
    told = next((option for option in TOLD if option in read and option in self.hyper), None)
    return name if several or told is None else f"{name}, {told} {self.hyper[told]:g}"


def loss_spec(
  name: str = "auto",
  *,
  rewards: bool = False,
  sft_coef: float = 0.0,
  f_divergence: str = "reverse_kl",
  divergence_alpha: float = 0.5,
  nll_span: str = "prompt_and_answer",
  wpo: bool = False,
  ld_alpha: float = 1.0,
  dynamic_beta: float = 0.0,
  dynamic_beta_momentum: float = 0.9,
  margin_scale: float = 0.0,
  **options: float | None,
) -> LossSpec:
  """The spec of plain values, named as in the config's `loss` section.

  >>> loss_spec("dpo + 0.2*sft", beta=0.3).describe()
  'dpo + 0.2 sft, beta 0.3'

  Args:
    name: one loss or a sum; auto: dpo, or bradley_terry where `rewards`.
    sft_coef: the weight of one term more, sft.
    options: of the losses, such as beta; None: left open.

  Raises:
    ConfigError: as `parse_losses`; `sft_coef` does not fit the sum; or no loss has such an option.
  """
  if name == "auto":
    name = "bradley_terry" if rewards else "dpo"
  for option in options:
    if not any(option in loss.options for loss in LOSSES.values()):
      raise ConfigError(f"loss.{option}: no loss has such an option")
  terms = parse_losses(name)
  if sft_coef:
    terms = (*terms, _sft_term(terms, sft_coef))
  hyper = hyper_parameters(terms, options) | dict(
    ld_alpha=ld_alpha,
    margin_scale=margin_scale,
    divergence_alpha=divergence_alpha,
    dynamic_beta=dynamic_beta,
    dynamic_beta_momentum=dynamic_beta_momentum,
  )
  names = tuple(term.name for term in terms)
  return LossSpec(
    names,
    f_divergence=f_divergence,
    wpo=wpo,
    ld=ld_alpha != 1,
    dynamic_beta=dynamic_beta > 0,
    margins=margin_scale > 0,
    own=tuple(get_loss(name).function for name in names if name not in BUILT_IN),
    score_prompt=nll_span == "prompt_and_answer" and any("prompt" in get_loss(name).reads for name in names),
    terms=terms,
    hyper=hyper,
  )


def _sft_term(terms: tuple[Term, ...], weight: float) -> Term:
  if any(term.name == "sft" for term in terms):
    raise ConfigError("loss.sft_coef is set, but loss.name has a term sft already; give its weight in one place")
  first = get_loss(terms[0].name)
  if first.answers is not Answers.PAIR or first.of_rewards:
    raise ConfigError(f"loss.sft_coef is set, but loss.name={terms[0].name} does not read pairs; set it to 0")
  return Term("sft", weight)


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
      several = as_sum(text)
      raise ConfigError(
        f"loss.name: cannot read {text[at:].strip()!r} in {text!r}; write "
        + (f"{several!r}, with weights such as 0.2*NAME" if several else "NAME, or 0.2*NAME(option=1) + ...")
      )
    terms.append(_term(found))
    at, more = found.end(), found[0].endswith("+")
  names = [term.name for term in terms]
  for name in names:
    if names.count(name) > 1:
      raise ConfigError(f"loss.name: {name} comes twice in {text!r}; give it one weight")
  kinds = {term.name: _kind(get_loss(term.name)) for term in terms}
  if len(set(kinds.values())) > 1:
    listed = ", ".join(f"{name} reads {kind}" for name, kind in kinds.items())
    raise ConfigError(f"loss.name: the losses of {text!r} read different data ({listed}); a sum needs one kind")
  return tuple(terms)


def _term(found: re.Match) -> Term:
  name = found["name"]
  known = numeric_options(name)  # raises where there is no such loss
  options = []
  for item in filter(None, map(str.strip, (found["options"] or "").split(","))):
    option, _, value = (part.strip() for part in item.partition("="))
    if option not in known:
      raise ConfigError(f"loss.name: {name} has no option {option!r}; it has {', '.join(known) or 'none'}")
    options.append((option, _number(value, f"{name}({option}=...)")))
  return Term(
    name, 1.0 if found["weight"] is None else _number(found["weight"], f"the weight of {name}"), tuple(options)
  )


def _kind(loss: Loss) -> str:
  """What a loss reads, in words."""
  words = "an unpaired answer" if loss.answers is Answers.UNPAIRED else f"a {loss.answers.value}"
  return f"{words} of rewards" if loss.of_rewards else words


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
