"""What a setting says about rewards, read once: kinds, arguments, options, weights and names.

    true
    model:runs/reward?less=1, length
    good=model:stage:reward + -0.1*length, regex:'sorry, (we|I)'?count=true

Rewards are divided by commas. Each is a sum of terms joined by " + ", and may have a name of its own. Nothing is
loaded here; whoever needs files or stages reads `paths` and `files`.
"""

import math
import re
from collections.abc import Iterator
from typing import NoReturn

from dpojax.config.keys import suggestion
from dpojax.errors import ConfigError
from dpojax.rewards.terms import JUDGE, KINDS, JudgeSpec, RewardSpec, TermSpec, Value, divide_function

_NAME = re.compile(r"\s*(?P<name>[A-Za-z_][\w.-]*)\s*=(?!=)")
_WEIGHT = re.compile(r"(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\*\s*")
_HOW = "write [NAME=][weight*]kind[:argument][?option=value], sums joined by ' + ', several by commas"


def read_rewards(text: str, key: str, *, environment: bool = False) -> tuple[RewardSpec, ...]:
  """The rewards that the setting `key` names; none where it is empty.

  >>> [spec.label for spec in read_rewards("true, model:runs/r + -0.1*length", "monitor.rewards")]
  ['true', 'r+length']

  Args:
    text: the setting's value; "auto" is `true` where there is an environment, else nothing.
    key: for messages.
    environment: whether a true reward is known.

  Raises:
    ConfigError: it cannot be read; a kind, an option or a value is wrong; or two rewards have the same label.
  """
  if text.strip() == "auto":
    text = "true" if environment else ""
  if not text.strip():
    return ()
  specs = tuple(_Reader(text, key).rewards())
  for number, spec in enumerate(specs):
    if any(spec.label == other.label for other in specs[:number]):
      raise ConfigError(
        f"{key}: two rewards are called {spec.label!r} in {text!r}; give one a name of its own: NAME={spec}"
      )
  return specs


def read_reward(text: str, key: str, *, environment: bool = False) -> RewardSpec:
  """The one reward that the setting `key` names; arguments and errors as of `read_rewards`.

  Raises:
    ConfigError: also where it names none, or several.
  """
  specs = read_rewards(text, key, environment=environment)
  if len(specs) != 1:
    found = f"{len(specs)} rewards: {text!r}" if specs else f"{text!r}, which is none"
    raise ConfigError(f"{key} wants one reward, got {found}; give {', '.join(KINDS)}, or a sum joined by ' + '")
  return specs[0]


def read_judge(text: str, key: str, *, environment: bool = False) -> RewardSpec | JudgeSpec:
  """Who decides which of two answers is better: a user's `judge:FILE:FUNCTION`, or a reward, of which the higher wins.

  Raises:
    ConfigError: as `read_reward`.
  """
  if not text.lstrip().startswith(f"{JUDGE}:"):
    return read_reward(text, key, environment=environment)
  argument = _Reader(text.strip(), key, at=len(JUDGE) + 1).whole_argument()
  _check_function(argument, f"{key}: {JUDGE}:{argument}")
  return JudgeSpec(argument, key)


