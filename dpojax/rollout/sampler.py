"""Generation with a key-value cache: the prompt in one pass, then a token at a time until all have ended."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dpojax.data.examples import check_ids
from dpojax.data.shapes import bucket
from dpojax.errors import DataError
from dpojax.models.language_model import LanguageModel
from dpojax.rollout.choose import choose_tokens
from dpojax.types import Params

Ended = Literal["eos", "stop", "length"]


@dataclasses.dataclass(frozen=True)
class Sample:
  """What a model wrote after a prompt.

  Attributes:
    tokens: i32[T], T >= 1: the EOS included where it ended by one, and the token that completed a stop string.
    ended: why it ended: "eos", "stop" (a stop string) or "length" (the limit).
    logp: f32[T] nats of each token under the model at the sampling temperature, over the whole vocabulary whatever
      top-k and nucleus left out; of greedy samples at temperature 1.
  """

  tokens: np.ndarray
  ended: Ended
  logp: np.ndarray

  @property
  def finished(self) -> bool:
    """Whether it ended by itself, not by the limit."""
    return self.ended != "length"


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
  sample depends on nothing that is sampled beside it.

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
    stop: texts that end an answer when its decoded text holds one.
    decode: i32[T] -> text; needed where there are stop texts.
    seed: of all randomness.
    numbers: what each prompt is called in the keys; None: its place.
    rows: answers at once, at most.
    mesh: the devices that share parameters and rows; None: where the parameters are, or the default device.
    progress: called with (answers done, tokens written) as they are done.

  Returns:
    For each prompt, in order, its N `Sample`s.

  Raises:
    DataError: a prompt without tokens, with an id that the model has no row for, or that does not fit its positions.
  """
  del top_k, stop, decode, mesh, progress
  _check(model, prompts, max_tokens)
  params = jax.device_put(params)
  capacity = bucket(max_tokens)
  ends = np.asarray([] if eos_id is None else eos_id, np.int32).reshape(-1)
  names = list(range(len(prompts)) if numbers is None else numbers)
  every = [(prompt, names[i], n) for i, prompt in enumerate(prompts) for n in range(samples)]
  found: dict[int, Sample] = {}
  for members, size in _batches([prompt for prompt, _, _ in every], rows):
    length = np.zeros(size, np.int32)
    length[: len(members)] = [len(every[i][0]) for i in members]
    tokens = np.zeros((size, bucket(int(length.max()))), np.int32)
    index = np.zeros((size, 2), np.int32)
    for row, i in enumerate(members):
      tokens[row, : length[row]] = every[i][0]
      index[row] = every[i][1:]
    written = _answer(
      model,
      params,
      tokens,
      length,
      index,
      np.uint32(seed),
      np.int32(max_tokens),
      ends,
      np.float32(temperature),
      np.float32(top_p),
      capacity=capacity,
    )
    answers, logps, lengths, finished = jax.device_get(written)
    for row, i in enumerate(members):
      ended = "eos" if finished[row] else "length"
      found[i] = Sample(answers[row, : lengths[row]], ended, logps[row, : lengths[row]])
  return [[found[i * samples + n] for n in range(samples)] for i in range(len(prompts))]


def _batches(prompts: Sequence[np.ndarray], batch_size: int) -> Iterator[tuple[list[int], int]]:
  """(prompt indices, rows of the batch): neighbours by length, in batches of equal size."""
  order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
  count = -(-len(order) // batch_size)
  for chunk in np.array_split(np.asarray(order, np.int32), count) if count else ():
    largest = -(-len(order) // count)
    yield chunk.tolist(), largest if largest < 16 else min(bucket(largest), max(batch_size, largest))


def _check(model: LanguageModel, prompts: Sequence[np.ndarray], max_tokens: int) -> None:
  if max_tokens < 1:
    raise DataError(f"max_tokens is {max_tokens}; an answer needs at least 1")
  limit = model.config.max_positions
  for i, prompt in enumerate(prompts):
    if len(prompt) == 0:
      raise DataError(f"prompt {i} has no tokens; begin it with the tokenizer's BOS or some text")
    check_ids(np.asarray(prompt), model.config.vocab_size, f"prompt {i}")
    if limit and len(prompt) + max_tokens > limit:
      raise DataError(
        f"prompt {i} has {len(prompt)} tokens; with {max_tokens} new ones it passes the model's {limit} positions"
      )


@functools.partial(jax.jit, static_argnames=("model", "capacity"))
def _answer(
  model: LanguageModel,
  params: Params,
  prompts: jax.Array,
  prompt_length: jax.Array,
  prompt_index: jax.Array,
  seed: jax.Array,
  limit: jax.Array,
  ends: jax.Array,
  temperature: jax.Array,
  top_p: jax.Array,
  *,
  capacity: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """(tokens i32[B, capacity], logp f32[B, capacity], length i32[B], finished bool[B]); rows of length 0 are empty."""
  batch, width = prompts.shape
  key = jax.random.key(seed)
  row_keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i[0]), i[1]))(prompt_index)
  rows = jnp.arange(batch)

  place = jnp.broadcast_to(jnp.arange(width), prompts.shape)
  valid = place < prompt_length[:, None]
  cache = model.empty_cache(batch, width + capacity)
  hidden, cache = model.decode(params, prompts, place, valid, cache)
  last = hidden[rows, jnp.maximum(prompt_length - 1, 0)]

  def going_on(state):
    step, *_, finished, _ = state
    return (step < limit) & ~jnp.all(finished)

  def write(state):
    step, last, cache, tokens, logps, finished, length = state
    keys = jax.vmap(lambda k: jax.random.fold_in(k, step))(row_keys)
    logits = model.logits(params, last)
    chosen = choose_tokens(keys, logits, temperature=temperature, top_p=top_p)
    logits = logits / jnp.where(temperature > 0, temperature, 1.0)
    logp = logits[rows, chosen] - jax.nn.logsumexp(logits, axis=-1)
    tokens = tokens.at[:, step].set(chosen)
    logps = logps.at[:, step].set(logp)
    going = ~finished
    length = length + going.astype(jnp.int32)
    finished = finished | jnp.isin(chosen, ends)
    position = prompt_length + step
    hidden, cache = model.decode(params, chosen[:, None], position[:, None], going[:, None], cache)
    return step + 1, hidden[:, 0], cache, tokens, logps, finished, length

  empty = prompt_length == 0
  start = (
    jnp.int32(0),
    last,
    cache,
    jnp.zeros((batch, capacity), jnp.int32),
    jnp.zeros((batch, capacity), jnp.float32),
    empty,
    jnp.zeros(batch, jnp.int32),
  )
  _, _, _, tokens, logps, finished, length = jax.lax.while_loop(going_on, write, start)
  return tokens, logps, length, finished
