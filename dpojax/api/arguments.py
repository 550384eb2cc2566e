"""From the arguments of a run to its settings, and the objects among them."""

import contextlib
import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dpojax.api.pairs import Pairs, as_rows, read_pairs
from dpojax.config.foreign_keys import explained
from dpojax.config.keys import fields_by_key, last_parts, suggestion
from dpojax.config.schema import DataSettings, RunConfig
from dpojax.data.examples import TokenDataset
from dpojax.data.splits import Splits
from dpojax.errors import ConfigError, InputError
from dpojax.losses import LOSSES, register
from dpojax.recipes.given import PREFIX, REWARD, Given
from dpojax.rewards.reward import Reward
from dpojax.rewards.user import PythonReward, UserFunction
from dpojax.training.model_files import LoadedModel
from dpojax.training.update import GradientTransformation

Rows = str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Pairs | Splits | TokenDataset
# Settings that an argument gives, where its name is another.
ARGUMENT_OF = {
  "loss.name": "loss",
  "loss.beta": "beta",
  "batch.size": "batch_size",
  "optimizer.learning_rate": "learning_rate",
  "optimizer.name": "optimizer",
  "train.steps": "steps",
  "train.epochs": "epochs",
  "reference.path": "reference",
  "reference.kind": "reference",
}
RewardLike = str | LoadedModel | Reward | Callable[..., Any]


class Arguments:
  """Settings from the arguments of a run, and the objects among these."""

  def __init__(self, settings: Mapping[str, Any] | None):
    self.settings: dict[str, Any] = dict(settings or {})
    if "recipe" in self.settings:
      raise ConfigError("settings: recipe is what the class says; use SFT, DPO, RewardModel or PPO, or `dpojax.run`")
    self.models: dict[str, LoadedModel] = {}
    self.objects: dict[str, Any] = {}
    self.names: dict[str, str] = {}
    self.others: dict[str, Any] = {}

  def set(self, key: str, value: Any) -> None:
    """Sets a setting that an argument gives; None: it was not given."""
    if value is None:
      return
    if key in self.settings:
      raise ConfigError(f"{key} is given twice, as an argument and in settings; leave one out")
    self.settings[key] = value

  def model(self, key: str, model: LoadedModel | str) -> None:
    if isinstance(model, str | os.PathLike):
      self.set(key, os.fspath(model))
      return
    self.set(key, self._model(model, key.partition(".")[0].replace("policy_gradient", "critic")))
    if key == "model.path":
      decoder = getattr(model.model, "model", model.model)  # that of a reward model
      for name in ("precision", "remat"):
        if hasattr(decoder, name):
          self.settings.setdefault(f"model.{name}", getattr(decoder, name))

  def _model(self, model: LoadedModel, name: str) -> str:
    """What stands for it in settings: the path that it was read by, while its parameters are those that are there."""
    if model.path and model.as_read:
      self.models.setdefault(model.path, model)  # read twice, in two precisions: the parameters are the same
      return model.path
    if model.path or model.files:  # `dataclasses.replace(model, params=...)`: the files no longer say what it is
      model = dataclasses.replace(model, files=(), path="")
    self.models[PREFIX + name] = model
    return PREFIX + name

  def data(self, data: Any) -> None:
    if isinstance(data, TokenDataset):
      data = Splits(data, data.subset([]))
    if isinstance(data, Splits):
      self.others["examples"] = data
      self.set("data.path", f"{PREFIX}examples")
      self.set("data.source", "file")
      return
    if isinstance(data, str | os.PathLike):
      self.set("data.path", os.fspath(data))
      self.set("data.source", "file")
      return
    if isinstance(data, Pairs):
      for field in dataclasses.fields(data.settings):
        value = getattr(data.settings, field.name)
        if value != field.default:
          self.set(f"data.{field.name}", value)
      if "batch.row_length" not in self.settings:
        self.set("batch.row_length", data.row_length)
      rows = data.rows
    else:
      rows = as_rows(data)
      self.set("data.source", "file")
    if rows is not None:
      self.others["rows"] = rows
      self.set("data.path", f"{PREFIX}rows")

  def loss(self, loss: str | Callable[..., Any] | None) -> None:
    if callable(loss):
      name = getattr(loss, "__name__", "")
      known = LOSSES.get(name)
      if known is None or (known.function is not loss and known.formula is not loss):
        register(loss)  # which refuses what has no name
      loss = name
    self.set("loss.name", loss)

  def rewards(self, key: str, rewards: RewardLike | Sequence[RewardLike] | Mapping[str, RewardLike]) -> None:
    """One or several; a mapping gives them names."""
    if isinstance(rewards, Mapping):
      said = [self._reward(reward, name) for name, reward in rewards.items()]
    elif isinstance(rewards, str | LoadedModel) or callable(rewards):
      said = [self._reward(rewards)]
    else:
      said = [self._reward(reward) for reward in rewards]
    if said:
      self.set(key, ", ".join(said))

  def _reward(self, reward: RewardLike, name: str = "") -> str:
    """What names it in a setting."""
    if isinstance(reward, str):
      return f"{name}={reward}" if name else reward
    if isinstance(reward, LoadedModel):
      return f"{name or 'reward_model'}=model:{self._model(reward, f'reward_model{len(self.models)}')}"
    name = name or getattr(reward, "name", "") or getattr(reward, "__name__", type(reward).__name__)
    name = name if name.isidentifier() else f"reward{len(self.objects)}"
    if name in self.objects and self.objects[name] is not reward:
      name += str(len(self.objects))
    if not hasattr(reward, "fingerprint"):
      self.names[f"reward {name}"] = name
      reward = PythonReward(name, UserFunction(f"reward {name}", reward, "", ""))
    self.objects[name] = reward
    return f"{name}={REWARD}{name}"

  def common(
    self,
    steps: int | None,
    epochs: float | None,
    batch_size: int | None,
    learning_rate: float | None,
    optimizer: GradientTransformation | None,
    monitors: Sequence[Any],
    seed: int | None,
  ) -> None:
    """What all runs take."""
    self.set("train.steps", steps)
    self.set("train.epochs", epochs)
    self.set("batch.size", batch_size)
    self.set("optimizer.learning_rate", learning_rate)
    self.set("seed", seed)
    if not isinstance(monitors, Sequence):
      raise ConfigError(f"monitors: wants a list, got one {type(monitors).__name__}; write monitors=[...]")
    self.others["monitors"] = tuple(monitors)
    if optimizer is not None:
      set_too = [key for key in self.settings if key.startswith("optimizer.")]
      if set_too:
        raise ConfigError(f"{set_too[0]} is given beside an optax optimizer, which has its own; leave one out")
      self.others["optimizer"] = optimizer
      self.names["optimizer"] = getattr(optimizer, "name", "") or type(optimizer).__name__

  def given(self, **more: Any) -> Given:
    return Given(models=self.models, rewards=self.objects, names=self.names, **self.others, **more)


