"""What a loss of the user's may take: data of its kind of answers, and options."""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dpojax.errors import ConfigError
from dpojax.types import Answers

_OF_PAIRS = (
  *("chosen", "rejected", "reference_chosen", "reference_rejected", "chosen_length", "rejected_length", "weight"),
  *("chosen_kl", "rejected_kl", "prompt", "prompt_length", "margin", "opponent", "pairs_per_token"),
)
_OF_RANKINGS = ("logp", "reference_logp", "length", "weight", "pairs_per_token")

# What a stage gives a loss, by what its examples hold and whether it is of rewards.
GIVEN: dict[tuple[Answers, bool], tuple[str, ...]] = {
  (Answers.PAIR, False): _OF_PAIRS,
  (Answers.TRIPLE, False): _OF_RANKINGS,
  (Answers.RANKING, False): _OF_RANKINGS,
  (Answers.UNPAIRED, False): (
    *("logp", "reference_logp", "length", "desirable", "weight", "mismatched", "reference_mismatched"),
  ),
  (Answers.PAIR, True): ("chosen", "rejected", "margin", "label"),
  (Answers.RANKING, True): ("reward", "present"),
}
SOMETIMES = {"margin": "loss.margin_scale", "prompt": "loss.nll_span", "prompt_length": "loss.nll_span"}

# Numbers of the optimizer, of references and of what changes any loss, which lie beside a loss's options.
TAKEN = frozenset(
  {
    *("learning_rate", "reference_every", "reference_mix", "margin_scale", "ld_alpha", "divergence_alpha"),
    *("dynamic_beta", "dynamic_beta_momentum", "f_divergence"),
  }
)


def filled(given: Mapping[str, Any], weight: Any) -> dict[str, Any]:
  """Arrays of a loss in which examples of weight 0 are copies of the first that has a weight; `weight` stays.

  Empty slots hold zeros, where a function whose author thought of examples divides by a length of 0 or takes log(1 - e^0).
  What comes of it is left out, but its gradient would be 0 times infinity.
  """
  used = jnp.asarray(weight) > 0
  first = jnp.argmax(used)

  def fill(array: Any) -> jax.Array:
    array = jnp.asarray(array)
    kept = used.reshape(-1, *[1] * (array.ndim - 1))
    return jnp.where(kept, array, jax.lax.stop_gradient(array[first])[None])

  scalar = lambda name, array: name == "weight" or not jnp.ndim(array)  # noqa: E731
  return {name: array if scalar(name, array) else fill(array) for name, array in given.items()}


def check_own(function: Callable[..., Any], built_in: Collection[str], *, answers: Answers, of_rewards: bool) -> str:
  """The name of a function that shall be a loss; arguments and errors as of `losses.register`."""
  name = getattr(function, "__name__", "")
  if name in built_in:
    raise ConfigError(f"a loss called {name} is part of dpojax; give yours another name")
  if not name.isidentifier():
    said = name or type(function).__name__
    raise ConfigError(f"a loss needs a name that `loss.name` can say, got {said!r}; define it with def NAME(...)")
  data = GIVEN.get((answers, of_rewards))
  if data is None:
    raise ConfigError(f"loss {name}: there are no losses of {answers.value} answers{' of rewards' * of_rewards}")
  for parameter in inspect.signature(function).parameters.values():
    _check_parameter(name, parameter, data)
  return name


def _check_parameter(name: str, parameter: inspect.Parameter, data: Collection[str]) -> None:
  said, absent = f"loss {name}: its parameter {parameter.name}", parameter.default is parameter.empty
  if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
    raise ConfigError(f"{said} cannot be given by name, as a loss gets its data and options; write each of them out")
  if parameter.name in data:
    if absent and parameter.name in SOMETIMES and "label" not in data:
      raise ConfigError(
        f"{said} is there under some values of {SOMETIMES[parameter.name]} only; give it the default None"
      )
    return
  if not isinstance(parameter.default, int | float):
    near = difflib.get_close_matches(parameter.name, data, n=1)
    raise ConfigError(
      f"{said} is no data that such a loss is given and no option with a number as its default; "
      f"{f'did you mean {near[0]}? Data' if near else 'data'} are {', '.join(sorted(data))}"
    )
  if parameter.name in TAKEN or (parameter.name == "shift" and "desirable" not in data):
    raise ConfigError(f"{said} has the name of a number of dpojax's own; give this option another name")
