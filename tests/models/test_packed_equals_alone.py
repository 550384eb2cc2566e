"""The most important test of the project: packed, prefix-shared rows give every answer what it gets alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.data.examples import TokenExample
from dpojax.data.packing import BatchShape, pack
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.ops.rotary import RopeScaling

ANSWERS = (1, 2, 5)
TINY = ModelConfig(
  vocab_size=61,
  hidden=32,
  layers=3,
  heads=4,
  kv_heads=2,
  ffn=56,
  head_dim=12,
  tie_embeddings=False,
  attention_bias=True,
  mlp_bias=True,
  rope_scaling=RopeScaling("llama3", 8.0, original_max_positions=32),
)


def random_examples(answer_counts, *, vocabulary, longest_prompt, longest_answer, seed):
  rng = np.random.default_rng(seed)

  def ids(longest):
    return rng.integers(0, vocabulary, rng.integers(1, longest + 1)).astype(np.int32)

  return [
    TokenExample(ids(longest_prompt), tuple(ids(longest_answer) for _ in range(count)), index=i)
    for i, count in enumerate(answer_counts)
  ]


def alone(examples):
  """Every answer as an example of its own: K = 1, nothing shared."""
  pieces = [(e.prompt, answer) for e in examples for answer in e.answers]
  return [TokenExample(prompt, (answer,), index=i) for i, (prompt, answer) in enumerate(pieces)]


def compare_rows(model, params, examples, *, rows, length, scored, slots, longest, singles, share_prompt=True):
  """`compare` of one row group to answers alone in rows of `longest` tokens; shapes fixed by the caller."""
  answers = max(ANSWERS)
  packed = pack(examples, BatchShape(1, rows, length, scored, slots, answers), share_prompt=share_prompt).group(0)
  assert (packed.example_index >= 0).sum(-1).max() > 1, "several examples a row"
  lonely = pack(alone(examples), BatchShape(1, singles, longest, longest, 1, 1)).group(0)
  return compare(model, params, examples, packed, lonely)


def by_answer(values, rows):
  """{(example, answer): its tokens' values in order} of a [R, S] array."""
  found = {}
  for value, answers, examples in zip(np.asarray(values), rows.answer_of, rows.example_index, strict=True):
    for slot in np.flatnonzero(answers < rows.num_answers):
      e, k = divmod(int(answers[slot]), rows.answers_per_example)
      found.setdefault((int(examples[e]), k), []).append(float(value[slot]))
  return found


def answer_coefficients(rows, examples, coefficients):
  """f[R, S]: the coefficient of the answer each scored slot belongs to, 0 where empty."""
  start = np.cumsum([0] + [len(e.answers) for e in examples])
  out = np.zeros(rows.answer_of.shape, coefficients.dtype)
  for r, slot in zip(*np.nonzero(rows.filled), strict=True):
    e, k = divmod(int(rows.answer_of[r, slot]), rows.answers_per_example)
    out[r, slot] = coefficients[start[rows.example_index[r, e]] + k]
  return out


@functools.partial(jax.jit, static_argnums=0)
def logps_and_gradient(model, params, rows, coefficients):
  """Log-probs [R, S], and the gradient of their sum weighted per answer."""

  def weighted(params):
    logp = model.score(params, rows).logp
    return jnp.sum(coefficients * logp), logp

  return jax.grad(weighted, has_aux=True)(params)[::-1]


def compare(model, params, examples, rows, rows_alone):
  """(largest difference a token, largest an answer, normwise gradient error) of packed rows to answers alone."""
  singles = alone(examples)
  dtype = jax.tree.leaves(params)[0].dtype
  coefficients = np.random.default_rng(9).normal(size=len(singles)).astype(dtype)
  logp, gradient = logps_and_gradient(model, params, rows, answer_coefficients(rows, examples, coefficients))
  expected, expected_gradient = logps_and_gradient(
    model, params, rows_alone, answer_coefficients(rows_alone, singles, coefficients)
  )
  packed, single = by_answer(logp, rows), by_answer(expected, rows_alone)
  keys = [(i, k) for i, e in enumerate(examples) for k in range(len(e.answers))]
  assert sorted(packed) == keys and len(single) == len(keys)
  errors = [np.subtract(packed[key], single[i, 0]) for i, key in enumerate(keys)]
  error = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), gradient, expected_gradient)
  scale = jax.tree.map(lambda b: jnp.sum(b**2), expected_gradient)
  total = sum(map(float, jax.tree.leaves(error))), sum(map(float, jax.tree.leaves(scale)))
  assert total[1] > 0
  return max(np.abs(e).max() for e in errors), max(abs(e.sum()) for e in errors), (total[0] / total[1]) ** 0.5


@pytest.mark.sampled(4)
@pytest.mark.slow
@pytest.mark.parametrize("share_prompt", [True, False], ids=["shared", "repeated"])
@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("window", [None, 5])
def test_tiny_model_in_float64(window, answers, share_prompt):
  with jax.enable_x64(True):
    model = LanguageModel(dataclasses.replace(TINY, window=window), chunk=7)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.3), shapes)
    examples = random_examples([answers] * 5, vocabulary=61, longest_prompt=9, longest_answer=5, seed=answers)
    shape = dict(rows=2, length=280, scored=128, slots=5, longest=14, singles=25)  # more than one block of attention
    token, answer, gradient = compare_rows(model, params, examples, **shape, share_prompt=share_prompt)
  assert token <= 1e-9
  assert answer <= 1e-9
  assert gradient <= 1e-9


def test_smollm2_in_float32(smollm2):
  model, params, tokenizer = smollm2
  texts = [
    ("The capital of France is", [" Paris."]),
    (
      "Question: what should I pack for a week in the mountains?\nAnswer:",
      [" Warm clothes and good boots.", " Nothing"],
    ),
    (
      "Once upon a time",
      [" there was a king.", ", in a", " the sun rose over", " dragons", " nobody knew why it rained."],
    ),
    ("2 + 2 =", [" 4", " 5, as everyone knows"]),
  ]
  examples = [
    TokenExample(
      np.asarray(tokenizer.encode(prompt), np.int32),
      tuple(np.asarray(tokenizer.encode(a), np.int32) for a in answers),
      i,
    )
    for i, (prompt, answers) in enumerate(texts)
  ]
  # As many scored slots as a real step has at least: below 128 positions XLA sums the head's gradient over the
  # vocabulary on CPU in one long chain, and float32 then rounds it at 1e-5, packed or alone.
  shape = dict(rows=2, length=64, scored=64, slots=3, longest=32, singles=10)
  token, answer, gradient = compare_rows(model, params, examples, **shape)
  assert token <= 5e-5
  assert answer <= 5e-4
  assert gradient <= 1e-5
