"""What `loss.name` may say, and the numbers it leads to."""

import dataclasses

import pytest

from dpojax.errors import ConfigError
from dpojax.losses import LOSSES
from dpojax.losses.spec import Term, hyper_parameters, loss_spec, parse_losses


@pytest.mark.parametrize(
  ("text", "terms"),
  [
    ("dpo", (Term("dpo"),)),
    (" 0.5 * dpo+sft ", (Term("dpo", 0.5), Term("sft"))),
    ("1e+1*ipo(beta=1e-1)", (Term("ipo", 10.0, (("beta", 0.1),)),)),
    ("simpo(beta=2, gamma=1)+-0.5*sft", (Term("simpo", 1.0, (("beta", 2.0), ("gamma", 1.0))), Term("sft", -0.5))),
  ],
)
def test_sums_are_read(text, terms):
  assert parse_losses(text) == terms


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("dpo +", r"cannot read '' in 'dpo \+'; write NAME, or 0.2\*NAME\(option=1\) \+ ..."),
    ("dpo sft", "cannot read 'dpo sft'"),
    ("2*", r"cannot read '2\*'"),
    ("dop", "unknown loss 'dop'; known are "),
    ("dpo + dpo", "dpo comes twice"),
    ("ipo(gamma=1)", "ipo has no option 'gamma'; it has beta"),
    ("dpo(f_divergence=1)", "dpo has no option 'f_divergence'; it has beta"),
    ("ipo(beta=big)", r"ipo\(beta=...\) must be a number, got 'big'"),
    ("1.2.3*ipo", "the weight of ipo must be a number, got '1.2.3'"),
    ("dpo + kto", r"read different data \(dpo reads a pair, kto reads an unpaired answer\)"),
  ],
)
def test_what_cannot_be_read_says_why(text, message):
  with pytest.raises(ConfigError, match=message):
    parse_losses(text)


def test_what_a_term_leaves_open_comes_from_all_terms_and_then_from_the_loss():
  terms = parse_losses("dpo + 0.2*simpo(gamma=1.5) + sft")
  assert hyper_parameters(terms, {}) == {
    "beta": 0.1,
    "simpo.beta": 2.0,
    "gamma": 1.5,
    "dpo.weight": 1.0,
    "simpo.weight": 0.2,
    "sft.weight": 1.0,
  }
  assert hyper_parameters(parse_losses("dpo + simpo"), {"beta": 0.5})["beta"] == 0.5
  assert "simpo.beta" not in hyper_parameters(parse_losses("dpo + simpo"), {"beta": 0.5})
  assert hyper_parameters(parse_losses("sft"), {"beta": None}) == {"beta": 0.1}
  assert hyper_parameters(parse_losses("3*sft"), {})["sft.weight"] == 3.0


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_number_of_every_loss_is_a_number(name):
  found = hyper_parameters(parse_losses(name), {"f_divergence": "reverse_kl", "beta": None})
  assert all(isinstance(value, float) for value in found.values())


def test_specs_that_differ_in_numbers_only_are_equal_and_others_are_not():
  one = loss_spec("dpo + 0.2*sft", beta=0.3, ld_alpha=0.5, dynamic_beta=0.6, margin_scale=1.0)
  other = loss_spec("2*dpo(beta=0.1) + sft", ld_alpha=0.7, dynamic_beta=0.1, margin_scale=0.5, divergence_alpha=0.2)
  assert one == other and hash(one) == hash(other)
  assert one.hyper != other.hyper and one.terms != other.terms
  plain = loss_spec("dpo")
  static = dict(name="ipo", f_divergence="forward_kl", wpo=True, ld_alpha=0.5, dynamic_beta=0.6, margin_scale=1.0)
  for name, value in static.items():
    assert loss_spec(**{"name": "dpo", name: value}) != plain, name
  assert loss_spec("orpo") != loss_spec("orpo", nll_span="answer")
  compared = {field.name for field in dataclasses.fields(plain) if field.compare}
  assert compared == {"names", "f_divergence", "wpo", "ld", "dynamic_beta", "margins", "score_prompt", "own"}


def test_what_a_spec_says_of_itself():
  spec = loss_spec("0.8*dpo(beta=0.1) + 0.2*simpo")
  assert spec.describe() == "0.8 dpo + 0.2 simpo" and spec.reads("reference") and not spec.reads("prompt")
  assert loss_spec("ipo", beta=0.5).describe() == "ipo, beta 0.5"
  assert loss_spec("preferred_ft").describe() == "preferred_ft"
  assert loss_spec("unlikelihood", alpha=0.1).describe() == "unlikelihood, alpha 0.1"
  assert loss_spec("dpo", sft_coef=0.2).describe() == "dpo + 0.2 sft, beta 0.1"
  assert loss_spec(rewards=True).describe() == "reward model, bradley_terry"
  assert loss_spec(rewards=True).of_rewards and not spec.of_rewards
  assert loss_spec("orpo").score_prompt and not loss_spec("dpo").score_prompt


def test_a_spec_refuses_what_no_loss_reads():
  with pytest.raises(ConfigError, match=r"loss\.betta: no loss has such an option"):
    loss_spec("dpo", betta=0.1)
