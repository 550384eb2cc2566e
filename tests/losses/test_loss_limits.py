"""Where one loss turns into another, and what its gradient passes through."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_draws import (
  NAMES,
  draw,
  gradients_of,
  kind_of,
  loss_of,
  pairs,
)

from dpojax.losses import LOSSES, loss_options
from dpojax.losses.divergences import DIVERGENCES, alpha_divergence, get_divergence
from dpojax.losses.logps import PairLogps, SingleLogps

pytestmark = pytest.mark.usefixtures("float64")


# Limits: one loss turns into another.


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if "f_divergence" in loss_options(n)])
def test_reverse_kl_is_the_plain_loss(name):
  args, other = draw(name), get_divergence("forward_kl")
  plain = loss_of(name, args)
  np.testing.assert_array_equal(loss_of(name, args, f_divergence=get_divergence("reverse_kl")), plain)
  assert not np.allclose(loss_of(name, args, f_divergence=other), plain)


def test_alpha_divergences_join_the_two_kls():
  x = jnp.linspace(-6, 6, 25)
  np.testing.assert_allclose(alpha_divergence(0.0)(x), get_divergence("forward_kl")(x), rtol=1e-12)
  np.testing.assert_array_equal(alpha_divergence(1.0)(x), x)
  np.testing.assert_allclose(alpha_divergence(1 - 1e-5)(x), x, rtol=1e-4)
  assert get_divergence("alpha_divergence")(1.0 * x) == pytest.approx(np.asarray(alpha_divergence(0.5)(x)))
  chosen = get_divergence("alpha_divergence", {"divergence_alpha": jnp.asarray(0.2)})
  np.testing.assert_allclose(chosen(x), alpha_divergence(0.2)(x), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_are_0_at_the_reference_and_never_fall(name):
  # The slope there is f''(1).
  score = get_divergence(name)
  assert abs(float(score(jnp.zeros(())))) < 1e-15
  np.testing.assert_allclose(jax.grad(score)(0.0), 0.5 if name == "jensen_shannon" else 1.0, rtol=1e-12)
  assert np.all(np.diff(score(jnp.linspace(-100, 30, 300))) >= 0)


def test_tdpo_without_sequential_kl_is_dpo():
  policy, reference = draw("tdpo1")
  still = dataclasses.replace(policy, chosen_kl=np.zeros(5), rejected_kl=np.zeros(5))
  want = loss_of("dpo", (policy, reference), beta=0.3)
  np.testing.assert_array_equal(loss_of("tdpo1", (still, reference), beta=0.3), want)
  np.testing.assert_array_equal(loss_of("tdpo2", (still, reference), beta=0.3), want)
  np.testing.assert_array_equal(loss_of("tdpo2", (policy, reference), beta=0.3, alpha=0.0), want)
  one = loss_of("tdpo2", (policy, reference), beta=0.3, alpha=1.0)
  np.testing.assert_allclose(one, loss_of("tdpo1", (policy, reference), beta=0.3), rtol=1e-12)


def test_tdpo2_holds_the_chosen_answers_kl_and_tdpo1_does_not():
  args = draw("tdpo2")
  assert not np.any(gradients_of("tdpo2", args)["chosen_kl"])
  assert np.all(gradients_of("tdpo2", args)["rejected_kl"] > 0)
  assert np.all(gradients_of("tdpo1", args)["chosen_kl"] < 0)


@pytest.mark.slow
def test_dpop_is_dpo_until_the_chosen_answer_falls():
  reference = pairs([0.0, 0.0], [0.0, 0.0])
  policy = pairs([1.0, -1.0], [0.5, -3.0])
  got, plain = (loss_of(n, (policy, reference), beta=0.3) for n in ("dpop", "dpo"))
  assert float(got[0]) == float(plain[0]) and float(got[1]) > float(plain[1])
  np.testing.assert_array_equal(loss_of("dpop", (policy, reference), beta=0.3, penalty=0.0), plain)
  # The convention at the reference itself, where every run starts: no slope from the penalty.
  policy = dataclasses.replace(draw("dpo")[0], margin=None)
  assert jax.tree.all(
    jax.tree.map(
      np.array_equal, gradients_of("dpop", (policy, policy), beta=0.3), gradients_of("dpo", (policy, policy), beta=0.3)
    )
  )


def test_lengths_of_one_take_the_averages_away():
  one = np.ones(5, np.int32)
  policy, reference = (dataclasses.replace(x, chosen_length=one, rejected_length=one) for x in draw("dpo"))
  args = policy, reference
  np.testing.assert_array_equal(loss_of("dpo_norm", args, beta=0.3), loss_of("dpo", args, beta=0.3))
  np.testing.assert_array_equal(loss_of("ipo", args, beta=0.3), loss_of("ipo_sum", args, beta=0.3))


@pytest.mark.parametrize("name", ["dpo_norm", "ipo", "simpo", "alphapo", "orpo", "sft", "tpo_l"])
def test_averages_do_not_change_when_every_token_is_written_twice(name):
  args = draw(name)
  parts = ("chosen", "rejected", "prompt", "chosen_length", "rejected_length", "prompt_length", "logp", "length")
  twice = [dataclasses.replace(x, **{k: 2 * getattr(x, k) for k in parts if hasattr(x, k)}) for x in args]
  np.testing.assert_allclose(loss_of(name, twice), loss_of(name, args), rtol=1e-12)


def test_alphapo_tends_to_simpo():
  args = draw("alphapo")
  want = loss_of("simpo", args, beta=2.0, gamma=0.5)
  np.testing.assert_array_equal(loss_of("alphapo", args, beta=2.0, gamma=0.5, alpha=0.0), want)
  np.testing.assert_allclose(loss_of("alphapo", args, beta=2.0, gamma=0.5, alpha=1e-5), want, rtol=1e-3, atol=1e-6)


def test_unlikelihood_without_its_second_term_is_preferred_fine_tuning():
  args = draw("unlikelihood")
  np.testing.assert_array_equal(loss_of("unlikelihood", args, alpha=0.0), loss_of("preferred_ft", args))


def test_bco_of_either_answer_adds_up_to_bco_pair():
  policy, reference = (dataclasses.replace(x, margin=None) for x in draw("bco_pair"))
  total = 0.0
  for side, good in (("chosen", True), ("rejected", False)):
    single = [SingleLogps(getattr(x, side), np.ones(5, np.int32), np.full(5, good)) for x in (policy, reference)]
    total = total + loss_of("bco", single, beta=0.3)
  np.testing.assert_allclose(total, loss_of("bco_pair", (policy, reference), beta=0.3), rtol=1e-12)


def test_apo_zero_of_either_answer_adds_up_to_apo_zero():
  policy, reference = draw("apo_zero")
  total = 0.0
  for side, good in (("chosen", True), ("rejected", False)):
    single = [SingleLogps(getattr(x, side), np.ones(5, np.int32), np.full(5, good)) for x in (policy, reference)]
    total = total + loss_of("apo_zero_unpaired", single, beta=0.3)
  np.testing.assert_allclose(total, loss_of("apo_zero", (policy, reference), beta=0.3), rtol=1e-12)


# What a gradient passes through.


def test_dpos_gradient_is_beta_times_how_wrong_the_reward_is():
  # 2305.18290, Sec. 4: -beta sigmoid(r_l - r_w) on the chosen answer's log-prob, the opposite on the rejected one's.
  policy, reference = (dataclasses.replace(x, margin=None, weight=None) for x in draw("dpo"))
  got = gradients_of("dpo", (policy, reference), lambda *a, **k: loss_of(*a, **k).sum(), beta=0.3)
  margin = policy.chosen - policy.rejected - reference.chosen + reference.rejected
  np.testing.assert_allclose(got["chosen"], -0.3 / (1 + np.exp(0.3 * margin)), rtol=1e-12)
  np.testing.assert_allclose(got["rejected"], -got["chosen"])


def test_ktos_reference_point_is_held_and_never_negative():
  policy, reference = draw("kto")
  ahead = dataclasses.replace(policy, mismatched=reference.mismatched + 2.0)
  behind = dataclasses.replace(policy, mismatched=reference.mismatched - 2.0)
  level = dataclasses.replace(policy, mismatched=reference.mismatched)
  assert not np.any(gradients_of("kto", (ahead, reference))["mismatched"])
  moved = dataclasses.replace(reference, logp=reference.logp + 2.0)
  np.testing.assert_allclose(loss_of("kto", (ahead, reference)), loss_of("apo_zero_unpaired", (policy, moved)))
  np.testing.assert_array_equal(loss_of("kto", (behind, reference)), loss_of("kto", (level, reference)))
  np.testing.assert_array_equal(loss_of("kto", (level, reference)), loss_of("apo_zero_unpaired", (policy, reference)))


def test_no_gradient_reaches_bcos_shift():
  args = draw("bco")
  slope = jax.grad(lambda shift: loss_of("bco", args, shift=shift).sum())
  assert float(slope(jnp.asarray(0.3))) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if "reference" in LOSSES[n].reads])
def test_every_loss_with_a_reference_reads_it(name):
  policy, reference = draw(name, spread=0.5)
  moved = jax.tree.map(lambda x: x - 0.5 if x.dtype == np.float64 else x, reference)
  key = "chosen" if isinstance(policy, PairLogps) else "logp"
  moved = dataclasses.replace(reference, **{key: getattr(moved, key)})
  if kind_of(name) == "ranking":
    moved = dataclasses.replace(reference, logp=reference.logp * 1.5)
  assert not np.any(np.isclose(loss_of(name, (policy, moved)), loss_of(name, (policy, reference)), rtol=1e-9))
