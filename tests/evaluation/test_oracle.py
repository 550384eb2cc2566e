"""The oracle curve against worlds so small that every answer can be counted."""

import dataclasses

import numpy as np
import pytest

from dpojax.evaluation import oracle
from dpojax.evaluation.oracle import Curve, bootstrap_weights, curve_points, fraction_of_oracle, oracle_curve

LAMBDAS = (5.0, 2.0, 1.0, 0.6, 0.4)
TOKENS, LENGTH = 4, 4  # every text of 4 tokens: 256 answers


def texts_of(tables):
  """log-probs [A] of all texts under a table [L, V, V] of next-token probabilities, given the token before."""
  places = np.stack(np.meshgrid(*[np.arange(TOKENS)] * LENGTH, indexing="ij"), -1).reshape(-1, LENGTH)
  before = np.concatenate([np.zeros((len(places), 1), int), places[:, :-1]], axis=1)
  return sum(np.log(tables[t][before[:, t], places[:, t]]) for t in range(LENGTH))


def world(prompts=6, seed=0):
  """(rewards [P, A], reference [P, A], trained [P, A]): log-probs of all texts; the trained one has leant to reward."""
  generator = np.random.default_rng(seed)
  tables = [generator.dirichlet(np.full(TOKENS, 2.0), size=(2, LENGTH, TOKENS)) for _ in range(prompts)]
  reference = np.stack([texts_of(table[0]) for table in tables])
  rewards = generator.normal(0.5, 1.2, size=reference.shape)
  leant = reference + rewards + 0.5 * generator.normal(size=reference.shape)
  return rewards, reference, leant - np.log(np.sum(np.exp(leant), axis=1, keepdims=True))


def exact(rewards, reference, value):
  """(Z [P], reward [P], KL [P]) by summation over all answers."""
  tilted = np.exp(reference) * np.exp(rewards / value)
  z = tilted.sum(axis=1)
  policy = tilted / z[:, None]
  kl = np.sum(policy * (np.log(policy) - reference), axis=1)
  return z, np.sum(policy * rewards, axis=1), kl


def drawn(policies, counts, generator):
  """[P, K] numbers of answers, those of each policy beside each other."""
  found = []
  for logps, count in zip(policies, counts, strict=True):
    rows = [generator.choice(logps.shape[1], size=count, p=np.exp(row) / np.exp(row).sum()) for row in logps]
    found.append(np.stack(rows))
  return np.concatenate(found, axis=1)


def curve_of(rewards, reference, policies, counts, generator, lambdas=LAMBDAS):
  ids = drawn(policies, counts, generator)
  take = lambda values: np.take_along_axis(values, ids, axis=1)  # noqa: E731
  return oracle_curve(take(rewards), take(reference), np.stack([take(p) for p in policies], -1), counts, lambdas)


@pytest.mark.parametrize("counts", [(6000, 2000), (1000, 7000)])
def test_it_is_the_exact_curve(counts):
  rewards, reference, trained = world()
  curve = curve_of(rewards, reference, (reference, trained), counts, np.random.default_rng(1))
  for i, value in enumerate(curve.lambdas):
    z, reward, kl = exact(rewards, reference, value)
    # Standard errors at these thousands of answers are 0.01 to 0.03 a prompt: five of them.
    spread = 5 / np.sqrt(curve.ess[:, i])
    assert np.all(np.abs(curve.reward[:, i] - reward) < 1.3 * spread)
    assert np.all(np.abs(curve.log_z[:, i] - np.log(z)) < 2 * spread)
    assert np.all(np.abs(curve.kl[:, i] - kl) < 2 * spread)


def test_it_is_exact_with_every_answer_once():
  # Answers in proportion to a uniform mixture, so that nothing is left to chance.
  rewards, reference, _ = world()
  uniform = np.full((*rewards.shape, 1), -np.log(rewards.shape[1]))
  curve = oracle_curve(rewards, reference, uniform, [rewards.shape[1]], LAMBDAS)
  found = [exact(rewards, reference, value) for value in LAMBDAS]
  for values, wanted in ((np.exp(curve.log_z), 0), (curve.reward, 1), (curve.kl, 2)):
    np.testing.assert_allclose(values, np.stack([f[wanted] for f in found], 1), rtol=1e-12)  # float64 sums of 256


