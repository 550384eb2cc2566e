"""Every loss against TRL 1.16's own values and gradients, and against the float64 oracles.

1e-12 in float64, which decides the formula; 1e-5 in float32, with gradients to 1e-4, once a loss and for what TRL
computed in float32: `test_extremes.py` has what only float32 can get wrong. `test_registry_is_covered` fails for a loss without an
oracle or without the theorems of `test_theorems.py`.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import test_oracles_against_trl as trl
from loss_draws import PairRewards, RankedRewards, kind_of, values_of
from loss_inputs import batch_of, given, run
from oracle_parts import (
  Pairs,
  Rankings,
  Singles,
  beta_dpo_beta,
  desensitised,
  gradients,
  weighted_mean,
  wpo_weights,
)
from oracles import ORACLES
from reward_oracles import RankedRewards as RankedScores
from reward_oracles import Rewards
from reward_oracles import all_pairs as all_pairs_oracle
from reward_oracles import bradley_terry as bradley_terry_oracle
from reward_oracles import davidson as davidson_oracle
from reward_oracles import plackett_luce as plackett_luce_oracle
from reward_oracles import rao_kupper as rao_kupper_oracle

from dpojax.losses import LOSSES, loss_options, modifiers
from dpojax.losses.logps import PairLogps
from dpojax.losses.logps import weighted_mean as weighted_mean_of_arrays

# (values, gradients) relative to what is expected or, near 0, absolute.
TOLERANCE = {np.float64: (1e-12, 1e-9), np.float32: (1e-5, 1e-4)}


def flat(nested):
  if isinstance(nested, list | tuple | np.ndarray):
    return [x for part in nested for x in flat(part)]
  return [np.nan if nested is None else float(nested)]


def close(got, want, tolerance, largest=None):
  """Compares nested lists; entries that are None in `want` could not be represented there and must be finite here."""
  got, want = np.asarray(flat(got)), np.asarray(flat(want))
  assert np.isfinite(got).all()
  want = np.where(np.isnan(want), got, want)
  np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * (largest or 1.0))


# TRL.


def renamed(name, options):
  """The oracles' options under the names that the losses have."""
  names = {"dpop": {"lam": "penalty"}, "bco": {"delta": "shift"}}.get(name, {})
  return {names.get(key, key): value for key, value in options.items()}


def ours(record, dtype):
  """(values, mean, gradient by answer tokens) of a golden record; sums of losses are summed as the step does."""
  policy, reference = trl.models(record)
  alpha = record["modifiers"].get("ld_alpha")
  values, mean, slopes = 0.0, 0.0, 0.0
  for weight, name, options in record.get("terms", [[1.0, record["loss"], record["options"]]]):
    options = {k: v for k, v in options.items() if k in loss_options(name) or k == "f_alpha"}
    change = None
    if alpha is not None and name != "sft":  # TRL leaves sft as it is
      change = functools.partial(modifiers.length_desensitised, alpha=np.asarray(alpha, dtype))
    got = run(name, policy, reference, options, dtype, change)
    values = values + weight * got[0].astype(np.float64)
    mean += weight * got[1]
    slopes = slopes + weight * np.asarray(flat(got[2]))
  if record["modifiers"].get("wpo"):
    scale = np.asarray(wpo_weights(policy))
    mean = (values * scale).mean()
    values = values * scale
    of_answer = [w for w, c, r in zip(scale, policy.chosen, policy.rejected, strict=True) for _ in [*c, *r]]
    slopes = slopes * of_answer
  return values, mean, slopes


