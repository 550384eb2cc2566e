"""Generation against probabilities computed again, from the prefix alone, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_model import ToyModel, next_probabilities

from dpojax.data.examples import TokenExample
from dpojax.data.packing import PackShape, pack
from dpojax.data.shapes import bucket
from dpojax.errors import DataError
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.rollout.sampler import generate

MODEL = ToyModel(vocab=7)
PARAMS = MODEL.init(seed=0)
DRAWS = np.random.default_rng(5)
PROMPTS = [DRAWS.integers(0, 7, size=n).astype(np.int32) for n in (3, 1, 20, 9, 2, 5, 17, 1, 4)]


def greedy_by_hand(prompt, max_tokens, eos_id):
  text = list(prompt)
  while len(text) < len(prompt) + max_tokens:
    text.append(int(np.argmax(next_probabilities(PARAMS, text))))
    if text[-1] == eos_id:
      break
  return text[len(prompt) :]


def test_greedy_is_the_argmax_after_every_prefix():
  samples = generate(MODEL, PARAMS, PROMPTS, max_tokens=6, eos_id=2, temperature=0)
  for prompt, sample in zip(PROMPTS, samples, strict=True):
    assert sample.tokens.tolist() == greedy_by_hand(prompt, 6, 2)
    assert sample.finished == (sample.tokens[-1] == 2)
  assert {sample.finished for sample in samples} == {True, False}


def test_samples_and_logps_do_not_depend_on_batches():
  options = dict(max_tokens=12, eos_id=2, temperature=0.9, top_p=0.95, seed=3)
  alone = generate(MODEL, PARAMS, PROMPTS, rows=1, **options)
  for rows in (4, 64):
    for one, other in zip(alone, generate(MODEL, PARAMS, PROMPTS, rows=rows, **options), strict=True):
      np.testing.assert_array_equal(one.tokens, other.tokens)
      np.testing.assert_allclose(one.logp, other.logp, atol=1e-5)


def test_logp_is_of_the_model_itself_and_only_the_last_token_ends():
  samples = generate(MODEL, PARAMS, PROMPTS, max_tokens=12, eos_id=2, temperature=0.7, top_p=0.9, seed=3)
  for prompt, sample in zip(PROMPTS, samples, strict=True):
    assert 2 not in sample.tokens[:-1]
    assert len(sample.tokens) == 12 or sample.finished
    for t, token in enumerate(sample.tokens):
      expected = np.log(next_probabilities(PARAMS, [*prompt, *sample.tokens[:t]])[token])
      assert sample.logp[t] == pytest.approx(expected, abs=1e-5)


def test_frequencies_of_whole_answers():
  model = ToyModel(vocab=3)
  params = model.init(seed=1)
  count = 4000
  prompt = np.array([1, 0], np.int32)
  samples = generate(model, params, [prompt] * count, max_tokens=2, eos_id=0, rows=1024)
  observed = {}
  for sample in samples:
    observed[tuple(sample.tokens.tolist())] = observed.get(tuple(sample.tokens.tolist()), 0) + 1
  first = next_probabilities(params, prompt)
  expected = {(0,): first[0]}
  for a in (1, 2):
    for b, p in enumerate(next_probabilities(params, [*prompt, a])):
      expected[a, b] = first[a] * p
  assert sum(expected.values()) == pytest.approx(1)
  assert set(observed) <= set(expected)
  statistic = sum((observed.get(k, 0) - count * p) ** 2 / (count * p) for k, p in expected.items())
  freedom = len(expected) - 1
  assert statistic <= freedom + 5 * np.sqrt(2 * freedom)


def test_seeds_and_places_differ():
  def written(seed):
    samples = generate(MODEL, PARAMS, [PROMPTS[0]] * 8, max_tokens=16, eos_id=None, seed=seed)
    return [tuple(sample.tokens.tolist()) for sample in samples]

  first, again, other = written(0), written(0), written(1)
  assert first == again
  assert len({*first, *other}) == 16


def test_other_parameters_settings_and_lengths_do_not_compile_again():
  model = ToyModel(vocab=7, max_positions=4095)  # not in any cache yet
  generate(model, PARAMS, PROMPTS[:4], max_tokens=12, eos_id=2, rows=4)
  ToyModel.traces.clear()
  other = model.init(seed=9)
  generate(model, other, PROMPTS[2:6], max_tokens=9, eos_id=5, temperature=0, seed=4, rows=4)
  generate(model, other, PROMPTS[2:6], max_tokens=16, eos_id=5, temperature=0.3, top_p=0.4, rows=4)
  assert ToyModel.traces == []


def test_several_ends_and_no_prompts():
  samples = generate(MODEL, PARAMS, PROMPTS, max_tokens=40, eos_id=[2, 4], seed=1)
  assert {int(sample.tokens[-1]) for sample in samples if sample.finished} == {2, 4}
  assert generate(MODEL, PARAMS, [], max_tokens=4, eos_id=2) == []


@pytest.mark.parametrize("size", [1, 16, 17, 24, 25, 100, 129, 1000])
def test_bucket_holds_its_size(size):
  assert size <= bucket(size) <= max(16, 1.5 * size)


def test_bad_input_is_named():
  with pytest.raises(DataError, match="prompt 1 has no tokens"):
    generate(MODEL, PARAMS, [PROMPTS[0], np.zeros(0, np.int32)], max_tokens=4, eos_id=2)
  with pytest.raises(DataError, match="prompt 2 has 20 tokens; with 45 new ones it passes the model's 64 positions"):
    generate(ToyModel(vocab=7, max_positions=64), PARAMS, PROMPTS, max_tokens=45, eos_id=2)
  with pytest.raises(DataError, match="max_tokens is 0"):
    generate(MODEL, PARAMS, PROMPTS, max_tokens=0, eos_id=2)


@pytest.mark.parametrize("window", [None, 7])
def test_cached_generation_is_the_packed_forward(window):
  """The real decoder: what greedy generation writes is the argmax of the packed forward, log-probs equal."""
  config = ModelConfig(vocab_size=53, hidden=32, layers=2, heads=4, kv_heads=2, ffn=48, window=window)
  model = LanguageModel(config)
  params = model.init(jax.random.key(0))
  params["embed"] = params["embed"] * 30  # so that answers vary
  prompts = [DRAWS.integers(0, 53, size=n).astype(np.int32) for n in (3, 1, 20, 9)]
  samples = generate(model, params, prompts, max_tokens=15, eos_id=2, temperature=0)
  examples = [TokenExample(p, (s.tokens,), index=i) for i, (p, s) in enumerate(zip(prompts, samples, strict=True))]
  rows = pack(examples, PackShape(groups=1, rows=4, length=64, scored=64, examples=4, answers=1)).group(0)

  @jax.jit
  def packed(params):
    hidden = jnp.take_along_axis(model.hidden(params, rows), jnp.asarray(rows.scored_at)[..., None], axis=1)
    return jnp.argmax(model.logits(params, hidden), axis=-1), model.logps(params, rows).sums()

  written, sums = map(np.asarray, packed(params))
  np.testing.assert_array_equal(written[rows.filled], rows.target[rows.filled])
  for row, slot in zip(*np.nonzero(rows.example_index >= 0), strict=True):
    np.testing.assert_allclose(sums[row, slot], samples[rows.example_index[row, slot]].logp.sum(), atol=2e-4)
  assert len({tuple(s.tokens.tolist()) for s in samples}) == 4
