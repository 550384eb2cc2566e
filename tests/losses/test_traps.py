"""One test for each trap of `losses.md` that a loss can fall into, named after its number there."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_draws import NAMES, PAIRED, at_margin, draw, gradients_of, loss_of, pairs, plain, rows

from dpojax.errors import ConfigError, ShapeError
from dpojax.losses import LOSSES, get_loss, loss_options
from dpojax.losses.logps import weighted_mean
from dpojax.types import Answers

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_trap_1_no_loss_is_broadcast_to_a_square(name):
  # Under JAX's default, which lets [3, 1] - [3] be a square.
  given = plain(name, draw(name, size=3))
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    assert LOSSES[name].function(**given).shape == (3,)
    for key, value in given.items():
      wrong = [np.asarray(value)[..., None], np.asarray(value)[:2], np.asarray(value)[0]]
      for other in wrong if len(given) > 1 else wrong[::2]:
        with pytest.raises(ShapeError) as error:
          LOSSES[name].function(**{**given, key: other})
        # The array at fault and one that it was compared with, both with their shapes.
        found = re.findall(r"(\w+) (?:has shape|has) \[([\d, ]*)\]", str(error.value))
        assert str(error.value).startswith(f"{name}: ") and key in dict(found)
        shapes = {k: np.shape(v) for k, v in {**given, key: other}.items()}
        assert len(found) == min(2, len(given))
        assert all(tuple(map(int, re.findall(r"\d+", text))) == shapes[k] for k, text in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_trap_1_columns_alone_are_an_error_too_and_options_are_single_numbers(name):
  given = plain(name, draw(name, size=3))
  with jax.numpy_rank_promotion("allow"):
    with pytest.raises(ShapeError, match=rf"^{name}: \w+ has shape \[3, .*1\]"):
      LOSSES[name].function(**{key: np.asarray(value)[..., None] for key, value in given.items()})
    for option in set(LOSSES[name].options) - {"f_divergence"}:
      with pytest.raises(ShapeError, match=rf"^{name}: {option} has shape \[3\]; it must be one number"):
        LOSSES[name].function(**given, **{option: np.ones(3)})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_lists_and_integers_do_as_well_as_arrays(name):
  given = {key: np.round(value) if value.dtype == float else value for key, value in plain(name, draw(name)).items()}
  as_lists = {key: value.astype(int if value.dtype == float else value.dtype).tolist() for key, value in given.items()}
  if "label" in given:
    as_lists["label"] = given["label"].tolist()
  np.testing.assert_array_equal(LOSSES[name].function(**as_lists), LOSSES[name].function(**given))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "cdpo", "robust_dpo", "exo_pair", "discopop", "hinge", "dpo_norm"])
def test_trap_2_beta_scales_the_margin_once(name):
  # beta and the margin enter as their product only, so twice the one is twice the other.
  for margin in (-3.0, 0.5, 4.0):
    values = [at_margin(name, margin * 0.25 / beta, beta=beta) for beta in (0.25, 0.5, 1.0)]
    np.testing.assert_allclose(values, values[0], rtol=1e-12)


@pytest.mark.parametrize(
  ("name", "slope"), [("dpo", -0.5), ("hinge", -1.0), ("bco_pair", -0.5), ("apo_zero", -0.25), ("nca_pair", -0.25)]
)
def test_trap_2_at_the_reference_the_gradient_is_beta_times_a_number(name, slope):
  policy = draw(name, size=1)[0]
  policy = dataclasses.replace(policy, margin=None, weight=None)
  for beta in (0.1, 0.4):
    np.testing.assert_allclose(gradients_of(name, (policy, policy), beta=beta)["chosen"], slope * beta, rtol=1e-12)


@pytest.mark.slow
def test_trap_2_beta_is_no_factor_of_what_ipo_sppo_and_likelihoods_weigh():
  # IPO's and SPPO's beta moves the target; the curvature stays 2.
  for name in ("ipo", "ipo_sum"):
    curve = jax.grad(jax.grad(lambda m, name=name: at_margin(name, m, beta=0.25)))
    np.testing.assert_allclose(curve(1.0), 2.0, rtol=1e-12)
  args = draw("cpo")
  likelihood = [loss_of("cpo", args, beta=beta) - loss_of("cpo", args, beta=beta, alpha=0.0) for beta in (0.1, 0.7)]
  np.testing.assert_allclose(likelihood[0], likelihood[1], rtol=1e-9)


def test_trap_12_ipo_says_whether_it_averages():
  lengths = dict(chosen_length=np.array([5], np.int32), rejected_length=np.array([2], np.int32))
  policy, reference = pairs([2.0], [-3.0], **lengths), pairs([0.0], [0.0], **lengths)
  averaged, summed = (float(loss_of(name, (policy, reference), beta=0.5)[0]) for name in ("ipo", "ipo_sum"))
  np.testing.assert_allclose([averaged, summed], [(2 / 5 + 3 / 2 - 1) ** 2, (5.0 - 1) ** 2], rtol=1e-12)


@pytest.mark.parametrize("name", ["sigmoid", "kto_pair", "DPO", "ipo_mean", ""])
def test_trap_13_an_unknown_loss_is_an_error_and_never_another_loss(name):
  known = ", ".join(sorted(LOSSES))
  with pytest.raises(ConfigError, match=f"loss.name: unknown loss {name!r}; known are {known}"):
    get_loss(name)
  with pytest.raises(ConfigError, match="unknown loss"):
    loss_options(name)


def test_trap_13_kto_is_no_sigmoid_loss_of_pairs():
  # A bounded utility of single answers: between 0 and its weight, however far the policy goes.
  assert LOSSES["kto"].answers is Answers.UNPAIRED
  policy, reference = draw("kto", size=6)
  far = dataclasses.replace(policy, logp=reference.logp + np.array([-1e3, 1e3, -50.0, 50.0, -1.0, 1.0]))
  values = loss_of("kto", (far, reference), desirable_weight=2.0, undesirable_weight=2.0)
  assert np.all((values >= 0) & (values <= 2.0)) and np.any(values > 1.9)


def test_trap_13_no_two_losses_are_the_same_function():
  # But for those that are the same by definition at these options.
  values = {}
  for name in PAIRED:
    args = draw(name, spread=0.7)
    beta = {"beta": 0.4} if "beta" in loss_options(name) else {}
    values[name] = np.asarray(loss_of(name, args, **beta))
  same = {(a, b) for a in values for b in values if a < b and np.allclose(values[a], values[b], rtol=1e-6)}
  assert same == set()


@pytest.mark.parametrize("name", ["ipo", "dpo_norm"])
def test_trap_14_lengths_are_carried_and_not_guessed_from_log_ratios(name):
  # At the reference every log-ratio is 0; a token that has not moved still counts in its answer's length.
  policy = dataclasses.replace(draw(name)[0], margin=None)
  at_reference = loss_of(name, (policy, policy), beta=0.5)
  np.testing.assert_allclose(at_reference, 1.0 if name == "ipo" else np.log(2), rtol=1e-12)
  assert all(np.isfinite(slope).all() for slope in gradients_of(name, (policy, policy)).values())
  lengths = dict(chosen_length=np.array([4], np.int32), rejected_length=np.array([1], np.int32))
  moved = [pairs([x], [0.0], **lengths) for x in (2.0, 0.0)]  # one of four tokens moved by 2 nats
  want = (2 / 4 - 1) ** 2 if name == "ipo" else np.log1p(np.exp(-0.5 * 2 / 4))
  np.testing.assert_allclose(loss_of(name, moved, beta=0.5), want, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_trap_15_aot_sorts_the_global_batch(name):
  assert LOSSES[name].coupled
  args = [dataclasses.replace(x, weight=None) for x in draw(name, size=6)]
  whole = np.mean(loss_of(name, args))
  halves = [np.mean(loss_of(name, [rows(x, half) for x in args])) for half in (np.arange(3), np.arange(3, 6))]
  assert abs(whole - np.mean(halves)) > 1e-3
  # Padding is left out of the sort: empty slots, which would lie in the middle of it, change nothing.
  padded = [
    jax.tree.map(lambda x: np.concatenate([x, np.zeros_like(x[:2])]), dataclasses.replace(x, weight=np.ones(6)))
    for x in args
  ]
  values = loss_of(name, padded)
  np.testing.assert_allclose(weighted_mean(values, padded[0].weight), whole, rtol=1e-12)
  assert not np.any(values[6:])


def test_trap_17_a_mean_is_of_examples_and_not_of_batch_means():
  values = jnp.array([1.0, 2.0, 6.0, 6.0])
  weight = np.array([1.0, 1.0, 1.0, 0.0])  # the last row was filled up with a copy
  assert float(weighted_mean(values, weight)) == 3.0
