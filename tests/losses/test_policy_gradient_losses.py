"""Policy-gradient losses: by cases, by finite differences, and by expectations that are enumerated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.errors import ShapeError
from dpojax.losses.policy_gradient import clipped_policy_loss, clipped_value_loss, kl_k1, kl_k3, log_ratio

in_float64 = pytest.mark.usefixtures("float64")
INF = float("inf")

# (ratio, advantage, clip, dual clip) -> (loss, its gradient by the log-prob).
POLICY = {
  "at ratio 1": ((1.0, 2.0, 0.2, INF), (-2.0, -2.0)),
  "at ratio 1, a bad token": ((1.0, -2.0, 0.2, INF), (2.0, 2.0)),
  "a good token, within": ((1.1, 2.0, 0.2, INF), (-2.2, -2.2)),
  "a good token, risen beyond": ((1.5, 2.0, 0.2, INF), (-2.4, 0.0)),
  "a good token, fallen: it may rise again": ((0.5, 2.0, 0.2, INF), (-1.0, -1.0)),
  "a bad token, within": ((0.9, -2.0, 0.2, INF), (1.8, 1.8)),
  "a bad token, fallen beyond": ((0.5, -2.0, 0.2, INF), (1.6, 0.0)),
  "a bad token, risen: it may fall again": ((3.0, -2.0, 0.2, INF), (6.0, 6.0)),
  "a bad token, below the second bound": ((3.0, -2.0, 0.2, 4.0), (6.0, 6.0)),
  "a bad token, beyond the second bound": ((3.0, -2.0, 0.2, 2.5), (5.0, 0.0)),
  "a good token knows no second bound": ((0.5, 2.0, 0.2, 1.1), (-1.0, -1.0)),
  "a good token, beyond, with a second bound": ((3.0, 2.0, 0.2, 1.1), (-2.4, 0.0)),
  "another clip": ((1.5, 2.0, 0.4, INF), (-2.8, 0.0)),
  "no advantage": ((1.5, 0.0, 0.2, INF), (0.0, 0.0)),
}

# (value, old value, target, clip) -> (loss, its gradient by the value).
VALUE = {
  "within": ((1.1, 1.0, 2.0, 0.2), (0.5 * 0.9**2, -0.9)),
  "beyond, towards the target: no gradient": ((1.5, 1.0, 2.0, 0.2), (0.5 * 0.8**2, 0.0)),
  "beyond, away from the target: it comes back": ((0.5, 1.0, 2.0, 0.2), (0.5 * 1.5**2, -1.5)),
  "below, towards the target": ((0.5, 1.0, 0.0, 0.2), (0.5 * 0.8**2, 0.0)),
  "below, away from the target": ((1.5, 1.0, 0.0, 0.2), (0.5 * 1.5**2, 1.5)),
  "another clip": ((1.5, 1.0, 2.0, 0.4), (0.5 * 0.6**2, 0.0)),
  "far beyond the target": ((4.0, 1.0, 2.0, 0.2), (0.5 * 2.0**2, 2.0)),
}


def value_and_gradient(function, x, *rest, **options):
  """Elementwise: the losses are sums of one value a token."""
  losses = function(x, *rest, **options)
  return losses, jax.grad(lambda y: jnp.sum(function(y, *rest, **options)))(x)


@pytest.mark.slow
@in_float64
@pytest.mark.parametrize("case", POLICY)
def test_policy_loss_by_cases(case):
  (ratio, advantage, clip, dual), expected = POLICY[case]
  logp = jnp.log(jnp.asarray([ratio])) - 1.3
  found = value_and_gradient(
    clipped_policy_loss, logp, jnp.asarray([-1.3]), jnp.asarray([advantage]), clip=clip, dual_clip=jnp.asarray(dual)
  )
  np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-14, atol=1e-15)


@in_float64
@pytest.mark.parametrize("case", VALUE)
def test_value_loss_by_cases(case):
  (value, old, target, clip), expected = VALUE[case]
  found = value_and_gradient(clipped_value_loss, *(jnp.asarray([x]) for x in (value, old, target)), clip=clip)
  np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-14, atol=1e-15)


def test_the_default_is_a_clip_of_a_fifth_and_no_second_bound():
  logp, zero, one = jnp.log(jnp.asarray([5.0])), jnp.zeros(1), jnp.ones(1)
  np.testing.assert_allclose(clipped_policy_loss(logp, zero, one), [-1.2], rtol=1e-6)
  np.testing.assert_allclose(clipped_policy_loss(logp, zero, -one), [5.0], rtol=1e-6)
  np.testing.assert_allclose(clipped_value_loss(one, zero, 2 * one), [0.5 * 1.8**2], rtol=1e-6)


@pytest.mark.slow
@in_float64
@pytest.mark.parametrize("dual_clip", [INF, 1.5])
def test_gradients_are_finite_differences(dual_clip):
  random = np.random.default_rng(0)
  behaviour, moved, advantage = random.normal(-2, 1, 400), random.normal(0, 0.5, 400), random.normal(0, 1, 400)
  functions = {
    "policy": lambda x: clipped_policy_loss(x, behaviour, advantage, clip=0.2, dual_clip=dual_clip),
    "value": lambda x: clipped_value_loss(x, behaviour, advantage, clip=0.3),
    "k1": lambda x: kl_k1(x, behaviour),
    "k3": lambda x: kl_k3(x, behaviour),
    "log-ratio": lambda x: log_ratio(x, behaviour),
  }
  x, step = behaviour + moved, 1e-6
  for name, function in functions.items():
    gradient = jax.grad(lambda y, f=function: jnp.sum(f(y)))(jnp.asarray(x))
    differences = (np.asarray(function(x + step)) - np.asarray(function(x - step))) / (2 * step)
    # Central differences of smooth pieces: 1e-12 of truncation, 1e-10 of rounding; no draw lies within 1e-6 of a kink.
    np.testing.assert_allclose(gradient, differences, rtol=1e-8, atol=1e-8, err_msg=name)
    # Where the loss is clipped it has none, and some but not all of these tokens are.
    assert name not in ("policy", "value") or 0.05 < np.mean(np.asarray(gradient) == 0) < 0.7


@in_float64
def test_log_ratios_are_held_within_20_nats():
  apart = jnp.asarray([-1e4, -20.5, -19.5, 0.0, 19.5, 20.5, 1e4])
  ratio, gradient = value_and_gradient(log_ratio, apart, jnp.zeros(7))
  np.testing.assert_array_equal(ratio, [-20.0, -20.0, -19.5, 0.0, 19.5, 20.0, 20.0])
  np.testing.assert_array_equal(gradient, [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0])
  # k3 reads the other direction of it.
  k3, gradient = value_and_gradient(kl_k3, apart, jnp.zeros(7))
  np.testing.assert_allclose(
    k3[jnp.array([0, 1, 5, 6])], [np.expm1(20) - 20] * 2 + [np.expm1(-20) + 20] * 2, rtol=1e-14
  )
  np.testing.assert_array_equal(gradient[jnp.array([0, 1, 5, 6])], 0.0)
  # k1, which a reward subtracts, is not held: it is what the policy is charged for.
  np.testing.assert_array_equal(kl_k1(apart, jnp.zeros(7)), apart)


@pytest.mark.slow
@pytest.mark.parametrize("advantage", [-3.0, 0.0, 3.0])
def test_extreme_tokens_leave_values_and_gradients_finite_in_float32(advantage):
  logp = jnp.asarray([-1e5, -200.0, -1.0, 0.0])
  for behaviour in (logp[::-1], jnp.zeros(4), logp):
    for dual_clip in (INF, 3.0):
      found = value_and_gradient(
        clipped_policy_loss,
        logp,
        behaviour,
        jnp.full(4, advantage),
        clip=jnp.float32(0.2),
        dual_clip=jnp.float32(dual_clip),
      )
      assert np.all(np.isfinite(found))
    assert np.all(np.isfinite(value_and_gradient(kl_k3, logp, behaviour)))


# Expectations over a distribution p = softmax(z), enumerated: what an estimator says on average, and its gradient by z.


def kl(z, other):
  return jnp.sum(jax.nn.softmax(z) * (jax.nn.log_softmax(z) - jax.nn.log_softmax(other)))


def expected(estimator, z, other):
  """Sum over tokens drawn from p of p * estimator; p itself is held constant."""
  drawn = jax.lax.stop_gradient(jax.nn.softmax(z))
  return jnp.sum(drawn * estimator(jax.nn.log_softmax(z), jax.nn.log_softmax(other)))


def as_reward(estimator, z, other):
  """What a policy gradient makes of an estimator that is a cost: its value times the gradient of the log-prob."""
  cost = lambda logp, reference: logp * jax.lax.stop_gradient(estimator(logp, reference))  # noqa: E731
  return expected(cost, z, other)


Z, OTHER = np.array([0.3, -1.0, 0.8, 0.1]), np.array([-0.2, 0.4, 0.9, -1.5])


@in_float64
def test_both_estimators_are_without_bias():
  for estimator in (kl_k1, kl_k3):
    np.testing.assert_allclose(expected(estimator, Z, OTHER), kl(Z, OTHER), rtol=1e-12)
  assert np.all(np.asarray(kl_k3(Z, OTHER)) >= 0)


@in_float64
def test_k1_as_a_reward_has_the_gradient_of_the_kl():
  np.testing.assert_allclose(jax.grad(as_reward, 1)(kl_k1, Z, OTHER), jax.grad(kl)(Z, OTHER), rtol=1e-12)
  # As a loss it has none at all on average.
  np.testing.assert_allclose(jax.grad(expected, 1)(kl_k1, Z, OTHER), 0.0, atol=1e-15)


@pytest.mark.slow
@in_float64
def test_k3_as_a_loss_has_the_gradient_of_the_other_kl():
  other_way = jax.grad(lambda z: kl(OTHER, z))(Z)
  np.testing.assert_allclose(jax.grad(expected, 1)(kl_k3, Z, OTHER), other_way, rtol=1e-12)
  assert np.max(np.abs(other_way - jax.grad(kl)(Z, OTHER))) > 0.05


@in_float64
def test_k3_as_a_reward_is_off_by_the_gradient_of_the_other_kl():
  other_way = jax.grad(lambda z: kl(OTHER, z))(Z)
  np.testing.assert_allclose(
    jax.grad(as_reward, 1)(kl_k3, Z, OTHER), jax.grad(kl)(Z, OTHER) - other_way, rtol=1e-12, atol=1e-15
  )


@in_float64
def test_exact_kl_as_a_reward_has_no_gradient_in_one_step():
  exact = lambda logp, reference: kl(logp, reference)  # noqa: E731
  np.testing.assert_allclose(jax.grad(as_reward, 1)(exact, Z, OTHER), 0.0, atol=1e-15)


PI_0, REWARD = np.log([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 0.5, 1.0, 2.0])


@in_float64
@pytest.mark.parametrize(
  ("cost", "apart"),
  [
    (lambda z: as_reward(kl_k1, z, PI_0), 0.0),
    (lambda z: kl(z, PI_0), 0.0),  # exact KL as a differentiable loss, which one step makes right
    (lambda z: as_reward(kl_k3, z, PI_0), 0.661),
    (lambda z: as_reward(lambda logp, reference: kl(logp, reference), z, PI_0), 0.661),
    (lambda z: expected(kl_k3, z, PI_0), 0.139),
  ],
  ids=["k1 as reward", "exact KL as loss", "k3 as reward", "exact KL as reward", "k3 as loss"],
)
def test_where_a_bandit_ends_under_each_form_of_the_kl(cost, apart):
  """Total variation from pi* = pi_0 e^r / Z after the exact gradient was followed; docs/ppo.md has these numbers."""
  objective = lambda z: jnp.sum(jax.nn.softmax(z) * REWARD) - cost(z)  # noqa: E731
  step = jax.jit(
    lambda z: jax.lax.scan(lambda z, _: (z + 0.5 * jax.grad(objective)(z), None), z, None, length=20_000)[0]
  )
  ended, best = jax.nn.softmax(step(jnp.asarray(PI_0))), jax.nn.softmax(PI_0 + REWARD)
  assert float(jnp.sum(jnp.abs(ended - best)) / 2) == pytest.approx(apart, abs=5e-4)


@in_float64
def test_at_ratio_1_the_expected_gradient_is_that_of_the_expected_reward():
  reward = np.array([1.0, -0.5, 0.7, 2.0])
  behaviour = np.asarray(jax.nn.log_softmax(Z))
  loss = lambda z: jnp.sum(np.exp(behaviour) * clipped_policy_loss(jax.nn.log_softmax(z), behaviour, reward))  # noqa: E731
  np.testing.assert_allclose(jax.grad(loss)(Z), -jax.grad(lambda z: jnp.sum(jax.nn.softmax(z) * reward))(Z), rtol=1e-12)


@pytest.mark.parametrize(
  ("function", "names"),
  [
    (clipped_policy_loss, ("logp", "behaviour_logp", "advantage")),
    (clipped_value_loss, ("value", "old_value", "value_target")),
    (kl_k1, ("logp", "reference_logp")),
    (kl_k3, ("logp", "reference_logp")),
    (log_ratio, ("logp", "behaviour_logp")),
  ],
)
def test_arrays_of_several_shapes_are_refused_by_name(function, names):
  for wrong in range(len(names)):
    given = [np.zeros((2, 3) if i == wrong else (2, 1)) for i in range(len(names))]
    with pytest.raises(ShapeError, match=rf"one shape.*'{names[wrong]}': \[2, 3\]"):
      function(*given)
