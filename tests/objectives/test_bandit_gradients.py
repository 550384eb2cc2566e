"""Exact expected gradients on a bandit: where they vanish, where they must not, and what they are in closed form.

All in float64, by enumeration of every group of arms, with the objective and the advantages of training.
"""

import functools

import jax
import numpy as np
import pytest

from dpojax.config.resolved import resolved
from dpojax.config.schema import PolicyGradientSettings
from dpojax.environments.bandit import Bandit, total_variation
from dpojax.errors import ShapeError
from dpojax.losses.spec import loss_spec
from dpojax.models.reward_model import RewardModel
from dpojax.models.tabular import TabularModel
from dpojax.objectives.enumeration import expected_gradient, expected_pair_gradient
from dpojax.objectives.methods import advantages_of
from dpojax.objectives.policy_gradient import PolicyGradient
from dpojax.objectives.preference import Preference
from dpojax.recipes.rollouts import hyper
from dpojax.rollout.packed_rows import PackedRows, minibatch_shape
from dpojax.training.step import accumulate

pytestmark = pytest.mark.usefixtures("float64")

BANDIT = Bandit([1.0, -0.5, 0.7, 0.2], np.log([0.1, 0.4, 0.2, 0.3]))
BETA = 0.5
MODEL = TabularModel.of(4)
ELSEWHERE = np.array([0.3, -0.2, 0.9, -1.1])  # logits
ZERO = 1e-10
CLEARLY = 1e-2  # what must not vanish is at least so large; gradients away from the optimum are of order 0.1


def gradient(
  method,
  logits,
  bandit=BANDIT,
  *,
  samples=2,
  beta=BETA,
  critic=None,
  penalty=lambda k1: k1,
  temperature=1.0,
  model=MODEL,
  **options,
):
  """Of the loss, by the policy's parameters (and the critic's where one is given); `penalty` takes the place of k1."""
  settings = resolved(
    PolicyGradientSettings(method=method, **dict(kl="reward", whiten="none", reduction="sequence") | options)
  )
  made = functools.partial(advantages_of, settings, samples, coef=beta)

  def advantages(score, k1, value, length):
    return made(score, penalty(k1), value, length)

  objective = PolicyGradient(
    model,
    None if critic is None else RewardModel(model),
    True,
    temperature=temperature,
    reduction=settings.reduction,
    kl_loss=settings.kl == "loss",
  )
  name = next(iter(model.parameters))
  params = {"policy": {name: np.asarray(logits)}}
  if critic is not None:
    params["critic"] = {"score": np.array([[critic]])}
  reference = bandit.start * temperature if name == "logits" else np.zeros_like(logits)
  numbers = hyper(settings) | {"kl_coef": beta}
  found = expected_gradient(
    objective, params, {name: reference}, bandit.rewards, advantages, samples=samples, hyper=numbers
  )
  policy = np.asarray(found["policy"][name])
  assert policy.dtype == np.float64
  return policy if critic is None else (policy, float(found["critic"]["score"][0, 0]))


def ascent(logits, bandit=BANDIT, beta=BETA):
  """f64[A]: the gradient of E[r] - beta KL(pi || pi_0) by the logits, from the softmax score function."""
  p = np.exp(logits) / np.sum(np.exp(logits))
  worth = bandit.rewards - beta * (np.log(p) - bandit.start)
  score = np.eye(len(p)) - p  # row a: the gradient of log p(a)
  return np.sum((p * worth)[:, None] * score, axis=0)


def pair_gradient(logits, writer, bandit=BANDIT, *, beta=BETA, loss="dpo", model=MODEL, comparisons=None):
  objective = Preference(model, loss_spec(loss, beta=beta))
  name = next(iter(model.parameters))
  reference = bandit.start if name == "logits" else np.zeros_like(logits)
  seen = bandit.comparisons(writer) if comparisons is None else comparisons
  found = expected_pair_gradient(
    objective, {name: np.asarray(logits)}, {name: reference}, seen, hyper=objective.spec.hyper
  )
  return np.asarray(found[name])


# What vanishes at the optimum.