class _Reader:
  """Reads a setting from left to right."""

  def __init__(self, text: str, key: str, at: int = 0):
    self.text, self.key, self.at = text, key, at

  def rewards(self) -> Iterator[RewardSpec]:
    while True:
      found = _NAME.match(self.text, self.at)
      if found:
        self.at = found.end()
      terms = [self.term()]
      while self._skip(r"\s+\+\s+"):
        terms.append(self.term())
      for number, term in enumerate(terms):
        if any(term.text == other.text for other in terms[:number]):
          self.fail(f"{term.text} comes twice in a sum; give it one weight")
      label = found["name"] if found else "+".join(dict.fromkeys(term.label for term in terms))
      yield RewardSpec(label, tuple(terms), bool(found), self.key)
      if self._skip(r"\s*$"):
        return
      if not self._skip(r"\s*,\s*"):
        self.fail(f"cannot read {self.text[self.at :].strip()!r}; {_HOW}")

  def term(self) -> TermSpec:
    """[weight*]kind[:argument][?option=value&...]"""
    self._skip(r"\s*")
    found = _WEIGHT.match(self.text, self.at)
    weight = float(found["weight"]) if found else 1.0
    if found:
      self.at = found.end()
    if not math.isfinite(weight) or weight == 0:
      self.fail(f"the weight {found and found['weight']} must be a finite number other than 0")
    start = self.at
    self._skip(r"[^\s,:?+&'\"]*")
    kind = self.text[start : self.at]
    if not kind:
      rest = self.text[start:].strip()
      self.fail(f"{'a reward is missing at its end' if not rest else f'cannot read {rest!r}'}; {_HOW}")
    if kind not in KINDS:
      self._unknown(kind)
    argument = self.argument() if self._skip(":") else ""
    if bool(argument) != bool(KINDS[kind].argument):
      wanted = KINDS[kind].argument
      self.fail(f"{kind} wants {wanted}, as in {kind}:..." if wanted else f"{kind} takes no argument, got {argument!r}")
    term = TermSpec(kind, argument, tuple(self.options(kind)) if self._skip(r"\?") else (), weight)
    if re.match(r"\s+-\s", self.text[self.at :]):
      self.fail("a sum is joined by ' + '; subtract with a weight below 0, as in 'true + -0.1*length'")
    if kind == "regex":
      try:
        re.compile(argument)
      except re.error as error:
        self.fail(f"regex:{argument} is no regular expression: {error}")
    if kind == "python":
      _check_function(argument, f"{self.key}: python:{argument}")
    return term

  def argument(self) -> str:
    """Up to the next comma, question mark, " + " or " - " outside quotes; quotes may open at its start or after a colon."""
    found, start = "", True
    while self.at < len(self.text):
      character = self.text[self.at]
      if start and character in "'\"":
        found, start = found + self._in_quotes(character), False
        continue
      if character in ",?" or re.match(r"\s*$|\s+[+-]\s|\s*,", self.text[self.at :]):
        break
      found, start = found + character, character == ":"
      self.at += 1
    return found

  def whole_argument(self) -> str:
    """The argument, after which the text must end."""
    found = self.argument()
    if self.text[self.at :].strip():
      self.fail(f"cannot read {self.text[self.at :].strip()!r} after {found!r}; put it in quotes if it belongs there")
    return found

  def options(self, kind: str) -> Iterator[tuple[str, Value]]:
    known, seen = KINDS[kind].options, set()
    while True:
      start = self.at
      self._skip(r"[A-Za-z_]\w*")
      name = self.text[start : self.at]
      if not self._skip("="):
        rest = self.text[start:].strip()
        self.fail(
          f"after '?' {kind} wants option=value, got {rest!r}; an argument that holds a question mark or a comma stands "
          f"in quotes, as in {kind}:'...'"
        )
      if name not in known:
        listed = f"it has {', '.join(known)}" if known else "it has none"
        self.fail(f"{kind} has no option {name!r}; {listed}{suggestion(name, known)}")
      if name in seen:
        self.fail(f"{kind} has the option {name!r} twice")
      seen.add(name)
      value = self._value()
      try:
        yield name, known[name](value)
      except ValueError as error:
        self.fail(f"the option {name} of {kind} wants {error}, got {value!r}")
      if not self._skip("&"):
        return

  def _value(self) -> str:
    if self.text[self.at : self.at + 1] in ("'", '"'):
      return self._in_quotes(self.text[self.at])
    start = self.at
    self._skip(r"[^\s,&?]*")
    return self.text[start : self.at]

  def _in_quotes(self, quote: str) -> str:
    """The text between quotes, in which a doubled quote stands for one."""
    found = re.compile(f"{quote}((?:[^{quote}]|{quote}{quote})*){quote}").match(self.text, self.at)
    if found is None:
      self.fail(f"a quote is opened and not closed: {self.text[self.at :]}; inside quotes write {quote} twice for one")
    self.at = found.end()
    return found[1].replace(quote * 2, quote)

  def _skip(self, pattern: str) -> bool:
    found = re.compile(pattern).match(self.text, self.at)
    if found:
      self.at = found.end()
    return bool(found)

  def _unknown(self, kind: str) -> None:
    if kind == "auto":
      self.fail("auto stands alone; name the rewards to look at several")
    if kind == JUDGE:
      self.fail(f"{JUDGE} compares two answers and is no reward; it serves monitor.judge")
    near = suggestion(kind, KINDS)
    if not near and ("/" in kind or kind.endswith(".py")):
      near = f"; a path needs its kind, as in {'python' if kind.endswith('.py') else 'model'}:{kind}"
    self.fail(f"no kind of reward {kind!r}; there is {', '.join(KINDS)}{near}")

  def fail(self, why: str) -> NoReturn:
    raise ConfigError(f"{self.key}={self.text}: {why}")


def _check_function(argument: str, where: str) -> None:
  file, function = divide_function(argument)
  if not file or not function.isidentifier():
    raise ConfigError(f"{where}: wants FILE:FUNCTION, as in rewards.py:brevity")