@pytest.mark.slow
def test_z_has_no_bias():
  rewards, reference, trained = world(prompts=1)
  generator = np.random.default_rng(2)
  found = np.concatenate(
    [
      np.exp(curve_of(rewards, reference, (reference, trained), (3, 2), generator, (1.0, 0.4)).log_z)
      for _ in range(4000)
    ]
  )
  for i, value in enumerate((1.0, 0.4)):
    error = found[:, i].std(ddof=1) / np.sqrt(len(found))
    assert error < 0.03 * found[:, i].mean()  # so the next line could see a bias of a tenth
    assert abs(found[:, i].mean() - exact(rewards, reference, value)[0][0]) < 4 * error


def test_a_mixture_of_one_is_plain_importance_sampling():
  rewards, reference, trained = world()
  ids = drawn((trained,), (50,), np.random.default_rng(3))
  r, p, q = (np.take_along_axis(x, ids, axis=1) for x in (rewards, reference, trained))
  curve = oracle_curve(r, p, q[..., None], [50], [0.7])
  weights = np.exp(p) / np.exp(q) * np.exp(r / 0.7)
  np.testing.assert_allclose(np.exp(curve.log_z[:, 0]), weights.mean(axis=1), rtol=1e-12)
  np.testing.assert_allclose(curve.reward[:, 0], (weights * r).sum(1) / weights.sum(1), rtol=1e-12)
  np.testing.assert_allclose(curve.ess[:, 0], weights.sum(1) ** 2 / (weights**2).sum(1), rtol=1e-12)


def test_the_same_policy_twice_is_one_policy():
  rewards, reference, _ = world()
  ids = drawn((reference,), (40,), np.random.default_rng(4))
  r, p = np.take_along_axis(rewards, ids, axis=1), np.take_along_axis(reference, ids, axis=1)
  once = oracle_curve(r, p, p[..., None], [40], LAMBDAS)
  twice = oracle_curve(r, p, np.stack([p, p], -1), [10, 30], LAMBDAS)
  np.testing.assert_allclose(once.kl, twice.kl, rtol=1e-9, atol=1e-12)


def test_kl_and_reward_rise_and_effective_answers_run_out():
  rewards, reference, trained = world()
  lambdas = np.geomspace(1e6, 1e-4, 60)
  ids = drawn((reference, trained), (30, 30), np.random.default_rng(5))
  r, p, q = (np.take_along_axis(x, ids, axis=1) for x in (rewards, reference, trained))
  curve = oracle_curve(r, p, np.stack([p, q], -1), (30, 30), lambdas)
  # Weights are e^(r / lambda), r / lambda up to 4e4: right to 1e-11, and KL has reward / lambda of them.
  assert np.all(np.diff(curve.kl, axis=1) >= -1e-6) and np.all(np.diff(curve.reward, axis=1) >= -1e-10)
  assert np.all(curve.kl[:, 0] < 1e-9)
  assert np.all((curve.ess >= 1 - 1e-9) & (curve.ess <= 60 + 1e-9))
  # Only copies of the best answer are left of 60.
  np.testing.assert_allclose(curve.ess[:, -1], np.sum(r == r.max(axis=1, keepdims=True), axis=1), rtol=0.05)
  np.testing.assert_allclose(curve.reward[:, -1], r.max(axis=1), rtol=0.01)


def test_equal_weights_are_whole_answers():
  same = np.zeros((3, 50))
  curve = oracle_curve(same, same, same[..., None], [50], [1.0])
  np.testing.assert_allclose(curve.ess, 50)
  np.testing.assert_allclose(curve.pooled_ess, 150)


def with_ess(ess, reward=None, kl=None):
  """A curve of 100 equal prompts with these effective answers each."""
  prompts = 100
  row = lambda values: np.tile(np.asarray(values, float), (prompts, 1))  # noqa: E731
  n = len(ess)
  reward, kl = (row(np.arange(n) if x is None else x) for x in (reward, kl))
  return Curve(1.0 / np.arange(1, n + 1), row(np.zeros(n)), reward, kl, row(ess))


def test_points_end_where_effective_answers_are_too_few(monkeypatch):
  weights = bootstrap_weights(100, 50)
  enough = oracle.LEAST_ESS_A_PROMPT + 0.1
  # Many prompts with few effective answers each have more than 200 together, and still say little.
  found = curve_points(with_ess([20, enough, enough - 0.2, 20]), weights)
  assert [p["ess"] for p in found] == pytest.approx([2000, 100 * enough])
  monkeypatch.setattr(oracle, "LEAST_ESS_A_PROMPT", 0)
  assert [p["ess"] for p in curve_points(with_ess([2.5, 2.0, 1.9, 3.0]), weights)] == pytest.approx([250, 200])
  assert len(curve_points(with_ess([3.0, 3.0]), weights)) == 2
  assert curve_points(with_ess([1.0]), weights) == []


