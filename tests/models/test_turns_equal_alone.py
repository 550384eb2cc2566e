"""Turns of a conversation, scored in one row, get what each gets alone with its history as the prompt."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.config.schema import DataSettings
from dpojax.data import BatchShape, dataset_from_rows, pack
from dpojax.data.slots import locate
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.language_model import LanguageModel
from dpojax.objectives.sft import Sft
from dpojax.types import Answers, floats_as
from tests.data.conftest import CHATML, trained
from tests.models.test_packed_equals_alone import TINY

SHAPE = BatchShape(groups=1, rows=2, length=256, scored=64, examples=5, answers=1)
TALKS = [
  ["And what to pack?", "Clothes.", "And in summer?", "A hat.", "Thanks!", "Any time."],
  ["2 + 2?", "4", "3 + 3?", "6, or so."],
]


def conversation(texts):
  return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def packed(rows, tokenizer, **options):
  """(data set, its packed rows) of conversations."""
  settings = DataSettings(eval_fraction=0.0, **options)
  data = dataset_from_rows(rows, settings, tokenizer, answers=Answers.ONE, row_length=SHAPE.length)
  return data, pack([data[i] for i in range(len(data))], SHAPE).flat()


@functools.partial(jax.jit, static_argnums=0)
def scored(model, params, batch):
  """Log-probs [R, S], and the loss of supervised fine-tuning."""
  found, objective = model.score(params, batch), Sft(model)
  return found.logp, objective.loss(found, batch, objective.normalizers(batch), {})[0]


def logps(model, params, batch):
  """Log-probs of the learned tokens, in the order of examples and their tokens; and the loss."""
  logp, loss = scored(model, params, batch)
  return np.asarray(logp).reshape(-1)[locate(batch).in_order().place], float(loss)


def chatml():
  special = {"eos_token": "<|im_end|>"}
  return Tokenizer(trained(["<|im_start|>", "<|im_end|>"]), special_tokens=special, chat_template=CHATML)


def both(tokenizer):
  """Whole conversations, and every turn of them as a conversation of its own that is read for its last."""
  whole = packed([{"messages": conversation(talk)} for talk in TALKS], tokenizer)
  beginnings = [talk[:end] for talk in TALKS for end in range(2, len(talk) + 1, 2)]
  single = packed([{"messages": conversation(talk)} for talk in beginnings], tokenizer, train_turns="last")
  assert len(whole[0]) == 2 and len(single[0]) == 5
  return whole, single


@pytest.mark.slow
def test_a_tiny_model_in_float64():
  with jax.enable_x64(True):
    model = LanguageModel(TINY, chunk=7)
    shapes, rng = jax.eval_shape(model.init, jax.random.key(0)), np.random.default_rng(3)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.3), shapes)
    found = []
    for _, batch in both(chatml()):
      few = {name: getattr(batch, name) % TINY.vocab_size for name in ("tokens", "target")}
      found.append(logps(model, params, floats_as(float, dataclasses.replace(batch, **few))))
  (together, loss), (apart, expected) = found
  assert np.abs(together - apart).max() <= 1e-9 and np.std(apart) > 0.1
  assert loss == pytest.approx(expected, abs=1e-9) and loss == pytest.approx(-apart.mean(), abs=1e-9)


@pytest.mark.slow
def test_smollm2_in_float32(smollm2):
  model, params, tokenizer = smollm2
  (together, loss), (apart, expected) = (logps(model, params, batch) for _, batch in both(tokenizer))
  assert together.shape == apart.shape and np.abs(together - apart).max() <= 5e-5
  assert loss == pytest.approx(expected, abs=5e-5)
