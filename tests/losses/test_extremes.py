"""Values and gradients in float32 at extremes."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_draws import (
  NAMES,
  PairRewards,
  RankedRewards,
  at_margin,
  draw,
  gradients_of,
  loss_of,
)

from dpojax.losses import loss_options
from dpojax.losses.divergences import DIVERGENCES, get_divergence
from dpojax.losses.logps import PairLogps, SingleLogps

pytestmark = pytest.mark.usefixtures("float64")


def extreme(name, dtype):
  """Log-ratios, log-probs or rewards of 0, +-90 and +-1e4, alone and together."""
  signs = np.array(list(itertools.product([-1e4, -90.0, 0.0, 90.0, 1e4], repeat=2)), dtype)
  policy, *reference = draw(name, size=len(signs), dtype=dtype)
  negative = -abs(signs)  # log-probs of losses that have no reference
  if isinstance(policy, PairLogps):
    a, b = (signs + np.stack([reference[0].chosen, reference[0].rejected], 1) if reference else negative).T
    policy = dataclasses.replace(policy, chosen=a, rejected=b)
  elif isinstance(policy, PairRewards):
    policy = dataclasses.replace(policy, chosen=signs[:, 0], rejected=signs[:, 1])
  elif isinstance(policy, SingleLogps):
    logp, mismatched = signs[:, 0] + reference[0].logp, signs[:, 1] + reference[0].mismatched
    policy = dataclasses.replace(policy, logp=logp, mismatched=mismatched)
  elif isinstance(policy, RankedRewards):
    policy = dataclasses.replace(policy, reward=np.concatenate([signs, policy.reward[:, 2:]], 1))
  else:
    first = signs if reference else negative
    policy = dataclasses.replace(policy, logp=np.concatenate([first, policy.logp[:, 2:]], 1))
  return (policy, *reference)


def combinations():
  for name in NAMES:
    for divergence in DIVERGENCES if "f_divergence" in loss_options(name) else ("reverse_kl",):
      yield name, divergence


@pytest.mark.sampled(17)
@pytest.mark.slow
@pytest.mark.parametrize(("name", "divergence"), list(combinations()))
def test_values_and_gradients_are_finite_wherever_the_exact_ones_fit(name, divergence):
  options = {"f_divergence": get_divergence(divergence)} if divergence != "reverse_kl" else {}

  def numbers(dtype):
    args = extreme(name, dtype)
    slopes = gradients_of(name, args, **options)
    out = [loss_of(name, args, **options), *(slopes[key] for key in sorted(slopes))]
    assert all(x.dtype == dtype for x in out)
    return [np.asarray(x) for x in out]

  got, exact = numbers(np.float32), numbers(np.float64)
  fits = abs(exact[0]) < 1e36
  if not name.startswith("ipo"):  # only squares of bounded exponentials do not fit
    assert fits.all()
  for one, other in zip(got, exact, strict=True):
    assert np.isfinite(other).all()
    assert np.isfinite(one[fits]).all()


@functools.cache
def of_margin(name):
  """(value, slope) of the loss at (margin, beta), compiled once for each dtype."""
  return jax.jit(jax.value_and_grad(lambda margin, beta: at_margin(name, margin, beta=beta)))


@pytest.mark.slow
@settings(max_examples=40)
@given(margin=st.floats(-1e4, 1e4), beta=st.floats(0.01, 1.0))
@pytest.mark.parametrize("name", ["dpo", "discopop", "exo_pair"])
def test_values_and_gradients_in_float32_are_those_in_float64(name, margin, beta):
  got, want = (of_margin(name)(np.asarray(margin, t), np.asarray(beta, t)) for t in (np.float32, np.float64))
  np.testing.assert_allclose(got, want, rtol=3e-3 if name == "discopop" else 1e-4, atol=1e-6)


@pytest.mark.slow
def test_orpo_near_certainty_keeps_its_odds():
  # e^p within 1e-12 of 1: 1 - e^p taken naively is 0 in float32. An answer of probability 1 has odds beyond any.
  lengths = np.ones(3, np.int32)
  policy = PairLogps(
    np.array([-1e-12, 0.0, -1e-12], np.float32), np.array([-1.0, -1.0, 0.0], np.float32), lengths, lengths
  )
  odds = lambda beta: loss_of("orpo", (policy,), beta=jnp.float32(beta))  # noqa: E731
  got = odds(1.0) - odds(0.0)
  exact = np.log1p(np.exp(-(-1e-12 - np.log(-np.expm1(-1e-12)) + 1.0 + np.log(-np.expm1(-1.0)))))
  np.testing.assert_allclose(got[0], exact, atol=1e-6)
  assert got[1] < 1e-30 and 50 < got[2] < 70
  assert all(np.isfinite(slope).all() for slope in gradients_of("orpo", (policy,)).values())