VALUE = float(np.exp(BANDIT.optimum(BETA)) @ BANDIT.rewards) - BETA * BANDIT.kl(BANDIT.optimum(BETA))
UNBIASED = {
  "ppo without a critic": dict(method="ppo"),
  "ppo, critic 0": dict(method="ppo", critic=0.0),
  "ppo, exact values": dict(method="ppo", critic=VALUE),
  "ppo, wrong values": dict(method="ppo", critic=-3.7),
  "ppo, lambda 0.5, gamma 0.9": dict(method="ppo", critic=0.3, gae_lambda=0.5, gamma=0.9),
  "rloo": dict(method="rloo"),
  "rloo of 3": dict(method="rloo", samples=3),
  "reinforce": dict(method="reinforce"),
  "dr_grpo": dict(method="dr_grpo"),
  "dr_grpo of 3": dict(method="dr_grpo", samples=3),
}


def policy_gradient(name, logits, **changes):
  found = gradient(logits=logits, **UNBIASED[name] | changes)
  return found[0] if "critic" in UNBIASED[name] else found


@pytest.mark.slow
@pytest.mark.parametrize("name", UNBIASED)
def test_it_vanishes_at_the_optimum(name):
  optimum = BANDIT.optimum(BETA)
  assert np.max(np.abs(policy_gradient(name, optimum))) <= ZERO
  assert np.max(np.abs(policy_gradient(name, BANDIT.start))) >= CLEARLY


@pytest.mark.slow
@pytest.mark.parametrize("name", UNBIASED)
@pytest.mark.parametrize("logits", [ELSEWHERE, BANDIT.start])
def test_it_is_the_gradient_of_the_objective(name, logits):
  samples = UNBIASED[name].get("samples", 2)
  # Dr. GRPO's mean holds the answer itself: of its return (K - 1) / K is left.
  share = (samples - 1) / samples if UNBIASED[name]["method"] == "dr_grpo" else 1.0
  np.testing.assert_allclose(policy_gradient(name, logits), -share * ascent(logits), rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["token", "answer", "constant"])
def test_answers_of_one_token_weigh_alike_in_every_reduction(reduction):
  expected = gradient("reinforce", ELSEWHERE, samples=1)
  np.testing.assert_allclose(expected, -ascent(ELSEWHERE), rtol=0, atol=1e-14)
  found = gradient("reinforce", ELSEWHERE, samples=1, reduction=reduction)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_the_analytic_gradient_is_that_of_the_objective():
  step = 1e-6
  for arm in range(4):
    up, down = (BANDIT.objective(ELSEWHERE + sign * step * np.eye(4)[arm], BETA) for sign in (1, -1))
    assert ascent(ELSEWHERE)[arm] == pytest.approx((up - down) / (2 * step), abs=1e-9)


@pytest.mark.slow
def test_the_critic_is_at_rest_where_it_expects_the_return():
  settled = gradient("ppo", BANDIT.optimum(BETA), critic=VALUE)[1]
  assert abs(settled) <= ZERO
  # Half the squared error times value_coef 0.1: the gradient is 0.1 (V - R).
  assert gradient("ppo", BANDIT.optimum(BETA), critic=VALUE + 0.1)[1] == pytest.approx(0.01, abs=1e-12)


@pytest.mark.slow
def test_at_a_temperature_the_policy_that_samples_is_the_optimum():
  temperature, optimum = 0.7, BANDIT.optimum(BETA)
  assert np.max(np.abs(gradient("rloo", temperature * optimum, temperature=temperature))) <= ZERO
  assert np.max(np.abs(gradient("rloo", optimum, temperature=temperature))) >= CLEARLY


