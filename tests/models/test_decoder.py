"""The decoder against transformers' logits, and its cached path against its packed one."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.data.examples import TokenExample
from dpojax.data.packing import BatchShape, pack
from dpojax.interop.files import open_model_files
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.weights import params_from_tensors
from dpojax.rollout.sampler import generate
from tests.tolerances import assert_gradients_close, assert_sums_close

GOLDENS = Path(__file__).parents[1] / "oracles" / "goldens" / "models"
NAMES = sorted(folder.name for folder in GOLDENS.iterdir())


def open_golden(name):
  """(LanguageModel, parameters, tokens i32[B, T], logits f32[B, T, V]) of a folder written by transformers."""
  files = open_model_files(str(GOLDENS / name))
  config = ModelConfig.from_transformers(files.config)
  golden = np.load(GOLDENS / name / "logits.npz")
  return LanguageModel(config), params_from_tensors(config, files.tensors), golden["tokens"], golden["logits"]


def packed_logits(model, params, tokens):
  """Logits [B, T, V] of whole rows through the packed path, two texts a row."""
  examples = [TokenExample(row[:1], (row[1:],), index=i) for i, row in enumerate(tokens)]
  length = tokens.shape[1]
  rows = pack(examples, BatchShape(1, 2, 2 * length, 2 * length, 2, 1)).group(0)
  logits = model.logits(params, model.hidden(params, rows))
  out = np.zeros((*tokens.shape, logits.shape[-1]), np.float32)
  for r, e in zip(*np.nonzero(rows.example_index >= 0), strict=True):
    out[rows.example_index[r, e]] = np.asarray(logits[r])[rows.segment[r] == e]
  return out


def decoded_logits(model, params, tokens, *, prompt, padding, samples=2):
  """The same as sampling computes it: the first prompt[b] tokens at once, then the rest one by one, in `samples` copies.

  Prompts are padded beyond the longest; rows with a longer one end first and go on with any token.
  """
  length = tokens.shape[1]
  count = np.asarray(prompt)
  text = np.where(np.arange(max(prompt) + padding) < count[:, None], tokens[:, : max(prompt) + padding], 0)
  hidden, cache = jax.jit(model.prefill)(params, text, count.astype(np.int32))
  out = np.full((samples, *tokens.shape, model.config.vocab_size), np.nan, np.float32)
  logits = np.asarray(model.logits(params, hidden))
  for b, n in enumerate(prompt):
    out[:, b, :n] = logits[b, :n]
  split = model.split_layers(params)
  answers = model.empty_answers(cache, samples, length).grow(length + 3)
  decode = jax.jit(model.decode)
  rows = np.arange(len(prompt))
  for step in range(length - min(prompt)):
    at = np.minimum(count + step, length - 1)
    written = np.repeat(tokens[rows, at][:, None], samples, axis=1)
    hidden, answers = decode(split, written, cache, answers)
    logits = np.asarray(model.next_logits(split, hidden)).swapaxes(0, 1)
    going = count + step < length
    out[:, rows[going], at[going]] = logits[:, going]
  return out


def assert_same_logits(found, expected):
  """To 256 eps of the largest: all come of the same hidden numbers, sums in themselves, which torch adds in its order."""
  assert_sums_close(found, expected, np.abs(expected).max(), roundings=256)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name):
  model, params, tokens, expected = open_golden(name)
  assert_same_logits(packed_logits(model, params, tokens), expected)


@pytest.mark.slow
def test_goldens_notice_each_option():
  """Every option the golden models were made for changes their logits, so the test above can fail."""
  for name, option in (
    ("mistral_window", dict(window=None)),
    ("llama3_untied_bias_sharded", dict(rope_scaling=None)),
    ("llama_tied_linear_bfloat16", dict(rope_scaling=None)),
  ):
    model, params, tokens, expected = open_golden(name)
    config = ModelConfig.from_dict({**model.config.to_dict(), **option})
    assert np.abs(packed_logits(LanguageModel(config), params, tokens) - expected).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mistral_window", "llama3_untied_bias_sharded"])
def test_cached_path_equals_transformers_for_every_answer(name):
  model, params, tokens, expected = open_golden(name)
  for found in decoded_logits(model, params, tokens, prompt=(5, 11, 1), padding=2):
    assert_same_logits(found, expected)


@pytest.mark.long
def test_what_is_recomputed_changes_memory_but_no_gradient():
  model, params, tokens, _ = open_golden("mistral_window")
  model = dataclasses.replace(model, precision="bfloat16")
  examples = [TokenExample(row[:3], (row[3:9], row[9:]), index=i) for i, row in enumerate(tokens)]
  rows = pack(examples, BatchShape(1, 32, 24, 24, 1, 2)).group(0)
  gradient, memory = {}, {}
  for remat in ("layer", "dots", "none"):
    again = dataclasses.replace(model, remat=remat)
    program = jax.jit(jax.grad(lambda p, m=again: jnp.sum(m.score(p, rows).logp))).lower(params).compile()
    gradient[remat] = program(params)
    memory[remat] = program.memory_analysis().temp_size_in_bytes
  for remat in ("dots", "none"):
    # What is computed again may be fused otherwise and round to a neighbour in bfloat16, 2**16 eps off; few numbers do.
    assert_gradients_close(gradient[remat], gradient["layer"], roundings=2**14)
  assert memory["layer"] < memory["dots"] < memory["none"]


def test_smollm2_writes_sense_and_its_two_paths_agree(smollm2):
  model, params, tokenizer = smollm2
  prompt = np.asarray(tokenizer.encode("The capital of France is"), np.int32)
  ((written,),) = generate(model, params, [prompt], max_tokens=6, eos_id=None, temperature=0)
  tokens = np.concatenate([prompt, written.tokens])[None]
  assert tokenizer.decode(tokens[0]).startswith("The capital of France is Paris.")
  logps = np.asarray(jax.nn.log_softmax(packed_logits(model, params, tokens)[0, len(prompt) - 1 : -1], axis=-1))
  np.testing.assert_array_equal(written.tokens, logps.argmax(axis=-1))
  np.testing.assert_allclose(written.logp, logps.max(axis=-1), atol=1e-4)
