"""Exact per-step KL along samples, against enumeration of every answer of a toy vocabulary."""

import numpy as np

from dpojax.rollout.sampler import Sample, generate
from dpojax.scoring import sample_kl
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


def probability(params, answer):
  return np.prod([next_probabilities(params, [*PROMPT, *answer[:t]])[token] for t, token in enumerate(answer)])


def as_samples(answers):
  return [
    Sample(np.asarray(a, np.int32), "eos" if a[-1] == EOS else "length", np.zeros(len(a), np.float32)) for a in answers
  ]


def test_mean_over_all_answers_is_the_sequence_kl():
  answers = all_answers(4)
  p = np.array([probability(POLICY, answer) for answer in answers])
  q = np.array([probability(REFERENCE, answer) for answer in answers])
  np.testing.assert_allclose([p.sum(), q.sum()], 1, rtol=1e-9)
  kl, tokens = sample_kl(MODEL, POLICY, REFERENCE, [PROMPT] * len(answers), as_samples(answers))
  assert_sums_close(p @ kl, p @ np.log(p / q), p @ np.abs(np.log([p, q])).sum(0))
  assert kl.dtype == np.float64
  assert tokens.tolist() == [len(answer) for answer in answers]


def test_each_sample_gets_its_own_steps():
  prompts = [np.resize(np.array([1, 2, 2], np.int32), n) for n in (1, 30, 4, 9, 2, 17, 3)]
  samples = [each[0] for each in generate(MODEL, POLICY, prompts, max_tokens=20, eos_id=EOS, seed=2)]
  kl, _ = sample_kl(MODEL, POLICY, REFERENCE, prompts, samples, rows=2, row_length=16)
  for prompt, sample, value in zip(prompts, samples, kl, strict=True):
    steps = size = 0.0
    for t in range(len(sample.tokens)):
      prefix = [*prompt, *sample.tokens[:t]]
      p, q = next_probabilities(POLICY, prefix), next_probabilities(REFERENCE, prefix)
      steps += p @ np.log(p / q)
      size += p @ np.abs(np.log([p, q])).sum(0)
    assert_sums_close(value, steps, size)


def test_equal_parameters_have_no_divergence():
  answers = all_answers(3)
  kl, _ = sample_kl(MODEL, POLICY, POLICY, [PROMPT] * len(answers), as_samples(answers))
  np.testing.assert_array_equal(kl, 0)


def test_no_samples():
  kl, tokens = sample_kl(MODEL, POLICY, REFERENCE, [], [])
  assert kl.shape == tokens.shape == (0,)