def named_metrics(metrics: Sequence[Callable[..., Any]]) -> tuple[Callable[..., Any], ...]:
  """Metrics, which are recorded under their functions' names; ConfigError where one has none."""
  if not isinstance(metrics, Sequence) or not all(hasattr(metric, "__name__") for metric in metrics):
    raise ConfigError("metrics: wants a list of functions with names (def NAME), under which they are recorded")
  return tuple(metrics)


def as_dataset(data: Any, model: LoadedModel, config: RunConfig) -> TokenDataset:
  if isinstance(data, TokenDataset):
    return data
  if isinstance(data, Splits):
    return data.held_out if len(data.held_out) else data.train
  if not isinstance(data, Pairs):
    pairs = read_pairs(data, model, row_length=config.batch.row_length)
    own = {name: getattr(pairs.settings, name) for name in ("source", "path", "name", "revision")}
    kept = {name: getattr(DataSettings(), name) for name in ("split", "limit")}
    data = dataclasses.replace(pairs, settings=dataclasses.replace(config.data, **own, **kept, template="auto"))
  return dataclasses.replace(data, tokenizer=model.tokenizer).dataset(config.answers)


def no_argument(kind: type, name: str) -> str:
  """Why a run of `kind` has no argument `name`: the argument or setting that was meant, also by a name of TRL's."""
  arguments = {
    name
    for base in kind.__mro__
    for name, argument in inspect.signature(base.__init__).parameters.items()
    if argument.kind is argument.KEYWORD_ONLY
  }
  if hint := suggestion(name, arguments):
    return f"{kind.__name__} has no argument {name!r}{hint}"
  hint = explained(name, last_parts())
  for key, argument in ARGUMENT_OF.items():
    if argument in arguments and re.match(rf"; here it is {re.escape(key)}\b", hint):
      return f"{kind.__name__} has no argument {name!r}{hint.replace(key, argument, 1)}"
  hint = hint or suggestion(name, fields_by_key())
  return f"{kind.__name__} has no argument {name!r}{hint}; settings go into settings={{'SECTION.KEY': value}}"


@contextlib.contextmanager
def as_arguments() -> Iterator[None]:
  """Errors of a folder name what a run takes as arguments, and not the command line's options of these names."""
  try:
    yield
  except InputError as error:
    text = str(error).replace("--allow-config-change", "allow_config_change=True").replace("--workdir", "workdir")
    if text == str(error):
      raise
    raise type(error)(text) from error
