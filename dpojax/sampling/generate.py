"""Generation with a key-value cache: the prompt in one pass, then a token at a time until all have ended."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dpojax.data.examples import check_ids
from dpojax.data.shapes import bucket
from dpojax.errors import DataError
from dpojax.models.language_model import LanguageModel
from dpojax.sampling.choose import choose_tokens
from dpojax.types import Params


@dataclasses.dataclass(frozen=True)
class Sample:
  """What a model wrote after a prompt.

  Attributes:
    tokens: i32[T], the EOS included when `finished`.
    finished: whether it ended by EOS, not by the limit.
    logp: f32[T] nats under the model itself (temperature 1, no nucleus).
  """

  tokens: np.ndarray
  finished: bool
  logp: np.ndarray


def generate(
  model: LanguageModel,
  params: Params,
  prompts: Sequence[np.ndarray],
  *,
  max_tokens: int,
  eos_id: int | Sequence[int] | None,
  temperature: float = 1.0,
  top_p: float = 1.0,
  seed: int = 0,
  batch_size: int = 64,
) -> list[Sample]:
  """Writes one answer to every prompt.

  Token t of the answer to prompt i is drawn with the key fold_in(fold_in(key(seed), i), t), so a sample
  depends neither on `batch_size` nor on which prompts share its batch. Batches are formed by prompt
  length; their shapes come from a coarse ladder (`bucket`), and temperature, top_p, seed and the limit
  are traced: calling again, with other parameters too, does not compile again.

  Args:
    model: the decoder; its precision holds here too.
    params: its parameters; arrays already on the device are used where they are.
    prompts: i32[P_i] each, at least one token.
    max_tokens: longest answer, at least 1.
    eos_id: the token, or the tokens, that end an answer; None: answers run to the limit.
    temperature: 0 is greedy.
    top_p: in (0, 1]; the smallest set of tokens with this mass is kept.
    seed: of all randomness.
    batch_size: prompts at once, at most.

  Returns:
    One `Sample` a prompt, in the order of `prompts`.

  Raises:
    DataError: a prompt without tokens, with an id that the model has no row for, or that does not fit its positions.
  """
  _check(model, prompts, max_tokens)
  params = jax.device_put(params)
  capacity = bucket(max_tokens)
  ends = np.asarray([] if eos_id is None else eos_id, np.int32).reshape(-1)
  samples: dict[int, Sample] = {}
  for members, rows in _batches(prompts, batch_size):
    length = np.zeros(rows, np.int32)
    length[: len(members)] = [len(prompts[i]) for i in members]
    tokens = np.zeros((rows, bucket(int(length.max()))), np.int32)
    for row, i in enumerate(members):
      tokens[row, : length[row]] = prompts[i]
    index = np.zeros(rows, np.int32)
    index[: len(members)] = members
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
      samples[i] = Sample(answers[row, : lengths[row]], bool(finished[row]), logps[row, : lengths[row]])
  return [samples[i] for i in range(len(prompts))]


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
  row_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(prompt_index)
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
