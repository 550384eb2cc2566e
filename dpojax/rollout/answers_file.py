"""Files of sampled answers: a line for every row of prompts, in order.

::

  {"row": 0, "prompt": "...", "samples": [{"text": "...", "ended": "eos", "tokens": [12, ...], "logps": [-0.31, ...]}]}
  {"row": 1, "error": "prompts.jsonl:2: its prompt is empty, ..."}

"row" counts the rows of the data from 0, "prompt" is the text or the messages exactly as the data have them. "text"
leaves out special tokens and begins and ends as the model wrote it, but for a stop text and what follows it. "tokens" are
all that were written; "logps" are theirs, in nats, as `Sample.logp` defines them, each in the fewest digits that give
back its float32.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dpojax.data.examples import as_ids
from dpojax.data.formats.common import Message
from dpojax.data.prompts import PromptRow, PromptRows
from dpojax.errors import WeightsError
from dpojax.files import parse_json
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.language_model import LanguageModel
from dpojax.rollout.resumable import Line, write_resumably
from dpojax.rollout.sampler import Ended, Sample, generate
from dpojax.rollout.text import answer_text
from dpojax.types import Params

AT_ONCE = 256  # answers of a chunk: what a process that is killed loses, and what a call has to fill its batches with


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How answers are drawn; as the arguments of `generate`."""

  samples: int
  max_tokens: int
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  stop: tuple[str, ...] = ()
  seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class SampledAnswer:
  """An answer in a file.

  Attributes:
    text: special tokens, and the stop text that ended it, left out.
    tokens: i32[T] as they were written.
    logp: f32[T] nats of each.
    ended: "eos", "stop" or "length".
  """

  text: str
  tokens: np.ndarray
  logp: np.ndarray
  ended: Ended

  @property
  def finished(self) -> bool:
    """Whether it ended by itself, not by the limit."""
    return self.ended != "length"


@dataclasses.dataclass(frozen=True)
class AnsweredRow:
  """A line of a file.

  Attributes:
    number: of the row, from 0.
    prompt: as the data have it; None where it could not be used.
    answers: the samples; none where the row could not be used.
    error: why it could not be used, or "".
  """

  number: int
  prompt: str | list[Message] | None
  answers: tuple[SampledAnswer, ...] = ()
  error: str = ""


