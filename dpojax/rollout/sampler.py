"""Generation: every prompt is read once, then all its answers are written together, a token at a time."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpojax.data.batch_shape import bucket
from dpojax.data.examples import check_ids
from dpojax.errors import ConfigError, DataError
from dpojax.models.cache import PromptCache
from dpojax.models.language_model import LanguageModel
from dpojax.parallel.placement import place_params
from dpojax.parallel.rules import ROW_AXES, replicated, row_shards, whole_rows
from dpojax.rollout import decode_loop
from dpojax.rollout.decode_loop import Draws
from dpojax.rollout.writing import Ended, Ends, Sample, Writing, smaller_grid
from dpojax.types import Params

__all__ = ["Ended", "Sample", "generate"]

CHUNK = 16  # tokens between two returns to the host
FIRST_CAPACITY = 64  # tokens of an answer that its cache has room for at first


def generate(
  model: LanguageModel,
  params: Params,
  prompts: Sequence[np.ndarray],
  *,
  samples: int = 1,
  max_tokens: int,
  eos_id: int | Sequence[int] | None,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  stop: Sequence[str] = (),
  decode: Callable[[np.ndarray], str] | None = None,
  seed: int = 0,
  numbers: Sequence[int] | None = None,
  rows: int = 64,
  mesh: Mesh | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> list[list[Sample]]:
  """Writes `samples` answers to every prompt.

  Token t of sample n of prompt number i is drawn with the key fold_in(fold_in(fold_in(key(seed), i), n), t), so a
  sample depends on nothing that is sampled beside it. While it works there is a second copy of the layers' weights, in
  the precision of the products.

  Args:
    model: the decoder; its precision holds here too.
    params: its parameters; arrays already on the device are used where they are.
    prompts: i32[P_i] each, at least one token.
    samples: N, answers a prompt.
    max_tokens: longest answer, at least 1.
    eos_id: the token, or the tokens, that end an answer; None: answers run to the limit.
    temperature: 0 is greedy.
    top_k: draw among the k most probable tokens; 0: all.
    top_p: in (0, 1]; the smallest set of tokens with this mass is kept (of what top_k left).
    stop: texts that end an answer with the first token after which its decoded text holds one.
    decode: i32[T] -> text; needed where there are stop texts.
    seed: of all randomness.
    numbers: what each prompt is called in the keys; None: its place.
    rows: answers at once, at most (with a mesh: or one prompt a device).
    mesh: the devices that share parameters and rows; None: where the parameters are, or the default device.
    progress: called every few tokens with (answers done, tokens written).

  Returns:
    For each prompt, in order, its N `Sample`s.

  Raises:
    DataError: a prompt without tokens, with an id that the model has no row for, or that does not fit its positions;
      an option that is out of range.
    ConfigError: stop texts without `decode`; parameters that do not divide by the mesh.
  """
  _check_stop(stop, decode)
  ends = Ends(max_tokens, np.asarray([] if eos_id is None else eos_id, np.int32).reshape(-1), tuple(stop), decode)
  draws = Draws(
    seed=np.asarray(seed, np.uint32),
    number=np.zeros(0, np.uint32),
    sample=np.zeros((0, 0), np.uint32),
    temperature=np.asarray(temperature, np.float32),
    top_k=np.asarray(min(top_k, 2**31 - 1), np.int32),
    top_p=np.asarray(top_p, np.float32),
    ends=ends.ids,
  )
  _check_options(ends, draws, samples)
  names = range(len(prompts)) if numbers is None else numbers
  _check_prompts(model, prompts, max_tokens, names)
  placing = _Placing(mesh)
  params = place_params(params, mesh, getattr(model, "parameters", {}))
  split = model.split_layers(params)
  found: list[list[Sample]] = [[] for _ in prompts]
  done = written = 0
  for members, size in _batches(prompts, max(1, rows // samples)):
    size = placing.round_up(size)
    number, length = np.zeros(size, np.uint32), np.zeros(size, np.int32)
    number[: len(members)] = [names[i] for i in members]
    length[: len(members)] = [len(prompts[i]) for i in members]
    tokens = np.zeros((size, bucket(int(length.max()))), np.int32)
    for row, i in enumerate(members):
      tokens[row, : length[row]] = prompts[i]
    last, prompt = decode_loop.read_prompts(model, params, *placing.rows((tokens, length)))
    for some in np.array_split(np.arange(samples, dtype=np.uint32), -(-samples // max(1, rows // len(members)))):
      answers = Writing(len(members) * len(some), ends)
      named = dataclasses.replace(draws, number=number, sample=np.tile(some, (size, 1)))
      for _ in _write(model, split, last, prompt, named, answers, placing):
        if progress is not None:
          progress(done + answers.done, written + answers.written)
      done, written = done + answers.done, written + answers.written
      for row, i in enumerate(members):
        found[i] += [answers.sample(row * len(some) + n) for n in range(len(some))]
  return found


def _write(
  model: LanguageModel,
  split: Params,
  last: jax.Array,
  prompt: PromptCache,
  draws: Draws,
  answers: Writing,
  placing: "_Placing",
) -> Iterator[None]:
  """Writes all of `answers`, row by row those of prompt 0, 1, .. of the grid; yields every few tokens.

  Args:
    last, prompt: what `decode_loop.read_prompts` gave.
    draws: its `number` and `sample` give the grid's size; prompts beyond those of `answers` are empty.
  """
  limit = answers.limit
  rows = np.arange(draws.sample.size).reshape(draws.sample.shape)
  rows = np.where(rows < len(answers), rows, -1)  # which answer stands where in the grid; -1: none
  capacity = min(bucket(limit), FIRST_CAPACITY)
  cache, token, logp = decode_loop.first_tokens(model, split, last, prompt, placing.draws(draws), capacity=capacity)
  answers.add(rows, np.asarray(token)[None], np.asarray(logp)[None])
  yield
  for count in range(1, limit, CHUNK):  # tokens written
    going = answers.going(rows)
    if not going.any():
      break
    step = min(CHUNK, limit - count)
    layout = smaller_grid(going, placing.shards)
    needed = capacity if count - 1 + step <= capacity else min(bucket(limit), 2 * capacity)
    if layout is not None:
      prompts, places, going = layout
      taken = prompts[:, None] * rows.shape[1] + places  # of the grid so far
      rows = np.where(going, rows.reshape(-1)[taken], -1)
      sample = np.asarray(draws.sample).reshape(-1)[taken]
      draws = dataclasses.replace(draws, number=np.asarray(draws.number)[prompts], sample=sample)
      prompt = decode_loop.take_prompts(prompt, placing.rows(prompts))
      cache = decode_loop.take_answers(cache, placing.rows(taken.reshape(-1)), capacity=needed)
    elif needed > capacity:
      cache = decode_loop.more_room(cache, capacity=needed)
    capacity = needed
    token, done = placing.rows((answers.last_tokens(rows), ~going))
    cache, tokens, logps = decode_loop.next_tokens(
      model, split, prompt, cache, token, done, np.int32(step), placing.draws(draws), chunk=CHUNK
    )
    answers.add(rows, np.asarray(tokens)[:step], np.asarray(logps)[:step])
    yield


class _Placing:
  """Where arrays of a grid lie: its prompts over the devices that split rows.

  Attributes:
    shards: how many devices these are.
  """

  def __init__(self, mesh: Mesh | None):
    self._mesh = mesh
    self.shards = row_shards(mesh)

  def round_up(self, size: int) -> int:
    """The next number of prompts that divides by the devices."""
    return whole_rows(size, self._mesh)

  def rows(self, arrays: Any) -> Any:
    """Arrays [P, ...]."""
    return arrays if self._mesh is None else jax.device_put(arrays, NamedSharding(self._mesh, PartitionSpec(ROW_AXES)))

  def draws(self, draws: Draws) -> Draws:
    """Its numbers and samples as `rows`, and the rest everywhere."""
    if self._mesh is None:
      return draws
    everywhere = jax.device_put(draws, replicated(self._mesh))
    return dataclasses.replace(everywhere, number=self.rows(draws.number), sample=self.rows(draws.sample))


def _batches(prompts: Sequence[np.ndarray], batch_size: int) -> Iterator[tuple[list[int], int]]:
  """(prompt indices, prompts of the grid): neighbours by length, in batches of equal size."""
  order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
  count = -(-len(order) // batch_size)
  for chunk in np.array_split(np.asarray(order, np.int32), count) if count else ():
    largest = -(-len(order) // count)
    yield chunk.tolist(), largest if largest < 16 else min(bucket(largest), max(batch_size, largest))


def _check_options(ends: Ends, draws: Draws, samples: int) -> None:
  if ends.limit < 1:
    raise DataError(f"max_tokens is {ends.limit}; an answer needs at least 1")
  if samples < 1:
    raise DataError(f"samples is {samples}; a prompt gets at least 1 answer")
  if not draws.temperature >= 0:
    raise DataError(f"temperature is {draws.temperature}; 0 is greedy, and any other is above it")
  if draws.top_k < 0:
    raise DataError(f"top_k is {draws.top_k}; 0 leaves all tokens, k >= 1 the k most probable ones")
  if not 0 < draws.top_p <= 1:
    raise DataError(f"top_p is {draws.top_p}; it is a fraction of the probability, above 0 and at most 1")


def _check_stop(stop: Sequence[str], decode: Callable[[np.ndarray], str] | None) -> None:
  if isinstance(stop, str) or not all(stop):
    raise ConfigError(f"stop={stop!r}: give a list of texts, each of one character at least")
  if stop and decode is None:
    raise ConfigError(f"stop={list(stop)!r}: texts are found in decoded answers; give decode too")


def _check_prompts(model: LanguageModel, prompts: Sequence[np.ndarray], max_tokens: int, names: Sequence[int]) -> None:
  if len(names) != len(prompts):
    raise DataError(f"numbers has {len(names)} entries for {len(prompts)} prompts; give one for each")
  limit = model.config.max_positions
  for i, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
    if not 0 <= name < 2**32:
      raise DataError(f"numbers[{i}] is {name}; a number is at least 0 and below 2**32")
    if len(prompt) == 0:
      raise DataError(f"prompt {i} has no tokens; begin it with the tokenizer's BOS or some text")
    check_ids(np.asarray(prompt), model.config.vocab_size, f"prompt {i}")
    if limit and len(prompt) + max_tokens > limit:
      raise DataError(
        f"prompt {i} has {len(prompt)} tokens; with {max_tokens} new ones it passes the model's {limit} positions"
      )
