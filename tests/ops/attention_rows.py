"""Rows of examples laid out by hand, and their attention by the rule itself: one query at a time, and as one formula."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass
class Rows:
  """The three arrays that say who sees whom, each i32[R, L]."""

  segment: np.ndarray
  answer: np.ndarray
  position: np.ndarray

  def arrays(self):
    return dict(segment=self.segment, answer=self.answer, position=self.position)


def lay_out(rows: list[list[tuple[int, list[int]]]], length: int) -> Rows:
  """Rows of examples, each (prompt length, answer lengths), laid out one after another."""
  segment, answer = np.full((2, len(rows), length), -1, np.int32)
  position = np.zeros((len(rows), length), np.int32)
  for r, examples in enumerate(rows):
    at, slot = 0, 0
    for e, (prompt, answers) in enumerate(examples):
      segment[r, at : at + prompt + sum(answers)] = e
      position[r, at : at + prompt] = range(prompt)
      at += prompt
      for n in answers:
        answer[r, at : at + n] = slot
        position[r, at : at + n] = range(prompt, prompt + n)
        at, slot = at + n, slot + 1
    assert at <= length
  return Rows(segment, answer, position)


def brute_force(q, k, v, rows: Rows, window=None) -> np.ndarray:
  """One query at a time, from the rule as written in `PackedBatch`."""
  out = np.zeros(q.shape)
  repeat = q.shape[2] // k.shape[2]
  for r, i in itertools.product(*map(range, q.shape[:2])):
    seen = []
    for j in range(i + 1):
      if rows.segment[r, i] < 0 or rows.segment[r, j] != rows.segment[r, i]:
        continue
      if rows.answer[r, j] != -1 and rows.answer[r, j] != rows.answer[r, i]:
        continue
      if window is not None and rows.position[r, i] - rows.position[r, j] >= window:
        continue
      seen.append(j)
    for h in range(q.shape[2] if seen else 0):
      score = k[r, seen, h // repeat] @ q[r, i, h] / np.sqrt(q.shape[3])
      weight = np.exp(score - score.max())
      out[r, i, h] = weight @ v[r, seen, h // repeat] / weight.sum()
  return out


def draw(rows: Rows, heads=4, kv_heads=2, width=8, seed=0, dtype=np.float64):
  random = np.random.default_rng(seed)
  shape = rows.segment.shape
  return tuple(random.normal(size=(*shape, n, width)).astype(dtype) for n in (heads, kv_heads, kv_heads))


LAYOUTS = {
  "texts": lay_out([[(3, [9]), (1, [6])], [(0, [11])]], 24),
  "pairs": lay_out([[(5, [3, 4]), (2, [6, 1])], [(7, [2, 9])], []], 22),
  "rankings": lay_out([[(2, [3, 1, 4, 1, 5])], [(1, [1] * 5), (4, [2, 1, 1, 3, 1])]], 21),
  "long": lay_out([[(20, [30, 25]), (9, [70, 3]), (40, [1, 2]), (5, [4, 6])], [(150, [20, 29])]], 300),
}


def together(*names: str) -> Rows:
  """Rows of several layouts under one another, so that one program is compiled for all."""
  length = max(LAYOUTS[name].segment.shape[1] for name in names)

  def stacked(field, empty):
    arrays = [getattr(LAYOUTS[name], field) for name in names]
    return np.concatenate([np.pad(x, [(0, 0), (0, length - x.shape[1])], constant_values=empty) for x in arrays])

  return Rows(stacked("segment", -1), stacked("answer", -1), stacked("position", 0))


def naive(q, k, v, segment, answer, position, window=None):
  """The mask as one array and the softmax as JAX has it, for autodiff."""
  repeat = q.shape[2] // k.shape[2]
  k, v = jnp.repeat(k, repeat, 2), jnp.repeat(v, repeat, 2)
  index = np.arange(q.shape[1])
  mask = (segment[:, :, None] == segment[:, None, :]) & (segment >= 0)[:, None, :]
  mask &= (index[:, None] >= index[None, :])[None]
  mask &= (answer == -1)[:, None, :] | (answer[:, :, None] == answer[:, None, :])
  if window is not None:
    mask &= position[:, :, None] - position[:, None, :] < window
  scores = jnp.einsum("rihd,rjhd->rhij", q, k) / np.sqrt(q.shape[3])
  weight = jnp.where(mask[:, None], jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), axis=-1), 0)
  return jnp.einsum("rhij,rjhd->rihd", weight, v)


def value_and_gradient(function, arrays, toward):
  """(out, dq, dk, dv), compiled anew, so that what a test has replaced is what runs."""

  def both(q, k, v):
    out, pull_back = jax.vjp(function, q, k, v)
    return (out, *pull_back(toward))

  return [np.asarray(x) for x in jax.jit(both)(*arrays)]
