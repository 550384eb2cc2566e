"""Generation against probabilities computed again, from the prefix alone, in float64."""

import itertools

import jax
import numpy as np
import pytest
from toy_model import ToyModel, next_probabilities

from dpojax.data.batch_shape import bucket
from dpojax.data.examples import TokenDataset
from dpojax.errors import ConfigError, DataError
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.ops.rotary import RopeScaling
from dpojax.rollout import sampler
from dpojax.rollout.sampler import generate
from dpojax.scoring import score_tokens

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


def flat(written):
  return [sample for each in written for sample in each]


def assert_same(found, expected):
  """Equal tokens and ends; log-probs to what float32 products of another shape may move."""
  for one, other in zip(flat(found), flat(expected), strict=True):
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_allclose(one.logp, other.logp, atol=1e-5)
    assert one.ended == other.ended


@pytest.mark.slow
def test_greedy_is_the_argmax_after_every_prefix():
  samples = flat(generate(MODEL, PARAMS, PROMPTS, max_tokens=6, eos_id=2, temperature=0))
  for prompt, sample in zip(PROMPTS, samples, strict=True):
    assert sample.tokens.tolist() == greedy_by_hand(prompt, 6, 2)
    assert sample.finished == (sample.tokens[-1] == 2)
  assert {sample.finished for sample in samples} == {True, False}


OPTIONS = dict(max_tokens=40, eos_id=2, temperature=0.9, top_k=6, top_p=0.95, seed=3)


@pytest.mark.slow
def test_samples_depend_on_nothing_beside_them():
  together = generate(MODEL, PARAMS, PROMPTS, samples=5, **OPTIONS)
  for rows in (1, 20):
    assert_same(generate(MODEL, PARAMS, PROMPTS, samples=5, rows=rows, **OPTIONS), together)
  few = generate(MODEL, PARAMS, PROMPTS[3:5], samples=2, numbers=[3, 4], **OPTIONS)
  assert_same(few, [each[:2] for each in together[3:5]])
  chunks = [
    generate(MODEL, PARAMS, PROMPTS[i : i + 4], samples=5, numbers=range(i, min(i + 4, 9)), **OPTIONS)
    for i in (0, 4, 8)
  ]
  assert_same([each for chunk in chunks for each in chunk], together)
  assert len({tuple(sample.tokens.tolist()) for sample in flat(together)}) > 20


@pytest.mark.slow
def test_256_prompts_of_4_answers_in_one_call():
  prompts = [DRAWS.integers(0, 7, size=1 + i % 16).astype(np.int32) for i in range(256)]
  seen = []
  written = generate(
    MODEL, PARAMS, prompts, samples=4, max_tokens=5, eos_id=2, rows=64, progress=lambda *counts: seen.append(counts)
  )
  assert [len(each) for each in written] == [4] * 256
  assert [done for done, _ in seen if done % 64 == 0 and done][-1] == 1024
  assert len(seen) >= 16  # calls of 16 prompts
  assert_same(
    [written[200]], generate(MODEL, PARAMS, prompts[200:201], samples=4, max_tokens=5, eos_id=2, numbers=[200])
  )


@pytest.mark.slow
def test_shrinking_and_growing_change_nothing(monkeypatch):
  """Grids that drop what has ended, and answer parts that grow, against one grid of full size."""
  options = dict(OPTIONS, max_tokens=150, eos_id=[2, 3])
  prompts = PROMPTS * 4
  sizes = []
  take = sampler.decode_loop.take_answers
  monkeypatch.setattr(sampler.decode_loop, "take_answers", lambda *a, **k: sizes.append(len(a[1])) or take(*a, **k))
  found = generate(MODEL, PARAMS, prompts, samples=3, rows=128, **options)
  assert len(sizes) >= 2 and all(b < a for a, b in itertools.pairwise(sizes))
  monkeypatch.setattr(sampler, "smaller_grid", lambda going, multiple: None)
  monkeypatch.setattr(sampler, "FIRST_CAPACITY", 1024)
  sizes.clear()
  assert_same(found, generate(MODEL, PARAMS, prompts, samples=3, rows=128, **options))
  assert sizes == []


