"""From models and a file of comparisons to scored rows: what `dpojax eval` evaluates."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from dpojax.assemble.pieces import build_hyper, load_model
from dpojax.assemble.reference import find_reference, run_folder
from dpojax.config.record import read_config
from dpojax.config.schema import DataSettings
from dpojax.data.dataset import load_dataset, prompt_keys
from dpojax.data.examples import TokenDataset
from dpojax.data.formats import FORMATS
from dpojax.data.judgement import read_judgement
from dpojax.errors import ConfigError, DataError
from dpojax.evaluation import ScoredRow
from dpojax.evaluation.ensemble import combine
from dpojax.models.reward_model import RewardModel
from dpojax.sampling.reward_score import reward_scores
from dpojax.sampling.score import score_answers
from dpojax.types import Answers

ScoreKind = Literal["reward", "implicit", "sum", "mean"]
Say = Callable[[str, int], Callable[[int, int], None]]


@dataclasses.dataclass(frozen=True)
class ModelScores:
  """A data set as one model, or one ensemble of heads, scores it.

  Attributes:
    kind: what the scores are.
    dataset: the rows that could be read, tokenised for this model.
    scores: f64[M, K] a row of it, by M members.
    reference: in words, for implicit rewards.
    beta: of implicit rewards.
  """

  kind: ScoreKind
  dataset: TokenDataset
  scores: list[np.ndarray]
  reference: str = ""
  beta: float | None = None


@dataclasses.dataclass(frozen=True)
class JudgedRow:
  """A row that every member scored.

  Attributes:
    number: of the row as read, from 0.
    row: its mean scores and labels.
    members: f64[M, K] scores.
    disagreement: f64[K], see `evaluation.ensemble.combine`; zeros for one member.
    id: the row's own name, where the data have one.
  """

  number: int
  row: ScoredRow
  members: np.ndarray
  disagreement: np.ndarray
  id: str = ""


def judge(
  path: str,
  data: DataSettings,
  *,
  kind: ScoreKind | None = None,
  reference: str = "",
  beta: float | None = None,
  precision: str = "float32",
  rows: int = 4,
  row_length: int = 0,
  subset: str = "",
  progress: Say | None = None,
) -> ModelScores:
  """Scores every row of a file that can be scored.

  Args:
    path: the model; its number of positions bounds `data.max_example`.
    data: the file and how it is read.
    kind: None: rewards of a reward model, implicit rewards of a run's policy or where a reference is given.
    reference: model that implicit rewards compare with; empty: see `find_reference`.
    beta: of implicit rewards; None: that of the run.
    rows, row_length: of packed rows.
    subset: a column that at least one row must have; empty: none.
    progress: (what is done, examples) -> a function of (examples done, tokens done).

  Raises:
    ConfigError: what kind of score, reference or beta is meant cannot be known, or they contradict the model.
    DataError: no row can be read, or the format has one answer a row.
  """
  model, params, tokenizer = load_model(path, precision=precision)
  kind = _kind(path, model, kind, reference)
  before = None
  if kind == "implicit":
    before = find_reference(path, reference, precision=precision)
    beta = _beta(path) if beta is None else beta
  decoder = model.model if isinstance(model, RewardModel) else model
  limit = min(data.max_example or decoder.config.max_positions, decoder.config.max_positions)
  dataset, _ = load_dataset(
    dataclasses.replace(data, max_example=limit), tokenizer, answers=Answers.ANY, row_length=row_length
  )
  form = format_of(dataset)
  if FORMATS[form].answers in (Answers.ONE, Answers.UNPAIRED):
    raise DataError(f"{data.path}: format {form!r} has one answer a row; to evaluate, give two or more to compare")
  if subset and not any(metadata["details"].get(subset, "") != "" for metadata in dataset.metadata):
    raise DataError(f"--subset={subset}: no row of {data.path} has text in that column")

  def report(what: str) -> Callable[[int, int], None] | None:
    return progress(what, len(dataset)) if progress else None

  def logps(model, params, what: str) -> list[np.ndarray]:
    scored = score_answers(model, params, dataset, rows=rows, row_length=row_length, progress=report(what))
    return [row.logps[None] for row in scored]

  if isinstance(model, RewardModel):
    found = reward_scores(model, params, dataset, rows=rows, row_length=row_length, progress=report("scored"))
    return ModelScores(kind, dataset, found)
  found = logps(model, params, "scored")
  if kind == "mean":
    found = [sums / [len(answer) for answer in dataset[i].answers] for i, sums in enumerate(found)]
  if before is None or beta is None:
    return ModelScores(kind, dataset, found)
  del params  # before the reference needs the room
  loaded = before.load()
  if isinstance(loaded.model, RewardModel) or loaded.model.config.vocab_size != model.config.vocab_size:
    raise ConfigError(
      f"reference {before.name}: it is no language model over the vocabulary of {path}; token ids must agree"
    )
  of_reference = logps(loaded.model, loaded.params, "scored by the reference")
  return ModelScores(
    kind, dataset, [beta * (a - b) for a, b in zip(found, of_reference, strict=True)], before.name, beta
  )


def combined(models: Sequence[ModelScores], *, subset: str = "subset") -> tuple[list[JudgedRow], list[tuple[int, str]]]:
  """The rows that every model scored, with the labels of the data, and why each other row is left out.

  Token counts are the first model's. A pair is a tie where its column `tie` is true. The true reward is in
  `reward_chosen` and `reward_rejected`, or in `rewards`, a list.

  Args:
    models: of one file read with the same settings.
    subset: the column that names the part of the data a row belongs to.
  """
  left_out: dict[int, str] = {}
  for model in models:
    for number, why in model.dataset.dropped:
      left_out.setdefault(number, why)
  places = [{m["number"]: i for i, m in enumerate(model.dataset.metadata)} for model in models]
  first = models[0].dataset
  keys = prompt_keys(first)
  found = []
  for number, i in places[0].items():
    if number in left_out:
      continue
    where, details = first.where(i), first.metadata[i]["details"]
    if len(first[i].answers) < 2:
      left_out[number] = f"{where}: it has one answer, and there is nothing to compare it with"
      continue
    members = np.concatenate([model.scores[at[number]] for model, at in zip(models, places, strict=True)])
    if not np.all(np.isfinite(members)):
      left_out[number] = f"{where}: the model gives it a score that is not finite"
      continue
    try:
      tied = read_judgement({"tie": details.get("tie")}, members.shape[1]).tie
    except DataError as error:
      left_out[number] = f"{where}: {error}"
      continue
    scores, disagreement = combine(members)
    row = ScoredRow(
      scores,
      np.asarray([len(answer) for answer in first[i].answers]),
      _levels(details, len(scores)),
      int.from_bytes(hashlib.sha256(keys[i]).digest()[:8], "big") >> 1,
      str(details.get(subset, "")),
      tied,
      _true_reward(details, len(scores)),
    )
    found.append(JudgedRow(number, row, members, disagreement, str(details.get("id", ""))))
  return sorted(found, key=lambda judged: judged.number), sorted(left_out.items())


def format_of(dataset: TokenDataset) -> str:
  """The name of the row format that the data set was read with."""
  return dataset.origin.partition(" ")[0]


def _levels(details: dict[str, Any], count: int) -> np.ndarray:
  """0 for the right answers and 1 for the wrong ones where the row says how many are right, else the order."""
  if "num_correct" in details:
    return (np.arange(count) >= details["num_correct"]).astype(np.int64)
  return np.arange(count)


def _true_reward(details: dict[str, Any], count: int) -> np.ndarray | None:
  values = details.get("rewards", [details.get("reward_chosen"), details.get("reward_rejected")])
  if len(values) != count or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
    return None
  return np.asarray(values, np.float64)


def _kind(path: str, model: Any, asked: ScoreKind | None, reference: str) -> ScoreKind:
  """What the scores are, made sure to fit the model."""
  is_reward = isinstance(model, RewardModel)
  if is_reward and asked not in (None, "reward"):
    raise ConfigError(f"--score={asked}: {path} is a reward model and writes no text; leave the option out")
  if is_reward and reference:
    raise ConfigError(f"--reference={reference}: {path} is a reward model, whose scores are compared with nothing")
  if asked == "reward" and not is_reward:
    raise ConfigError(f"--score=reward: {path} is a language model; choose implicit, sum or mean")
  if asked is not None:
    return asked
  if is_reward:
    return "reward"
  folder = run_folder(path)
  if reference or (folder is not None and read_config(folder).objective == "preference"):
    return "implicit"
  raise ConfigError(
    f"{path} is a language model, and what its score is cannot be guessed; choose --score=sum or mean for its "
    "log-probs, or give --reference=PATH and --beta=B for its implicit reward"
  )


def _beta(path: str) -> float:
  folder = run_folder(path)
  config = None if folder is None else read_config(folder)
  if config is None or config.objective != "preference":
    raise ConfigError(
      f"--score=implicit needs --beta=B, the one {path} was trained with, which its folder does not say"
    )
  return build_hyper(config)["beta"]
