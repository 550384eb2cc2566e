"""From a model and a file of comparisons to scored rows: what `dpojax eval` evaluates."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dpojax.config.experiment import TRAINED
from dpojax.config.keys import is_stage
from dpojax.config.record import read_config
from dpojax.config.schema import DataSettings
from dpojax.data.dataset import load_dataset
from dpojax.data.formats import FORMATS, sampled
from dpojax.errors import ConfigError, DataError
from dpojax.evaluation.scored_examples import ModelScores, ScoreKind, format_of
from dpojax.models.reward_model import RewardModel
from dpojax.scoring.logps import score_answers
from dpojax.scoring.rewards import reward_scores
from dpojax.training.model_files import load_model, run_folder
from dpojax.training.run_reference import beta_of_run, find_reference
from dpojax.training.stage_record import read_record
from dpojax.types import Answers

StartProgress = Callable[[str, int], Callable[[int, int], None]]


def evaluate_model(
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
  mesh: Mesh | None = None,
  progress: StartProgress | None = None,
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
    mesh: the devices that share parameters and rows; None: the default device.
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
    beta = beta_of_run(path) if beta is None else beta
  decoder = model.model if isinstance(model, RewardModel) else model
  limit = min(data.max_example or decoder.config.max_positions, decoder.config.max_positions)
  dataset, _ = load_dataset(
    dataclasses.replace(data, max_example=limit), tokenizer, answers=Answers.ANY, row_length=row_length
  )
  dataset.check_vocabulary(decoder.config.vocab_size, tokenizer)
  form = format_of(dataset)
  if FORMATS[form].answers in (Answers.ONE, Answers.UNPAIRED):
    raise DataError(f"{data.path}: format {form!r} has one answer a row; to evaluate, give two or more to compare")
  if FORMATS[form] is sampled.FORMAT:
    raise DataError(
      f"{data.path}: its samples are not compared; `dpojax score` scores them, recipe=pairs compares them"
    )
  if subset and not any(metadata["details"].get(subset, "") != "" for metadata in dataset.metadata):
    raise DataError(f"--subset={subset}: no row of {data.path} has text in that column")

  def report(what: str) -> Callable[[int, int], None] | None:
    return progress(what, len(dataset)) if progress else None

  def logps(model, params, what: str) -> list[np.ndarray]:
    scored = score_answers(model, params, dataset, mesh=mesh, rows=rows, row_length=row_length, progress=report(what))
    return [row.logps[None] for row in scored]

  if isinstance(model, RewardModel):
    found = reward_scores(
      model, params, dataset, mesh=mesh, rows=rows, row_length=row_length, progress=report("scored")
    )
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


def was_trained_on(model: str, data: str) -> bool:
  """Whether the run at the path `model` trained on rows of the file `data`: on it, or on what an earlier stage left."""
  folder = run_folder(model)
  if folder is None:
    return False
  settings, file = read_config(folder).data, pathlib.Path(data).resolve()
  if not is_stage(settings.path):
    return settings.source == "file" and pathlib.Path(settings.path).expanduser().resolve() == file
  record = read_record(folder)
  source = record and record.sources.get("data.path")
  return source is not None and file.parent == (folder / source.folder).resolve()


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
  if reference or (folder is not None and read_config(folder).recipe in TRAINED):
    return "implicit"
  raise ConfigError(
    f"{path} is a language model, and what its score is cannot be guessed; choose --score=sum or mean for its "
    "log-probs, or give --reference=PATH and --beta=B for its implicit reward"
  )
