"""The oracles that TRL has no counterpart of, against theorems; and their derivatives against differences."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from oracle_parts import Pairs, Rankings, Singles, beta_dpo_beta, gradients, weighted_mean
from oracles import (
  ORACLES,
  PAIRED,
  aot,
  aot_unpaired,
  bco,
  bco_delta,
  bco_pair,
  cdpo,
  dpo,
  dpop,
  ipo,
  ipo_sum,
  kto,
  plackett_luce_dpo,
  tdpo1,
  tdpo2,
  xpo,
)
from reward_oracles import (
  LOSS,
  TIE,
  WIN,
  RankedRewards,
  Rewards,
  all_pairs,
  bradley_terry,
  davidson,
  davidson_probabilities,
  plackett_luce,
  rao_kupper,
  rao_kupper_probabilities,
)

EXACT = dict(rtol=1e-12, atol=1e-12)
SIZE = 4
OPTIONS = dict(beta=0.7, label_smoothing=0.2, gamma=0.3, alpha=0.4, lam=3.0, tau=0.5)
READS = {f: [name for name in OPTIONS if name in f.__code__.co_varnames] for f in PAIRED}


def draw(generator, lengths):
  return [(-generator.exponential(1.0, n)).tolist() for n in lengths]


def make(seed, lengths=(3, 1, 4, 2), **changes):
  """(policy, reference) with every field that a loss may read."""
  generator = np.random.default_rng(seed)

  def model():
    answers = {name: draw(generator, lengths) for name in ("chosen", "rejected", "prompt", "gold")}
    kl = {f"{s}_kl": generator.exponential(1.0, SIZE).tolist() for s in ("chosen", "rejected")}
    return Pairs(**answers, **kl, reference_wrote_chosen=[True, False, False, True])

  return tuple(dataclasses.replace(model(), **changes) for _ in range(2))


@pytest.mark.parametrize("loss", PAIRED, ids=lambda f: f.__name__)
def test_derivatives_are_those_of_differences(loss):
  policy, reference = make(1, weight=[1.0, 0.5, 0.0, 2.0], margin=[0.1, -0.2, 0.3, 0.0])
  options = {name: OPTIONS[name] for name in READS[loss]}

  def mean(model):
    return weighted_mean(loss(model, reference, **options), model.weight)

  step = 1e-5
  for field in ("chosen", "rejected", "prompt", "gold", "chosen_kl", "rejected_kl"):
    if loss is tdpo2 and field == "chosen_kl":
      continue  # held constant: its difference is not 0, its derivative is
    exact, table = gradients(mean, policy, field), getattr(policy, field)
    for i, row in enumerate(table):
      for t in range(len(row)) if isinstance(row, list) else [None]:

        def moved(by, table=table, i=i, t=t):
          new = [list(row) if isinstance(row, list) else row for row in table]
          if t is None:
            new[i] += by
          else:
            new[i][t] += by
          return dataclasses.replace(policy, **{field: new})  # noqa: B023

        want = (mean(moved(step)) - mean(moved(-step))) / (2 * step)
        np.testing.assert_allclose(exact[i] if t is None else exact[i][t], want, rtol=1e-6, atol=1e-8)


def test_what_a_loss_holds_constant_has_no_derivative():
  policy, reference = make(2)
  kl = gradients(lambda m: weighted_mean(tdpo2(m, reference, beta=0.5)), policy, "chosen_kl")
  assert kl == [0.0] * SIZE
  singles = [Singles(model.chosen, [True, False] * 2, model.rejected) for model in (policy, reference)]
  other = gradients(lambda m: weighted_mean(kto(m, singles[1], beta=0.5)), singles[0], "mismatched")
  assert not any(itertools.chain(*other))


def test_token_dpo_without_divergence_is_dpo():
  still = dict(chosen_kl=[0.0] * SIZE, rejected_kl=[0.0] * SIZE)
  policy, reference = make(3, **still)
  for loss in (tdpo1, tdpo2):
    np.testing.assert_allclose(loss(policy, reference, beta=0.7), dpo(policy, reference, beta=0.7), **EXACT)


def test_token_dpo_is_dpo_with_a_margin():
  policy, reference = make(4)
  kl = np.subtract(policy.rejected_kl, policy.chosen_kl)
  for loss, share in ((tdpo1, 1.0), (tdpo2, 0.5)):
    moved = dataclasses.replace(policy, margin=(0.7 * share * kl).tolist())
    np.testing.assert_allclose(loss(policy, reference, beta=0.7), dpo(moved, reference, beta=0.7), **EXACT)


def test_xpo_adds_the_log_prob_of_the_references_answer():
  policy, reference = make(4)
  bonus = np.subtract(xpo(policy, reference, beta=0.7, alpha=0.4), dpo(policy, reference, beta=0.7))
  written = [policy.chosen[0], policy.rejected[1], policy.rejected[2], policy.chosen[3]]
  np.testing.assert_allclose(bonus, [0.4 * sum(answer) for answer in written], **EXACT)


def test_dpop_penalises_only_where_the_chosen_answer_fell():
  policy, reference = make(5)
  fell = [sum(p) < sum(r) for p, r in zip(policy.chosen, reference.chosen, strict=True)]
  assert any(fell) and not all(fell)
  got, plain = dpop(policy, reference, beta=0.7, lam=2.0), dpo(policy, reference, beta=0.7)
  assert [bool(x > y) for x, y in zip(got, plain, strict=True)] == fell
  np.testing.assert_allclose(dpop(policy, reference, beta=0.7, lam=0.0), plain, **EXACT)


def test_conservative_dpo_is_dpo_averaged_over_swapped_labels():
  policy, reference = make(6)
  swapped = [dataclasses.replace(m, chosen=m.rejected, rejected=m.chosen) for m in (policy, reference)]
  want = 0.8 * np.array(dpo(policy, reference, beta=0.7)) + 0.2 * np.array(dpo(*swapped, beta=0.7))
  np.testing.assert_allclose(cdpo(policy, reference, beta=0.7, label_smoothing=0.2), want, **EXACT)


WITH_REFERENCE = "dpo cdpo robust_dpo dpo_norm hinge ipo ipo_sum exo_pair discopop tdpo1 tdpo2"


@pytest.mark.parametrize("name", WITH_REFERENCE.split())
def test_a_margin_is_what_a_better_reference_would_have_set(name):
  policy, reference = make(13, lengths=(1,) * SIZE)
  margin = [0.3, -0.2, 0.0, 0.5]
  better = dataclasses.replace(
    reference, chosen=[[x + m / 0.7] for [x], m in zip(reference.chosen, margin, strict=True)]
  )
  asked = dataclasses.replace(policy, margin=margin)
  np.testing.assert_allclose(
    ORACLES[name](asked, reference, beta=0.7), ORACLES[name](policy, better, beta=0.7), **EXACT
  )


def test_a_margin_without_a_reference():
  policy, reference = make(14)
  asked = dataclasses.replace(policy, margin=[0.3] * SIZE)
  for name in ("simpo", "alphapo"):
    np.testing.assert_allclose(ORACLES[name](asked, gamma=0.2), ORACLES[name](policy, gamma=0.5), **EXACT)
  above = [[*y[:-1], y[-1] + 0.3 / 0.7] for y in policy.rejected]
  worse = dataclasses.replace(policy, rejected=above)
  np.testing.assert_allclose(ORACLES["cpo"](asked, beta=0.7), ORACLES["cpo"](worse, beta=0.7), **EXACT)
  np.testing.assert_allclose(dpop(asked, reference, beta=0.7), dpop(worse, reference, beta=0.7), **EXACT)
  odds = [[p / (1 - p) for p in (np.exp(np.mean(y)) for y in side)] for side in (policy.chosen, policy.rejected)]
  want = 0.7 * np.log1p(np.exp(0.3) * np.divide(odds[1], odds[0]))
  got = np.subtract(ORACLES["orpo"](asked, beta=0.7), ORACLES["orpo"](asked, beta=0.0))
  np.testing.assert_allclose(got, want, **EXACT)


def test_likelihoods_by_hand():
  policy = Pairs([[-1.0, -2.0], [-4.0]], [[-3.0], [-0.5, -0.25]], prompt=[[-1.0], []], weight=[1.0, 3.0])
  assert ORACLES["preferred_ft"](policy) == [3.0, 4.0]
  assert ORACLES["unlikelihood"](policy, alpha=0.5) == [3.0 - 1.5, 4.0 - 0.375]
  got = [ORACLES["sft"](policy), *(ORACLES["orpo"](policy, beta=0.0, prompt_too=x) for x in (True, False))]
  want = [15 / (2 + 3 * 1), 16 / (3 + 3 * 1), 15 / (2 + 3 * 1)]  # 3 (4 with the prompt) + 3 * 4 nats
  np.testing.assert_allclose([weighted_mean(x, policy.weight) for x in got], want, **EXACT)


def test_ipo_of_single_tokens_needs_no_average():
  policy, reference = make(7, lengths=(1,) * SIZE)
  np.testing.assert_allclose(ipo(policy, reference, beta=0.7), ipo_sum(policy, reference, beta=0.7), **EXACT)


@pytest.mark.parametrize("loss", [aot, aot_unpaired])
def test_transport_gives_a_pair_of_weight_2_the_mass_of_two(loss):
  policy, reference = make(8)
  weight = [1, 2, 0, 3]
  repeated = [
    dataclasses.replace(
      m,
      **{s: [x for x, w in zip(getattr(m, s), weight, strict=True) for _ in range(w)] for s in ("chosen", "rejected")},
    )
    for m in (policy, reference)
  ]
  want = np.mean(loss(*repeated, beta=0.7))
  weighted = dataclasses.replace(policy, weight=[float(w) for w in weight])
  got = loss(weighted, reference, beta=0.7)
  np.testing.assert_allclose(weighted_mean(got, weighted.weight), want, **EXACT)
  assert got[2] == 0


def test_transport_is_the_cheapest_matching():
  # For a convex loss of the difference, equal quantiles are the cheapest way to join two sets of points.
  policy, reference = make(9)
  w, r, frozen_w, frozen_r = (
    np.array([sum(x) for x in getattr(m, s)]) for m in (policy, reference) for s in ("chosen", "rejected")
  )
  for loss, above, below in ((aot, w - r, frozen_w - frozen_r), (aot_unpaired, w - frozen_w, r - frozen_r)):
    costs = [
      np.logaddexp(0, -0.7 * (above - below[list(order)])).mean() for order in itertools.permutations(range(SIZE))
    ]
    np.testing.assert_allclose(np.mean(loss(policy, reference, beta=0.7)), min(costs), **EXACT)


def test_a_ranking_of_two_is_dpo_and_rankings_have_probability_one():
  policy, reference = make(10)
  ranked = [Rankings([list(pair) for pair in zip(m.chosen, m.rejected, strict=True)]) for m in (policy, reference)]
  np.testing.assert_allclose(plackett_luce_dpo(*ranked, beta=0.7), dpo(policy, reference, beta=0.7), **EXACT)
  total = 0.0
  for order in itertools.permutations(range(SIZE)):
    models = [Rankings([[[], *(m.chosen[i] for i in order)]]) for m in (policy, reference)]  # the first is absent
    total += math.exp(-plackett_luce_dpo(*models, beta=0.7)[0])
  np.testing.assert_allclose(total, 1.0, **EXACT)


def test_unpaired_bco_of_both_answers_is_that_of_the_pair():
  policy, reference = make(11)
  apart = [Singles([*m.chosen, *m.rejected], [True] * SIZE + [False] * SIZE) for m in (policy, reference)]
  values = np.reshape(bco(*apart, beta=0.7, delta=0.4), (2, SIZE)).sum(0)
  np.testing.assert_allclose(values, bco_pair(policy, reference, beta=0.7, delta=0.4), **EXACT)


def test_the_shift_of_bco_weighs_both_kinds_alike():
  assert bco_delta([([1.0, 3.0], [-1.0]), ([4.0], [0.0, -2.0, -4.0])]) == (0.5 + 1.0) / 2
  batches = [([1.0, 3.0], [-1.0, 0.5]), ([4.0, -2.0], [0.0, 7.0])]
  np.testing.assert_allclose(bco_delta(batches), np.mean(batches), **EXACT)


def test_beta_follows_the_batch():
  policy, reference = make(12)
  gap = np.mean(
    [
      sum(a) - sum(b) - sum(c) + sum(d)
      for a, b, c, d in zip(policy.chosen, policy.rejected, reference.chosen, reference.rejected, strict=True)
    ]
  )
  np.testing.assert_allclose(beta_dpo_beta(policy, reference, beta=0.2, mean=gap), 0.2, **EXACT)
  np.testing.assert_allclose(beta_dpo_beta(policy, reference, beta=0.2, mean=gap - 1, alpha=0.5), 0.3, **EXACT)
  assert beta_dpo_beta(policy, reference, beta=0.2, mean=gap + 100) == 1e-3


# Rewards.

LEADS = [-30.0, -1.3, 0.0, 0.4, 30.0]


@pytest.mark.parametrize(
  ("loss", "probabilities", "options"),
  [
    (rao_kupper, rao_kupper_probabilities, dict(theta=1.7)),
    (davidson, davidson_probabilities, dict(nu=0.6)),
  ],
)
def test_ties_take_their_share_of_probability_one(loss, probabilities, options):
  for lead in LEADS:
    each = probabilities(lead, *options.values())
    np.testing.assert_allclose(sum(each), 1.0, **EXACT)
    rewards = Rewards([lead] * 3, [0.0] * 3, label=[WIN, TIE, LOSS])
    np.testing.assert_allclose(loss(rewards, **options), -np.log(each), **EXACT)
  equal = probabilities(0.0, *options.values())
  assert equal[0] == equal[2]


def test_what_rao_kupper_and_davidson_say_of_equals():
  # Rao & Kupper: theta = 2 makes win, tie and loss of equals equally likely. Davidson: nu = 1 does.
  np.testing.assert_allclose(rao_kupper_probabilities(0.0, 2.0), [1 / 3] * 3, **EXACT)
  np.testing.assert_allclose(davidson_probabilities(0.0, 1.0), [1 / 3] * 3, **EXACT)


def test_without_ties_both_are_bradley_and_terry():
  rewards = Rewards(LEADS, [0.0] * 5, margin=[0.5] * 5, label=[WIN, LOSS, WIN, LOSS, LOSS])
  want = bradley_terry(rewards)
  np.testing.assert_allclose(rao_kupper(rewards, theta=1.0), want, **EXACT)
  np.testing.assert_allclose(davidson(rewards, nu=0.0), want, **EXACT)


def test_a_lost_comparison_is_a_won_one_seen_from_the_other_side():
  there = Rewards([0.3, 1.0, -2.0], [1.1, 0.2, 0.4], margin=[0.5, 0.2, 0.0], label=[WIN, LOSS, TIE])
  back = dataclasses.replace(there, chosen=there.rejected, rejected=there.chosen, label=[LOSS, WIN, TIE])
  for loss, options in (
    (bradley_terry, dict(label_smoothing=0.2, centring=0.1)),
    (rao_kupper, dict(theta=1.5, centring=0.1)),
    (davidson, dict(nu=0.5, centring=0.1)),
  ):
    np.testing.assert_allclose(loss(there, **options), loss(back, **options), **EXACT)


def test_a_tie_is_half_a_win_of_each_and_knows_no_margin():
  rewards = Rewards([1.5], [0.5], margin=[0.25], label=[0.5])
  want = (np.log1p(np.exp(-1)) + np.log1p(np.exp(1))) / 2
  np.testing.assert_allclose(bradley_terry(rewards, label_smoothing=0.3), [want], **EXACT)
  for loss, options in ((bradley_terry, {}), (rao_kupper, dict(theta=1.5)), (davidson, dict(nu=0.5))):
    plain = loss(dataclasses.replace(rewards, margin=None), **options)
    np.testing.assert_allclose(loss(rewards, **options), plain, **EXACT)
    for label in (1.0, 0.5, 0.0):
      same = dataclasses.replace(rewards, label=[label])
      centred = np.subtract(loss(same, centring=0.1, **options), loss(same, **options))
      np.testing.assert_allclose(centred, [0.1 * 2.0**2], **EXACT)


def test_bradley_terry_is_binary_cross_entropy_of_label_1():
  lead = np.array([0.4, -1.2])
  probability = 1 / (1 + np.exp(-(lead - 0.3)))
  rewards = Rewards((lead + 1).tolist(), [1.0, 1.0], margin=[0.3, 0.3])
  np.testing.assert_allclose(bradley_terry(rewards), -np.log(probability), **EXACT)
  centred = np.array(bradley_terry(rewards, centring=0.1)) - bradley_terry(rewards)
  np.testing.assert_allclose(centred, 0.1 * (lead + 2) ** 2, **EXACT)


def test_rankings_of_rewards():
  rewards = [0.3, -1.0, 2.0]
  orders = [[rewards[i] for i in order] for order in itertools.permutations(range(3))]
  values = plackett_luce(RankedRewards(orders))
  np.testing.assert_allclose(np.exp(-np.array(values)).sum(), 1.0, **EXACT)
  two = bradley_terry(Rewards([0.3], [-1.0]))
  present = [[True, False, True]]
  for loss in (plackett_luce, all_pairs):
    np.testing.assert_allclose(loss(RankedRewards([[0.3, 99.0, -1.0]], present)), two, **EXACT)
    assert loss(RankedRewards([[0.3, 1.0]], [[True, False]])) == [0.0]
  pairs = [bradley_terry(Rewards([rewards[i]], [rewards[j]]))[0] for i, j in ((0, 1), (0, 2), (1, 2))]
  np.testing.assert_allclose(all_pairs(RankedRewards([rewards])), [sum(pairs) / 3], **EXACT)


def test_every_oracle_has_its_name():
  assert all(f.__name__ == name for name, f in ORACLES.items())
