"""The user's own functions, from a file of Python that is run: a reward, or a judge."""

import copy
import dataclasses
import hashlib
import importlib.util
import inspect
import itertools
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from types import ModuleType
from typing import Any

import numpy as np

from dpojax.config.keys import suggestion
from dpojax.errors import ConfigError, DataError
from dpojax.files import expanded
from dpojax.rewards.examples import name_of
from dpojax.rewards.reward import Prompt, PromptedAnswer

EXTRAS = ("token_ids", "finished", "details")  # given to functions that take them by keyword


@dataclasses.dataclass(frozen=True)
class UserFunction:
  """A function of a user's file.

  Attributes:
    where: FILE:FUNCTION, for messages.
    function: it.
    file: as it was opened.
    fingerprint: of the file's bytes and the function's name. What the file imports or asks for is not in it.
  """

  where: str
  function: Callable[..., Any]
  file: str
  fingerprint: str

  def takes(self, names: Sequence[str]) -> list[str]:
    """Which of these arguments it takes by keyword."""
    try:
      parameters = inspect.signature(self.function).parameters.values()
    except (TypeError, ValueError):  # of C, which says nothing of its arguments
      return []
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
      return list(names)
    by_keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name in names if any(p.name == name and p.kind in by_keyword for p in parameters)]

  def call(self, answers: Sequence[PromptedAnswer], *arguments: Any, **options: Any) -> np.ndarray:
    """f64[N] numbers that it returns, one for each of `answers`.

    Raises:
      DataError: it raises, or returns anything else; the message names it, and the cause keeps its traceback.
    """
    returned = self._run(self.function, *arguments, **options)
    return self._numbers(returned, answers)

  def _run(self, code: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What code of the user's returns; DataError where it fails, be it by `sys.exit`. KeyboardInterrupt goes through."""
    try:
      return code(*arguments, **options)
    except (Exception, SystemExit) as error:
      called = self._call(error, len(arguments)) if code is self.function else ""
      raise DataError(f"{self.where} fails with {said(error)}{self._line(error)}{called}") from error

  def _call(self, error: BaseException, count: int) -> str:
    """How it is called, where it could not be: `def f(completions, **kwargs)` is a function of TRL's."""
    if not isinstance(error, TypeError) or self._line(error):
      return ""
    if count > 2:
      return "; a judge is called with (prompts, first, second)"
    return (
      "; a reward is called with (prompts, answers), lists of equal length, and optionally with "
      f"{', '.join(EXTRAS[:-1])} and {EXTRAS[-1]} where it takes them by keyword: def f(prompts, answers, *, details)"
    )

  def _line(self, error: BaseException) -> str:
    """The last line of the user's file that was running."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == self.file]
    return f" ({self.file}:{frames[-1].lineno})" if frames else ""

  def _numbers(self, returned: Any, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    wanted = f"it must return {len(answers)} finite numbers, one an answer"
    values = self._run(lambda: returned.tolist() if hasattr(returned, "tolist") else returned)
    # Of a mapping the keys would be read, and a set has no order.
    if isinstance(values, str | bytes | Mapping | Set) or not hasattr(values, "__iter__"):
      raise DataError(f"{self.where} returns {'None' if values is None else type(returned).__name__}; {wanted}")
    # Reading a generator runs the user's code, and one without an end is read no further than needed.
    values = self._run(lambda: list(itertools.islice(values, len(answers) + 1)) if unending(values) else list(values))
    if len(values) != len(answers):
      raise DataError(f"{self.where} returns {len(values)} values; {wanted}")
    found = np.zeros(len(values), np.float64)
    for i, value in enumerate(values):
      number = np.nan
      if not isinstance(value, str | bytes) and hasattr(value, "__float__"):
        try:
          number = self._run(float, value)
        except DataError as error:
          # An array of several, a number beyond any float; anything else is said as it is.
          if not isinstance(error.__cause__, TypeError | ValueError | OverflowError):
            raise
      if not np.isfinite(number):
        shown = " ".join(self._run(repr, value).split())
        raise DataError(f"{self.where} returns {shown} for {name_of(answers[i], i)}; {wanted}")
      found[i] = number
    return found


@dataclasses.dataclass(frozen=True)
class PythonReward:
  """A user's `function(prompts, answers)` -> N numbers, used as they are.

  `prompts` are text or messages exactly as the data have them, `answers` texts. A function that takes them by keyword is
  also given `token_ids` (lists, None where an answer was not sampled), `finished` (whether each ended by itself) and
  `details` (a dictionary of the other columns of each prompt's row). All of them are copies.
  """

  name: str
  function: UserFunction

  @property
  def fingerprint(self) -> str:
    return self.function.fingerprint

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    """f64[N]; errors as of `UserFunction.call`."""
    if not answers:
      return np.zeros(0)
    given: dict[str, Callable[[PromptedAnswer], Any]] = {
      "token_ids": lambda a: None if a.answer_ids is None else [int(i) for i in a.answer_ids],
      "finished": lambda a: a.finished,
      "details": lambda a: copy.deepcopy(dict(a.details)),
    }
    extras = {name: [given[name](a) for a in answers] for name in self.function.takes(EXTRAS)}
    return self.function.call(answers, prompts_of(answers), [a.answer for a in answers], **extras)


def unending(values: Any) -> bool:
  """Whether nothing says how many values there are."""
  return isinstance(values, Iterator) or not hasattr(values, "__len__")


def said(error: BaseException) -> str:
  """An exception in one line."""
  text = " ".join(str(error).split())
  return f"{type(error).__name__}: {text}" if text else type(error).__name__


def prompts_of(answers: Sequence[PromptedAnswer]) -> list[Prompt]:
  """Copies, so that no function changes what the next one reads."""
  return [copy.deepcopy(a.prompt) for a in answers]


def load_function(file: str, function: str, key: str) -> UserFunction:
  """Runs a file of Python and takes a function of it. Modules beside the file can be imported.

  Raises:
    ConfigError: there is no such file or function, or the file fails; names `key`.
  """
  where = f"{file}:{function}"
  path = expanded(file)
  try:
    content = path.read_bytes()
  except OSError as error:
    raise ConfigError(
      f"{key}: {where}: {error.strerror}; give FILE:FUNCTION, a Python file and a function of it"
    ) from None
  digest = hashlib.sha256(content).hexdigest()
  module = _run(path, digest, f"{key}: {where}")
  found = getattr(module, function, None)
  if not callable(found):
    known = [name for name, value in vars(module).items() if inspect.isfunction(value) and not name.startswith("_")]
    has = f"it has {', '.join(known)}" if known else "it has none"
    raise ConfigError(f"{key}: {file} has no function {function!r}; {has}{suggestion(function, known)}")
  return UserFunction(where, found, str(path.resolve()), f"python {digest} {function}")


def _run(path: pathlib.Path, digest: str, where: str) -> ModuleType:
  place = path.resolve()
  name = f"dpojax_user_{hashlib.sha256(f'{place} {digest}'.encode()).hexdigest()[:16]}"
  if name in sys.modules:  # one file with several functions runs once
    return sys.modules[name]
  spec = importlib.util.spec_from_file_location(name, place)
  if spec is None or spec.loader is None:
    raise ConfigError(f"{where}: its name does not end in .py")
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module  # where dataclasses and pickle look for it
  if str(place.parent) not in sys.path:
    sys.path.append(str(place.parent))
  try:
    spec.loader.exec_module(module)
  except BaseException as error:
    del sys.modules[name]
    if not isinstance(error, Exception | SystemExit):
      raise
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(place)]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    at = f" ({place}:{line})" if line else ""
    raise ConfigError(f"{where}: running the file fails with {said(error)}{at}") from error
  return module
