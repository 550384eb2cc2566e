"""Training with unlimited data on a bandit reaches the optimum that the closed form gives, whatever the method.

Every number of samples is stated; the rate falls to 0, so that what is left is the method's own fixed point.
"""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from dpojax.config.resolved import resolved
from dpojax.config.schema import PolicyGradientSettings
from dpojax.data.examples import TokenExample
from dpojax.data.packing import BatchShape, pack
from dpojax.environments.bandit import Bandit, total_variation
from dpojax.losses.spec import loss_spec
from dpojax.models.reward_model import RewardModel
from dpojax.models.tabular import TabularModel
from dpojax.objectives.policy_gradient import PolicyGradient
from dpojax.objectives.preference import Preference
from dpojax.recipes.rollouts import hyper
from dpojax.training.bandit_rollouts import arm_writer, bandit_rollouts
from dpojax.training.rollouts import Rollout
from dpojax.training.trainer import Trainer, one_step_late

BANDIT = Bandit([1.0, -0.5, 0.7, 0.2], np.log([0.1, 0.4, 0.2, 0.3]))
BETA = 0.5
MODEL = TabularModel.of(4)
NEAR = 0.02  # total variation; seeds 0 to 3 of what is below come within 0.01
ELSEWHERE = np.array([0.3, -0.2, 0.9, -1.1])  # logits


@functools.lru_cache  # equal optimizers share one compiled step
def falling(rate, steps):
  return optax.adam(optax.linear_schedule(rate, 0.0, steps))


@functools.lru_cache
def descent(rate):
  return optax.sgd(rate)


def settings_of(method, **options):
  given = dict(kl="reward", whiten="none", epochs=1, minibatches=1, kl_coef=BETA, update_kl_limit=0.0, critic="shared")
  return resolved(PolicyGradientSettings(method=method, **given | options))


def policy_trainer(settings, optimizer, bandit=BANDIT, *, start=None, dtype=np.float32):
  critic = RewardModel(MODEL) if settings.method == "ppo" else None
  objective = PolicyGradient(MODEL, critic, True, reduction=settings.reduction)
  reference = {"logits": bandit.start.astype(dtype)}
  policy = {"logits": np.asarray(bandit.start if start is None else start, dtype)}
  params = {"policy": policy} | ({} if critic is None else {"critic": {"score": np.zeros((1, 1), dtype)}})
  return Trainer(objective, optimizer, params, reference_params=reference, hyper=hyper(settings))


def trained(trainer, batches, steps):
  """Log-probs f64[A] after that many steps."""
  for _ in one_step_late(trainer.steps(batches, steps)):
    pass
  return MODEL.log_probs(trainer.policy_params)


class Comparisons:
  """Steps of n comparisons of two arms, labelled by Bradley and Terry: a row a pair, weighted by how often it came up.

  The arms are drawn by `writer`, logits f64[A], or where it is None by the trainer's policy as it is.
  """

  def __init__(self, n, trainer, writer, seed=0):
    self.n, self.trainer, self.writer, self.seed = n, trainer, writer, seed
    self.ahead = writer is not None
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    self.cells = tuple(np.asarray(pairs).T)
    ids = lambda arm: np.asarray([arm], np.int32)  # noqa: E731
    self.examples = [TokenExample(ids(0), (ids(a), ids(b)), index=i) for i, (a, b) in enumerate(pairs)]
    self.shape = BatchShape(groups=1, rows=len(pairs), length=3, scored=2, examples=1, answers=2)

  def counts(self, step):
    logits = MODEL.log_probs(self.trainer.policy_params) if self.writer is None else self.writer
    return BANDIT.draw_comparisons(self.n, logits, np.random.default_rng([self.seed, step]))

  def __call__(self, step):
    counts = self.counts(step)[self.cells]  # an arm against itself says nothing
    weighted = [dataclasses.replace(e, weight=float(n)) for e, n in zip(self.examples, counts, strict=True)]
    return pack(weighted, self.shape)


def pair_trainer(optimizer, *, start=None, dtype=np.float32):
  objective = Preference(MODEL, loss_spec("dpo", beta=BETA))
  reference = {"logits": BANDIT.start.astype(dtype)}
  policy = {"logits": np.asarray(BANDIT.start if start is None else start, dtype)}
  return Trainer(objective, optimizer, policy, reference_params=reference, hyper=dict(objective.spec.hyper))


