"""Losses of the user's whose code is not at hand: what a run's folder says of them, enough to evaluate and to export it.

::

  {"squared_hinge": {"data": ["chosen", "rejected", ...], "options": {"beta": 0.1}, "answers": "pair", "of_rewards": false}}

Nothing found in a folder is executed, so a loss that is known from there has its name, data and options, and no formula.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from dpojax.errors import ConfigError
from dpojax.losses import BUILT_IN, LOSSES, Loss, get_loss
from dpojax.types import Answers


def described(names: Iterable[str]) -> dict[str, Any]:
  """What is to be known of those of the losses that are not part of dpojax."""
  return {
    name: {
      "data": list(loss.data),
      "options": {option: inspect.signature(loss.function).parameters[option].default for option in loss.options},
      "answers": loss.answers.value,
      "of_rewards": loss.of_rewards,
    }
    for name in names
    if name not in BUILT_IN
    for loss in [get_loss(name)]
  }


def register_absent(found: Mapping[str, Any]) -> None:
  """Names the losses that `described` has described, where they are not registered; ValueError or KeyError of anything else.

  What another folder said of a loss of that name gives way: a report reads runs of several versions of a function.
  """
  for name, about in found.items():
    if name in LOSSES and not hasattr(LOSSES[name].function, "absent"):
      continue
    keyword = inspect.Parameter.KEYWORD_ONLY
    data = [inspect.Parameter(data, inspect.Parameter.POSITIONAL_OR_KEYWORD) for data in about["data"]]
    options = [inspect.Parameter(option, keyword, default=value) for option, value in about["options"].items()]

    def absent(*arrays: Any, _name: str = name, **options: Any) -> NoReturn:
      raise ConfigError(
        f"loss.name={_name} is known from a run's folder, which does not hold its code; register it first, as the config "
        "file that the run was started with does"
      )

    absent.__name__ = name
    absent.absent = True  # pyright: ignore[reportFunctionMemberAccess]
    absent.__signature__ = inspect.Signature([*data, *options])  # pyright: ignore[reportFunctionMemberAccess]
    LOSSES[name] = Loss(absent, Answers(about["answers"]), about["of_rewards"])
