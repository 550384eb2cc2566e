"""Learned rewards: of a reward model or an ensemble of heads, and the implicit reward of a trained policy."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from dpojax.data.batch_shape import bucket
from dpojax.data.examples import TokenDataset
from dpojax.data.packing import BatchShape
from dpojax.errors import ConfigError, DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.reward_model import RewardModel
from dpojax.parallel.rules import whole_rows
from dpojax.rewards.examples import Placed, check_fits, examples_of, name_of
from dpojax.rewards.reward import PromptedAnswer
from dpojax.scoring.logps import logps_of_rows
from dpojax.scoring.packed import Scorer, score_steps
from dpojax.scoring.rewards import rewards_of_rows
from dpojax.types import Params

AT_ONCE = 32  # examples packed together
ROWS = 4  # of a group, at least; a mesh needs a multiple of its devices that share rows
SHORTEST_ROW = 256  # tokens


class ModelWithTokenizer(Protocol):
  """A model as it was read: `dpojax.training.model_files.LoadedModel`, or anything with these."""

  @property
  def model(self) -> Any: ...
  @property
  def params(self) -> Params: ...
  @property
  def tokenizer(self) -> Tokenizer: ...


@dataclasses.dataclass(frozen=True)
class ModelReward:
  """What a reward model says of an answer, read at its last token: raw, so that differences are log-odds.

  Attributes:
    name: for records.
    path: of the model, for messages.
    loaded: it.
    less: K, standard deviations over the heads that are subtracted from their mean.
    normalised: whether the mean over heads is put on the scale of the model's own normalisation.
    policy: the tokenizer that made the answers' ids, see `examples_of`.
    mesh: the devices that share parameters and rows; None: where the parameters are, or the default device.
  """

  name: str
  path: str
  loaded: ModelWithTokenizer
  less: float = 0.0
  normalised: bool = False
  policy: Tokenizer | None = None
  mesh: Mesh | None = None

  def __post_init__(self):
    """Raises ConfigError where the model cannot give such a reward."""
    model = self.loaded.model
    if not isinstance(model, RewardModel):
      raise ConfigError(
        f"model:{self.path} is a language model and gives no rewards; give a reward model, or implicit:{self.path} for "
        "what it learned from preferences"
      )
    if self.less and model.heads == 1:
      raise ConfigError(f"model:{self.path}?less={self.less:g}: it has one head, and less needs an ensemble of several")
    if self.normalised and model.normalisation is None:
      raise ConfigError(
        f"model:{self.path}?normalised=true: it carries no normalisation of its own; name the run it was trained in, or "
        "leave the option out"
      )

  @property
  def fingerprint(self) -> str:
    """Of the weights, the tokenizer and the options; "" where the weights' digest is not known."""
    measured = self.loaded.model.normalisation if self.normalised else None
    return _fingerprint([self.loaded], {"less": self.less, "normalised": repr(measured)})

  def heads(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    """f64[N, H] raw rewards by each head; errors as of the call."""
    if not answers:
      return np.zeros((0, self.loaded.model.heads))
    placed = examples_of(answers, self.loaded.tokenizer, self.policy)
    return finite(_score(rewards_of_rows, self.loaded, placed, f"model:{self.path}", self.mesh), answers, self.name)

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    """f64[N] rewards.

    Raises:
      DataError: an answer cannot be tokenised or is longer than the model's positions, or its reward is not finite;
        names the prompt.
    """
    heads = self.heads(answers)
    values = np.mean(heads, axis=1)
    if self.less:
      values = values - self.less * np.std(heads, axis=1)
    if not self.normalised:
      return values
    whole = self.loaded.model.normalisation.of_head(None)
    return (values - whole.mean[0]) / whole.std[0]


@dataclasses.dataclass(frozen=True)
class ImplicitReward:
  """beta (log pi(answer) - log pi_ref(answer)), summed over the answer's tokens. (Rafailov et al. 2023, equation 5)

  Attributes:
    name: for records.
    path: of the policy, for messages.
    loaded: the policy.
    reference: a function that reads what it is compared with; called at every scoring, so that only one of the two
      models need be on the device.
    beta: in nats.
    policy, mesh: as in `ModelReward`.
  """

  name: str
  path: str
  loaded: ModelWithTokenizer
  reference: Callable[[], ModelWithTokenizer]
  beta: float
  policy: Tokenizer | None = None
  mesh: Mesh | None = None

  def __post_init__(self):
    """Raises ConfigError: it is a reward model."""
    check_writes(self.loaded, self.path)

  @property
  def fingerprint(self) -> str:
    """Of both models' weights, the tokenizer and beta; "" where a digest is not known."""
    return self._fingerprint

  @functools.cached_property
  def _fingerprint(self) -> str:
    return _fingerprint([self.loaded, self._reference()], {"beta": self.beta})

  def __call__(self, answers: Sequence[PromptedAnswer]) -> np.ndarray:
    """f64[N] rewards.

    Raises:
      DataError: an answer cannot be tokenised or is longer than the models' positions, or its reward is not finite;
        names the prompt.
      ConfigError: the reference is no language model over the same vocabulary.
    """
    if not answers:
      return np.zeros(0)
    placed = examples_of(answers, self.loaded.tokenizer, self.policy)
    where = f"implicit:{self.path}"
    own = _score(logps_of_rows, self.loaded, placed, where, self.mesh)
    before = _score(logps_of_rows, self._reference(), placed, f"the reference of {where}", self.mesh)
    return finite(self.beta * (own - before), answers, self.name)

  def _reference(self) -> ModelWithTokenizer:
    found = self.reference()
    other = isinstance(found.model, RewardModel)
    if other or found.model.config.vocab_size != self.loaded.model.config.vocab_size:
      raise ConfigError(
        f"implicit:{self.path}: its reference is no language model over the same vocabulary; token ids must agree"
      )
    return found


def check_writes(loaded: ModelWithTokenizer, path: str) -> None:
  """Raises ConfigError where the model of an implicit reward is a reward model."""
  if isinstance(loaded.model, RewardModel):
    raise ConfigError(f"implicit:{path} is a reward model; give it as model:{path}")


def finite(values: np.ndarray, answers: Sequence[PromptedAnswer], name: str) -> np.ndarray:
  """The values, or DataError that names the first answer whose value is not finite."""
  wrong = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
  if wrong.size:
    i = int(wrong[0])
    raise DataError(f"{name_of(answers[i], i)}: the reward {name} gives {values[i]}; a reward is a finite number")
  return values


def _score(function: Callable, loaded: ModelWithTokenizer, placed: Placed, what: str, mesh: Mesh | None) -> np.ndarray:
  """[N] log-probs or [N, H] rewards of the answers, by the function of (model, params, rows) that gives them."""
  config = loaded.model.config
  check_fits(placed, config.max_positions, config.vocab_size, loaded.tokenizer, what)
  scorer = Scorer(function, loaded.model, loaded.params, mesh)
  steps = score_steps(scorer, placed.dataset, _shape(placed.dataset, whole_rows(ROWS, mesh)), size=AT_ONCE)
  if function is rewards_of_rows:
    return placed.in_order([values.T for step in steps for values in step.by_answer()])
  return placed.in_order([sums for step in steps for sums in step.sums()])


def _shape(dataset: TokenDataset, rows: int) -> BatchShape:
  """From a coarse ladder, so that later answers to the same prompts rarely compile again."""
  examples = [dataset[i] for i in range(len(dataset))]
  length = bucket(max(SHORTEST_ROW, dataset.longest_segment))
  scored, total = (sum(sizes) for sizes in zip(*((e.scored, e.row_tokens()) for e in examples), strict=True))
  slots = bucket(max(-(-length * scored // total), *(example.scored for example in examples)))
  slots = max(min(slots, length), *(example.scored for example in examples))
  return BatchShape(-(-AT_ONCE // rows), rows, length, slots, examples=AT_ONCE, answers=dataset.num_answers)


def _fingerprint(models: Sequence[ModelWithTokenizer], options: dict[str, Any]) -> str:
  digests = [getattr(loaded, "digest", "") for loaded in models]
  if not all(digests):
    return ""
  described = [json.dumps(loaded.model.config.to_dict(), sort_keys=True) for loaded in models]
  facts = [digests, described, models[0].tokenizer.fingerprint(), sorted(options.items())]
  return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
