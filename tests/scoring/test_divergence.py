"""What is measured along samples, against enumeration of every answer of a toy vocabulary."""

import numpy as np
import pytest

from dpojax.rollout.sampler import Sample, generate
from dpojax.scoring import measure_divergence
from tests.rollout.toy_model import ToyModel, next_probabilities
from tests.tolerances import assert_sums_close

MODEL = ToyModel(vocab=3)
POLICY, REFERENCE = MODEL.init(seed=0), MODEL.init(seed=1)
PROMPT = np.array([2, 1], np.int32)
EOS = 0


def all_answers(max_tokens):
  """Every answer that generation can give: up to the limit, ended by EOS or cut."""
  answers, unfinished = [], [()]
  for _ in range(max_tokens):
    longer = [(*text, token) for text in unfinished for token in range(3)]
    answers += [text for text in longer if text[-1] == EOS]
    unfinished = [text for text in longer if text[-1] != EOS]
  return answers + unfinished


def probability(params, answer, temperature=1.0):
  steps = enumerate(answer)
  return np.prod([next_probabilities(params, [*PROMPT, *answer[:t]], temperature)[token] for t, token in steps])


def as_samples(answers):
  ended = {True: "eos", False: "length"}
  return [Sample(np.asarray(a, np.int32), ended[a[-1] == EOS], np.zeros(len(a), np.float32)) for a in answers]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
def test_means_over_all_answers_are_kl_and_entropy_of_the_answer_distributions(temperature):
  answers = all_answers(4)
  p = np.array([probability(POLICY, answer, temperature) for answer in answers])
  q = np.array([probability(REFERENCE, answer, temperature) for answer in answers])
  np.testing.assert_allclose([p.sum(), q.sum()], 1, rtol=1e-9)
  found = measure_divergence(
    MODEL, POLICY, REFERENCE, [PROMPT] * len(answers), as_samples(answers), temperature=temperature
  )
  size = p @ np.abs(np.log([p, q])).sum(0)
  assert_sums_close(p @ found.kl, p @ np.log(p / q), size)
  assert_sums_close(p @ found.k1, p @ np.log(p / q), size)
  assert_sums_close(p @ found.entropy, -p @ np.log(p), size)
  assert {x.dtype for x in (found.kl, found.k1, found.k3, found.entropy)} == {np.dtype(np.float64)}
  assert found.tokens.tolist() == [len(answer) for answer in answers]


@pytest.mark.slow
def test_each_sample_gets_its_own_steps():
  prompts = [np.resize(np.array([1, 2, 2], np.int32), n) for n in (1, 30, 4, 9, 2, 17, 3)]
  samples = [each[0] for each in generate(MODEL, POLICY, prompts, max_tokens=20, eos_id=EOS, seed=2)]
  found = measure_divergence(MODEL, POLICY, REFERENCE, prompts, samples, rows=2, row_length=16)
  for n, (prompt, sample) in enumerate(zip(prompts, samples, strict=True)):
    steps = np.zeros(4)
    size = 0.0
    for t, token in enumerate(sample.tokens):
      prefix = [*prompt, *sample.tokens[:t]]
      p, q = next_probabilities(POLICY, prefix), next_probabilities(REFERENCE, prefix)
      ratio = q[token] / p[token]
      steps += [p @ np.log(p / q), -np.log(ratio), ratio - 1 - np.log(ratio), -p @ np.log(p)]
      size += p @ np.abs(np.log([p, q])).sum(0) + ratio
    for value, expected in zip((found.kl[n], found.k1[n], found.k3[n], found.entropy[n]), steps, strict=True):
      assert_sums_close(value, expected, size)


def test_equal_parameters_have_no_divergence():
  answers = all_answers(3)
  found = measure_divergence(MODEL, POLICY, POLICY, [PROMPT] * len(answers), as_samples(answers))
  for values in (found.kl, found.k1, found.k3):
    np.testing.assert_array_equal(values, 0)


def test_no_samples():
  found = measure_divergence(MODEL, POLICY, REFERENCE, [], [])
  assert found.kl.shape == found.k3.shape == found.tokens.shape == (0,)