def expected_gradient(record):
  """Derivatives in the order of our batch: example by example, its answers in turn."""
  sides = ("answer",) if "gradient_answer" in record else ("gold", "chosen", "rejected")
  parts = [record[f"gradient_{side}"] for side in sides if f"gradient_{side}" in record]
  if "gradient_answer" in record:  # the mismatched answer, of which KTO takes no gradient, comes after each answer
    data = trl.TRL["data"][record["data"]]["policy"]
    parts.append([[0.0] * len(other) for other in data["mismatched"]])
  return [list(example) for example in zip(*parts, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("record", [r for r in trl.TRL["records"] if r["loss"] != "bradley_terry"], ids=trl.label)
def test_trl(record):
  dtype = np.float64 if record["precision"] == "float64" else np.float32
  with jax.enable_x64(dtype == np.float64):
    values, mean, slopes = ours(record, dtype)
  tolerance, of_gradient = TOLERANCE[dtype]
  close(mean, record["loss_mean"], tolerance)
  if record["value"] is not None:
    policy, _ = trl.models(record)
    # TRL gives values without the likelihood, which in float32 may be all that is seen of the sum.
    likelihood = trl.likelihood(record, policy)
    close(values, np.asarray(likelihood) + [np.nan if v is None else v for v in record["value"]], tolerance)
  want = expected_gradient(record)
  close(slopes, want, of_gradient, np.nanmax(np.abs(flat(want)), initial=1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("record", [r for r in trl.TRL["records"] if r["loss"] == "bradley_terry"], ids=trl.label)
def test_trl_reward(record):
  dtype = np.float64 if record["precision"] == "float64" else np.float32
  rewards, _ = trl.models(record)
  with jax.enable_x64(dtype == np.float64):
    values, slopes = reward_run("bradley_terry", rewards, record["options"], dtype)
  tolerance, of_gradient = TOLERANCE[dtype]
  close(values, record["value"], tolerance)
  close(values.mean(dtype=np.float64), record["loss_mean"], tolerance)
  close(slopes, [record["gradient_chosen"], record["gradient_rejected"]], of_gradient)


# Oracles.

BETAS = [dict(beta=0.1), dict(beta=0.7)]
SMOOTH = [dict(beta=0.1), dict(beta=0.7, label_smoothing=0.2)]
SIDES = [dict(beta=0.1), dict(beta=0.7, desirable_weight=1.5, undesirable_weight=0.25)]
DIVERGED = [
  dict(beta=0.7, f_divergence="forward_kl"),
  dict(beta=0.7, f_divergence="js_divergence"),
  dict(beta=0.7, f_divergence="alpha_divergence", f_alpha=0.3),
  dict(beta=0.7, f_divergence="alpha_divergence", f_alpha=1.0),
]
# Options of the oracle, for every loss. The first of each are the paper's, and so our defaults.
OPTIONS = {
  "dpo": [*BETAS, *DIVERGED],
  "cdpo": [dict(beta=0.1, label_smoothing=0.1), *SMOOTH[1:], *(o | dict(label_smoothing=0.1) for o in DIVERGED)],
  "robust_dpo": [dict(beta=0.1, label_smoothing=0.1), *SMOOTH[1:], *DIVERGED],
  "dpo_norm": [*BETAS, *DIVERGED],
  "exo_pair": [dict(beta=0.1, label_smoothing=1e-3), *SMOOTH[1:], *DIVERGED],
  "discopop": [dict(beta=0.05, tau=0.05), dict(beta=0.7, tau=0.5), *DIVERGED],
  "dpop": [dict(beta=0.3, lam=50.0), dict(beta=0.7, lam=2.0)],
  "xpo": [dict(beta=0.1, alpha=1e-5), dict(beta=0.7, alpha=0.3), *(o | dict(alpha=0.3) for o in DIVERGED)],
  "hinge": [*BETAS, *DIVERGED],
  "ipo": [*BETAS, *DIVERGED],
  "ipo_sum": [*BETAS, *DIVERGED],
  "tdpo1": BETAS,
  "tdpo2": [dict(beta=0.1, alpha=0.5), dict(beta=0.7, alpha=0.2)],
  "nca_pair": [dict(beta=0.01), dict(beta=0.7)],
  "bco_pair": [dict(beta=0.01), dict(beta=0.7)],
  "sppo_hard": [dict(beta=1e-3), dict(beta=0.7)],
  "apo_zero": BETAS,
  "apo_down": BETAS,
  "aot": SMOOTH,
  "aot_unpaired": SMOOTH,
  "kto": SIDES,
  "apo_zero_unpaired": SIDES,
  "bco": [dict(beta=0.01, delta=0.0), dict(beta=0.7, delta=-0.3)],
  "plackett_luce_dpo": BETAS,
  "orpo": [dict(beta=0.1), dict(beta=0.7)],
  "simpo": [dict(beta=2.0, gamma=1.0), dict(beta=0.7, gamma=0.3)],
  "alphapo": [
    dict(beta=2.5, gamma=0.1, alpha=0.25),
    dict(beta=0.7, gamma=0.3, alpha=-0.5),
    dict(beta=2.5, gamma=0.1, alpha=0.0),
  ],
  "cpo": [dict(beta=0.1, label_smoothing=0.0, alpha=1.0), dict(beta=0.7, label_smoothing=0.2, alpha=0.3)],
  "tpo": [dict(beta=0.01, label_smoothing=0.0, alpha=1.0), dict(beta=0.7, label_smoothing=0.2, alpha=0.3)],
  "tpo_l": [
    dict(beta=0.01, label_smoothing=0.0, gamma=0.5, alpha=1.0),
    dict(beta=0.7, label_smoothing=0.2, gamma=0.3, alpha=0.3),
  ],
  "unlikelihood": [dict(alpha=1.0), dict(alpha=0.3)],
  "preferred_ft": [{}],
  "sft": [{}],
}
REWARD_ORACLES = {
  "bradley_terry": (bradley_terry_oracle, {}, [dict(), dict(label_smoothing=0.2, centring=0.03)]),
  "rao_kupper": (
    rao_kupper_oracle,
    {"tie_strength": "theta"},
    [dict(tie_strength=1.0), dict(tie_strength=0.3, centring=0.03)],
  ),
  "davidson": (
    davidson_oracle,
    {"tie_strength": "nu"},
    [dict(tie_strength=1.0), dict(tie_strength=0.3, centring=0.03)],
  ),
  "plackett_luce": (plackett_luce_oracle, {}, [{}]),
  "all_pairs": (all_pairs_oracle, {}, [{}]),
}


def answers(generator, lengths, scale=1.0):
  return [list(-generator.exponential(scale, n)) for n in lengths]


def models_for(name, seed, uneven):
  """(policy, reference) of random token log-probs; `uneven` gives weights, of which one is 0, and margins."""
  generator = np.random.default_rng(seed)
  size = 6
  lengths = generator.integers(1, 8, (size, 4))
  weight = [1.0, 2.0, 0.0, 0.5, 1.0, 1.5] if uneven else None
  kind = kind_of(name)

  def moved(model):
    return [[x + generator.normal(0, 0.5) for x in answer] for answer in model]

  if kind == "unpaired":
    answer, other = answers(generator, lengths[:, 0]), answers(generator, lengths[:, 1])
    desirable = [True, False, True, True, False, False]
    # Mismatched log-ratios with a positive mean, so that z is not cut off.
    frozen = [[x - 0.4 - 0.1 * generator.normal() for x in one] for one in other]
    return Singles(answer, desirable, other, weight), Singles(moved(answer), desirable, frozen, weight)
  if kind == "ranking":
    lengths[1, 2:] = 0
    lengths[3, 3:] = 0
    policy = [answers(generator, row) for row in lengths]
    return Rankings(policy, weight), Rankings([moved(ranking) for ranking in policy], weight)
  chosen, rejected, gold, prompt = (answers(generator, lengths[:, k]) for k in range(4))
  details: dict = dict(weight=weight)
  if uneven and "margin" in LOSSES[name].reads:
    details["margin"] = list(generator.exponential(0.5, size))
  if name.startswith("tdpo"):
    details |= dict(chosen_kl=list(generator.exponential(1, size)), rejected_kl=list(generator.exponential(1, size)))
  if kind == "triple":
    details["gold"] = gold
  if name == "xpo":
    details["reference_wrote_chosen"] = [True, False, True, True, False, False]
  policy = Pairs(chosen, rejected, prompt=prompt if name == "orpo" else None, **details)
  reference = Pairs(moved(chosen), moved(rejected), weight=weight, gold=details.get("gold"))
  return policy, reference


def oracle_runs():
  """All options with weights and margins, in float64; the paper's also without them, and in float32."""
  for name, many in OPTIONS.items():
    words = ["-".join([name, *(f"{k}={v}" for k, v in options.items())]) for options in many]
    for options, word in zip(many, words, strict=True):
      yield pytest.param(name, options, True, np.float64, id=word)
    yield pytest.param(name, many[0], False, np.float64, id=f"{words[0]}-alike")
    yield pytest.param(name, many[0], True, np.float32, id=f"{words[0]}-float32")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "uneven", "dtype"), list(oracle_runs()))
def test_oracle(name, options, uneven, dtype):
  policy, reference = models_for(name, 11, uneven)
  oracle = ORACLES[name]
  want = oracle(policy, reference, **options)
  with jax.enable_x64(dtype == np.float64):
    values, mean, slopes = run(name, policy, reference, renamed(name, options), dtype)
  tolerance, of_gradient = TOLERANCE[dtype]
  scale = max(1.0, np.max(np.abs(want)))
  close(values, want, tolerance, scale)
  close(mean, weighted_mean(want, policy.weight), tolerance, scale)
  fields = dict(unpaired=["answer", "mismatched"], ranking=["answers"], triple=["gold", "chosen", "rejected"])

  def total(model):
    return weighted_mean(oracle(model, reference, **options), model.weight)

  parts = [gradients(total, policy, f) for f in fields.get(kind_of(name), ["chosen", "rejected"])]
  want = parts[0] if len(parts) == 1 else [list(example) for example in zip(*parts, strict=True)]
  close(slopes, want, of_gradient, np.max(np.abs(flat(want))))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_defaults_are_the_papers(name):
  policy, reference = models_for(name, 12, False)
  got = run(name, policy, reference, {})[0]
  want = run(name, policy, reference, renamed(name, OPTIONS[name][0]))[0]
  np.testing.assert_allclose(got, want, rtol=TOLERANCE[np.float64][0])


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [name for name in OPTIONS if kind_of(name) == "pair"])
def test_sums_alone_do_as_well_as_tokens(name):
  policy, reference = models_for(name, 13, False)
  want = run(name, policy, reference, {})[0]

  def summed(model):
    lengths = [np.asarray([len(x) for x in side], np.int32) for side in (model.chosen, model.rejected)]
    sums = [np.asarray([sum(x) for x in side], np.float64) for side in (model.chosen, model.rejected)]
    kl = {k: np.asarray(v, np.float64) for k in ("chosen_kl", "rejected_kl") if (v := getattr(model, k)) is not None}
    if model.prompt is not None:
      kl["prompt"] = np.asarray([sum(x) for x in model.prompt], np.float64)
      kl["prompt_length"] = np.asarray([len(x) for x in model.prompt], np.int32)
    if model.reference_wrote_chosen is not None:
      kl["opponent"] = np.where(model.reference_wrote_chosen, *sums)
    return PairLogps(*sums, *lengths, **kl)

  frozen = (summed(reference),) if "reference" in LOSSES[name].reads else ()
  got = LOSSES[name].of_packed(summed(policy), *frozen)
  np.testing.assert_allclose(got, want, rtol=10 * TOLERANCE[np.float64][0])


def reward_run(name, rewards, options, dtype):
  """(values [B], derivatives of their weighted mean by the rewards)."""
  options = given(options, dtype)

  def array(x):
    return None if x is None else np.asarray(x, dtype)

  ranked = kind_of(name) == "ranking_rewards"
  scores = array(rewards.reward if ranked else [rewards.chosen, rewards.rejected])
  weight = array(rewards.weight)

  def mean(scores):
    if ranked:
      model = RankedRewards(scores, np.asarray(rewards.present), weight)
    else:
      model = PairRewards(scores[0], scores[1], array(rewards.margin), array(rewards.label), weight)
    values = values_of(name, (model,), **options)
    return weighted_mean_of_arrays(values, weight), values

  (_, values), slopes = jax.value_and_grad(mean, has_aux=True)(jax.numpy.asarray(scores))
  assert values.dtype == dtype
  return np.asarray(values), np.asarray(slopes)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("uneven", "dtype"),
  [(False, np.float64), (True, np.float64), (True, np.float32)],
  ids=["alike", "weighted", "float32"],
)
@pytest.mark.parametrize("name", sorted(REWARD_ORACLES))
def test_reward_oracle(name, uneven, dtype):
  generator = np.random.default_rng(21)
  oracle, names, many = REWARD_ORACLES[name]
  weight = [1.0, 2.0, 0.0, 0.5, 1.0, 1.5] if uneven else None
  for options in many:
    if kind_of(name) == "ranking_rewards":
      present = np.arange(4) < np.asarray([4, 2, 4, 3, 1, 4])[:, None]
      rewards = RankedScores(generator.normal(0, 2, (6, 4)).tolist(), present.tolist(), weight)
      fields = ["reward"]
    else:
      chosen, rejected = generator.normal(0, 2, (2, 6)).tolist()
      label, margin = [1.0, 0.5, 0.0, 0.5, 1.0, 0.0], [0.3, 0.2, 0.7, 0.0, 1.2, 0.0]
      rewards = Rewards(chosen, rejected, margin, label, weight)
      fields = ["chosen", "rejected"]
    theirs = {names.get(k, k): np.exp(v) if names.get(k) == "theta" else v for k, v in options.items()}
    want = oracle(rewards, **theirs)
    with jax.enable_x64(dtype == np.float64):
      values, slopes = reward_run(name, rewards, options, dtype)
    tolerance, of_gradient = TOLERANCE[dtype]
    close(values, want, tolerance)

    def total(model, oracle=oracle, theirs=theirs):
      return weighted_mean(oracle(model, **theirs), model.weight)

    parts = [gradients(total, rewards, field) for field in fields]
    close(slopes, parts, of_gradient)