# Where training ends.

ROLLOUTS = 100  # of 16 * 32 = 512 arms: 51,200 samples


def rolled_out(settings, folder, bandit=BANDIT, *, start=None, seed=0):
  steps = ROLLOUTS * settings.epochs * settings.minibatches
  trainer = policy_trainer(settings, falling(0.2, steps), bandit, start=start)
  rollouts = bandit_rollouts(trainer, bandit, settings, prompts=16, samples=32, folder=folder, seed=seed)
  return trained(trainer, rollouts, steps)


@pytest.mark.long
def test_rloo_reaches_the_optimum(tmp_path):
  optimum = BANDIT.optimum(BETA)
  assert total_variation(BANDIT.start, optimum) > 0.4
  assert total_variation(rolled_out(settings_of("rloo"), tmp_path), optimum) <= NEAR


@pytest.mark.slow
def test_ppo_reaches_the_optimum(tmp_path):
  settings = settings_of("ppo", epochs=2, minibatches=2)  # with a critic, and ratios that are not 1
  assert total_variation(rolled_out(settings, tmp_path), BANDIT.optimum(BETA)) <= NEAR


@pytest.mark.long
def test_held_tightly_the_policy_comes_back_to_the_reference(tmp_path):
  settings = settings_of("rloo", kl_coef=100.0)
  assert total_variation(ELSEWHERE, BANDIT.start) > 0.2
  assert total_variation(rolled_out(settings, tmp_path, start=ELSEWHERE), BANDIT.start) <= NEAR


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("online", [False, True], ids=["dpo", "online dpo"])
def test_comparisons_reach_the_optimum(online):
  steps = 200  # of 4,000 comparisons: 800,000
  trainer = pair_trainer(falling(0.1, steps))
  found = trained(trainer, Comparisons(4000, trainer, None if online else BANDIT.start), steps)
  assert total_variation(found, BANDIT.optimum(BETA)) <= NEAR


# What one step takes from its samples, by hand.


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_of_rloo_is_the_estimate_by_hand(tmp_path, dtype):
  with jax.enable_x64(dtype == np.float64):
    settings = settings_of("rloo")
    trainer = policy_trainer(settings, descent(0.5), start=ELSEWHERE, dtype=dtype)
    found = trained(trainer, bandit_rollouts(trainer, BANDIT, settings, prompts=8, samples=4, folder=tmp_path), 1)
    assert trainer.policy_params["logits"].dtype == dtype
  arms = Rollout.read(tmp_path / "rollouts/000000.npz", "").tokens.reshape(8, 4)
  p = np.exp(ELSEWHERE) / np.sum(np.exp(ELSEWHERE))
  returns = (BANDIT.rewards - BETA * (np.log(p) - BANDIT.start))[arms]
  estimate = np.zeros(4)
  for row, group in zip(returns, arms, strict=True):
    for k, arm in enumerate(group):
      others = np.mean(np.delete(row, k))
      estimate += (row[k] - others) * (np.eye(4)[arm] - p) / arms.size
  expected = ELSEWHERE + 0.5 * estimate
  # float32: some ten roundings of numbers below 2.
  np.testing.assert_allclose(np.exp(found), np.exp(expected) / np.sum(np.exp(expected)), atol=10 * np.finfo(dtype).eps)


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_of_online_dpo_is_the_gradient_by_hand(dtype):
  with jax.enable_x64(dtype == np.float64):
    trainer = pair_trainer(descent(0.5), start=ELSEWHERE, dtype=dtype)
    batches = Comparisons(500, trainer, None)
    counts = batches.counts(0)
    found = trained(trainer, batches, 1)
    assert trainer.params["logits"].dtype == dtype
  ratio, pull = ELSEWHERE - BANDIT.start, np.zeros(4)
  for a in range(4):
    for b in range(4):
      if a != b:
        lost = 1 / (1 + np.exp(BETA * (ratio[a] - ratio[b])))
        pull += counts[a, b] * BETA * lost * (np.eye(4)[a] - np.eye(4)[b])
  expected = ELSEWHERE + 0.5 * pull / (np.sum(counts) - np.trace(counts))
  np.testing.assert_allclose(np.exp(found), np.exp(expected) / np.sum(np.exp(expected)), atol=10 * np.finfo(dtype).eps)