@pytest.mark.slow
def test_logp_is_of_the_model_itself_and_only_the_last_token_ends():
  samples = flat(generate(MODEL, PARAMS, PROMPTS, max_tokens=12, eos_id=2, temperature=0.7, top_p=0.9, seed=3))
  for prompt, sample in zip(PROMPTS, samples, strict=True):
    assert 2 not in sample.tokens[:-1]
    assert len(sample.tokens) == 12 or sample.finished
    for t, token in enumerate(sample.tokens):
      powers = next_probabilities(PARAMS, [*prompt, *sample.tokens[:t]]) ** (1 / 0.7)
      assert sample.logp[t] == pytest.approx(np.log(powers[token] / powers.sum()), abs=1e-5)


@pytest.mark.slow
def test_frequencies_of_whole_answers():
  model = ToyModel(vocab=3)
  params = model.init(seed=1)
  count = 4000
  prompt = np.array([1, 0], np.int32)
  samples = flat(generate(model, params, [prompt] * 40, samples=count // 40, max_tokens=2, eos_id=0, rows=1024))
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


@pytest.mark.slow
def test_seeds_and_places_differ():
  def written(seed):
    samples = generate(MODEL, PARAMS, [PROMPTS[0]] * 4, samples=2, max_tokens=16, eos_id=None, seed=seed)
    return [tuple(sample.tokens.tolist()) for sample in flat(samples)]

  first, again, other = written(0), written(0), written(1)
  assert first == again
  assert len({*first, *other}) == 16


@pytest.mark.slow
def test_other_parameters_settings_and_lengths_do_not_compile_again():
  model = ToyModel(vocab=7, max_positions=4095)  # not in any cache yet
  generate(model, PARAMS, PROMPTS[:4], max_tokens=12, eos_id=2, rows=4)
  ToyModel.traces.clear()
  other = model.init(seed=9)
  generate(model, other, PROMPTS[2:6], max_tokens=9, eos_id=5, temperature=0, seed=4, rows=4)
  generate(model, other, PROMPTS[2:6], max_tokens=16, eos_id=5, temperature=0.3, top_k=3, top_p=0.4, rows=4)
  assert ToyModel.traces == []


@pytest.mark.slow
def test_several_ends_and_no_prompts():
  samples = flat(generate(MODEL, PARAMS, PROMPTS, max_tokens=40, eos_id=[2, 4], seed=1))
  assert {int(sample.tokens[-1]) for sample in samples if sample.finished} == {2, 4}
  assert generate(MODEL, PARAMS, [], max_tokens=4, eos_id=2) == []


# ---- stop strings

WORDS = [b"a", b"\xc3", b"\xa9", b"b", b"ab", b"", b"\xe2\x82\xac"]  # é in two tokens, € in one


def decode(tokens):
  return b"".join(WORDS[token] for token in tokens).decode("utf-8", errors="replace")


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize("stop", [["é"], ["ba"], ["aba", "€a"], ["\ufffda"], ["bbbbbbbbbbbbb"]])
def test_stop_strings_end_at_the_first_token_that_completes_one(stop):
  options = dict(samples=6, max_tokens=70, eos_id=5, seed=2)
  whole = flat(generate(MODEL, PARAMS, PROMPTS, **options))
  found = flat(generate(MODEL, PARAMS, PROMPTS, stop=stop, decode=decode, **options))
  ended = []
  for one, free in zip(found, whole, strict=True):
    text = free.tokens[:-1] if free.ended == "eos" else free.tokens
    holds = [n for n in range(1, len(text) + 1) if any(each in decode(text[:n]) for each in stop)]
    assert len(one.tokens) == (holds[0] if holds else len(free.tokens))
    np.testing.assert_array_equal(one.tokens, free.tokens[: len(one.tokens)])
    np.testing.assert_allclose(one.logp, free.logp[: len(one.tokens)], atol=1e-5)
    assert one.ended == ("stop" if holds else free.ended)
    ended += holds[:1]
  if stop != ["bbbbbbbbbbbbb"]:
    assert len(ended) > 7
  if stop == ["é"]:
    assert max(ended) > 17 > min(ended)  # beyond the first return to the host, and before


@pytest.mark.slow
def test_stop_strings_across_chunks():
  """A stop text of which each chunk has a part, whatever the chunk's size; greedy, so that all is known beforehand."""
  (free,) = flat(generate(MODEL, PARAMS, PROMPTS[:1], max_tokens=48, eos_id=None, seed=6))
  text = [f"<{token}>" for token in free.tokens]
  spelled = lambda tokens: "".join(f"<{token}>" for token in tokens)  # noqa: E731
  for at in (1, 15, 16, 17, 18, 32, 33, 34, 47):
    stop = "".join(text[at - 1 : at + 1])
    expected = next(n for n in range(1, 49) if stop in "".join(text[:n]))
    (one,) = flat(generate(MODEL, PARAMS, PROMPTS[:1], max_tokens=48, eos_id=None, seed=6, stop=[stop], decode=spelled))
    assert (len(one.tokens), one.ended) == (expected, "stop")


@pytest.mark.slow
def test_progress_counts_what_is_kept():
  seen = []
  options = dict(samples=3, max_tokens=40, eos_id=2, stop=["é"], decode=decode)
  written = flat(generate(MODEL, PARAMS, PROMPTS, rows=8, progress=lambda *counts: seen.append(counts), **options))
  assert seen[-1] == (27, sum(len(sample.tokens) for sample in written))
  assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(seen))
  assert len(seen) > 9


@pytest.mark.parametrize("size", [1, 16, 17, 24, 25, 100, 129, 1000])
def test_bucket_holds_its_size(size):
  assert size <= bucket(size) <= max(16, 1.5 * size)


def test_bad_input_is_named():
  with pytest.raises(DataError, match="prompt 1 has no tokens"):
    generate(MODEL, PARAMS, [PROMPTS[0], np.zeros(0, np.int32)], max_tokens=4, eos_id=2)
  with pytest.raises(DataError, match="prompt 2 has 20 tokens; with 45 new ones it passes the model's 64 positions"):
    generate(ToyModel(vocab=7, max_positions=64), PARAMS, PROMPTS, max_tokens=45, eos_id=2)
  for option, message in (
    (dict(max_tokens=0), "max_tokens is 0"),
    (dict(samples=0), "samples is 0"),
    (dict(temperature=-1.0), "temperature is -1"),
    (dict(top_k=-1), "top_k is -1"),
    (dict(top_p=0.0), "top_p is 0"),
    (dict(numbers=[1]), "numbers has 1 entries for 9 prompts"),
    (dict(numbers=[-1, *range(8)]), r"numbers\[0\] is -1"),
  ):
    with pytest.raises(DataError, match=message):
      generate(MODEL, PARAMS, PROMPTS, **{"max_tokens": 4, "eos_id": 2, **option})
  for option, message in (
    (dict(stop=["\n"]), "give decode too"),
    (dict(stop=[""], decode=decode), "one character at least"),
    (dict(stop="end", decode=decode), "give a list of texts"),
  ):
    with pytest.raises(ConfigError, match=message):
      generate(MODEL, PARAMS, PROMPTS, max_tokens=4, eos_id=2, **option)


OTHERWISE = dict(window=7, rope_scaling=RopeScaling("linear", 2.0), attention_bias=True, tie_embeddings=False)


@pytest.mark.slow
@pytest.mark.parametrize("option", [{}, OTHERWISE])
def test_logps_are_those_of_packed_scoring(option):
  """The real decoder: prompts shared by several answers, against all of it in packed rows."""
  config = ModelConfig(vocab_size=53, hidden=32, layers=2, heads=4, kv_heads=2, ffn=48, **option)
  model = LanguageModel(config)
  params = model.init(jax.random.key(0))
  head = "embed" if config.tie_embeddings else "head"
  params[head] = params[head] * 30  # so that answers vary
  prompts = [DRAWS.integers(0, 53, size=n).astype(np.int32) for n in (3, 1, 20, 9)]
  written = generate(model, params, prompts, samples=3, max_tokens=70, eos_id=2, seed=1)
  dataset = TokenDataset.from_examples(
    [(p, [s.tokens for s in each]) for p, each in zip(prompts, written, strict=True)]
  )
  scored = score_tokens(model, params, dataset)
  for sample, expected in zip(flat(written), [logps for each in scored for logps in each], strict=True):
    np.testing.assert_allclose(sample.logp, expected, atol=1e-4)
  assert len({tuple(s.tokens.tolist()) for s in flat(written)}) > 6
  assert max(len(s.tokens) for s in flat(written)) > 64
