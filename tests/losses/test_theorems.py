"""Theorems that losses obey, whatever their numbers.

`AT_REFERENCE` has an entry for every loss of the registry; `test_conformance.test_registry_is_covered` sees to it.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_draws import (
  NAMES,
  PAIRED,
  ZERO,
  PairRewards,
  RankedRewards,
  at_margin,
  defaults,
  draw,
  kind_of,
  loss_of,
  pairs,
  swapped,
)

from dpojax.losses import LOSSES, loss_options
from dpojax.losses.divergences import DIVERGENCES, get_divergence
from dpojax.losses.logps import PairLogps, RankedLogps, SingleLogps

pytestmark = pytest.mark.usefixtures("float64")

LN2 = math.log(2)

# The value at policy = reference. Where there is no reference: at equal answers of a given log-prob and length.

W, N = -3.0, 4  # log-prob and tokens of every answer where there is no reference
AT_REFERENCE = {
  "dpo": lambda beta: LN2,
  "cdpo": lambda beta, label_smoothing: LN2,
  "robust_dpo": lambda beta, label_smoothing: LN2,
  "dpo_norm": lambda beta: LN2,
  "exo_pair": lambda beta, label_smoothing: -LN2 - math.log(label_smoothing * (1 - label_smoothing)) / 2,
  "discopop": lambda beta, tau: (1 + LN2) / 2,
  "dpop": lambda beta, penalty: LN2,
  "xpo": lambda beta, alpha: LN2 + alpha * W,
  "hinge": lambda beta: 1.0,
  "ipo": lambda beta: 1 / (4 * beta**2),
  "ipo_sum": lambda beta: 1 / (4 * beta**2),
  "tdpo1": lambda beta: LN2,
  "tdpo2": lambda beta, alpha: LN2,
  "nca_pair": lambda beta: 2 * LN2,
  "bco_pair": lambda beta: 2 * LN2,
  "sppo_hard": lambda beta: 1 / (2 * beta**2),
  "apo_zero": lambda beta: 1.0,
  "apo_down": lambda beta: 1.0,
  "aot": lambda beta, label_smoothing: LN2,
  "aot_unpaired": lambda beta, label_smoothing: LN2,
  "kto": lambda beta, desirable_weight, undesirable_weight: (desirable_weight / 2, undesirable_weight / 2),
  "apo_zero_unpaired": lambda beta, desirable_weight, undesirable_weight: (
    desirable_weight / 2,
    undesirable_weight / 2,
  ),
  "bco": lambda beta, shift: (math.log1p(math.exp(shift)), math.log1p(math.exp(-shift))),
  "plackett_luce_dpo": lambda beta: math.log(math.factorial(4)),
  "orpo": lambda beta: -W / N + beta * LN2,
  "simpo": lambda beta, gamma: math.log1p(math.exp(gamma)),
  "alphapo": lambda beta, gamma, alpha: math.log1p(math.exp(gamma)),
  "cpo": lambda beta, label_smoothing, alpha: LN2 - alpha * W / N,
  "tpo": lambda beta, label_smoothing, alpha: LN2 - alpha * W / N,
  "tpo_l": lambda beta, label_smoothing, gamma, alpha: (
    math.log1p(math.exp(gamma)) - label_smoothing * gamma - alpha * W / N
  ),
  "unlikelihood": lambda alpha: -W + alpha * W,
  "preferred_ft": lambda: -W,
  "sft": lambda: -W / N,
  "bradley_terry": lambda label_smoothing, centring: LN2 + 4 * centring * W**2,
  "rao_kupper": lambda tie_strength, centring: math.log1p(math.exp(tie_strength)) + 4 * centring * W**2,
  "davidson": lambda tie_strength, centring: math.log(2 + tie_strength) + 4 * centring * W**2,
  "plackett_luce": lambda: math.log(math.factorial(4)),
  "all_pairs": lambda: LN2,
}
SETTINGS = {
  "label_smoothing": 0.2,
  "beta": 0.4,
  "gamma": 0.7,
  "alpha": 0.2,
  "shift": 0.3,
  "undesirable_weight": 1.7,
  "centring": 0.01,
}


def equal_answers(name, size=3):
  kind = kind_of(name)
  logp, length = np.full((size, 4), W), np.full((size, 4), N, np.int32)
  if kind == "pair_rewards":
    return (PairRewards(logp[:, 0], logp[:, 1]),)
  if kind == "ranking_rewards":
    return (RankedRewards(logp, np.ones((size, 4), bool)),)
  if kind == "unpaired":
    policy = SingleLogps(logp[:, 0], length[:, 0], np.arange(size) % 2 == 0, mismatched=logp[:, 1])
  elif kind == "triple":
    policy = RankedLogps(logp[:, :3], length[:, :3])
  elif kind == "ranking":
    policy = RankedLogps(logp, length)
  else:
    zero = np.zeros(size)
    policy = PairLogps(
      logp[:, 0], logp[:, 1], length[:, 0], length[:, 1], chosen_kl=zero, rejected_kl=zero, opponent=logp[:, 0]
    )
  return (policy, policy) if "reference" in LOSSES[name].reads else (policy,)


@pytest.mark.slow
@pytest.mark.parametrize("changed", [False, True], ids=["defaults", "other_options"])
@pytest.mark.parametrize("name", NAMES)
def test_value_at_the_reference(name, changed):
  options = {k: SETTINGS[k] for k in loss_options(name) if k in SETTINGS} if changed else {}
  parameters = {k: v for k, v in defaults(name).items() if k != "f_divergence"} | options
  want = AT_REFERENCE[name](**parameters)
  want = np.where([True, False, True], *want) if isinstance(want, tuple) else want
  np.testing.assert_allclose(loss_of(name, equal_answers(name), **options), want, rtol=1e-12)


@pytest.mark.parametrize("name", [n for n in PAIRED if "reference" in LOSSES[n].reads])
def test_value_at_the_reference_does_not_depend_on_the_answers(name):
  policy = dataclasses.replace(draw(name)[0], margin=None, chosen_kl=np.zeros(5), rejected_kl=np.zeros(5))
  values = loss_of(name, (policy, policy))
  want = AT_REFERENCE[name](**{k: v for k, v in defaults(name).items() if k != "f_divergence"})
  if name == "xpo":  # but for its bonus, which has no reference
    want = want + defaults(name)["alpha"] * (policy.opponent - W)
  np.testing.assert_allclose(values, want)


# DPO and the Bradley-Terry model.


@pytest.mark.slow
def test_the_optimal_policy_turns_dpo_into_the_bradley_terry_loss():
  # pi* = pi_0 e^(r / beta) / Z over all answers of a toy vocabulary: Z cancels within a pair (2305.18290, Eq. 5 and 6).
  generator, beta = np.random.default_rng(1), 0.4
  start = np.log(generator.dirichlet(np.ones(6)))
  reward = generator.normal(0, 2, 6)
  tilted = start + reward / beta
  optimal = tilted - np.logaddexp.reduce(tilted)
  w, l = np.array(list(itertools.permutations(range(6), 2))).T  # noqa: E741
  got = loss_of("dpo", (pairs(optimal[w], optimal[l]), pairs(start[w], start[l])), beta=beta)
  np.testing.assert_allclose(got, loss_of("bradley_terry", (PairRewards(reward[w], reward[l]),)), rtol=1e-12)
  order = np.array(list(itertools.permutations(range(6), 4)))
  length = np.ones(order.shape, np.int32)
  got = loss_of(
    "plackett_luce_dpo", (RankedLogps(optimal[order], length), RankedLogps(start[order], length)), beta=beta
  )
  np.testing.assert_allclose(
    got, loss_of("plackett_luce", (RankedRewards(reward[order], length > 0),)), rtol=1e-12, atol=1e-12
  )


def test_xpos_bonus_is_on_average_minus_alpha_times_kl_from_the_reference():
  # Over answers y' of the reference, mean log pi(y') = -KL(reference || pi) - entropy of the reference. Enumerated.
  generator = np.random.default_rng(2)
  reference, policy = np.log(generator.dirichlet(np.ones(6), 2))
  options = dict(beta=0.4, alpha=0.3)
  other = np.full(6, policy[3]), np.full(6, reference[3])
  pair = pairs(policy, other[0], opponent=policy), pairs(reference, other[1])
  plain = loss_of("dpo", pair, beta=0.4)
  bonus = np.sum(np.exp(reference) * (loss_of("xpo", pair, **options) - plain))
  kl = np.sum(np.exp(reference) * (reference - policy))
  entropy = -np.sum(np.exp(reference) * reference)
  np.testing.assert_allclose(bonus, -0.3 * (kl + entropy), rtol=1e-12)


def test_f_dpo_at_its_optimum_is_the_bradley_terry_loss():
  # s(log pi*/pi_0) = (r - lambda) / beta; lambda cancels. Inverses of s written down for each divergence.
  reward = np.array([0.3, -0.2, 0.1, -0.4])
  shift, beta = 0.05, 1.5
  target = (reward - shift) / beta
  inverse = {
    "reverse_kl": target,
    "forward_kl": -np.log(1 - target),
    "jensen_shannon": -np.log(2 * np.exp(-target) - 1),
    "alpha_divergence": -2 * np.log(1 - target / 2),
  }
  assert set(inverse) == set(DIVERGENCES)
  for name, x in inverse.items():
    got = loss_of(
      "dpo", (pairs(x[:2], x[2:]), pairs([0.0, 0.0], [0.0, 0.0])), beta=beta, f_divergence=get_divergence(name)
    )
    np.testing.assert_allclose(got, loss_of("bradley_terry", (PairRewards(reward[:2], reward[2:]),)), rtol=1e-12)


def test_bradley_terry_is_binary_cross_entropy_with_label_1_and_the_difference_as_logit():
  (rewards,) = draw("bradley_terry")
  rewards = dataclasses.replace(rewards, label=None, margin=None)
  probability = 1 / (1 + np.exp(-(rewards.chosen - rewards.rejected)))
  label = np.ones(5)
  cross_entropy = -(label * np.log(probability) + (1 - label) * np.log(1 - probability))
  np.testing.assert_allclose(loss_of("bradley_terry", (rewards,)), cross_entropy, rtol=1e-12)


@pytest.mark.slow
def test_plackett_luce_with_two_answers_is_dpo():
  policy, reference = draw("dpo")
  policy = dataclasses.replace(policy, margin=None)
  length = np.ones((5, 2), np.int32)
  as_ranking = [RankedLogps(np.stack([x.chosen, x.rejected], 1), length) for x in (policy, reference)]
  want = loss_of("dpo", (policy, reference), beta=0.3)
  np.testing.assert_allclose(loss_of("plackett_luce_dpo", as_ranking, beta=0.3), want, rtol=1e-12)
  # A third and a fourth place with nobody in it change nothing.
  padded = [RankedLogps(np.pad(x.logp, ((0, 0), (0, 2))), np.pad(length, ((0, 0), (0, 2)))) for x in as_ranking]
  np.testing.assert_allclose(loss_of("plackett_luce_dpo", padded, beta=0.3), want, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plackett_luce", "all_pairs"])
def test_a_ranking_of_two_is_bradley_terrys(name):
  scores = np.random.default_rng(3).normal(0, 2, (5, 2))
  got = loss_of(name, (RankedRewards(scores, np.ones((5, 2), bool)),))
  np.testing.assert_allclose(got, loss_of("bradley_terry", (PairRewards(scores[:, 0], scores[:, 1]),)), rtol=1e-12)


def test_probabilities_of_all_rankings_sum_to_one():
  scores = np.random.default_rng(4).normal(0, 2, 4)
  orders = np.array(list(itertools.permutations(scores)))
  nll = loss_of("plackett_luce", (RankedRewards(orders, np.ones(orders.shape, bool)),))
  np.testing.assert_allclose(np.exp(-np.asarray(nll)).sum(), 1.0, rtol=1e-12)


# Label noise.


def test_label_smoothing_0_is_dpo():
  args = draw("dpo")
  for name in ("cdpo", "robust_dpo"):
    np.testing.assert_allclose(loss_of(name, args, beta=0.3, label_smoothing=0.0), loss_of("dpo", args, beta=0.3))


@pytest.mark.slow
def test_label_smoothing_one_half_has_its_minimum_at_margin_0():
  smooth = functools.partial(at_margin, "cdpo", beta=0.3, label_smoothing=0.5)
  assert abs(jax.grad(smooth)(0.0)) < 1e-15
  margins = np.linspace(-20, 20, 41)
  values = [float(smooth(m)) for m in margins]
  assert np.argmin(values) == 20
  np.testing.assert_allclose(values, values[::-1], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cdpo", "exo_pair"])
def test_smoothed_losses_have_their_minimum_where_the_policy_prefers_as_often_as_the_labels(name):
  # sigmoid(beta m) = 1 - eps: for cDPO cross-entropy, for EXO a KL divergence, which there is 0.
  beta, eps = 0.3, 0.2
  best = math.log((1 - eps) / eps) / beta
  loss = functools.partial(at_margin, name, beta=beta, label_smoothing=eps)
  assert abs(jax.grad(loss)(best)) < 1e-15
  assert all(loss(best + step) > loss(best) for step in (-1.0, 1.0))
  if name == "exo_pair":
    np.testing.assert_allclose(loss(best), 0.0, atol=1e-15)


def test_robust_dpo_is_unbiased_under_swapped_labels():
  policy, reference = (dataclasses.replace(x, margin=None) for x in draw("robust_dpo"))
  eps = 0.3
  clean = loss_of("dpo", (policy, reference), beta=0.3)
  right = loss_of("robust_dpo", (policy, reference), beta=0.3, label_smoothing=eps)
  wrong = loss_of("robust_dpo", (swapped(policy), swapped(reference)), beta=0.3, label_smoothing=eps)
  np.testing.assert_allclose((1 - eps) * right + eps * wrong, clean, rtol=1e-12)


def test_robust_dpo_on_noisy_labels_estimates_the_clean_loss():
  # Monte Carlo: 40,000 pairs whose labels were swapped with probability eps; five standard errors.
  generator, size, eps = np.random.default_rng(5), 40_000, 0.3
  policy, reference = (pairs(generator.normal(lead, 3, size), generator.normal(0, 3, size)) for lead in (3, 0))
  flip = generator.random(size) < eps
  noisy = [
    pairs(np.where(flip, x.rejected, x.chosen), np.where(flip, x.chosen, x.rejected)) for x in (policy, reference)
  ]
  clean = np.asarray(loss_of("dpo", (policy, reference), beta=0.5))
  estimate = np.asarray(loss_of("robust_dpo", noisy, beta=0.5, label_smoothing=eps))
  error = np.std(estimate - clean) / math.sqrt(size)
  assert abs(estimate.mean() - clean.mean()) < 5 * error
  plain = np.asarray(loss_of("dpo", noisy, beta=0.5))  # what unbiasedness is worth: the plain loss is far off
  assert abs(plain.mean() - clean.mean()) > 20 * error


# Minima.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ipo", "ipo_sum"])
def test_ipos_minimiser_has_the_margin_one_over_two_beta(name):
  beta = 0.25
  loss = functools.partial(at_margin, name, beta=beta)
  best = 1 / (2 * beta)
  assert float(loss(best)) == 0.0 and float(jax.grad(loss)(best)) == 0.0
  assert loss(best - 0.1) > 0 and loss(best + 0.1) > 0


def test_ipo_averages_over_lengths_where_ipo_sum_does_not():
  lengths = dict(chosen_length=np.array([4], np.int32), rejected_length=np.array([2], np.int32))
  policy = pairs([8.0], [-6.0], **lengths)
  reference = pairs([0.0], [0.0], **lengths)
  np.testing.assert_allclose(loss_of("ipo", (policy, reference), beta=0.1), (2.0 + 3.0 - 5.0) ** 2, atol=1e-12)
  np.testing.assert_allclose(loss_of("ipo_sum", (policy, reference), beta=0.1), (14.0 - 5.0) ** 2)


def test_sppos_minimiser_moves_either_answer_by_half_of_one_over_beta():
  best = 1 / (2 * 0.25)
  loss = lambda a, b: loss_of("sppo_hard", (PairLogps(a, b), ZERO), beta=0.25).sum()  # noqa: E731
  a, b = jnp.full(1, best), jnp.full(1, -best)
  assert float(loss(a, b)) == 0.0
  assert all(float(g[0]) == 0.0 for g in jax.grad(loss, argnums=(0, 1))(a, b))


def test_ncas_chosen_answer_comes_to_rest_where_its_reward_is_log_2():
  # -sigmoid(-r) + sigmoid(r) / 2 = 0 at e^r = 2, whereas BCO's never does.
  slope = jax.grad(lambda a, name: loss_of(name, (PairLogps(a, jnp.zeros(1)), ZERO), beta=0.5).sum())
  assert abs(slope(jnp.full(1, math.log(2) / 0.5), "nca_pair")[0]) < 1e-15
  assert slope(jnp.full(1, 30.0), "nca_pair")[0] > 0.2
  assert slope(jnp.full(1, 30.0), "bco_pair")[0] < 0