@pytest.mark.slow
def test_a_policy_of_fewer_parameters_follows_the_gradient_through_its_features():
  features = np.array([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0], [-1.0, 0.3]])
  bandit, theta = Bandit(BANDIT.rewards, np.zeros(4)), np.array([0.4, -0.7])
  found = gradient("rloo", theta, bandit, model=TabularModel.of(4, features))
  np.testing.assert_allclose(found, -features.T @ ascent(features @ theta, bandit), rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_enumeration_is_the_mean_over_groups_of_what_a_step_takes(method):
  settings = resolved(PolicyGradientSettings(method=method, kl="loss", whiten="none"))
  objective = PolicyGradient(MODEL, reduction=settings.reduction, kl_loss=True)
  params, p = {"policy": {"logits": ELSEWHERE}}, np.exp(ELSEWHERE) / np.sum(np.exp(ELSEWHERE))
  sizes = dict(longest_prompt=1, shortest_prompt=1, max_tokens=1, minibatches=1, rows=1, length=3)
  shape = minibatch_shape(prompts=1, samples=2, **sizes)
  expected = np.zeros(4)
  step = jax.jit(lambda batch: accumulate(objective, params, {}, batch, numbers)[1])
  numbers = {name: np.float64(value) for name, value in hyper(settings).items()} | {"kl_coef": np.float64(BETA)}
  for first in range(4):
    for second in range(4):
      arms = np.array([first, second], np.int32)
      rows = PackedRows([np.zeros(1, np.int32)], [[arms[:1], arms[1:]]], shape)
      zeros, ones = np.zeros((2, 1)), np.ones(2, np.int64)
      advantage, _ = advantages_of(settings, 2, BANDIT.rewards[arms], zeros, zeros, ones, coef=0.0)
      named = dict(
        behaviour_logp=np.log(p[arms])[:, None], reference_logp=BANDIT.start[arms][:, None], advantage=advantage
      )
      batch = rows.batch(np.arange(1), {name: rows.by_slot(values) for name, values in named.items()})
      expected += p[first] * p[second] * np.asarray(step(batch)["policy"]["logits"])
  found = gradient(method, ELSEWHERE, kl="loss")
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


# DPO: wherever the pairs come from.


@pytest.mark.slow
@pytest.mark.parametrize("writer", [BANDIT.start, np.zeros(4), ELSEWHERE], ids=["reference", "uniform", "other"])
def test_dpo_vanishes_at_the_optimum_whoever_writes(writer):
  assert np.max(np.abs(pair_gradient(BANDIT.optimum(BETA), writer))) <= ZERO
  assert np.max(np.abs(pair_gradient(BANDIT.start, writer))) >= CLEARLY


@pytest.mark.slow
def test_online_dpo_vanishes_at_the_optimum():
  optimum = BANDIT.optimum(BETA)
  assert np.max(np.abs(pair_gradient(optimum, optimum))) <= ZERO
  assert np.max(np.abs(pair_gradient(ELSEWHERE, ELSEWHERE))) >= CLEARLY


def test_smoothed_labels_have_another_fixed_point():
  optimum = BANDIT.optimum(BETA)
  assert np.max(np.abs(pair_gradient(optimum, optimum, loss="cdpo"))) >= CLEARLY / 2


def test_the_gradient_of_dpo_by_hand():
  writer = np.exp(BANDIT.start)
  expected = np.zeros(4)
  for a in range(4):
    for b in range(4):
      wins = 1 / (1 + np.exp(BANDIT.rewards[b] - BANDIT.rewards[a]))
      margin = BETA * (ELSEWHERE[a] - ELSEWHERE[b] - BANDIT.start[a] + BANDIT.start[b])
      # Of the cross-entropy of (wins, 1 - wins), by the margin, for each order of drawing.
      pull = writer[a] * writer[b] * (1 / (1 + np.exp(-margin)) - wins) * BETA
      expected += pull * (np.eye(4)[a] - np.eye(4)[b])
  np.testing.assert_allclose(pair_gradient(ELSEWHERE, BANDIT.start), expected, rtol=0, atol=1e-14)


# What does not vanish there.


def k3(k1):
  return np.exp(-k1) - 1 + k1


def of_kl_from_the_reference(logits, bandit=BANDIT):
  """The gradient of KL(pi_0 || pi) by the logits."""
  return np.exp(logits) / np.sum(np.exp(logits)) - np.exp(bandit.start)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo without a critic", "rloo", "reinforce"])
def test_k3_as_a_reward_loses_the_gradient_of_the_other_divergence(name):
  optimum = BANDIT.optimum(BETA)
  assert np.max(np.abs(policy_gradient(name, optimum, penalty=k3))) >= CLEARLY
  for logits in (optimum, ELSEWHERE):
    expected = -ascent(logits) - BETA * of_kl_from_the_reference(logits)
    np.testing.assert_allclose(policy_gradient(name, logits, penalty=k3), expected, rtol=0, atol=1e-14)


def exact_kl(logits):
  """The divergence at the only step there is, in place of the k1 of the arm drawn."""
  return lambda k1: np.full_like(k1, BANDIT.kl(logits))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo without a critic", "rloo", "reinforce"])
def test_the_exact_divergence_as_a_reward_has_no_gradient(name):
  for logits in (BANDIT.optimum(BETA), ELSEWHERE):
    found = policy_gradient(name, logits, penalty=exact_kl(logits))
    np.testing.assert_allclose(found, -ascent(logits, beta=0.0), rtol=0, atol=1e-14)
    assert np.max(np.abs(found)) >= CLEARLY


@pytest.mark.slow
def test_the_exact_divergence_as_a_reward_runs_to_the_best_arm():
  held = lost = BANDIT.start
  for _ in range(300):
    held = held - 4 * gradient("rloo", held, samples=2)
    lost = lost - 4 * gradient("rloo", lost, samples=2, penalty=exact_kl(lost))
  assert total_variation(held, BANDIT.optimum(BETA)) <= 1e-6
  p = np.exp(lost) / np.sum(np.exp(lost))
  assert np.argmax(p) == np.argmax(BANDIT.rewards) and np.max(p) >= 0.98
  assert BANDIT.objective(lost, BETA) < BANDIT.objective(held, BETA) - 0.1


def kept_by_k3(bandit, beta):
  """Log-probs where beta p-weighted pulls balance: p (r - E r) = beta (p - pi_0), so p = beta pi_0 / (level - r)."""
  prior = np.exp(bandit.start)
  low, high = np.max(bandit.rewards + beta * prior), np.max(bandit.rewards) + beta
  for _ in range(200):
    level = (low + high) / 2
    low, high = (level, high) if np.sum(beta * prior / (level - bandit.rewards)) > 1 else (low, level)
  return np.log(beta * prior / (level - bandit.rewards))


def test_k3_as_a_loss_has_the_fixed_point_of_the_other_divergence():
  optimum, other = BANDIT.optimum(BETA), kept_by_k3(BANDIT, BETA)
  assert total_variation(optimum, other) >= 0.05
  # RLOO's gradient is that of the reward, whole; Dr. GRPO's is short of it by (K - 1) / K, as if beta were larger.
  assert np.max(np.abs(gradient("rloo", other, kl="loss"))) <= ZERO
  assert np.max(np.abs(gradient("rloo", optimum, kl="loss"))) >= CLEARLY
  assert np.max(np.abs(gradient("dr_grpo", kept_by_k3(BANDIT, 2 * BETA), kl="loss"))) <= ZERO
  assert np.max(np.abs(gradient("dr_grpo", optimum, kl="loss"))) >= CLEARLY
  expected = -ascent(ELSEWHERE, beta=0.0) + BETA * of_kl_from_the_reference(ELSEWHERE)
  np.testing.assert_allclose(gradient("rloo", ELSEWHERE, kl="loss"), expected, rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [2, 4])
def test_grpo_as_published_has_no_fixed_point_of_any_of_these(samples):
  optimum = BANDIT.optimum(BETA)
  short = samples / (samples - 1)
  for logits in (optimum, kept_by_k3(BANDIT, BETA), kept_by_k3(BANDIT, short * BETA)):
    assert np.max(np.abs(gradient("grpo", logits, samples=samples, kl="loss"))) >= CLEARLY


def test_grpo_divided_by_the_standard_deviation_points_elsewhere():
  found, expected = gradient("grpo", ELSEWHERE), -ascent(ELSEWHERE)
  cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
  assert cosine < 0.99
  assert gradient("dr_grpo", ELSEWHERE) @ expected == pytest.approx(expected @ expected / 2, rel=1e-12)


def test_grpo_rests_at_the_optimum_where_the_penalty_is_in_the_reward():
  # All returns are equal there, beta log Z, so that there is nothing to divide: a zero, but of every scaling.
  optimum = BANDIT.optimum(BETA)
  assert np.max(np.abs(gradient("grpo", optimum))) <= ZERO
  assert np.max(np.abs(gradient("grpo", optimum + 1e-3 * ELSEWHERE))) >= CLEARLY


# What changes nothing.


def test_with_a_large_penalty_the_fixed_point_is_the_reference():
  beta = 1e6
  assert total_variation(BANDIT.optimum(beta), BANDIT.start) <= 1e-6
  found = gradient("rloo", BANDIT.optimum(beta), beta=beta)
  assert np.max(np.abs(found)) <= ZERO * beta  # its terms are of that size
  assert np.max(np.abs(gradient("rloo", BANDIT.start + 1e-3 * ELSEWHERE, beta=beta))) >= 1e-5 * beta


@pytest.mark.parametrize("method", ["ppo", "rloo", "reinforce", "dr_grpo", "grpo"])
def test_a_constant_reward_changes_no_expectation(method):
  richer = Bandit(BANDIT.rewards + 5.3, BANDIT.start)
  found = gradient(method, ELSEWHERE, richer)
  np.testing.assert_allclose(found, gradient(method, ELSEWHERE), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["ppo", "rloo", "reinforce", "dr_grpo"])
def test_twice_the_rewards_and_the_penalty_is_twice_the_gradient(method):
  doubled = Bandit(2 * BANDIT.rewards, BANDIT.start)
  found = gradient(method, ELSEWHERE, doubled, beta=2 * BETA)
  np.testing.assert_allclose(found, 2 * gradient(method, ELSEWHERE), rtol=1e-12)
  np.testing.assert_allclose(doubled.optimum(2 * BETA), BANDIT.optimum(BETA), rtol=1e-12)


@pytest.mark.parametrize("method", ["ppo", "rloo", "reinforce"])
def test_a_reward_of_seven_tenths_counts_as_seven_tenths(method):
  bandit = Bandit([0.7, 0.0, 0.0, 0.0], np.zeros(4))
  found = gradient(method, np.zeros(4), bandit, beta=0.0)  # -p (r - E r) with p = 1/4 and E r = 0.7 / 4
  np.testing.assert_allclose(found, [-3 * 0.7 / 16, 0.7 / 16, 0.7 / 16, 0.7 / 16], rtol=1e-13)


def test_scores_and_comparisons_of_other_arms_are_refused():
  other = Bandit(np.zeros(3), np.zeros(3))
  with pytest.raises(ShapeError, match=r"\[4\], got \[3\]"):
    gradient("rloo", ELSEWHERE, other)
  with pytest.raises(ShapeError, match=r"\[4, 4\], got \[3, 3\]"):
    pair_gradient(ELSEWHERE, np.zeros(3), other)


# A policy of one parameter need not reach the optimum.


def root(function, low=-20.0, high=20.0):
  """Where a rising function crosses 0."""
  for _ in range(60):
    middle = (low + high) / 2
    low, high = (low, middle) if function(middle) > 0 else (middle, high)
  return middle


@pytest.mark.slow
def test_dpo_can_reverse_a_preference_where_rlhf_cannot():
  """Three arms, one parameter: what DPO fits depends on which pairs are compared (arXiv:2510.20413).

  The best arm lies at one end of the feature and the second best at the other. Data that compare mostly the second best
  with the worst pull towards the second best, though every comparison of it with the best says the contrary. The policy
  that maximises E[r] - beta KL is at least as good as the reference under any data, since J(theta) >= J(0) = E_0[r].
  """
  bandit = Bandit([2.0, 1.0, 0.0], np.zeros(3))
  features = np.array([1.0, -1.0, 0.0])
  model = TabularModel.of(3, features[:, None])
  often = np.array([[0, 1, 1], [1, 0, 98], [1, 98, 0]]) / 200  # how often each pair is compared
  rlhf = root(lambda t: gradient("rloo", np.array([t]), bandit, model=model)[0])
  dpo = root(
    lambda t: pair_gradient(np.array([t]), None, bandit, model=model, comparisons=2 * often * bandit.preference)[0]
  )
  reward = lambda theta: np.exp(features * theta) @ bandit.rewards / np.sum(np.exp(features * theta))  # noqa: E731
  assert rlhf > 0.5 and reward(rlhf) > reward(0.0) + 0.1
  assert dpo < -0.5 and reward(dpo) < reward(0.0) - 0.1  # arm 1 above arm 0, whose preference is sigmoid(1)
  everywhere = pair_gradient(np.array([0.0]), np.zeros(3), bandit, model=model)[0]
  assert everywhere < 0  # with every pair as often, DPO rises from the reference as well
