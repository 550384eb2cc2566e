"""The device's half of sampling: a grid of P prompts by N answers that all write the same token number.

The loop returns to the host every few tokens, which drops what has ended and goes on with a smaller grid.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from dpojax.models.cache import AnswerCache, PromptCache
from dpojax.models.language_model import LanguageModel
from dpojax.rollout.choose import choose_tokens
from dpojax.types import Array, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
  """How tokens are drawn and what ends an answer; all traced, so other settings compile nothing.

  Attributes:
    seed: u32[]; number: u32[P] of each prompt; sample: u32[P, N] of each answer: they name the keys.
    temperature, top_p: f32[]; top_k: i32[]: see `choose_tokens`.
    ends: i32[E], the tokens that end an answer.
  """

  seed: Array
  number: Array
  sample: Array
  temperature: Array
  top_k: Array
  top_p: Array
  ends: Array


@functools.partial(jax.jit, static_argnames="model")
def read_prompts(
  model: LanguageModel, params: Params, tokens: jax.Array, length: jax.Array
) -> tuple[jax.Array, PromptCache]:
  """([P, D] hidden states of the prompts' last tokens, their cache), of prompts i32[P, S] and their lengths i32[P]."""
  hidden, cache = model.prefill(params, tokens, length)
  return hidden[jnp.arange(length.shape[0]), jnp.maximum(length - 1, 0)], cache


@functools.partial(jax.jit, static_argnames=("model", "capacity"))
def first_tokens(
  model: LanguageModel, split: Params, last: jax.Array, prompt: PromptCache, draws: Draws, *, capacity: int
) -> tuple[AnswerCache, jax.Array, jax.Array]:
  """An empty cache, and the first token i32[P, N] of every answer with its log-prob f32[P, N].

  `last` is of `read_prompts`. The token enters the cache when the next one is written.
  """
  logits = model.next_logits(split, last)
  logits = jnp.broadcast_to(logits[:, None], (*draws.sample.shape, logits.shape[-1]))
  token, logp = _choose(logits, draws, jnp.int32(0))
  return model.empty_answers(prompt, draws.sample.shape[1], capacity), token, logp


@functools.partial(jax.jit, static_argnames=("model", "chunk"), donate_argnames="answer")
def next_tokens(
  model: LanguageModel,
  split: Params,
  prompt: PromptCache,
  answer: AnswerCache,
  token: jax.Array,
  done: jax.Array,
  limit: jax.Array,
  draws: Draws,
  *,
  chunk: int,
) -> tuple[AnswerCache, jax.Array, jax.Array]:
  """Up to `chunk` further tokens of every answer.

  Args:
    prompt, answer: caches; the answers' is donated.
    token: i32[P, N], the last token of each, which is not in the cache yet.
    done: bool[P, N], answers that have ended: they write on, and nobody reads it.
    limit: i32[], tokens to write; fewer are written where all answers end.

  Returns:
    The answers' cache, tokens i32[chunk, P, N] and log-probs f32[chunk, P, N] (0 where none was written).
  """

  def going_on(state):
    n, _, _, done, _, _ = state
    return (n < limit) & ~jnp.all(done)

  def write(state):
    n, answer, token, done, tokens, logps = state
    hidden, answer = model.decode(split, token, prompt, answer)
    token, logp = _choose(model.next_logits(split, hidden), draws, answer.used)
    done = done | jnp.isin(token, draws.ends)
    return n + 1, answer, token, done, tokens.at[n].set(token), logps.at[n].set(logp)

  tokens = jnp.zeros((chunk, *token.shape), jnp.int32)
  start = (jnp.int32(0), answer, token, done, tokens, jnp.zeros(tokens.shape, jnp.float32))
  _, answer, _, _, tokens, logps = jax.lax.while_loop(going_on, write, start)
  return answer, tokens, logps


@jax.jit
def take_prompts(cache: PromptCache, prompts: jax.Array) -> PromptCache:
  """See `PromptCache.take`."""
  return cache.take(prompts)


@functools.partial(jax.jit, static_argnames="capacity")
def take_answers(cache: AnswerCache, rows: jax.Array, *, capacity: int) -> AnswerCache:
  """See `AnswerCache.take` and `AnswerCache.grow`."""
  return cache.take(rows).grow(capacity)


@functools.partial(jax.jit, static_argnames="capacity")
def more_room(cache: AnswerCache, *, capacity: int) -> AnswerCache:
  """See `AnswerCache.grow`."""
  return cache.grow(capacity)


def _choose(logits: jax.Array, draws: Draws, step: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Tokens and log-probs [P, N] of logits [P, N, V], for the answers' token number `step`."""
  key = jax.random.key(draws.seed)
  prompt_keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(draws.number)

  def token_key(prompt_key, sample):
    return jax.random.fold_in(jax.random.fold_in(prompt_key, sample), step)

  keys = jax.vmap(lambda prompt_key, samples: jax.vmap(lambda n: token_key(prompt_key, n))(samples))(
    prompt_keys, draws.sample
  )
  token, logp = choose_tokens(
    keys.reshape(-1),
    logits.reshape(-1, logits.shape[-1]),
    temperature=draws.temperature,
    top_k=draws.top_k,
    top_p=draws.top_p,
  )
  return token.reshape(draws.sample.shape), logp.reshape(draws.sample.shape).astype(jnp.float32)
