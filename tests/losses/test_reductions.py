"""What a value depends on: its own example or the batch, weights, empty slots, and what the registry says is read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_draws import (
  NAMES,
  PAIRED,
  draw,
  fields,
  gradients_of,
  kind_of,
  loss_of,
  mean_of,
  plain,
  rows,
)

from dpojax.losses import LOSSES
from dpojax.losses.modifiers import with_margin

pytestmark = pytest.mark.usefixtures("float64")


# What the registry says of a loss is so.


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if "reference" in LOSSES[n].reads])
def test_losses_of_ratios_see_nothing_but_the_difference_of_the_models(name):
  loss, given = LOSSES[name], plain(name, draw(name))
  moved = dict(given)
  for key in [key for key in given if f"reference_{key}" in given]:
    moved[key] = given[key] - given[f"reference_{key}"]
    moved[f"reference_{key}"] = np.zeros_like(given[key])
  same = np.array_equal(loss.function(**given), loss.function(**moved))
  assert same == loss.of_ratios


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if kind_of(n) in ("pair", "pair_rewards")])
def test_losses_read_margins_where_the_registry_says_so(name):
  args = draw(name, spread=0.5)
  if kind_of(name) == "pair_rewards":  # ties have no margin
    args = (dataclasses.replace(args[0], label=np.array([1.0, 0.0, 1.0, 0.0, 1.0])),)
  without = dataclasses.replace(args[0], margin=None)
  same = np.isclose(loss_of(name, args), loss_of(name, (without, *args[1:])), rtol=1e-9)
  assert not same.any() if "margin" in LOSSES[name].reads else same.all()


@pytest.mark.parametrize("name", PAIRED)
def test_a_margin_is_a_rejected_answer_that_is_as_much_better(name):
  # In units of beta times nats; per token where the loss averages. Not for rewards that bend.
  if "margin" not in LOSSES[name].reads or name in ("orpo", "alphapo"):
    return
  args, beta = draw(name), 0.4
  shift = args[0].margin / beta * (args[0].rejected_length if name in ("ipo", "dpo_norm", "simpo") else 1)
  moved = dataclasses.replace(args[0], margin=None, rejected=args[0].rejected + shift)
  np.testing.assert_allclose(loss_of(name, args, beta=beta), loss_of(name, (moved, *args[1:]), beta=beta), rtol=1e-9)


@pytest.mark.parametrize("name", ["orpo", "alphapo"])
def test_a_margin_makes_the_loss_larger(name):
  args = draw(name)
  more = with_margin(args[0], np.ones(5))
  np.testing.assert_allclose(more.margin, args[0].margin + 1)
  assert np.all(loss_of(name, (more,)) > loss_of(name, args))
  np.testing.assert_array_equal(with_margin(dataclasses.replace(more, margin=None), np.ones(5)).margin, np.ones(5))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_only_coupled_losses_look_at_other_examples(name):
  args = draw(name)
  if hasattr(args[0], "pairs_per_token"):
    args = (dataclasses.replace(args[0], pairs_per_token=np.float64(0.2)), *args[1:])
  if kind_of(name) == "unpaired":  # a mean of mismatched log-ratios above 0
    args = (dataclasses.replace(args[0], mismatched=args[1].mismatched + 1.0), *args[1:])

  def values(first):
    keys = [k for k in fields(args[0]) if k not in ("rejected", "pairs_per_token")]
    moved = {k: jnp.asarray(getattr(args[0], k)).at[0].add(first) for k in keys}
    return loss_of(name, (dataclasses.replace(args[0], **moved), *args[1:]))

  others = np.concatenate([np.asarray(values(x) - values(0.0))[1:] for x in (-30.0, 30.0)])
  assert np.any(others != 0) if LOSSES[name].coupled else not np.any(others != 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRED)
def test_losses_of_one_answer_do_not_see_the_other(name):
  args = draw(name, spread=0.5)
  other = dataclasses.replace(args[0], rejected=args[0].rejected - 3.0)
  same = np.isclose(loss_of(name, (other, *args[1:])), loss_of(name, args), rtol=1e-9)
  assert not same.any() if LOSSES[name].compares else same.all()


@pytest.mark.parametrize("name", PAIRED)
def test_losses_read_prompts_where_the_registry_says_so(name):
  args = draw(name)
  other = dataclasses.replace(args[0], prompt=args[0].prompt - 1.0)
  same = np.array_equal(loss_of(name, (other, *args[1:])), loss_of(name, args))
  assert same == ("prompt" not in LOSSES[name].reads)


def test_orpos_likelihood_is_over_prompt_and_answer_or_over_the_answer():
  (policy,) = draw("orpo")
  policy = dataclasses.replace(policy, weight=None)
  odds = loss_of("orpo", (policy,)) - loss_of("orpo", (policy,), beta=0.0)
  whole = -(policy.prompt + policy.chosen).sum() / (policy.prompt_length + policy.chosen_length).sum()
  np.testing.assert_allclose(loss_of("orpo", (policy,)).mean(), whole + odds.mean(), rtol=1e-12)
  answer = dataclasses.replace(policy, prompt=None, prompt_length=None)
  want = -policy.chosen.sum() / policy.chosen_length.sum()
  np.testing.assert_allclose(loss_of("orpo", (answer,)).mean(), want + odds.mean(), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "cpo", "tpo", "tpo_l", "orpo"])
def test_likelihood_terms_are_token_means_over_the_global_batch(name):
  # Two halves of a batch, each told the share of the whole, average to the whole: whatever the cut.
  args = draw(name, size=6)
  policy = args[0]
  length = np.asarray(policy.length)[:, 0] if hasattr(policy, "length") else np.asarray(policy.chosen_length)
  if name == "orpo":
    length = length + policy.prompt_length
  share = policy.weight.sum() / (policy.weight * length).sum()
  whole = mean_of(name, args)
  told = dataclasses.replace(policy, pairs_per_token=share)
  np.testing.assert_allclose(mean_of(name, (told,)), whole, rtol=1e-12)
  parts = [rows(dataclasses.replace(told, pairs_per_token=None), index) for index in (np.arange(2), np.arange(2, 6))]
  parts = [dataclasses.replace(part, pairs_per_token=share) for part in parts]
  total = sum((loss_of(name, (part,)) * part.weight).sum() for part in parts)
  np.testing.assert_allclose(total / policy.weight.sum(), whole, rtol=1e-12)
  if name == "sft":
    np.testing.assert_allclose(
      whole, -(policy.weight * policy.chosen).sum() / (policy.weight * length).sum(), rtol=1e-12
    )


# Order, weights, empty slots.


@pytest.mark.sampled(12)
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_examples_does_not_matter(name):
  args = draw(name, size=7)
  order = np.random.default_rng(9).permutation(7)
  moved = [rows(x, order) for x in args]
  np.testing.assert_allclose(loss_of(name, moved), np.asarray(loss_of(name, args))[order], rtol=1e-12)


@pytest.mark.sampled(38)
@pytest.mark.slow
@pytest.mark.parametrize("empty", [False, True], ids=["of_weight_0", "empty"])
@pytest.mark.parametrize("name", NAMES)
def test_an_example_of_weight_0_is_not_there(name, empty):
  # Value and gradient are those of the batch without it; its own gradient is 0, and nothing is NaN.
  args, gone = draw(name, size=6), 3
  weight = args[0].weight.copy()
  weight[gone] = 0.0
  kept = np.arange(6) != gone

  def emptied(x):
    x = np.asarray(x).copy()
    x[gone] = 0 if empty else x[gone]
    return x

  full = [dataclasses.replace(jax.tree.map(emptied, x), weight=weight) for x in args]
  short = [rows(x, kept) for x in full]
  np.testing.assert_allclose(mean_of(name, full), mean_of(name, short), rtol=1e-12)
  got, want = gradients_of(name, full), gradients_of(name, short)
  for key, slope in got.items():
    np.testing.assert_allclose(slope[kept], want[key], rtol=1e-11, atol=1e-15)
    assert not np.any(slope[gone])
  values = np.asarray(loss_of(name, full))
  assert np.isfinite(values).all()
  if LOSSES[name].coupled and name != "kto":
    assert values[gone] == 0


@pytest.mark.sampled(12)
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_of_weight_2_is_two_examples(name):
  args = [dataclasses.replace(x, weight=np.array([1.0, 2.0, 1.0, 3.0])) for x in draw(name, size=4)]
  many = [dataclasses.replace(rows(x, np.array([0, 1, 1, 2, 3, 3, 3])), weight=None) for x in args]
  np.testing.assert_allclose(mean_of(name, args), mean_of(name, many), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_empty_slots_has_a_finite_loss_and_no_gradient(name):
  args = [jax.tree.map(lambda x: np.zeros_like(x, np.float32 if x.dtype == float else x.dtype), x) for x in draw(name)]
  assert np.isfinite(loss_of(name, args)).all()
  assert float(mean_of(name, args)) == 0.0
  assert all(np.all(slope == 0) for slope in gradients_of(name, args).values())
