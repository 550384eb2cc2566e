"""A model small enough to enumerate, with the methods of LanguageModel that sampling and scoring use.

The logits after a prefix are a fixed function of the whole prefix: of every token, its place and its
distance. `next_probabilities` computes them again in float64 NumPy from the prefix alone.
"""

import dataclasses
import types
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dpojax.models.cache import AnswerCache, PromptCache
from dpojax.models.scoring_model import Compared

WIDTH = 6
FADE = 0.8


@dataclasses.dataclass(frozen=True)
class ToyModel:
  vocab: int = 5
  max_positions: int = 4096
  traces: ClassVar[list[str]] = []

  @property
  def config(self):
    return types.SimpleNamespace(max_positions=self.max_positions, vocab_size=self.vocab)

  def init(self, seed: int, scale: float = 1.5):
    draws = np.random.default_rng(seed)
    return {
      "embedding": draws.normal(size=(self.vocab, WIDTH)).astype(np.float32),
      "head": (scale * draws.normal(size=(self.vocab, WIDTH))).astype(np.float32),
    }

  def split_layers(self, params):
    return params

  def prefill(self, params, tokens, length):
    self.traces.append("prefill")
    place = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    seen = (place[:, None, :] <= place[:, :, None]) & (place < length[:, None])[:, None, :]
    cache = PromptCache((tokens[:, None, None],), (tokens[:, None, :, None],), length)  # the tokens are the keys
    return _mix(params, tokens, place, place[:, :, None] - place[:, None, :], seen), cache

  def empty_answers(self, prompt, samples, capacity):
    keys = jnp.zeros((prompt.length.shape[0] * samples, 1, 1, capacity), jnp.int32)
    return AnswerCache((keys,), (keys.swapaxes(-1, -2),), jnp.int32(0))

  def decode(self, params, tokens, prompt, answer):
    self.traces.append("decode")
    keys = jax.lax.dynamic_update_slice(answer.keys[0], tokens.reshape(-1, 1, 1, 1), (0, 0, 0, answer.used))
    answer = AnswerCache((keys,), answer.values, answer.used + 1)
    prompts, samples = tokens.shape
    size, capacity = prompt.keys[0].shape[-1], answer.capacity

    def alone(x, length):  # of [P, N, n] one row an answer
      return jnp.broadcast_to(x, (prompts, samples, length)).reshape(-1, length)

    text = alone(prompt.keys[0][:, 0], size), keys[:, 0, 0]
    length = prompt.length[:, None, None]
    place = alone(jnp.arange(size)[None, None], size), alone(length + jnp.arange(capacity)[None, None], capacity)
    valid = place[0] < alone(length, size), alone((jnp.arange(capacity) < answer.used)[None, None], capacity)
    text, place, valid = (jnp.concatenate(parts, axis=1) for parts in (text, place, valid))
    now = jnp.broadcast_to(length[:, :, 0] + answer.used - 1, tokens.shape).reshape(-1, 1)
    state = _mix(params, text, place, (now - place)[:, None], valid[:, None])
    return state.reshape(prompts, samples, -1), answer

  def next_logits(self, params, hidden):
    return self.logits(params, hidden)

  def logits(self, params, hidden):
    return hidden @ params["head"].T

  def hidden(self, params, rows):
    place = jnp.arange(rows.tokens.shape[1])
    distance = rows.position[:, :, None] - rows.position[:, None, :]
    seen = (rows.segment[:, :, None] == rows.segment[:, None, :]) & (place[:, None] >= place[None, :])[None]
    seen &= (rows.answer[:, None, :] == -1) | (rows.answer[:, None, :] == rows.answer[:, :, None])
    return _mix(params, rows.tokens, rows.position, distance, seen)

  def score(self, params, rows):
    logp = jnp.take_along_axis(self._log_probabilities(params, rows), rows.target[:, :, None], axis=2)[:, :, 0]
    return types.SimpleNamespace(logp=jnp.where(rows.filled, logp, 0.0))

  def compare(self, params, other_params, rows, temperature):
    logits = [self.logits(p, self._states(p, rows)) / temperature for p in (params, other_params)]
    policy, other = (jax.nn.log_softmax(x, axis=-1) for x in logits)
    of_target = [jnp.take_along_axis(x, rows.target[:, :, None], axis=2)[:, :, 0] for x in (policy, other)]
    p = jnp.exp(policy)
    values = *of_target, jnp.sum(p * (policy - other), -1), -jnp.sum(p * policy, -1)
    return Compared(*(jnp.where(rows.filled, x, 0.0) for x in values))

  def _log_probabilities(self, params, rows):
    return jax.nn.log_softmax(self.logits(params, self._states(params, rows)), axis=-1)

  def _states(self, params, rows):
    return jnp.take_along_axis(self.hidden(params, rows), rows.scored_at[:, :, None], axis=1)


def _mix(params, tokens, position, distance, seen):
  weight = jnp.where(seen, FADE ** distance.astype(jnp.float32) * jnp.cos(position.astype(jnp.float32))[:, None], 0.0)
  return jnp.tanh(jnp.einsum("bts,bsd->btd", weight, jnp.asarray(params["embedding"])[tokens]))


def next_probabilities(params, prefix, temperature=1.0) -> np.ndarray:
  """f64[V]: the distribution of the token after `prefix`."""
  position = np.arange(len(prefix))
  weight = FADE ** (len(prefix) - 1 - position) * np.cos(position)
  state = np.tanh(weight @ params["embedding"].astype(np.float64)[np.asarray(prefix)])
  logits = params["head"].astype(np.float64) @ state / temperature
  weights = np.exp(logits - logits.max())
  return weights / weights.sum()
