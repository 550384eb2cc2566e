"""The losses against float64 NumPy, and the theorems they obey."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpojax.errors import ConfigError
from dpojax.losses import LOSSES, get_loss, loss_options
from dpojax.types import PairLogps, TokenLogps, log_ratios

LENGTHS = dict(chosen_length=np.array([3, 5, 9]), rejected_length=np.array([4, 2, 7]))


def pairs(chosen, rejected):
  return PairLogps(np.asarray(chosen, np.float32), np.asarray(rejected, np.float32), **LENGTHS)


POLICY = pairs([-10.0, -21.5, -40.0], [-12.0, -20.0, -33.25])
REFERENCE = pairs([-11.0, -21.0, -36.0], [-11.5, -22.0, -35.0])


def log_sigmoid64(x):
  return -np.logaddexp(0.0, -np.asarray(x, np.float64))


def oracle(name, beta, eps=0.0):
  a = np.float64(POLICY.chosen) - np.float64(REFERENCE.chosen)
  b = np.float64(POLICY.rejected) - np.float64(REFERENCE.rejected)
  if name == "dpo":
    return -(1 - eps) * log_sigmoid64(beta * (a - b)) - eps * log_sigmoid64(-beta * (a - b))
  if name == "hinge":
    return np.maximum(0, 1 - beta * (a - b))
  if name == "ipo":
    return (a / LENGTHS["chosen_length"] - b / LENGTHS["rejected_length"] - 1 / (2 * beta)) ** 2
  if name == "ipo_sum":
    return (a - b - 1 / (2 * beta)) ** 2
  raise AssertionError(name)


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_value_is_that_of_the_formula_in_float64(name, beta):
  got = get_loss(name)(POLICY, REFERENCE, beta=np.float32(beta))
  np.testing.assert_allclose(got, oracle(name, beta), rtol=1e-5)
  assert got.shape == (3,)


def test_label_smoothing_is_the_expected_loss_under_swapped_labels():
  got = get_loss("dpo")(POLICY, REFERENCE, beta=np.float32(0.3), label_smoothing=np.float32(0.2))
  np.testing.assert_allclose(got, oracle("dpo", 0.3, 0.2), rtol=1e-5)
  swap = lambda x: PairLogps(x.rejected, x.chosen)  # noqa: E731
  right = get_loss("dpo")(POLICY, REFERENCE, beta=np.float32(0.3))
  wrong = get_loss("dpo")(swap(POLICY), swap(REFERENCE), beta=np.float32(0.3))
  np.testing.assert_allclose(got, 0.8 * np.asarray(right) + 0.2 * np.asarray(wrong), rtol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("dpo", np.log(2)), ("hinge", 1.0), ("ipo", 25.0), ("ipo_sum", 25.0)])
def test_value_at_the_reference(name, value):
  np.testing.assert_allclose(get_loss(name)(POLICY, POLICY, beta=np.float32(0.1)), value, rtol=1e-6)


def test_dpo_at_the_optimal_policy_is_the_bradley_terry_loss_of_the_reward():
  # pi* = pi_ref exp(r / beta) / Z: the partition function cancels within a pair (arXiv:2305.18290, Eq. 5-6).
  beta, log_z = 0.4, 1.7
  rewards = np.array([[1.0, -0.5], [0.2, 0.9], [-2.0, -2.0]])
  optimal = pairs(REFERENCE.chosen + rewards[:, 0] / beta - log_z, REFERENCE.rejected + rewards[:, 1] / beta - log_z)
  got = get_loss("dpo")(optimal, REFERENCE, beta=np.float32(beta))
  np.testing.assert_allclose(got, -log_sigmoid64(rewards[:, 0] - rewards[:, 1]), rtol=2e-5)


@settings(deadline=None, max_examples=50)
@given(margin=st.floats(-1e4, 1e4), beta=st.floats(0.01, 1.0))
def test_dpo_is_finite_with_its_gradient_at_any_margin(margin, beta):
  def loss(m):
    zero = jnp.zeros(1)
    return get_loss("dpo")(PairLogps(m, zero), PairLogps(zero, zero), beta=jnp.float32(beta)).sum()

  value, gradient = jax.value_and_grad(loss)(jnp.full(1, margin, jnp.float32))
  assert np.isfinite(value) and np.isfinite(gradient).all()
  assert -beta * 1.0001 <= float(gradient[0]) <= 0


def test_ipo_of_empty_slots_is_finite():
  empty = PairLogps(np.zeros(1, np.float32), np.zeros(1, np.float32), np.zeros(1, np.int32), np.zeros(1, np.int32))
  assert np.isfinite(get_loss("ipo")(empty, empty, beta=np.float32(0.1))).all()


def test_log_ratios_subtract_per_token_before_they_sum():
  # Sums near 6000 nats have steps of 5e-4 in float32; the per-token difference is exact.
  tokens = np.full((1, 1000), -6.0, np.float32)
  moved = tokens.copy()
  moved[0, ::2] += np.float32(2**-12)
  answer_of = np.repeat(np.array([[0, 1]], np.int32), 500, axis=1)

  def pair(logp):
    packed = TokenLogps(logp, answer_of, 2)
    sums = np.asarray(packed.sums())
    return PairLogps(sums[:, 0], sums[:, 1], tokens=packed)

  chosen, _ = log_ratios(pair(moved), pair(tokens))
  np.testing.assert_allclose(chosen, 250 * 2**-12, rtol=1e-6)


def test_options_are_the_keywords_a_loss_reads():
  assert loss_options("dpo") == ("beta", "label_smoothing")
  assert loss_options("ipo") == ("beta",)


def test_unknown_loss_is_an_error_and_never_another_loss():
  with pytest.raises(ConfigError, match=r"loss.name: unknown loss 'kto_pair'; known are dpo, hinge, ipo, ipo_sum"):
    get_loss("kto_pair")