# Modifiers.


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_length_desensitised_tokens_are_the_oracles(alpha):
  policy, reference = models_for("dpo", 31, False)
  change = functools.partial(modifiers.length_desensitised, alpha=np.asarray(alpha, np.float64))
  got = run("dpo", policy, reference, dict(beta=0.4), np.float64, change)

  def oracle(model):
    return ORACLES["dpo"](desensitised(model, alpha), desensitised(reference, alpha), beta=0.4)

  close(got[0], oracle(policy), TOLERANCE[np.float64][0])
  want = [gradients(lambda m: weighted_mean(oracle(m)), policy, side) for side in ("chosen", "rejected")]
  close(got[2], [list(x) for x in zip(*want, strict=True)], TOLERANCE[np.float64][1], 1e-2)


@pytest.mark.usefixtures("float64")
def test_wpo_weights_are_the_oracles():
  record = next(r for r in trl.TRL["records"] if r["modifiers"].get("wpo"))
  policy, _ = trl.models(record)
  policy = dataclasses.replace(policy, gold=None)
  batch = batch_of(policy)
  squares = [list(x) for x in zip(policy.chosen_log_sum_sq, policy.rejected_log_sum_sq, strict=True)]
  table, collision = batch.table(batch.answers, np.float64), batch.table(squares, np.float64)
  weights = lambda t, c: modifiers.wpo_weights(batch.tokens(t), c)  # noqa: E731
  got = weights(table, collision)
  slopes = jax.grad(lambda *x: weights(*x).sum(), argnums=(0, 1))(
    jax.numpy.asarray(table), jax.numpy.asarray(collision)
  )
  assert got.dtype == np.float64
  close(np.asarray(got), wpo_weights(policy), TOLERANCE[np.float64][0])
  assert not np.any(slopes[0]) and not np.any(slopes[1])


@pytest.mark.usefixtures("float64")
def test_dynamic_beta_is_the_oracles():
  policy, reference = models_for("dpo", 32, True)
  gaps = [
    np.asarray([sum(p) - sum(r) for p, r in zip(x, y, strict=True)])
    for x, y in ((policy.chosen, reference.chosen), (policy.rejected, reference.rejected))
  ]
  weight = np.asarray(policy.weight)
  for mean in (-5.0, 0.2, 60.0):
    gap = modifiers.mean_reward_gap(*gaps, weight, np.asarray(1.0, np.float64))
    got = modifiers.dynamic_beta(np.asarray(0.1, np.float64), gap, np.asarray(mean, np.float64))
    want = beta_dpo_beta(policy, reference, beta=0.1, mean=mean)
    np.testing.assert_allclose(got, want, rtol=TOLERANCE[np.float64][0])


def test_registry_is_covered():
  import test_theorems

  assert set(OPTIONS) | set(REWARD_ORACLES) == set(LOSSES)
  assert not set(OPTIONS) & set(REWARD_ORACLES)
  assert set(OPTIONS) == set(ORACLES)
  assert set(test_theorems.AT_REFERENCE) == set(LOSSES)
