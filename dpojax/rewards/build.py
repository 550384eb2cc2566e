"""From what a setting says to rewards that can be called."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jax.sharding import Mesh

from dpojax.errors import ConfigError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.rewards.combined import Sum, SumTerm
from dpojax.rewards.models import ImplicitReward, ModelReward, ModelWithTokenizer, check_writes
from dpojax.rewards.reward import Reward
from dpojax.rewards.terms import GIVEN, RewardSpec, TermSpec
from dpojax.rewards.text import Environment, LengthReward, RegexReward, SentimentReward, TrueReward
from dpojax.rewards.user import PythonReward, load_function


class Compare(Protocol):
  """Finds what the policy at `path` is compared with: (a function that reads the reference, beta).

  `reference` "" and `beta` None mean those that it was trained with, as `dpojax.training.run_reference.compared_with`
  finds them.
  """

  def __call__(
    self, path: str, reference: str, beta: float | None
  ) -> tuple[Callable[[], ModelWithTokenizer], float]: ...


def build(
  spec: RewardSpec,
  *,
  load: Callable[[str], ModelWithTokenizer],
  compare: Compare | None = None,
  environment: Environment | None = None,
  tokenizer: Tokenizer | None = None,
  mesh: Mesh | None = None,
  given: Mapping[str, Reward] | None = None,
) -> Reward:
  """The reward that a spec means, everything it needs loaded.

  Args:
    spec: of `dpojax.rewards.spec`.
    load: reads the model of a path of `spec.paths`, stage:NAME included.
    compare: finds the reference and beta of an implicit reward; not needed where there is none.
    environment: has the true reward; None: there is none.
    tokenizer: the one that makes the ids of the answers to be scored, with its chat template; None: they have none.
    mesh: the devices that score; None: where the parameters are, or the default device.
    given: rewards of a Python program, which `python:given:NAME` names.

  Raises:
    ConfigError: a model is of the wrong kind, a file or a package is missing, or no environment has a true reward.
    InputError: a model cannot be read.
  """
  parts = [
    _Builder(spec.key or "reward", load, compare, environment, tokenizer, mesh, given or {}).term(term, spec.label)
    for term in spec.terms
  ]
  if len(parts) == 1 and spec.terms[0].weight == 1:
    return parts[0]
  return Sum(
    spec.label,
    tuple(SumTerm(term.text, term.weight, part) for term, part in zip(spec.terms, parts, strict=True)),
  )


@dataclasses.dataclass(frozen=True)
class _Builder:
  key: str
  load: Callable[[str], ModelWithTokenizer]
  compare: Compare | None
  environment: Environment | None
  tokenizer: Tokenizer | None
  mesh: Mesh | None
  given: Mapping[str, Reward]

  def term(self, term: TermSpec, label: str) -> Reward:
    made: dict[str, Callable[[TermSpec, str], Any]] = {
      "true": self.true,
      "model": self.model,
      "implicit": self.implicit,
      "sentiment": lambda term, name: SentimentReward(name, self.key),
      "length": lambda term, name: LengthReward(self.tokenizer, name),
      "regex": lambda term, name: RegexReward(term.argument, term.option("count", False), name),
      "python": self.python,
    }
    return made[term.kind](term, label)

  def true(self, term: TermSpec, name: str) -> Reward:
    if self.environment is None:
      raise ConfigError(
        f"{self.key}: true is an environment's own reward, which only data.source=world has; name another, such as "
        "model:PATH or python:FILE:FUNCTION"
      )
    return TrueReward(self.environment, name)

  def python(self, term: TermSpec, name: str) -> Reward:
    file, function = term.function
    if file == GIVEN and function in self.given:
      return self.given[function]
    return PythonReward(name, load_function(file, function, self.key))

  def model(self, term: TermSpec, name: str) -> Reward:
    options = {"less": term.option("less", 0.0), "normalised": term.option("normalised", False)}
    return ModelReward(name, term.argument, self.load(term.argument), **options, policy=self.tokenizer, mesh=self.mesh)

  def implicit(self, term: TermSpec, name: str) -> Reward:
    if self.compare is None:
      raise ConfigError(f"{self.key}: implicit:{term.argument} cannot be scored here, where no references are known")
    policy = self.load(term.argument)
    check_writes(policy, term.argument)  # before anybody asks for the beta of a reward model
    reference, beta = self.compare(term.argument, term.option("reference", ""), term.option("beta"))
    return ImplicitReward(name, term.argument, policy, reference, beta, policy=self.tokenizer, mesh=self.mesh)