# What rewards may change.


def after_some(settings, folder, bandit=BANDIT):
  """Log-probs after four roll-outs of the same draws."""
  trainer = policy_trainer(settings, descent(0.5), bandit)
  return trained(trainer, bandit_rollouts(trainer, bandit, settings, prompts=8, samples=4, folder=folder), 4)


@pytest.mark.long
def test_a_constant_reward_moves_rloo_nowhere_else_and_reinforce_elsewhere(tmp_path):
  richer = Bandit(BANDIT.rewards + 4.0, BANDIT.start)  # a power of 2: rewards keep their digits but the last two
  found = {
    (method, bandit): after_some(settings_of(method), tmp_path / f"{method}{i}", bandit)
    for method in ("rloo", "dr_grpo", "reinforce")
    for i, bandit in enumerate((BANDIT, richer))
  }
  for method in ("rloo", "dr_grpo"):
    np.testing.assert_allclose(found[method, richer], found[method, BANDIT], atol=1e-6)
  # In expectation a constant does nothing to REINFORCE either; in a sample it does, which is why baselines are.
  assert total_variation(found["reinforce", richer], found["reinforce", BANDIT]) > 0.01


@pytest.mark.slow
def test_twice_the_rewards_and_the_penalty_is_twice_the_step(tmp_path):
  doubled = Bandit(2 * BANDIT.rewards, BANDIT.start)
  settings = settings_of("rloo", kl_coef=2 * BETA)
  trainer = policy_trainer(settings, descent(0.25), doubled)  # of half the rate
  batches = bandit_rollouts(trainer, doubled, settings, prompts=8, samples=4, folder=tmp_path / "doubled")
  np.testing.assert_allclose(trained(trainer, batches, 4), after_some(settings_of("rloo"), tmp_path), atol=1e-6)


@pytest.mark.slow
def test_a_reward_of_seven_tenths_counts_as_seven_tenths(tmp_path):
  settings = settings_of("rloo", kl_coef=0.0)
  bandit = Bandit([0.7, 0.0, 0.0, 0.0], np.zeros(4))
  after_some(settings, tmp_path, bandit)
  stored = Rollout.read(tmp_path / "rollouts/000000.npz", "")
  first = stored.tokens[:, 0] == 0
  assert 0 < np.sum(first) < len(first)
  assert np.array_equal(stored.reward, np.where(first, 0.7, 0.0)) and np.array_equal(stored.score, stored.reward)
  group = np.argmax([0 < n < 4 for n in np.sum(first.reshape(8, 4), axis=1)])
  some = first.reshape(8, 4)[group]
  wins = np.sum(some)
  expected = np.where(some, 0.7 - 0.7 * (wins - 1) / 3, -0.7 * wins / 3)
  np.testing.assert_allclose(stored.advantage.reshape(8, 4)[group], expected, rtol=1e-14)


# The writer.


def test_arms_are_drawn_as_the_policy_says_and_by_number_alone():
  params = {"logits": ELSEWHERE.astype(np.float32)}
  write = arm_writer(MODEL, 1000, temperature=0.5, seed=3)
  seen = []
  samples = write(params, [np.zeros(1, np.int32)] * 40, range(40), lambda *done: seen.append(done))
  arms = np.asarray([[int(sample.tokens[0]) for sample in several] for several in samples])
  p = np.exp(2 * ELSEWHERE) / np.sum(np.exp(2 * ELSEWHERE))
  share = np.bincount(arms.reshape(-1), minlength=4) / arms.size
  assert np.all(np.abs(share - p) <= 4.5 * np.sqrt(p * (1 - p) / arms.size))
  assert samples[0][0].finished and seen == [(40_000, 40_000)]
  np.testing.assert_allclose([s.logp[0] for s in samples[0]], np.log(p[arms[0]]), atol=1e-6)
  (again,) = write(params, [np.zeros(1, np.int32)], [7], lambda *done: None)
  assert [int(sample.tokens[0]) for sample in again] == arms[7].tolist()
  assert len({tuple(row) for row in arms}) == 40