def test_one_poor_prompt_counts():
  curve = with_ess([20.0])
  curve.ess[0] = 1.0
  assert curve.pooled_ess == pytest.approx(100**2 / (99 / 20 + 1))


def test_the_share_of_a_known_policy():
  curve = with_ess([50, 50, 50], reward=[1, 3, 4], kl=[1, 2, 3])
  weights = bootstrap_weights(100, 200, seed=1)
  flat = np.ones(100)
  between = fraction_of_oracle(curve, 1.5 * flat, 1.0 * flat, 0 * flat, weights)
  assert between["oracle"] == pytest.approx(2.0) and between["share"] == pytest.approx(0.5)
  assert between["share_low"] == pytest.approx(0.5) == between["share_high"]  # all prompts alike
  # Below the first point the curve goes on to the reference's own reward, at KL 0.
  near = fraction_of_oracle(curve, 0.5 * flat, 0.6 * flat, 0.2 * flat, weights)
  assert near["oracle"] == pytest.approx(0.6) and near["share"] == pytest.approx(1.0)
  nothing = dict.fromkeys(("oracle", "share", "share_low", "share_high"))
  assert fraction_of_oracle(curve, 3.1 * flat, 1.0 * flat, 0 * flat, weights) == nothing
  assert fraction_of_oracle(curve, 0 * flat, 0 * flat, 0 * flat, weights) == nothing
  noisy = np.where(np.arange(100) < 10, 9.0, 0.0)  # 0.9 before, against 1: a gain within the noise
  assert fraction_of_oracle(curve, 1 * flat, 2 * flat, noisy, weights) == nothing
  assert fraction_of_oracle(curve, 1 * flat, 2 * flat, 1.5 * flat, weights) == nothing  # its start is above the curve


def test_the_oracle_itself_has_all_of_its_gain():
  rewards, reference, trained = world(prompts=60)
  generator = np.random.default_rng(6)
  curve = curve_of(rewards, reference, (reference, trained), (150, 150), generator, np.geomspace(20, 0.3, 60))
  _, reward, kl = exact(rewards, reference, 0.8)
  start = np.sum(np.exp(reference) * rewards, axis=1)
  found = fraction_of_oracle(curve, kl, reward, start, bootstrap_weights(60))
  assert found["share"] == pytest.approx(1, abs=0.03)  # the curve's own standard error is 0.01
  assert found["share_low"] < found["share"] < found["share_high"] < found["share"] + 0.1
  worse = fraction_of_oracle(curve, kl, 0.5 * reward + 0.5 * start, start, bootstrap_weights(60))
  assert worse["share"] == pytest.approx(found["share"] / 2)


def test_a_bootstrap_draws_all_of_a_prompt_together():
  weights = bootstrap_weights(30, 500, seed=2)
  np.testing.assert_allclose(weights.sum(axis=1), 1)
  values = np.random.default_rng(0).normal(size=30)
  assert np.std(weights @ values) == pytest.approx(np.std(values) / np.sqrt(30), rel=0.15)  # of 500 draws: 3 %
  np.testing.assert_array_equal(weights, bootstrap_weights(30, 500, seed=2))


@pytest.mark.parametrize(
  "change, message",
  [
    ({"counts": [3, 3]}, "must be"),
    ({"counts": [5]}, "add up to the 6 answers"),
    ({"rewards": np.full((2, 6), np.nan)}, "finite"),
    ({"reference_logps": np.zeros((2, 5))}, "must be"),
    ({"lambdas": [1.0, 0.0]}, "above 0"),
    ({"lambdas": []}, "above 0"),
  ],
)
def test_what_is_refused(change, message):
  arguments = {
    "rewards": np.zeros((2, 6)),
    "reference_logps": np.zeros((2, 6)),
    "logps": np.zeros((2, 6, 1)),
    "counts": [6],
    "lambdas": [1.0],
  }
  with pytest.raises(ValueError, match=message):
    oracle_curve(**(arguments | change))


def test_draws_beyond_the_end_go_on_along_the_slope():
  # A straight curve, reward = KL, and a policy on it whose KL is that of the end: its share is 1 in every draw.
  curve = dataclasses.replace(with_ess([50, 50], reward=[1, 2], kl=[1, 2]), lambdas=np.ones(2))
  kl = np.linspace(1, 2.99, 100)
  found = fraction_of_oracle(curve, kl, kl, np.zeros(100), bootstrap_weights(100, 200))
  assert found["oracle"] == pytest.approx(kl.mean())
  assert [found[name] for name in ("share", "share_low", "share_high")] == pytest.approx([1, 1, 1])