def sample(
  model: LanguageModel,
  params: Params,
  tokenizer: Tokenizer,
  prompts: Sequence[np.ndarray],
  sampling: Sampling,
  *,
  numbers: Sequence[int] | None = None,
  rows: int = 64,
  mesh: Mesh | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> list[list[Sample]]:
  """`generate`, with the tokenizer's end of text and the settings together."""
  return generate(
    model,
    params,
    prompts,
    samples=sampling.samples,
    max_tokens=sampling.max_tokens,
    eos_id=tokenizer.eos_ids or None,
    temperature=sampling.temperature,
    top_k=sampling.top_k,
    top_p=sampling.top_p,
    stop=sampling.stop,
    decode=tokenizer.decode,
    seed=sampling.seed,
    numbers=numbers,
    rows=rows,
    mesh=mesh,
    progress=progress,
  )


def prompts_digest(prompts: PromptRows) -> str:
  """sha256 of prompts as the data have them and as the policy reads them, and of why other rows are none."""
  return _digest([[[row.number, row.given, row.ids.tolist()] for row in prompts], prompts.dropped])


def answers_job(
  prompts: PromptRows,
  sampling: Sampling,
  *,
  weights: str,
  model: LanguageModel,
  tokenizer: Tokenizer,
) -> dict[str, Any]:
  """What decides every byte of a file, by names for messages.

  Args:
    prompts: to be answered, and why other rows cannot be.
    sampling: how answers are drawn.
    weights: digest of the parameters.
    tokenizer: with the template that was used.
  """
  return {
    "weights": weights,
    "model": _digest(model.config.to_dict()),
    "precision": model.precision,
    "tokenizer": tokenizer.with_template(None).fingerprint(),
    "template": "" if tokenizer.chat_template is None else _digest(tokenizer.chat_template),
    "rows": len(prompts) + len(prompts.dropped),
    "prompts": prompts_digest(prompts),
    **dataclasses.asdict(sampling),
  }


def write_answers(
  path: str | pathlib.Path,
  job: Mapping[str, Any],
  prompts: PromptRows,
  sampling: Sampling,
  *,
  model: LanguageModel,
  params: Params,
  tokenizer: Tokenizer,
  at_once: int = AT_ONCE,
  rows: int = 64,
  mesh: Mesh | None = None,
  progress: Callable[[int, int], None] | None = None,
  option: str = "--out",
  about: Mapping[str, Any] | None = None,
  replace_others: bool = False,
) -> bool:
  """Samples answers to all prompts into a file, going on where an earlier process was killed.

  Args:
    path: the file, there when all is done.
    job: see `answers_job`.
    prompts: to be answered; samples of a prompt are drawn by its row's number, whatever else is sampled. Rows that gave
      none get a line with their error.
    sampling: how answers are drawn.
    model, params, tokenizer: what writes them.
    at_once: answers of a chunk, see `resumable`.
    rows: answers at once on the devices, at most.
    mesh: the devices.
    progress: called with (prompts done, those of earlier processes included, tokens that this process wrote).
    option: what names `path`, for messages.
    about: what else a person should know of the file, written down beside it.
    replace_others: as of `write_resumably`.

  Returns:
    False where `path` held these answers already.

  Raises:
    ConfigError: as `write_resumably`.
    DataError: a prompt does not fit the model, see `generate`.
    WeightsError: a log-prob is not finite.
  """
  lines = sorted([*((row.number, row) for row in prompts), *prompts.dropped], key=lambda line: line[0])
  usable = np.cumsum([isinstance(what, PromptRow) for _, what in lines])
  written = 0

  def make(places: range) -> list[Line]:
    nonlocal written
    chunk = [what for _, what in lines[places.start : places.stop] if isinstance(what, PromptRow)]
    before = int(usable[places.start - 1]) if places.start else 0

    def on_progress(answers: int, tokens: int) -> None:
      if progress is not None:
        progress(before + answers // sampling.samples, written + tokens)

    on_progress(0, 0)
    found = sample(
      model,
      params,
      tokenizer,
      [row.ids for row in chunk],
      sampling,
      numbers=[row.number for row in chunk],
      rows=rows,
      mesh=mesh,
      progress=on_progress,
    )
    written += sum(len(sample.tokens) for samples in found for sample in samples)
    on_progress(len(chunk) * sampling.samples, 0)
    answers = iter(found)
    return [
      _answered(what, next(answers), sampling.stop, tokenizer)
      if isinstance(what, PromptRow)
      else {"row": number, "error": what}
      for number, what in lines[places.start : places.stop]
    ]

  chunk = max(1, at_once // sampling.samples)
  return write_resumably(
    path,
    job,
    [number for number, _ in lines],
    make,
    at_once=chunk,
    option=option,
    about=about,
    replace_others=replace_others,
  )


def read_answers(path: str | pathlib.Path) -> Iterator[AnsweredRow]:
  """The rows of a file that `write_answers` finished, in order."""
  with open(path, encoding="utf-8") as file:
    for text in file:
      line = parse_json(text)
      answers = [
        SampledAnswer(s["text"], as_ids(s["tokens"]), np.asarray(s["logps"], np.float32), s["ended"])
        for s in line.get("samples", [])
      ]
      yield AnsweredRow(line["row"], line.get("prompt"), tuple(answers), line.get("error", ""))


def _answered(row: PromptRow, samples: Sequence[Sample], stop: Sequence[str], tokenizer: Tokenizer) -> Line:
  for sample in samples:
    if not np.isfinite(sample.logp).all():
      raise WeightsError(f"{row.where}: the model's log-probs are not finite; its weights overflow, or hold NaN")
  return {
    "row": row.number,
    **row.columns,
    "samples": [
      {
        "text": answer_text(sample, tokenizer, stop),
        "ended": sample.ended,
        "tokens": sample.tokens.tolist(),
        "logps": [float(str(logp)) for logp in sample.logp],
      }
      for sample in samples
    ],
  }


def _digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
