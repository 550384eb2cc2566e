"""The registry, the containers of log-probs, and the modifiers that need no oracle."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax import losses
from dpojax.errors import ConfigError
from dpojax.losses import LOSSES, get_loss, loss_options, modifiers
from dpojax.losses.arrays import DATA
from dpojax.losses.divergences import DIVERGENCES, get_divergence
from dpojax.losses.logps import PairLogps, TokenLogps, log_ratios, pair_logps, weighted_mean
from dpojax.types import Answers


def test_log_ratios_subtract_per_token_before_they_sum():
  # Sums near 3000 nats have steps of 2^-12 in float32, between which this difference lies; per token it is exact.
  tokens = np.full((1, 1000), -6.0, np.float32)
  moved = tokens.copy()
  moved[0, ::2] += np.float32(2**-14)
  answer_of = np.repeat(np.array([[0, 1]], np.int32), 500, axis=1)

  def pair(logp):
    packed = TokenLogps(logp, answer_of, 2)
    sums = np.asarray(packed.sums())
    return PairLogps(sums[:, 0], sums[:, 1], tokens=packed)

  chosen, _ = log_ratios(pair(moved), pair(tokens))
  np.testing.assert_allclose(chosen, 250 * 2**-14, rtol=1e-6)


def test_pairs_are_answers_0_and_1_with_their_sums_and_lengths():
  # Three answers an example, the third not of the pair; the second example has no tokens of answer 1.
  answer_of = np.array([[0, 0, 1, 2, 3, 3, 3, 6]], np.int32)
  tokens = TokenLogps(-np.arange(1.0, 9.0, dtype=np.float32)[None], answer_of, 6, 3)
  pairs = pair_logps(tokens, margin=np.float32([0.5, 0.0]))
  np.testing.assert_array_equal(pairs.chosen, [-3, -18])
  np.testing.assert_array_equal(pairs.rejected, [-3, 0])
  np.testing.assert_array_equal(pairs.chosen_length, [2, 3])
  np.testing.assert_array_equal(pairs.rejected_length, [1, 0])
  assert pairs.tokens is tokens and pairs.margin is not None


def test_wpo_weighs_by_both_answers_and_empty_ones_count_nothing():
  answer_of = np.array([[0, 0, 1, 2, 3, 3, 6, 6]], np.int32)
  tokens = TokenLogps(-np.arange(1.0, 9.0, dtype=np.float32)[None], answer_of, 6, 3)
  collision = np.full((1, 8), -0.5, np.float32)
  want = np.exp([-1.5 - 3 + 1, -5.5 + 0.5 - 0])  # the second example's answer 1 is empty: a factor of 1
  np.testing.assert_allclose(modifiers.wpo_weights(tokens, collision), want, rtol=1e-6)


def test_losses_are_found_by_the_name_of_their_function():
  for name, loss in LOSSES.items():
    assert get_loss(name) is loss and loss.function.__name__ == name == loss.name
    assert loss.answers not in (Answers.ONE, Answers.ANY)
    assert loss.reads <= {"reference", "margin", "token_kl", "prompt", "mismatched", "opponent", "shift"}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_data_that_a_loss_needs_come_first_and_everything_else_by_name(name):
  parameters = inspect.signature(LOSSES[name].function).parameters.values()
  needed = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
  others = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
  assert needed and len(needed) + len(others) == len(parameters)
  assert all(p.name in DATA and p.default is p.empty for p in needed)
  assert all((p.default is None) == (p.name in DATA) and p.default is not p.empty for p in others)
  assert LOSSES[name].data + LOSSES[name].options == tuple(p.name for p in parameters)


def test_every_name_of_data_is_explained_once():
  said = re.findall(r"^  (\w+(?:, \w+)*): ", losses.__doc__ or "", re.M)
  assert sorted(name for names in said for name in names.split(", ")) == sorted(DATA)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_docstrings_say_what_a_reader_needs(name):
  text = inspect.getdoc(LOSSES[name].function) or ""
  assert "one value per" in text.split("\n\n")[0] + text.split("\n\n")[1]
  assert "\n\nValue:\n  " in text and "\n\nSource:\n" in text and "Args:" not in text and "TRL 1.16" in text
  for option in loss_options(name):
    assert f"\n  {option}: " in text, option


def test_options_are_the_keywords_a_loss_reads():
  assert loss_options("dpo") == ("beta", "f_divergence")
  assert loss_options("cdpo") == ("beta", "label_smoothing", "f_divergence")
  assert loss_options("kto") == ("beta", "desirable_weight", "undesirable_weight")
  assert loss_options("sft") == ()


def test_unknown_divergence_is_an_error_and_never_another_one():
  known = ", ".join(DIVERGENCES)
  with pytest.raises(ConfigError, match=rf"loss.f_divergence: unknown divergence 'kl'; known are {known}"):
    get_divergence("kl")


def test_weighted_means_leave_out_weight_0_whatever_it_holds():
  values = jnp.array([1.0, jnp.nan, 4.0])
  assert float(weighted_mean(values, np.array([1.0, 0.0, 3.0], np.float32))) == 13 / 4
  assert float(weighted_mean(values, np.zeros(3, np.float32))) == 0.0
  assert float(weighted_mean(values[::2], None)) == 2.5


@pytest.mark.slow
def test_desensitised_answers_keep_their_lengths_and_leave_other_answers_alone():
  # Two examples of three answers in one row, the third a scored prompt; tokens of two answers interleaved.
  answer_of = np.array([[0, 1, 1, 2, 1, 2, 2, 3, 3, 4, 6]], np.int32)
  tokens = TokenLogps(-np.arange(1.0, 12.0, dtype=np.float32)[None], answer_of, 6, 3)
  got = modifiers.length_desensitised(tokens, np.float32(0.5))
  want = -np.array([[1, 2, 3 / 2, 4, 5 / 2, 6, 7, 8, 9 / 2, 10, 11]], np.float32)
  np.testing.assert_array_equal(np.asarray(got.logp)[0, :10], want[0, :10])
  np.testing.assert_array_equal(got.lengths(), tokens.lengths())
  np.testing.assert_array_equal(modifiers.length_desensitised(tokens, np.float32(1)).logp, tokens.logp)


def test_dynamic_beta_is_held_at_a_hundredth_and_has_no_gradient():
  beta = lambda gap: modifiers.dynamic_beta(0.1, gap, 1.0)  # noqa: E731
  np.testing.assert_allclose([beta(jnp.float32(g)) for g in (1.0, 2.0, -9.0)], [0.1, 0.16, 0.001], rtol=1e-6)
  np.testing.assert_allclose(modifiers.dynamic_beta(0.1, jnp.float32(2.0), 1.0, strength=0.2), 0.12, rtol=1e-6)
  assert float(jax.grad(beta)(jnp.float32(2.0))) == 0.0


def test_running_means_forget_a_tenth():
  np.testing.assert_allclose(modifiers.running_mean(2.0, 4.0), 2.2)
  np.testing.assert_allclose(modifiers.running_mean(2.0, 4.0, keep=0.5), 3.0)


def test_the_reward_gap_is_the_weighted_mean_of_rewards_without_gradient():
  a, b, weight = (np.array(x, np.float32) for x in ([1.0, 2.0, 99.0], [0.5, -1.0, 0.0], [1.0, 3.0, 0.0]))
  gap = lambda a: modifiers.mean_reward_gap(a, b, weight, np.float32(0.2))  # noqa: E731
  np.testing.assert_allclose(gap(jnp.asarray(a)), 0.2 * (0.5 + 3 * 3.0) / 4, rtol=1e-6)
  assert not np.any(jax.grad(gap)(jnp.asarray(a)))


def test_bcos_shift_lies_between_the_means_of_either_kind():
  ratio = jnp.array([1.0, 3.0, -1.0, 50.0])
  desirable, weight = np.array([True, True, False, True]), np.array([1, 1, 2, 0], np.float32)
  shift = lambda x, w: modifiers.reward_shift(x, desirable, w, np.float32(0.5))  # noqa: E731
  np.testing.assert_allclose(shift(ratio, weight), (0.5 * 2.0 + 0.5 * -1.0) / 2)
  np.testing.assert_allclose(shift(ratio, None), 0.5 * (18.0 - 1.0) / 2, rtol=1e-6)
  assert not np.any(jax.grad(shift)(ratio, weight))
  none = modifiers.reward_shift(ratio, np.zeros(4, bool), None, np.float32(0.5))
  np.testing.assert_allclose(none, 0.5 * (0.5 * 53.0 / 4), rtol=1e-6)
